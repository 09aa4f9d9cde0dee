"""A small module that notes what every optimizer step runs with, a loader that can be resumed, and a quiet Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, configure_optimizers
from tests.kit.modules import QUIET, Notes
from tests.kit.schedules import SMALL, values_of

CONFIGS = {name: {"type": name, "params": dict(params)} for name, params in SMALL.items()}
"""One small configuration of every schedule; the warmup ends, or the peak is, at step 4 (WarmupLR: 6)."""

ONE_CYCLE, WARMUP = CONFIGS["OneCycle"], CONFIGS["WarmupLR"]
BATCHES = 5
"""[batches] in an epoch"""


def with_range_test() -> LRSchedulerCallback:
    """The callback that finds the learning rates by a range test, not by a probe."""
    return LRSchedulerCallback(range_test=LRRangeTestCallback())


Used = tuple[int, list[tuple[float, float | None]]]
"""Index of the optimizer, and (lr, momentum) of each of its param groups."""


class StatefulLoader:
    """The same batches in every epoch, and a position that goes into the checkpoint."""

    def __init__(self, batches: int = BATCHES) -> None:
        inputs = torch.randn(batches, 8, 4, generator=torch.Generator().manual_seed(0))
        self._batches = [(x, x.sum(1, keepdim=True)) for x in inputs]
        self._next = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(self._next, len(self)):
            self._next = (number + 1) % len(self)  # before the batch is used: a checkpoint is saved after that
            yield self._batches[number]

    def state_dict(self) -> dict[str, int]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._next = state["next"]


class Net(LightningModule):
    """Two layers; ``configure`` gets the module and returns what configure_optimizers returns."""

    def __init__(self, configure: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.backbone, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        self.configure = configure or sgd
        self.used: list[Used] = Notes()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.backbone(inputs)))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        optimizers = [getattr(o, "optimizer", o) for o in self.trainer.optimizers]
        index = [o is optimizer or o is getattr(optimizer, "optimizer", None) for o in optimizers].index(True)
        self.used.append((index, values_of(optimizer)))

    def configure_optimizers(self) -> Any:
        return self.configure(self)

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters()]


class ValidatedNet(Net):
    """The same, to be validated, tested and asked for predictions as well."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])


class ManualNet(Net):
    """Two optimizers; the second steps on every third batch only."""

    automatic_optimization = False

    def __init__(self, configure: Callable[[Any], Any] | None = None) -> None:
        super().__init__(configure or two_optimizers)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        self.manual_backward(self.loss(batch))
        first.step()
        if batch_idx % 3 == 0:
            second.step()
        for optimizer in (first, second):
            optimizer.zero_grad()


def groups(module: Any) -> list[dict[str, Any]]:
    return [{"params": module.backbone.parameters(), "lr": 0.01}, {"params": module.head.parameters(), "lr": 0.03}]


def sgd(module: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups(module), momentum=0.9)


def adamw(module: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups(module), betas=(0.9, 0.97))


def adam_of_tensors(module: Any) -> torch.optim.Optimizer:
    of_tensors = [
        {**group, "lr": torch.tensor(group["lr"]), "betas": (torch.tensor(0.9), torch.tensor(0.97))}
        for group in groups(module)
    ]
    return torch.optim.Adam(of_tensors, foreach=False)


def two_optimizers(module: Any) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    return (
        torch.optim.SGD(module.backbone.parameters(), 0.01, momentum=0.9),
        torch.optim.AdamW(module.head.parameters(), 0.03),
    )


def through_module(make: Callable[[Any], Any], config: dict[str, Any]) -> Callable[[Any], Any]:
    """What a module's configure_optimizers returns that wires the schedule itself."""
    return lambda module: configure_optimizers(make(module), config)


def quiet_trainer(folder: Path, *callbacks: Callback, trainer_class: Any = Trainer, **options: Any) -> Any:
    defaults = {**QUIET, "default_root_dir": folder, "max_epochs": -1, "max_steps": 16, "num_sanity_val_steps": 0}
    return trainer_class(callbacks=list(callbacks), **{**defaults, **options})


def fit(
    folder: Path, config: Any = None, configure: Any = None, *callbacks: Any, ckpt_path: Any = None, **options: Any
) -> Net:
    """Train a fresh module, scheduled by the callback if a configuration is given, and return it."""
    module = options.pop("module_class", Net)(configure)
    if config is not None:
        callbacks = (LRSchedulerCallback(config, **options.pop("callback_options", {})), *callbacks)
    trainer = quiet_trainer(folder, *callbacks, **options)
    trainer.fit(module, StatefulLoader(), ckpt_path=ckpt_path)
    return module


def checkpoint(folder: Path, config: Any = None, configure: Any = None, steps: int = 7, **options: Any) -> Path:
    """Train for some steps and save a checkpoint."""
    path = folder / "saved.ckpt"
    module = fit(folder, config, configure, max_steps=steps, **options)
    module.trainer.save_checkpoint(path)
    return path


class SaveAtBatches(Callback):
    """Saves a checkpoint after each batch, counted over the whole run from 1."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.batches = folder, 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.batches += 1
        trainer.save_checkpoint(self.folder / f"{self.batches}.ckpt")


class Save(Callback):
    """Saves a checkpoint after a number of optimizer steps, or after the first epoch."""

    def __init__(self, path: Path, steps: int | None = None) -> None:
        self.path, self.steps = path, steps

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.steps is None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


class RestoresLater(SingleDeviceStrategy):
    """As strategies do that shard the optimizer: Lightning loads the checkpoint when they are set up."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True
