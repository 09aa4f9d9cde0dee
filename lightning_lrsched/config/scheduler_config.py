"""SchedulerConfig: which schedule, with which hyperparameters; checked when made, built for an optimizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch.optim import Optimizer

from lightning_lrsched.config.deepspeed import HUGGING_FACE, Sections, type_and_params
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.hints import FORM, explain, form_of, nearest_types, schedule_of
from lightning_lrsched.config.hugging_face import from_hugging_face
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.optim.schedulers import POSITION, SCHEDULERS
from lightning_lrsched.optim.torch_schedulers import torch_schedules
from lightning_lrsched.schedules.beside import BESIDE, Beside
from lightning_lrsched.schedules.cool_down import COOL_DOWN, CoolDown, Cooled
from lightning_lrsched.schedules.errors import (
    ParameterError,
    ParameterTypeError,
    ParameterValueError,
    choice,
    count,
    did_you_mean,
    key_path,
    short,
)
from lightning_lrsched.schedules.fields import REQUIRED, Params, written
from lightning_lrsched.schedules.length import STEPS, UNITS, Horizon, Unit
from lightning_lrsched.schedules.schedule import Findings, Own_, Schedule

SECTION = "scheduler."
PARAMS = f"{SECTION}params."


@dataclass(frozen=True, init=False, repr=False)
class SchedulerConfig:
    """A schedule's type and hyperparameters, in DeepSpeed's ``{"type": ..., "params": {...}}`` form.

    Everything that can be known without an optimizer is checked at once; what depends on the training run (``"auto"``,
    a fraction of the run such as 0.1, epochs such as ``"2ep"``; see :mod:`lightning_lrsched.schedules.length`) becomes
    numbers in :meth:`build`.

    Args:
        type: name of the schedule, one of :data:`~lightning_lrsched.VALID_LR_SCHEDULES`, or a class of
            ``torch.optim.lr_scheduler``.
        params: the hyperparameters under the names of the schedule's constructor. Numbers written as strings
            (``"1e-5"``, as YAML reads ``1e-5``) become numbers. One more key, ``hyperparameters``, maps other
            numbers in the optimizer's param groups (``weight_decay``, ``beta2``, ``eps``, ...) to what they do: a
            number; ``{"ratio": 0.5}`` of each group's own; ``{"follows": "lr"}``, in proportion to the lr; or
            ``{"phases": [{"steps": 0.1, "value": 0.95}]}``. A group whose weight decay is 0 keeps 0.
        unit: what the schedule's position and all its lengths count: ``"step"`` (optimizer steps), ``"sample"`` or
            ``"token"``. DeepSpeed has steps only.
        cool_down: where and how the lr goes down, whatever the schedule is: the keys of
            :class:`~lightning_lrsched.schedules.cool_down.CoolDown`; None: no cool-down.
        **hyperparameters: the same, one by one.

    Attributes:
        schedule: what ``params`` mean, each value read once; words become numbers in :meth:`resolve`.
        last_batch_iteration: number of finished optimizer steps minus one at which the schedule begins.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if the type or a key is unknown, a required key is missing, or a value is out of range.

    Source:
        DeepSpeed 0.19.8, section ``scheduler`` of its configuration.

    Example:
        >>> SchedulerConfig("WarmupLR", {"warmup_num_steps": "1e2"})
        SchedulerConfig(type='WarmupLR', params={'warmup_num_steps': 100})
        >>> SchedulerConfig("WarmupLR", warmup_min_lr="auto").to_dict()
        {'type': 'WarmupLR', 'params': {'warmup_min_lr': 'auto'}}
    """

    type: str
    schedule: Schedule = field(hash=False)
    unit: Unit = STEPS
    last_batch_iteration: int = -1

    def __init__(
        self,
        type: str,  # noqa: A002 - DeepSpeed's key
        params: Mapping[str, Any] | None = None,
        unit: Unit = "step",
        cool_down: Mapping[str, Any] | None = None,
        **hyperparameters: Any,
    ) -> None:
        if params is not None and not isinstance(params, Mapping):
            raise ParameterTypeError("scheduler.params", f"must be a mapping of keys to values, got {short(params)}")
        given = {**(params or {}), **hyperparameters}
        kind = schedule_of(type)
        # DeepSpeed's files often give the position.
        position = given.pop(POSITION, -1) if type in SCHEDULERS else -1
        beside = given.pop(BESIDE, None)
        known = kind.fields
        for key in given:
            if key not in known:
                allowed = [*known, BESIDE, POSITION] if type in SCHEDULERS else [*known, BESIDE]
                raise ParameterValueError(f"{PARAMS}{str(key)[:60]}", f": {explain(key, type, allowed)}")
        for key, one in known.items():
            if one.default is REQUIRED and key not in given:
                raise ParameterValueError(f"{PARAMS}{key}", f"is missing: {type} needs it")
        with key_path(PARAMS):
            schedule = kind.parse(given)
            if beside is not None:
                schedule = Beside.of(schedule, beside)
            position = count(POSITION, position, at_least=-1)
            schedule.check_lists()
            schedule.check_together()
        if cool_down is not None:
            schedule = Cooled(schedule, _cool_down(cool_down))
        if unit != STEPS:
            _check_unit(unit, type)
        vars(self).update(type=type, schedule=schedule, unit=unit, last_batch_iteration=position)

    def beside(self, hyperparameters: Mapping[str, Any]) -> SchedulerConfig:
        """Return the same configuration with hyperparameters beside it, as the key ``hyperparameters`` gives them.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range, or the configuration has hyperparameters already.
        """
        cooled = self.schedule if isinstance(self.schedule, Cooled) else None
        inner = self.schedule if cooled is None else cooled.inner
        if isinstance(inner, Beside):
            raise ParameterValueError(BESIDE, "are given twice: as an argument, and in the schedule's params")
        both = Beside.of(inner, hyperparameters)
        made = self._with(both if cooled is None else replace(cooled, inner=both))
        made.schedule.check_lists()
        return made

    def _with(self, schedule: Schedule) -> SchedulerConfig:
        """Return the same with other values, which are not read again."""
        made = copy(self)
        for name in ("needs_run", "needs_optimizer", "needs_range_test"):
            vars(made).pop(name, None)  # cached; they follow from the schedule
        vars(made).update(schedule=schedule)
        return made

    # What a user may pass ---------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, config: Mapping[str, object]) -> SchedulerConfig:
        """Read a ``{"type", "params"}`` section, or the ``scheduler`` section of a whole DeepSpeed configuration.

        The section may also stand one level down, under ``deepspeed``. Everything else in the configuration is ignored.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if there is no scheduler section, or something in it is wrong.
        """
        return cls.of_section(Sections.find(config))

    @classmethod
    def of_section(cls, sections: Sections) -> SchedulerConfig:
        """Read the scheduler section among those of a configuration."""
        if sections.scheduler is None:
            keys = ", ".join(short(key) for key in sections.keys[:8]) or "none"
            raise ParameterValueError(
                f"{sections.prefix}scheduler", f"is missing; the configuration has the keys {keys}"
            )
        if sections.prefix:
            with key_path(sections.prefix):
                return cls.of_section(replace(sections, prefix=""))
        section = sections.scheduler
        if isinstance(section, Mapping) and HUGGING_FACE in section:
            with key_path(SECTION):
                section = from_hugging_face(section)
        name, params = type_and_params("scheduler", section)
        return cls(name, params, section.get("unit", STEPS), section.get(COOL_DOWN))

    @classmethod
    def load(cls, path: str | Path) -> SchedulerConfig:
        """Read a JSON or YAML file that holds what :meth:`from_dict` takes; errors begin with the file's name.

        Raises:
            FileNotFoundError: if there is no such file.
            TypeError: if a value has the wrong type.
            ValueError: if the file is no configuration, or something in it is wrong.
        """
        content = read_mapping(path)
        with in_file(path):
            return cls.from_dict(content)

    @classmethod
    def of(cls, scheduler: SchedulerConfig | Mapping[str, object] | str | Path) -> SchedulerConfig:
        """Return a configuration from whatever a user may pass: one of these, a dict, or the path of a file.

        Raises:
            FileNotFoundError: if there is no such file.
            TypeError: if it is something else, or a value has the wrong type.
            ValueError: if something in it is wrong.
        """
        if isinstance(scheduler, SchedulerConfig):
            return scheduler
        content = read_content(scheduler)
        with in_file(scheduler):
            return cls.from_dict(content)

    # What it says -----------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Mapping[str, Any]:
        """The hyperparameters that were given, as they stand in a configuration; read-only."""
        return _frozen(self.to_dict()["params"])  # type: ignore[no-any-return]

    @cached_property
    def needs_run(self) -> list[str]:
        """The keys whose values depend on the length of the training run."""
        return self.schedule.waiting("run")

    @cached_property
    def needs_optimizer(self) -> list[str]:
        """The keys whose values depend on the optimizer's own learning rates."""
        return self.schedule.waiting("optimizer")

    @cached_property
    def needs_range_test(self) -> list[str]:
        """The keys whose values an LR range test at the start of the fit finds."""
        return self.schedule.waiting("range test")

    @property
    def given_paths(self) -> list[str]:
        """The paths of the values that the user gave, and of those that wait for the run, the optimizer or a test."""
        given, waiting = self.to_dict()["params"], self.needs_run + self.needs_optimizer + self.needs_range_test
        return [
            path
            for path, field, value in self.schedule.leaves()
            if path in given or path in waiting or (not path.isidentifier() and value != field.default)
        ]

    def values(self, paths: Collection[str]) -> Params:
        """Return values as they stand in a configuration, by their paths: ``phases[0].steps``."""
        return {path: written(value) for path, _, value in self.schedule.leaves() if path in paths}

    def to_dict(self) -> Params:
        """Return the ``{"type", "params"}`` dictionary; DeepSpeed accepts it once nothing in it depends on the run.

        There is a key ``"unit"`` too where that is not ``"step"``, and ``"cool_down"`` where there is one.
        """
        position = {} if self.last_batch_iteration == -1 else {POSITION: self.last_batch_iteration}
        unit = {} if self.unit == STEPS else {"unit": self.unit}
        params = {**self.schedule.given_params(), **position}
        return {"type": self.type, "params": params, **unit, **self.schedule.section_keys}

    def __repr__(self) -> str:
        return f"SchedulerConfig({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"

    # Words become numbers ---------------------------------------------------------------------------------------------

    def without_range_test(self) -> SchedulerConfig:
        """Return the same configuration with ``"auto"`` in place of ``"lr_range_test"``, where no test is run."""
        return self._with(self.schedule.without_range_test())

    def resolve(
        self,
        optimizer: Optimizer | None,
        horizon: Horizon | None = None,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        findings: Findings | None = None,
        leave_unknown: bool = False,
    ) -> SchedulerConfig:
        """Return the same configuration with numbers for everything that depends on the run or on the optimizer.

        Args:
            optimizer: the optimizer whose learning rates ``"auto"`` means; None: the word stays.
            horizon: the length of the run (of a Lightning Trainer: ``lightning_lrsched.trainer.horizon.horizon_of``).
            total_steps: or its length in numbers, that of the whole run [optimizer steps, or the schedule's unit].
            steps_per_epoch: and of one epoch [the same].
            findings: what ``"lr_range_test"`` means: ``"low"``, ``"high"`` and ``"suggestion"`` -> lr (one float, or
                one per param group), as :meth:`RangeTestResult.learning_rates` returns them; None: no test was run.
            leave_unknown: leave a word that cannot become a number as it is.

        Raises:
            TypeError: if a length is no number.
            ValueError: if the run's length is not known, or given twice, or no test was run; the message names the key
                and the remedy.

        Example:
            >>> import torch
            >>> config = SchedulerConfig("WarmupDecayLR", total_num_steps="auto", warmup_num_steps="2ep")
            >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
            >>> dict(config.resolve(optimizer, total_steps=1000, steps_per_epoch=50).params)
            {'total_num_steps': 1000, 'warmup_num_steps': 100}
        """
        run = self._horizon(horizon, total_steps, steps_per_epoch)
        with section_path():
            resolved = self._with(self.schedule.resolve(run, findings, leave_unknown=leave_unknown))
        return resolved if optimizer is None else resolved.with_own_of(optimizer)

    def with_own_of(self, optimizer: Optimizer) -> SchedulerConfig:
        """Return the same configuration with numbers for ``"auto"``, from each param group's own lr."""
        if not self.needs_optimizer:
            return self
        return self.with_own({"lr": [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]})

    def with_own(self, own: Own_) -> SchedulerConfig:
        """Return the same configuration with numbers for ``"auto"``, from each param group's own values by name."""
        return self._with(self.schedule.with_own(own, only_auto=True))

    def build(
        self,
        optimizer: Optimizer,
        horizon: Horizon | None = None,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        findings: Findings | None = None,
        follow: bool = False,
    ) -> ScheduledLR:
        """Make the schedule for ``optimizer`` and write its first values.

        Args:
            optimizer: the optimizer whose learning rate is scheduled.
            horizon: the length of the run; needed only where a value depends on it.
            total_steps: or its length in numbers, as for :meth:`resolve`.
            steps_per_epoch: and of one epoch.
            findings: what a range test has found, as for :meth:`resolve`.
            follow: have the schedule advance by the optimizer's own steps.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range, or the run's length is not known.
        """
        if follow and self.unit != STEPS:
            raise ParameterValueError(
                "scheduler.unit",
                f'="{self.unit}": follow=True counts optimizer steps; call follow_optimizer(<function that returns the'
                f" {self.unit}s of a finished step>) of the schedule that build() returns, or use LRSchedulerCallback",
            )
        run = self._horizon(horizon, total_steps, steps_per_epoch)
        with section_path():
            scheduled = self._with(self.schedule.resolve(run, findings)).bind(optimizer)
        if follow:
            scheduled.follow_optimizer()
        return scheduled

    def bind(self, optimizer: Optimizer) -> ScheduledLR:
        """Make the schedule for ``optimizer``, where nothing depends on the run any more; write its first values."""
        own = SCHEDULERS.get(self.type)
        make = ScheduledLR if own is None else own.of
        return make(optimizer, self.schedule.completed(), self.last_batch_iteration, self.unit)

    def _horizon(self, horizon: Horizon | None, total_steps: int | None, steps_per_epoch: int | None) -> Horizon:
        """Return the horizon, or the one that the two numbers mean."""
        given = Horizon.given(total_steps, steps_per_epoch)
        if horizon is None:
            return given.in_unit(self.unit)
        if not isinstance(horizon, Horizon):
            raise TypeError(
                f"horizon must be a Horizon, got {type(horizon).__name__}; of a Lightning Trainer:"
                " lightning_lrsched.trainer.horizon.horizon_of(trainer)"
            )
        if given != Horizon():
            raise ValueError("total_steps, steps_per_epoch: not together with a horizon, which has lengths of its own")
        return horizon.in_unit(self.unit)


