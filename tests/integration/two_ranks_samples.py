"""What each of two processes runs where a schedule counts samples or tokens. Not a test; see test_samples_on_ranks.py.

LOCAL_RANK=0 NODE_RANK=0 WORLD_SIZE=2 MASTER_PORT=... python two_ranks_samples.py ddp|fsdp2 FOLDER cpu
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRSchedulerCallback
from tests.integration.two_ranks import Module, data, make_trainer, strategy_named
from tests.kit.runs import Save

EPOCHS = 3
SAMPLES = 80
"""in an epoch"""

AUTO = {
    "type": "WarmupCosineLR",
    "unit": "sample",
    "params": {"total_num_steps": "auto", "warmup_num_steps": 0.25, "warmup_type": "linear"},
}
TOKENS = {**AUTO, "unit": "token", "params": {**AUTO["params"], "total_num_steps": 400, "warmup_num_steps": 50}}


def loader(samples: int = SAMPLES, batch_size: int = 8) -> DataLoader:
    return DataLoader(data(samples).dataset, batch_size)


def train(section: dict[str, Any], loader: Any, *callbacks: Any, **options: Any) -> dict[str, Any]:
    """Train; return the lr of each step, and the position at the end."""
    module, ckpt_path = Module(options.pop("sharded", False)), options.pop("ckpt_path", None)
    callback = LRSchedulerCallback(section, tokens=options.pop("tokens", None))
    trainer = make_trainer(callback, *callbacks, **{"accelerator": "cpu", "max_epochs": EPOCHS, **options})
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    (schedule,) = callback.schedulers
    total = schedule.hyperparameters["total_num_steps"]
    return {"lrs": [lr for lr, _ in module.seen], "position": schedule.last_epoch, "total": total}


def tokens(batch: list[Tensor]) -> int:
    """Another number for nearly every batch, and on each rank."""
    return int((batch[0] > 0).sum())


def main(name: str, folder: Path) -> None:
    def two(section: Any, loader: Any, *callbacks: Any, **options: Any) -> dict[str, Any]:
        strategy = options.pop("strategy", None) or strategy_named(name)
        return train(section, loader, *callbacks, sharded=name == "fsdp2", devices=2, strategy=strategy, **options)

    rank = make_trainer(accelerator="cpu", devices=2, strategy=strategy_named(name)).global_rank
    found: dict[str, Any] = {"whole": two(AUTO, loader(batch_size=4), Save(folder / "two.ckpt"))}
    for batch_size, accumulate in ((4, 1), (2, 1), (1, 4)):
        options = {"accumulate_grad_batches": accumulate, "ckpt_path": folder / "one.ckpt"}
        found[f"from one, {batch_size} x {accumulate}"] = two(AUTO, loader(batch_size=batch_size), **options)
    found["partial"] = two(AUTO, loader(77), accumulate_grad_batches=2)
    inputs = loader(48 if rank else 30).dataset.tensors  # eight batches of 6, ten of 3: the shortest loader decides
    uneven = DataLoader(TensorDataset(*inputs), 6 if rank else 3)
    options = {"use_distributed_sampler": False, "limit_train_batches": 8}
    found["uneven"] = two(AUTO, uneven, **options)
    found["tokens of each batch"] = [tokens(batch) for batch in uneven][:8] * EPOCHS
    found["tokens"] = two(TOKENS, uneven, tokens=tokens, **options)
    both = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2, save_distributed_checkpoint=False)
    found["the same batch"] = two(AUTO, loader(), strategy=both)
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]))
