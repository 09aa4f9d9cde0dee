"""What each process of a DeepSpeed run does: all cells of the table, one after the other. Not a test.

Started by test_deepspeed_strategy.py:
LOCAL_RANK=0 NODE_RANK=0 WORLD_SIZE=1 MASTER_PORT=... DS_ACCELERATOR=cpu python deepspeed_runs.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, configure_optimizers
from lightning_lrsched.trainer.snapshot import TrainerSnapshot

AUTO = {
    "type": "WarmupCosineLR",
    "params": {"total_num_steps": "auto", "warmup_num_steps": 4, "cos_min_ratio": 0.1, "warmup_type": "linear"},
}
CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 5, "cycle_min_mom": 0.5},
}
BATCHES = 10
SWEEP_STEPS = 24
TRIAL_BATCHES = 7
ENVIRONMENT = {key: os.environ[key] for key in ("WORLD_SIZE", "NODE_RANK", "LOCAL_RANK")}
PROCESSES = int(ENVIRONMENT["WORLD_SIZE"])


@dataclass(frozen=True)
class Cell:
    """One training under DeepSpeed.

    Args:
        stage: of ZeRO.
        precision: as the Trainer takes it.
        accumulate: batches for one step.
        groups: param groups, each with an lr of its own.
        manual: manual optimization.
        optimizer: "AdamW" or "SGD".
        helper: the schedule comes from configure_optimizers, not from the callback.
        overflow: with fp16, batches whose loss overflows.
    """

    stage: int
    precision: str = "32-true"
    accumulate: int = 1
    groups: int = 1
    manual: bool = False
    optimizer: str = "AdamW"
    helper: bool = False
    overflow: tuple[int, ...] = ()


TRAINING = {
    "stage 0": Cell(0, accumulate=3),
    "stage 0, fp16": Cell(0, "16-mixed", accumulate=3, groups=2, overflow=(4, 14)),
    "stage 0, bf16, helper": Cell(0, "bf16-mixed", helper=True, groups=2),
    "stage 1, bf16": Cell(1, "bf16-mixed", accumulate=3, groups=2, optimizer="SGD"),
    "stage 1, fp16, helper": Cell(1, "16-mixed", accumulate=3, groups=2, helper=True, overflow=(4, 14)),
    "stage 2, manual, fp16": Cell(2, "16-mixed", groups=2, manual=True, overflow=(4, 5, 14)),
    "stage 2, helper, manual": Cell(2, groups=2, manual=True, helper=True, optimizer="SGD"),
    "stage 3, fp16": Cell(3, "16-mixed", accumulate=3, groups=2, overflow=(4, 14)),
    "stage 3, helper": Cell(3, "bf16-mixed", accumulate=3, groups=2, helper=True),
    "stage 3, manual": Cell(3, manual=True),
}
"""The cells in which schedules are tried, in one process and in two."""

RANGE_TESTS = {
    "stage 0": Cell(0, groups=2),
    "stage 0, fp16": Cell(0, "16-mixed", accumulate=3, groups=2),
    "stage 1, bf16": Cell(1, "bf16-mixed", accumulate=3, groups=2, optimizer="SGD"),
    "stage 2, fp16": Cell(2, "16-mixed", accumulate=3, groups=2),
    "stage 2, manual": Cell(2, manual=True),
    "stage 3": Cell(3, accumulate=3, groups=2),
    "stage 3, fp16": Cell(3, "16-mixed", groups=2),
}
"""The cells in which the range test is tried, in one process and in two."""


class OnCPU(DeepSpeedStrategy):
    """DeepSpeedStrategy without its check for CUDA."""

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices))]
        super().setup_distributed()


class Module(LightningModule):
    """Two layers; notes lr and momentum of each step that the engine applied."""

    def __init__(self, cell: Cell, config: Any = AUTO) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell, self.config = cell, config
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)
        self.automatic_optimization = not cell.manual
        self.applied: list[list[Any]] = []
        self.losses: list[float] = []
        self.batches = 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = (self.second(torch.relu(self.first(batch[0]))) - batch[1]).square().mean()
        if self.batches in self.cell.overflow:
            loss = loss * float("inf")
        self.batches += 1
        self.losses.append(float(loss))
        self._before = self.values()
        if self.cell.manual:
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def values(self) -> list[Any]:
        groups = self.trainer.strategy.optimizers[0].param_groups
        return [[group["lr"] for group in groups], [group["betas"][0] if "betas" in group else group["momentum"] for group in groups]]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        applied = applied_steps(self.trainer)
        if applied > len(self.applied):
            self.applied.append(self._before)

    def configure_optimizers(self) -> Any:
        layers = [self.first, self.second]
        params: Any = self.parameters()
        if self.cell.groups == 2:
            params = [{"params": layer.parameters(), "lr": lr} for layer, lr in zip(layers, (0.01, 0.02), strict=True)]
        optimizer = (
            torch.optim.SGD(params, lr=0.01, momentum=0.9)
            if self.cell.optimizer == "SGD"
            else torch.optim.AdamW(params, lr=0.01)
        )
        return configure_optimizers(optimizer, self.config, trainer=self.trainer) if self.cell.helper else optimizer


def applied_steps(trainer: Trainer) -> int:
    engine = trainer.strategy.model
    return engine.global_steps - engine.skipped_steps


def data(batches: int = BATCHES) -> DataLoader:
    inputs = torch.randn(batches * 2 * PROCESSES, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 2)


def make_trainer(cell: Cell, *callbacks: Any, strategy: dict[str, Any] | None = None, **options: Any) -> Trainer:
    os.environ.update(ENVIRONMENT)  # Lightning clears it after each fit
    config = {
        "zero_optimization": {"stage": cell.stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "train_micro_batch_size_per_gpu": 2,
        **(strategy or {}),
    }
    if cell.precision == "16-mixed":
        config["fp16"] = {"enabled": True, "initial_scale_power": 4, "hysteresis": 1, "min_loss_scale": 1}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        callbacks=list(callbacks), accelerator="cpu", devices=PROCESSES, precision=cell.precision,
        strategy=OnCPU(config=config), accumulate_grad_batches=cell.accumulate, enable_model_summary=False,
        **{"max_epochs": 2, **quiet, **options},
    )  # fmt: skip


def found_in(module: Module, trainer: Trainer) -> dict[str, Any]:
    (schedule,) = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {
        "applied": module.applied,
        "losses": module.losses,
        "position": schedule.last_epoch,
        "total": schedule.hyperparameters.get("total_num_steps"),
        "steps of the engine": applied_steps(trainer),
        "skipped": trainer.strategy.model.skipped_steps,
        "weights": values_of(shards(module)),
    }


def shards(module: Module) -> list[Tensor]:
    """This process' part of the weights."""
    held = [getattr(parameter, "ds_tensor", parameter) for parameter in module.parameters()]
    return [tensor.detach().clone() for tensor in held]


