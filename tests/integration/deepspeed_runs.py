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
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, OneCycle, WarmupLR, configure_optimizers
from lightning_lrsched.__main__ import main as command_line
from lightning_lrsched.trainer.fit_state import FitState
from tests.kit.records import sweep

AUTO = {
    "type": "WarmupCosineLR",
    "params": {"total_num_steps": "auto", "warmup_num_steps": 4, "cos_min_ratio": 0.1, "warmup_type": "linear"},
}
CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 5, "cycle_min_mom": 0.5},
}
STEPS_OF_TORCH = {"type": "StepLR", "params": {"step_size": 3, "gamma": 0.5}}
SECTION = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.02, "warmup_num_steps": 3}}
BATCHES = 10  # of an epoch
SWEEP_STEPS = 24
TRIAL_BATCHES = 7
LRS = (0.01, 0.02)  # of the param groups

ENVIRONMENT = {key: os.environ[key] for key in ("WORLD_SIZE", "NODE_RANK", "LOCAL_RANK") if key in os.environ}
PROCESSES = int(ENVIRONMENT.get("WORLD_SIZE", "1"))


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
        overflow: the batches whose loss overflows; with fp16 alone.
        offload: DeepSpeed keeps the optimizer, and in stage 3 the weights, in host memory.
        overflow_from: from this batch on, all gradients overflow, while the loss is finite.
    """

    stage: int
    precision: str = "32-true"
    accumulate: int = 1
    groups: int = 1
    manual: bool = False
    optimizer: str = "AdamW"
    helper: bool = False
    overflow: tuple[int, ...] = ()
    offload: bool = False
    overflow_from: int | None = None


TRAINING = {
    "0": Cell(0, accumulate=3),
    "0 fp16": Cell(0, "16-mixed", accumulate=3, groups=2, overflow=(4, 14)),
    "0 bf16 helper": Cell(0, "bf16-mixed", helper=True, groups=2),
    "1 bf16": Cell(1, "bf16-mixed", accumulate=3, groups=2, optimizer="SGD"),
    "1 fp16 helper": Cell(1, "16-mixed", accumulate=3, groups=2, helper=True, overflow=(4, 14)),
    "2 fp16 manual": Cell(2, "16-mixed", groups=2, manual=True, overflow=(4, 5, 14)),
    "2 helper manual": Cell(2, groups=2, manual=True, helper=True, optimizer="SGD"),
    "3 fp16": Cell(3, "16-mixed", accumulate=3, groups=2, overflow=(4, 14)),
    "3 bf16 helper": Cell(3, "bf16-mixed", accumulate=3, groups=2, helper=True),
    "3 manual": Cell(3, manual=True),
    "3 offloaded": Cell(3, accumulate=3, groups=2, offload=True),
}
"""Where schedules are tried."""

TRIALS = {
    "0": Cell(0, groups=2),
    "0 fp16": Cell(0, "16-mixed", accumulate=3, groups=2),
    "1 bf16": Cell(1, "bf16-mixed", accumulate=3, groups=2, optimizer="SGD"),
    "2 fp16": Cell(2, "16-mixed", accumulate=3, groups=2),
    "2 manual": Cell(2, manual=True),
    "3": Cell(3, accumulate=3, groups=2),
    "3 fp16 manual": Cell(3, "16-mixed", groups=2, manual=True),
    "2 fp16 offloaded": Cell(2, "16-mixed", accumulate=3, groups=2, offload=True),
    "3 offloaded": Cell(3, accumulate=3, groups=2, offload=True),
}
"""Where range tests are tried, and a trial before a training in the same engine."""

SMALLEST_SCALE = {"2 smallest scale": Cell(2, "16-mixed", groups=2, overflow_from=6)}
TWO_SWEEPS = ("0", "0 fp16", "2 fp16 offloaded", "3", "3 fp16 manual", "2 smallest scale")

IN_TWO_PROCESSES = {
    "training": ("0 fp16", "1 fp16 helper", "2 fp16 manual", "3 fp16", "3 bf16 helper"),
    "samples": ("0 fp16",),
    "range test": ("0 fp16", "1 bf16", "2 manual", "3", "3 fp16 manual"),
    "inside": ("1 bf16", "3"),
    "two sweeps": ("0 fp16", "3"),
    "trial": ("0", "1 bf16", "2 fp16", "3", "3 fp16 manual"),
}
"""Part -> cells that are tried in two processes too."""


class OnCPU(DeepSpeedStrategy):
    """DeepSpeedStrategy without its check for CUDA."""

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices))]
        super().setup_distributed()


class Module(LightningModule):
    """Two layers; notes lr and momentum of each step that the engine has applied."""

    def __init__(self, cell: Cell, schedule: Callable[[Any, Any], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell = cell
        self.schedule = schedule or (
            lambda module, optimizer: (
                configure_optimizers(optimizer, AUTO, trainer=module.trainer) if cell.helper else optimizer
            )
        )
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)
        self.automatic_optimization = not cell.manual
        self.applied: list[Any] = []
        self.losses: list[float] = []
        self.batches = 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = (self.second(torch.relu(self.first(batch[0]))) - batch[1]).square().mean()
        if self.batches in self.cell.overflow:
            loss = loss * float("inf")
        if self.cell.overflow_from is not None and self.batches >= self.cell.overflow_from:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        self.batches += 1
        self.losses.append(float(loss))
        groups = self.trainer.strategy.optimizers[0].param_groups
        lrs = [group["lr"] for group in groups]
        momenta = [group["betas"][0] if "betas" in group else group["momentum"] for group in groups]
        self.values = [lrs, momenta]
        if self.cell.manual:
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if applied_steps(self.trainer) > len(self.applied):
            self.applied.append(self.values)

    def make_optimizer(self) -> torch.optim.Optimizer:
        params: Any = self.parameters()
        if self.cell.groups == 2:
            layers = (self.first, self.second)
            params = [{"params": layer.parameters(), "lr": lr} for layer, lr in zip(layers, LRS, strict=True)]
        if self.cell.optimizer == "SGD":
            return torch.optim.SGD(params, lr=LRS[0], momentum=0.9)
        return torch.optim.AdamW(params, lr=LRS[0])

    def configure_optimizers(self) -> Any:
        return self.schedule(self, self.make_optimizer())


def data() -> DataLoader:
    inputs = torch.randn(BATCHES * 2 * PROCESSES, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 2)


def make_trainer(cell: Cell, *callbacks: Any, section: Any = None, **options: Any) -> Trainer:
    os.environ.update(ENVIRONMENT)  # Lightning clears it after each fit
    config: dict[str, Any] = {
        "zero_optimization": {"stage": cell.stage},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": 2,
    }
    if cell.offload:
        parts = ("offload_optimizer", "offload_param") if cell.stage == 3 else ("offload_optimizer",)
        config["zero_optimization"].update({part: {"device": "cpu"} for part in parts})
        config["zero_force_ds_cpu_optimizer"] = False
    if section is not None:
        config["scheduler"] = section
    if cell.precision == "16-mixed":
        config["fp16"] = {"enabled": True, "initial_scale_power": 4, "hysteresis": 1, "min_loss_scale": 1}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        callbacks=list(callbacks), accelerator="cpu", devices=PROCESSES, precision=cell.precision,
        strategy=OnCPU(config=config), accumulate_grad_batches=cell.accumulate, enable_model_summary=False,
        **{"max_epochs": 2, **quiet, **options},
    )  # fmt: skip


def schedules(cell: Cell, config: Any = AUTO) -> list[Callback]:
    return [] if cell.helper else [LRSchedulerCallback(config)]


def applied_steps(trainer: Trainer) -> int:
    engine = trainer.strategy.model
    return engine.global_steps - engine.skipped_steps


def found_in(module: Module, trainer: Trainer) -> dict[str, Any]:
    (schedule,) = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {
        "applied": module.applied,
        "losses": module.losses,
        "position": schedule.last_epoch,
        "total": getattr(schedule, "hyperparameters", {}).get("total_num_steps"),
        "steps of the engine": applied_steps(trainer),
        "skipped": trainer.strategy.model.skipped_steps,
        "weights": weights_of(module),
    }


def weights_of(module: Module) -> list[list[float]]:
    """Return this process' part of the weights, without padding."""
    found = []
    for parameter in module.parameters():
        values = getattr(parameter, "ds_tensor", parameter).detach().double().flatten()
        if hasattr(parameter, "ds_tensor"):
            begin = values.numel() * int(ENVIRONMENT["LOCAL_RANK"])
            values = values[: max(0, parameter.ds_numel - begin)]
        found.append(values.tolist())
    return found


