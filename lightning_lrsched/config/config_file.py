"""A configuration file on its own, without a module or a Trainer: what preview, convert and check work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.deepspeed import Sections, lr_of
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.config.stand_in import make_light, stand_in
from lightning_lrsched.config.torch_optimizers import build_optimizer
from lightning_lrsched.schedulers import durations
from lightning_lrsched.schedulers.durations import RunLength

DEFAULT_BASE_LR = 1e-3
NO_LENGTH = "it is not known here: give --steps (and --steps-per-epoch), or write a number of optimizer steps"


class StandInModule(Module):
    """A module of one matrix, with the lr that ``"auto"`` looks for."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.weight = torch.nn.Parameter(torch.zeros(1, 1))


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file, its two sections, and what the command line says of the run.

    Args:
        path: where it was read from.
        content: the whole file.
        sections: its sections.
        run: how long the run is.
        base_lr: the optimizer's own lr, where the file does not say it; None: not known.
    """

    path: Path
    content: dict[str, Any]
    sections: Sections
    run: RunLength
    base_lr: float | None = None

    @classmethod
    def read(
        cls,
        path: str | Path,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        base_lr: float | None = None,
    ) -> ConfigFile:
        """Read a file; the other arguments are what a Trainer and a module would tell."""
        content = read_mapping(path)
        return cls(
            Path(path),
            content,
            Sections.find(content),
            RunLength(steps, steps_per_epoch, NO_LENGTH, NO_LENGTH),
            base_lr,
        )

    def schedule(self) -> SchedulerConfig:
        """Return the schedule that the file asks for."""
        return SchedulerConfig.from_dict(self.content)

    def known_lr(self) -> float | None:
        """Return the optimizer's own lr: as given, else as the file says it; None if neither does."""
        if self.base_lr is not None:
            return self.base_lr
        return lr_of(self.sections.optimizer)

    def optimizer(self, *, any_kind: bool) -> Optimizer:
        """Return an optimizer over next to nothing, as the file describes it.

        Args:
            any_kind: take any where torch has not the one that the file names; its lr is scheduled alike.

        Raises:
            TypeError: if a value of the section has the wrong type.
            ValueError: if something in the section is wrong.
        """
        known = self.known_lr()
        lr = DEFAULT_BASE_LR if known is None else known
        number = self._groups()
        if self.sections.optimizer is None:
            return stand_in([lr] * number)
        groups = [{"params": [torch.zeros(1, 1)], "lr": lr} for _ in range(number)]
        try:
            return build_optimizer(StandInModule(lr), self.sections.optimizer, groups, self.sections.prefix, make_light)
        except (TypeError, ValueError):
            if any_kind:
                return stand_in([lr] * number)
            raise

    def _groups(self) -> int:
        """Return how many param groups the lists in the schedule are for."""
        if self.sections.scheduler is None:
            return 1
        lists = [value for value in self.schedule().params.values() if isinstance(value, tuple)]
        return max(map(len, lists), default=1) if self.schedule().is_own else 1

    def build(self) -> LRScheduler:
        """Return the schedule, built for an optimizer over next to nothing."""
        return self.schedule().build(self.optimizer(any_kind=True), self.run)

    def resolved(self) -> dict[str, Any]:
        """Return the file's content with the schedule's values as numbers, as far as the run and the lr are known."""
        schedule = self.schedule()
        params = {key: self._resolve(key, value) for key, value in schedule.params.items()}
        lr = self.known_lr()
        if lr is not None:
            params = durations.resolve_lrs(params, [lr])
        section = SchedulerConfig(schedule.type, params).to_dict()
        if self.sections.scheduler is self.content:
            return section
        if self.sections.prefix:
            return {**self.content, "deepspeed": {**self.content["deepspeed"], "scheduler": section}}
        return {**self.content, "scheduler": section}

    def _resolve(self, key: str, value: Any) -> Any:
        duration = durations.Duration.of(key, value)
        if duration is None:
            return value
        known = self.run.total_steps if duration.epochs is None else self.run.steps_per_epoch
        return value if known is None else duration.steps(self.run)

    def check(self) -> str:
        """Return in a few words what the file holds.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if something is wrong, or the file holds neither a scheduler nor an optimizer.
        """
        if self.sections.scheduler is None and self.sections.optimizer is None:
            self.schedule()  # says that there is none
        optimizer = self.optimizer(any_kind=False)
        parts = []
        if self.sections.scheduler is not None:
            schedule = self.schedule()
            schedule.build(optimizer, RunLength(10**6, 10**3))
            decided_later = schedule.needs_run + schedule.needs_optimizer
            later = f" ({', '.join(decided_later)}: when training starts)" if decided_later else ""
            parts.append(f"scheduler {schedule.type}{later}")
        else:
            parts.append("no scheduler")
        if self.sections.optimizer is not None:
            parts.append(f"optimizer {type(optimizer).__name__}")
        return ", ".join(parts)