def values_of(tensors: list[Tensor]) -> list[list[float]]:
    return [tensor.double().flatten().tolist() for tensor in tensors]


def train(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train for four epochs, then once more in two halves, the second from the checkpoint of the first."""
    callbacks = [] if cell.helper else [LRSchedulerCallback(AUTO)]
    module, trainer = Module(cell), make_trainer(cell, *callbacks, max_epochs=4)
    trainer.fit(module, data())
    found = {"whole": found_in(module, trainer)}

    callbacks = [] if cell.helper else [LRSchedulerCallback(AUTO)]
    module, trainer = Module(cell), make_trainer(cell, *callbacks, max_epochs=2)
    trainer.fit(module, data())
    trainer.save_checkpoint(folder / "half.ckpt")
    found["half"] = found_in(module, trainer)
    callbacks = [] if cell.helper else [LRSchedulerCallback(AUTO)]
    module, trainer = Module(cell), make_trainer(cell, *callbacks, max_epochs=4)
    module.applied = [[] for _ in range(found["half"]["steps of the engine"])]
    module.batches = 2 * BATCHES
    trainer.fit(module, data(), ckpt_path=folder / "half.ckpt")
    found["resumed"] = found_in(module, trainer)
    return found


def test_range(cell: Cell, folder: Path) -> dict[str, Any]:
    """A range test, and a training that follows it with the same module."""
    found: dict[str, Any] = {}

    class Look(LRRangeTestCallback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            found["before"] = values_of(shards(pl_module))
            super().on_fit_start(trainer, pl_module)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            found["changed"] = values_of(shards(pl_module)) != found["before"]
            found["gathered"] = [parameter.numel() for parameter in pl_module.parameters()]
            super().on_train_end(trainer, pl_module)
            found["after"] = values_of(shards(pl_module))

    callback = Look(max_lr=1e4 if cell.precision == "16-mixed" else 1.0, num_steps=SWEEP_STEPS)
    module = Module(cell)
    make_trainer(cell, callback).fit(module, data())
    result = callback.result
    found["steps"], found["lrs"], found["losses"] = result.steps, result.lrs, result.losses
    found["stop_reason"], found["batch losses"], found["applied"] = result.stop_reason, module.losses, module.applied

    trained = {}
    for name, tested in (("fresh", Module(cell)), ("tested", module)):
        tested.applied, tested.losses, tested.batches = [], [], 0
        trainer = make_trainer(cell, LRSchedulerCallback(CYCLE), max_epochs=1)
        trainer.fit(tested, data())
        trained[name] = found_in(tested, trainer)
    found["fresh"], found["tested"] = trained["fresh"], trained["tested"]
    return found


class Trial(Callback):
    """Before the first batch: takes a snapshot, trains some batches with the same engine, and puts everything back."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        engine = trainer.strategy.model
        scheduler = engine.lr_scheduler
        snapshot = TrainerSnapshot(trainer)
        snapshot.capture(trainer, pl_module)
        batches = iter(data())
        for _ in range(TRIAL_BATCHES):
            loss = trainer.strategy.training_step([part.to(dtype_of(trainer)) for part in next(batches)], 0)
            if not pl_module.cell.manual:
                engine.backward(loss)
                engine.step()
            for group in trainer.strategy.optimizers[0].param_groups:
                group["lr"] *= 1.5
        self.trained = applied_steps(trainer)
        self.changed = values_of(shards(pl_module))
        snapshot.restore_model(trainer, pl_module)
        snapshot.restore_trainer(trainer)
        engine.lr_scheduler = scheduler
        for config in trainer.lr_scheduler_configs:
            config.scheduler.step(0)  # as far as the trial has moved it
        pl_module.applied, pl_module.losses, pl_module.batches = [], [], 0


def try_first(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train, and train again after a trial in the same engine."""
    found = {}
    for name, callbacks in (("without", []), ("with", [Trial()])):
        module = Module(cell)
        trainer = make_trainer(cell, LRSchedulerCallback(CYCLE), *callbacks)
        trainer.fit(module, data())
        found[name] = found_in(module, trainer)
        found[f"{name}, scale"] = getattr(trainer.strategy.optimizers[0], "loss_scale", None)
        found["steps of the trial"] = callbacks[0].trained if callbacks else 0
    return found


def dtype_of(trainer: Trainer) -> torch.dtype:
    return {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(trainer.precision, torch.float32)


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    get_accelerator().is_fp16_supported = lambda: True  # slowly, on any CPU
    parts = {
        "training": (train, TRAINING), "range test": (test_range, RANGE_TESTS), "trial": (try_first, RANGE_TESTS)
    }
    for part, (run, cells) in parts.items():
        for name, cell in cells.items():
            at = folder / f"{part} {name}"
            try:
                found[f"{part}: {name}"] = run(cell, at)
            except Exception:  # noqa: BLE001 - the other cells are tried too
                found[f"{part}: {name}"] = {"error": traceback.format_exc()}
    (folder / f"rank{ENVIRONMENT['LOCAL_RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