# jsonargparse takes the types of a dataclass's arguments from its annotations, and `params` is no field.
SchedulerConfig.__annotations__["params"] = "Mapping[str, Any] | None"
SchedulerConfig.__annotations__["cool_down"] = "Mapping[str, Any] | None"


@contextmanager
def section_path() -> Iterator[None]:
    """Put the path in its section before the key of a ParameterError that is raised inside."""
    try:
        yield
    except ParameterError as error:
        raise error.under(SECTION if error.key.startswith(COOL_DOWN) else PARAMS) from None


def _cool_down(given: object) -> CoolDown:
    path = f"{SECTION}{COOL_DOWN}"
    if not isinstance(given, Mapping):
        raise ParameterTypeError(path, f"must be a mapping, got {short(given)}")
    for key in given:
        if key not in CoolDown.fields:
            hint = did_you_mean({"from": "start"}.get(key, key), CoolDown.fields)
            raise ParameterValueError(
                f"{path}.{str(key)[:60]}", f": there is no such key{hint}; it takes {', '.join(CoolDown.fields)}"
            )
    return CoolDown.parse(given, f"{path}.")


def _check_unit(unit: object, type_name: str) -> None:
    if unit == "second":
        raise ParameterValueError(
            "scheduler.unit",
            'cannot be "second": clocks differ between ranks, and the same run would have other learning rates each'
            f" time; use {', '.join(UNITS)}",
        )
    choice("scheduler.unit", unit, UNITS)
    if type_name not in SCHEDULERS:
        raise ParameterValueError(
            "scheduler.unit",
            f'="{unit}" needs one of {", ".join(SCHEDULERS)}; torch\'s {type_name} is computed step by step',
        )


def _frozen(value: object) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def read_content(given: Mapping[str, object] | str | Path) -> Mapping[str, object]:
    """Return the whole configuration from what a user may pass: a mapping, or the path of a file, which is read.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if it is something else.
        ValueError: if it is the name of a schedule, or the file cannot be read.
    """
    if isinstance(given, str) and given in {**SCHEDULERS, **torch_schedules()}:
        raise ValueError(f"{given!r} is the type of a schedule, not a configuration: write {form_of(given)}")
    if isinstance(given, str) and re.fullmatch(r"[\w -]+", given) and not Path(given).exists():
        raise FileNotFoundError(f"{given}: no such file, and no type of a schedule{nearest_types(given)}")
    if isinstance(given, (str, Path)):
        return read_mapping(given)
    if not isinstance(given, Mapping):
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        raise TypeError(
            f"a schedule must be a mapping such as {FORM}, the path of a file that has one, or a SchedulerConfig;"
            f" got {name}"
        )
    return given


def in_file(given: object) -> AbstractContextManager[None]:
    """Put the name of a file before the key paths of errors, if ``given`` is one."""
    return key_path(f"{given}: " if isinstance(given, (str, Path)) else "")
