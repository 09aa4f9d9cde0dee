"""A configuration file on its own, without a module or a Trainer, for preview, convert and check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning_lrsched.config.deepspeed import Sections, lr_of
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.config.torch_optimizers import check_optimizer
from lightning_lrsched.config.torch_schedulers import torch_lrs_at, torch_schedulers
from lightning_lrsched.config.trainer_arguments import trainer_arguments
from lightning_lrsched.schedulers import SCHEDULERS
from lightning_lrsched.schedulers.durations import STEPS, RunLength
from lightning_lrsched.schedulers.errors import ParameterError, key_path
from lightning_lrsched.schedulers.schedule import Circumstances

DEFAULT_BASE_LR = 1e-3
NO_LENGTH = "it is not known here: give --steps (and --steps-per-epoch), or write a number of optimizer steps"

Row = tuple[int, list[float], list[float] | None]
"""(step, lr of each param group, momentum of each param group or None)."""


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file, its two sections, and the length of the run as the command line gives it.

    Args:
        path: where it was read from.
        content: the whole file.
        sections: its sections.
        run: how long the run is.
        base_lr: the optimizer's own lr, where the file does not give it; None: not known.
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
        """Read a file; the other arguments are what a Trainer and a module would provide."""
        content = read_mapping(path)
        run = RunLength(steps, steps_per_epoch, NO_LENGTH, NO_LENGTH)
        return cls(Path(path), content, Sections.find(content), run, base_lr)

    def schedule(self) -> SchedulerConfig:
        """Return the schedule that the file asks for."""
        return SchedulerConfig.from_dict(self.content)

    def known_lr(self) -> float | None:
        """Return the optimizer's own lr: as given, else from the file; None if neither has it."""
        return lr_of(self.sections.optimizer) if self.base_lr is None else self.base_lr

    def resolved(self) -> SchedulerConfig:
        """Return the schedule with numbers for everything that depends on the run or on the optimizer's lr.

        What a range test would find is taken to be ``"auto"``.

        Raises:
            ValueError: if the run's length is not known.
        """
        schedule = self.schedule().without_range_test()
        known = self.known_lr()
        return schedule.resolve_numbers(self.run, [DEFAULT_BASE_LR if known is None else known] * _groups(schedule))

    def rows(self, steps: Sequence[int]) -> list[Row]:
        """Return lr and momentum at some positions, in rising order.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range, or the run's length is not known.
        """
        schedule = self.resolved()
        params = schedule.to_dict()["params"]
        known = self.known_lr()
        base_lrs = [DEFAULT_BASE_LR if known is None else known] * _groups(schedule)
        if not schedule.is_own:
            with key_path("scheduler."):
                lrs = torch_lrs_at(torch_schedulers()[schedule.type], [_group(lr) for lr in base_lrs], params, steps)
            return [(step, lr, None) for step, lr in zip(steps, lrs, strict=True)]
        own = SCHEDULERS[schedule.type]
        with key_path("scheduler.params."):
            values = own.values(own.check(params), base_lrs)
        return [(step, values.lr_at(step), values.momentum_at(step)) for step in steps]

    def turns(self) -> list[int]:
        """Return the steps at which the parts of the schedule end; none for a scheduler of torch's own."""
        schedule = self.resolved()
        own = SCHEDULERS.get(schedule.type)
        return [] if own is None else own.turns(own.check(schedule.params))

    def converted(self) -> tuple[dict[str, Any], list[str]]:
        """Return the file's content with numbers where they are known, and the keys of the schedule without one."""
        known = self.known_lr()
        schedule = self.schedule().resolve_numbers(self.run, None if known is None else [known], leave_unknown=True)
        section = schedule.to_dict()
        left = schedule.needs_run + schedule.needs_optimizer + schedule.needs_range_test
        if self.sections.scheduler is self.content:
            return section, left
        if self.sections.prefix:
            return {**self.content, "deepspeed": {**self.content["deepspeed"], "scheduler": section}}, left
        return {**self.content, "scheduler": section}, left

    def check(self) -> list[str]:
        """Return a short description of the file, and a line for each suspicious setting.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if something is wrong, or the file holds neither a scheduler nor an optimizer.
        """
        if self.sections.scheduler is None and self.sections.optimizer is None:
            self.schedule()  # raises
        found, remarks, optimizer, has_momentum = ["no scheduler"], [], None, True
        if self.sections.optimizer is not None:
            module = SimpleNamespace(lr=DEFAULT_BASE_LR)  # where "auto" takes its lr from
            optimizer, has_momentum = check_optimizer(module, self.sections.optimizer, self.sections.prefix)
        if self.sections.scheduler is not None:
            schedule = self.schedule()
            later = schedule.needs_run + schedule.needs_optimizer + schedule.needs_range_test
            unit = "" if schedule.unit == STEPS else f" in {schedule.unit}s"
            found = [
                f"scheduler {schedule.type}{unit}" + (f" ({', '.join(later)}: when training starts)" if later else "")
            ]
            remarks = [f"warning: {remark}" for remark in self._remarks(schedule, None if has_momentum else optimizer)]
        if optimizer is not None:
            found.append(f"optimizer {optimizer}")
        return ["ok: " + ", ".join(found), *remarks, *self._trainer_arguments()]

    def _trainer_arguments(self) -> list[str]:
        try:
            arguments = trainer_arguments(self.content)
        except ParameterError as error:
            return [f"warning: {error}"]  # the schedule can be used all the same
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return [f"set Trainer({listed})"] if listed else []

    def _remarks(self, schedule: SchedulerConfig, optimizer: str | None) -> list[str]:
        """Return a sentence for each suspicious setting of the schedule, as far as the run need not be known."""
        known, params = self.known_lr(), schedule.to_dict()["params"]
        if not schedule.is_own:
            groups = [_group(DEFAULT_BASE_LR if known is None else known)]
            with key_path("scheduler."):
                torch_lrs_at(torch_schedulers()[schedule.type], groups, params, range(4))  # raises where they are wrong
            return []
        own = SCHEDULERS[schedule.type]
        defaults = {name: parameter.default for name, parameter in own.parameters().items()}
        defaulted = [name for name in defaults if name not in params]
        return own.remarks(
            Circumstances({**defaults, **params}, defaulted, [] if known is None else [known], optimizer)
        )


def _group(lr: float) -> dict[str, Any]:
    return {"lr": lr, "momentum": 0.9, "betas": (0.9, 0.999)}


def _groups(schedule: SchedulerConfig) -> int:
    """Return how many param groups the lists in the schedule are for."""
    lists = [value for value in schedule.by_path()[1].values() if isinstance(value, tuple)]
    return max(map(len, lists), default=1) if schedule.is_own else 1
