"""A user's script under ddp_spawn, ddp_fork or ddp_notebook. Not a test; started by test_child_processes.py.

python child_processes.py STRATEGY FOLDER [--short]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback


class Model(LightningModule):
    """Linear, so that it can be sent to a child; ``fails`` is the name of a hook that raises."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net, self.fails = torch.nn.Linear(4, 1), fails

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.net(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        if self.fails:
            raise RuntimeError("the user's code")
        return torch.optim.SGD(self.parameters(), lr=0.01)


def data() -> DataLoader:
    inputs = torch.randn(160, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 8)


def fit(callback: Any, model: Model, strategy: str, devices: int = 2) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", strategy=strategy, devices=devices, max_steps=6, callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data())
    return trainer


def shown(callback: LRRangeTestCallback) -> Any:
    try:
        return [str(callback.result.stop_reason), callback.result.steps, callback.result.losses]
    except RuntimeError as error:
        return str(error)


def main(strategy: str, folder: Path, *options: str) -> None:
    found = look(strategy, short="--short" in options)
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


def look(strategy: str, *, short: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    model, callback = Model(), LRRangeTestCallback(num_steps=30, max_lr=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    fit(callback, model, "auto", devices=1)
    found["here"] = shown(callback)
    fit(callback, model, strategy)
    found["children"] = shown(callback)
    found["weights as before"] = all(map(torch.equal, before, model.parameters()))
    found["result is whole"] = callback.result.one_cycle(100)["type"]
    if short:
        return found

    try:
        fit(callback, Model(fails="configure_optimizers"), strategy)
    except Exception as error:  # noqa: BLE001 - torch's and Lightning's differ between the strategies
        found["error"] = str(error)
    found["children that failed"] = shown(callback)
    fit(callback, model, "auto", devices=1)
    found["here again"] = shown(callback)
    fit(callback, model, strategy)
    path = callback._child_result._path
    found["file"] = path.exists()
    found["path"] = str(path)

    one_cycle = {"type": "OneCycle", "params": {"cycle_min_lr": 0.01, "cycle_max_lr": 0.1, "cycle_first_step_size": 3}}
    schedule = LRSchedulerCallback(one_cycle)
    fit(schedule, model, strategy)
    found["trained"] = not all(map(torch.equal, before, model.parameters()))
    found["schedulers"] = schedule.schedulers

    trained = [parameter.detach().clone() for parameter in model.parameters()]
    one_line = LRSchedulerCallback(range_test=LRRangeTestCallback())
    fit(one_line, model, strategy)
    found["trained by one line"] = not all(map(torch.equal, trained, model.parameters()))
    found["results of one line"] = one_line.range_test_results
    return found


if __name__ == "__main__":
    if sys.argv[1] == "ddp_notebook":
        # As in a notebook, where only strategies are allowed that can run there.
        from lightning.pytorch.trainer.connectors import accelerator_connector

        accelerator_connector._IS_INTERACTIVE = True
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