def held_by(module: Module) -> list[int]:
    """Return how many numbers of each parameter lie outside its shards."""
    return [parameter.numel() for parameter in module.parameters() if hasattr(parameter, "ds_tensor")]


def train(cell: Cell, folder: Path, config: Any = AUTO) -> dict[str, Any]:
    """Train for four epochs; then for two, and two more from the checkpoint of these."""
    module, trainer = Module(cell), make_trainer(cell, *schedules(cell, config), max_epochs=4)
    trainer.fit(module, data())
    found = {"whole": found_in(module, trainer)}
    module, trainer = Module(cell), make_trainer(cell, *schedules(cell, config), max_epochs=2)
    trainer.fit(module, data())
    trainer.save_checkpoint(folder / "half.ckpt")
    found["half"] = found_in(module, trainer)
    found["resumed"] = resume(cell, folder / "half.ckpt", found["half"]["steps of the engine"], config, max_epochs=4)
    return found


def train_on_samples(cell: Cell, folder: Path) -> dict[str, Any]:
    """The same, with a schedule that counts samples."""
    return train(cell, folder, {**AUTO, "unit": "sample"})


def resume(cell: Cell, checkpoint: Path, steps: int, config: Any = AUTO, **options: Any) -> dict[str, Any]:
    module, trainer = Module(cell), make_trainer(cell, *schedules(cell, config), **options)
    module.applied, module.batches = [None] * steps, 2 * BATCHES
    trainer.fit(module, data(), ckpt_path=checkpoint)
    return found_in(module, trainer)


