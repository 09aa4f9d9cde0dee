"""What one process runs under FSDP1 or FSDP2. Not a test; started by test_fsdp_on_gpu.py.

python one_device.py fsdp|fsdp2 FOLDER ACCELERATOR
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback
from tests.integration.two_ranks import CONFIG, HALF, STEPS, Module, data, make_trainer, own_part


def strategy_named(name: str) -> Any:
    if name == "fsdp":
        return FSDPStrategy(state_dict_type="full")
    return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False)


class RangeTestThatLooks(LRRangeTestCallback):
    """Compares the weights that it has put back with those that it began with, while they are still sharded."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = own_part(pl_module)
        super().on_fit_start(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.changed = not all(map(torch.equal, self.before, own_part(pl_module)))
        super().on_train_end(trainer, pl_module)
        self.restored = all(map(torch.equal, self.before, own_part(pl_module)))


def main(name: str, folder: Path, accelerator: str) -> None:
    sharded = name == "fsdp2"
    options = {"accelerator": accelerator, "devices": 1, "max_epochs": -1}
    found: dict[str, Any] = {}

    module = Module(sharded)
    trainer = make_trainer(LRSchedulerCallback(CONFIG), strategy=strategy_named(name), max_steps=HALF, **options)
    trainer.fit(module, data())
    found["first half"] = module.seen
    trainer.save_checkpoint(folder / "saved.ckpt")

    module = Module(sharded)
    trainer = make_trainer(LRSchedulerCallback(CONFIG), strategy=strategy_named(name), max_steps=STEPS, **options)
    trainer.fit(module, data(), ckpt_path=folder / "saved.ckpt")
    found["resumed"] = module.seen

    module, range_test = Module(sharded), RangeTestThatLooks(max_lr=0.1, num_steps=30)
    make_trainer(range_test, strategy=strategy_named(name), **options).fit(module, data())
    found["range test"] = {
        "steps": range_test.result.steps, "changed": range_test.changed, "restored": range_test.restored,
    }  # fmt: skip
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