def test_range(cell: Cell, folder: Path) -> dict[str, Any]:
    """Run a range test, and a training with the same module."""
    found: dict[str, Any] = {}

    class Look(LRRangeTestCallback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            found["before"] = weights_of(pl_module)
            super().on_fit_start(trainer, pl_module)
            found["held after capture"] = held_by(pl_module)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            found["at the end"] = weights_of(pl_module)
            found.update({"batch losses": list(pl_module.losses), "applied": list(pl_module.applied)})
            super().on_train_end(trainer, pl_module)
            found["after"] = weights_of(pl_module)
            found["held after restoring"] = held_by(pl_module)

    overflows = cell.precision == "16-mixed" or cell.overflow_from is not None
    callback = Look(max_lr=1e4 if overflows else 1.0, num_steps=SWEEP_STEPS)
    module = Module(cell)
    make_trainer(cell, callback).fit(module, data())
    result = callback.result
    found.update(steps=result.steps, lrs=result.lrs, losses=result.losses, stop_reason=result.stop_reason)
    module.cell = cell = Cell(**{**vars(cell), "overflow_from": None})
    for name, tested in (("untested", Module(cell)), ("tested", module)):
        tested.applied, tested.losses, tested.batches = [], [], 0
        trainer = make_trainer(cell, LRSchedulerCallback(CYCLE), max_epochs=1)
        trainer.fit(tested, data())
        found[name] = found_in(tested, trainer)
    return found


def two_sweeps(cell: Cell, folder: Path) -> dict[str, Any]:
    """Run a range test without a range; note where its sweeps begin: where the lr is lower than at the batch before."""
    found: dict[str, Any] = {"weights": [], "engine": [], "lrs": []}

    class Begins(Callback):
        lr = float("inf")

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            engine, (optimizer,) = trainer.strategy.model, trainer.strategy.optimizers
            lr = optimizer.param_groups[-1]["lr"]
            if lr < self.lr:
                scale = getattr(optimizer, "loss_scale", None)
                found["engine"].append([engine.global_steps, engine.skipped_steps, engine.micro_steps, scale])
                found["weights"].append(weights_of(pl_module))
                found["lrs"].append([group["lr"] for group in optimizer.param_groups])
            self.lr = lr

    module, callback = Module(cell), LRRangeTestCallback()
    make_trainer(cell, callback, Begins()).fit(module, data())
    found["weights"].append(weights_of(module))
    result = callback.result
    for name, record in (("coarse", result.coarse), ("fine", result)):
        found[name] = {"steps": record.steps, "lrs": record.lrs, "losses": [*map(str, record.losses)]}
        found[name]["stop_reason"] = record.stop_reason
    return found


class Trial(Callback):
    """Before the first batch: takes a snapshot, trains some batches with the same engine, and puts everything back."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        engine = trainer.strategy.model
        clock, engine.lr_scheduler = engine.lr_scheduler, None
        state = FitState(trainer)
        state.set_aside(self, lambda: None)
        state.capture(pl_module)
        state.set_data_aside()
        batches = iter(data())
        dtype = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(trainer.precision, torch.float32)
        for _ in range(TRIAL_BATCHES):
            loss = trainer.strategy.training_step([part.to(dtype) for part in next(batches)], 0)
            if not pl_module.cell.manual:
                engine.backward(loss)
                engine.step()
            for group in trainer.strategy.optimizers[0].param_groups:
                group["lr"] *= 1.5
        self.steps, self.weights = applied_steps(trainer), weights_of(pl_module)
        state.restore()
        state.put_back()
        engine.lr_scheduler = clock
        pl_module.applied, pl_module.losses, pl_module.batches = [], [], 0


def try_first(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train, and train after a trial in the same engine."""
    found: dict[str, Any] = {}
    trial = Trial()
    for name, callbacks in (("without", []), ("after a trial", [trial])):
        module, trainer = Module(cell), make_trainer(cell, LRSchedulerCallback(CYCLE), *callbacks)
        trainer.fit(module, data())
        found[name] = found_in(module, trainer)
        found[name]["loss scale"] = getattr(trainer.strategy.optimizers[0], "loss_scale", None)
    found.update({"steps of the trial": trial.steps, "weights in the trial": trial.weights})
    return found


def test_inside(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train with the range test inside the fit, resume it, and train with what the test has found."""
    found: dict[str, Any] = {"results": []}

    def fit(callback: Any, name: str, steps: int = 0, ckpt_path: Path | None = None, **options: Any) -> Trainer:
        module, trainer = Module(cell), make_trainer(cell, callback, **options)
        module.applied = [None] * steps
        trainer.fit(module, data(), ckpt_path=ckpt_path)
        if isinstance(callback, LRRangeTestCallback):
            found["results"].append([callback.result.lrs, callback.result.losses, callback.result.stop_reason])
            return trainer
        (schedule,) = callback.schedulers
        config = {"type": type(schedule).__name__, "params": schedule.hyperparameters}
        found[name] = {**found_in(module, trainer), "config": config}
        for result in callback.range_test_results.values():
            found["results"].append([result.lrs, result.losses, result.stop_reason])
        return trainer

    settings = {"max_lr": 1.0, "num_steps": 60}
    fit(LRRangeTestCallback(**settings), "alone")
    trainer = fit(LRSchedulerCallback(range_test=LRRangeTestCallback(**settings)), "inside")
    trainer.save_checkpoint(folder / "inside.ckpt")
    fit(LRSchedulerCallback(found["inside"]["config"]), "with what it found")
    again = LRSchedulerCallback(range_test=LRRangeTestCallback(**settings))
    fit(again, "resumed", found["inside"]["position"], folder / "inside.ckpt", max_epochs=4)
    return found


def lengths(cell: Cell, folder: Path) -> dict[str, Any]:
    """Let runs of several lengths begin, go on, and go on with other settings."""
    found = {}
    for name, options in {"max_epochs=3": {"max_epochs": 3}, "max_steps=5": {"max_epochs": -1, "max_steps": 5}}.items():
        module, trainer = Module(cell), make_trainer(cell, *schedules(cell), **options)
        trainer.fit(module, data())
        found[name] = found_in(module, trainer)
    trainer.save_checkpoint(folder / "stopped.ckpt")
    steps = found["max_steps=5"]["steps of the engine"]
    found["after max_steps"] = resume(cell, folder / "stopped.ckpt", steps, max_epochs=4)
    found["with max_steps=8"] = resume(cell, folder / "stopped.ckpt", steps, max_epochs=-1, max_steps=8)
    other = Cell(**{**vars(cell), "accumulate": 2})
    found["with another accumulation"] = resume(other, folder / "stopped.ckpt", steps, max_epochs=4)
    trainer = make_trainer(cell, *schedules(cell), max_epochs=1)
    module = Module(cell)
    trainer.fit(module, data())
    trainer.fit_loop.max_epochs = 3
    os.environ.update(ENVIRONMENT)
    module.applied = []
    trainer.fit(module, data())
    found["a second fit"] = found_in(module, trainer)
    return found


def others(cell: Cell, folder: Path) -> dict[str, Any]:
    """Try what is no matter of the stage: other schedulers, other ways to give them, mistakes."""
    found: dict[str, Any] = {}
    module, trainer = Module(cell), make_trainer(cell)
    trainer.fit(module, data())
    trainer.save_checkpoint(folder / "without.ckpt")
    steps = applied_steps(trainer)
    found["saved without a schedule"] = resume(cell, folder / "without.ckpt", steps, max_epochs=4)
    found["saved without a schedule"]["before"] = steps

    module, trainer = Module(cell), make_trainer(cell, LRSchedulerCallback(STEPS_OF_TORCH))
    trainer.fit(module, data())
    found["torch, callback"] = found_in(module, trainer)

    def helped(module: Any, optimizer: Any) -> Any:
        return configure_optimizers(optimizer, STEPS_OF_TORCH, trainer=module.trainer)

    module, trainer = Module(cell, helped), make_trainer(cell)
    trainer.fit(module, data())
    found["torch, helper"] = found_in(module, trainer)

    def from_cli(module: Any, optimizer: Any) -> Any:
        from lightning_lrsched.cli import LRSchedulerCLI

        return LRSchedulerCLI.configure_optimizers(module, optimizer, WarmupLR(optimizer, **SECTION["params"]))

    module, trainer = Module(cell, from_cli), make_trainer(cell)
    trainer.fit(module, data())
    found["command line"] = found_in(module, trainer)

    def without_trainer(module: Any, optimizer: Any) -> Any:
        return configure_optimizers(optimizer, CYCLE)

    def with_trainer(module: Any, optimizer: Any) -> Any:
        return configure_optimizers(optimizer, CYCLE, trainer=module.trainer)

    def adagrad(module: Any, optimizer: Any) -> Any:
        another = torch.optim.Adagrad(module.parameters(), lr=LRS[0])  # ZeRO replaces these
        return configure_optimizers(another, SECTION, trainer=module.trainer)

    mistakes = {
        "helper without trainer": (Module(cell, without_trainer), make_trainer(cell)),
        "helper and Adagrad": (Module(cell, adagrad), make_trainer(cell)),
        "section and callback": (Module(cell), make_trainer(cell, LRSchedulerCallback(CYCLE), section=SECTION)),
        "section and helper": (Module(cell, with_trainer), make_trainer(cell, section=SECTION)),
        "callback and helper": (Module(cell, with_trainer), make_trainer(cell, LRSchedulerCallback(CYCLE))),
    }
    for name, (module, trainer) in mistakes.items():
        os.environ.update(ENVIRONMENT)
        try:
            trainer.fit(module, data())
            found[name] = "no error"
        except ValueError as error:
            found[name] = str(error)
    return found


def plain(cell: Cell, folder: Path) -> dict[str, Any]:
    """Drive an engine without Lightning: with our schedule, with one that follows the optimizer, with our files."""
    folder.mkdir(parents=True)
    (folder / "auto.json").write_text(json.dumps({"scheduler": AUTO}), encoding="utf-8")
    with redirect_stdout(StringIO()) as converted:
        command_line(["convert", str(folder / "auto.json"), "--to", "json", "--steps", "12"])
    sections = {
        "one_cycle": sweep(ratios=(0.5, 1.0)).one_cycle(12),
        "convert": json.loads(converted.getvalue())["scheduler"],
    }
    found: dict[str, Any] = {"sections": sections, "base lrs": LRS}
    for name, section in sections.items():
        found[name] = drive(cell, lambda optimizer: None, section)
    found["ours"] = drive(cell, lambda optimizer: OneCycle(optimizer, **CYCLE["params"]))
    try:
        drive(cell, followed)
    except ValueError as error:
        found["followed"] = str(error)
    return found


def followed(optimizer: torch.optim.Optimizer) -> OneCycle:
    schedule = OneCycle(optimizer, **CYCLE["params"])
    schedule.follow_optimizer()
    return schedule


def drive(cell: Cell, make: Callable[[torch.optim.Optimizer], Any], section: Any = None) -> dict[str, Any]:
    import deepspeed

    os.environ.update(ENVIRONMENT)
    module = Module(cell)
    optimizer = module.make_optimizer()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": cell.accumulate,
        "zero_optimization": {"stage": cell.stage},
        "zero_allow_untested_optimizer": True,
    }
    if section:
        config["scheduler"] = section
    if cell.precision == "16-mixed":
        config["fp16"] = {"enabled": True, "initial_scale_power": 4, "hysteresis": 1}
    network = nn.Sequential(module.first, nn.ReLU(), module.second)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        schedule = make(optimizer)
        # Lightning has begun the communication, in the parts before this.
        engine, *_ = deepspeed.initialize(
            model=network, optimizer=optimizer, lr_scheduler=schedule, config=config, dist_init_required=False
        )
        applied: list[Any] = []
        for index, batch in enumerate([*data(), *data()]):
            groups = engine.optimizer.param_groups
            values = [[group["lr"] for group in groups], [group["betas"][0] for group in groups]]
            inputs, target = (part.to(next(network.parameters()).dtype) for part in batch)
            loss = (engine(inputs) - target).square().mean()
            engine.backward(loss * float("inf") if index in cell.overflow else loss)
            engine.step()
            if engine.global_steps - engine.skipped_steps > len(applied):
                applied.append(values)
    ours = [
        str(each.message) for each in caught if "lightning_lrsched" in each.filename or "step()" in str(each.message)
    ]
    return {"applied": applied, "position": getattr(schedule, "last_epoch", None), "warnings": ours}


PARTS: dict[str, tuple[Callable[[Cell, Path], dict[str, Any]], dict[str, Cell]]] = {
    "training": (train, TRAINING),
    "samples": (train_on_samples, {name: TRAINING[name] for name in ("0 fp16", "3 manual")}),
    "range test": (test_range, {**TRIALS, **SMALLEST_SCALE}),
    "two sweeps": (two_sweeps, {name: {**TRIALS, **SMALLEST_SCALE}[name] for name in TWO_SWEEPS}),
    "trial": (try_first, TRIALS),
    "inside": (test_inside, {name: TRIALS[name] for name in ("0", "1 bf16", "2 fp16", "3", "3 fp16 manual")}),
    "lengths": (lengths, {"1": Cell(1, accumulate=4), "1 helper": Cell(1, accumulate=4, helper=True)}),
    "others": (others, {"2 fp16": Cell(2, "16-mixed", accumulate=3, overflow=(4, 14))}),
    "plain": (
        plain,
        {
            "0": Cell(0, groups=2),
            "0 fp16": Cell(0, "16-mixed", accumulate=3, groups=2, overflow=(4, 14)),
            "1": Cell(1, accumulate=3, groups=2),
            "2 fp16": Cell(2, "16-mixed", accumulate=3, groups=2, overflow=(4, 14)),
            "3": Cell(3, groups=2),
        },
    ),
}
"""Part -> what is done, and in which cells."""


def cells_for(processes: int, part: str) -> list[str]:
    return list(PARTS[part][1] if processes == 1 else IN_TWO_PROCESSES.get(part, ()))


def found_or_error(run: Callable[[Cell, Path], dict[str, Any]], cell: Cell, folder: Path) -> dict[str, Any]:
    try:
        return run(cell, folder)
    except Exception:  # noqa: BLE001 - the other cells are tried too
        return {"error": traceback.format_exc()}


def main(folder: Path) -> None:
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True  # slowly, on any CPU
    found: dict[str, dict[str, Any]] = {}
    for part, (run, cells) in PARTS.items():
        found[part] = {}
        for name in cells_for(PROCESSES, part):
            found[part][name] = found_or_error(run, cells[name], folder / part / name)
    (folder / f"rank{ENVIRONMENT['LOCAL_RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
