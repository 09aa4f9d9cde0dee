"""SchedulerConfig: which schedule, with which hyperparameters; checked when made, built for an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.deepspeed import Sections, short, type_and_params
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.key_hints import explain
from lightning_lrsched.config.params import PARAMS, check_together, fill_in, parameters_for, read_value, resolve_lrs
from lightning_lrsched.config.torch_schedulers import (
    build_torch_scheduler,
    torch_schedulers,
)
from lightning_lrsched.schedulers import SCHEDULERS
from lightning_lrsched.schedulers.checks import choice
from lightning_lrsched.schedulers.durations import STEPS, UNITS, RunLength, Unit, in_unit, is_auto
from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError, key_path
from lightning_lrsched.schedulers.parameters import Parameter, by_path
from lightning_lrsched.schedulers.paths import flatten, nest
from lightning_lrsched.schedulers.rules import OWN_LR, RATIO, Finding, Number

FORM = '{"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}'


@dataclass(frozen=True, init=False, repr=False)
class SchedulerConfig:
    """A schedule's type and hyperparameters, in DeepSpeed's ``{"type": ..., "params": {...}}`` form.

    Everything that can be known without an optimizer is checked at once; what depends on the training run (``"auto"``,
    a fraction of the run such as 0.1, epochs such as ``"2ep"``; see :mod:`lightning_lrsched.schedulers.durations`)
    becomes numbers in :meth:`build`.

    Args:
        type: name of the schedule, one of :data:`~lightning_lrsched.VALID_LR_SCHEDULES`, or a class of
            ``torch.optim.lr_scheduler``.
        params: the hyperparameters under the names of the schedule's constructor. Numbers written as strings
            (``"1e-5"``, as YAML reads ``1e-5``) become numbers.
        unit: what the schedule's position and all its lengths count: ``"step"`` (optimizer steps), ``"sample"`` or
            ``"token"``. DeepSpeed has steps only.
        **hyperparameters: the same, one by one.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if the type or a key is unknown, a required key is missing, or a value is out of range.

    Source:
        DeepSpeed 0.19.8, section ``scheduler`` of its configuration.

    Example:
        >>> SchedulerConfig("WarmupLR", {"warmup_num_steps": "1e2"})
        SchedulerConfig(type='WarmupLR', params={'warmup_num_steps': 100})
        >>> SchedulerConfig("WarmupLR", warmup_max_lr="auto").to_dict()
        {'type': 'WarmupLR', 'params': {'warmup_max_lr': 'auto'}}
    """

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    unit: Unit = STEPS

    def __init__(
        self,
        type: str,  # noqa: A002 - DeepSpeed's key
        params: Mapping[str, Any] | None = None,
        unit: Unit = "step",
        **hyperparameters: Any,
    ) -> None:
        if params is not None and not isinstance(params, Mapping):
            raise ParameterTypeError("scheduler.params", f"must be a mapping of keys to values, got {params!r}")
        given: Mapping[str, Any] = {**(params or {}), **hyperparameters}
        allowed = parameters_for(type)
        for key in given:
            if key not in allowed:
                raise ParameterValueError(f"{PARAMS}{key}", f": {explain(key, type, list(allowed))}")
        for key, parameter in allowed.items():
            if parameter.required and key not in given:
                raise ParameterValueError(f"{PARAMS}{key}", f"is missing: {type} needs it")
        with key_path(PARAMS):
            allowed, given = by_path(allowed, given)
            values = {key: read_value(allowed[key], value) for key, value in given.items()}
        if type in SCHEDULERS:
            check_together(SCHEDULERS[type], allowed, values)
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "params", _frozen(nest(values)))
        object.__setattr__(self, "unit", _checked_unit(unit, type))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> SchedulerConfig:
        """Read a ``{"type", "params"}`` section, or the ``scheduler`` section of a whole DeepSpeed configuration.

        The section may also stand one level down, under ``deepspeed``. Everything else in the configuration is ignored.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if there is no scheduler section, or something in it is wrong.
        """
        sections = Sections.find(config)
        if sections.scheduler is None:
            keys = ", ".join(short(key) for key in list(config)[:8]) or "none"
            raise ParameterValueError(
                f"{sections.prefix}scheduler", f"is missing; the configuration has the keys {keys}"
            )
        with key_path(sections.prefix):
            return cls(*type_and_params("scheduler", sections.scheduler), sections.scheduler.get("unit", STEPS))

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
    def of(cls, scheduler: SchedulerConfig | Mapping[str, Any] | str | Path) -> SchedulerConfig:
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

    def preview_steps(self) -> int:
        """Return how many steps show the whole schedule when the length of the run is not known."""
        if self.is_own:
            return SCHEDULERS[self.type].preview_steps(SCHEDULERS[self.type].check(self.params))
        return int(self.params.get("total_steps") or self.params.get("total_iters") or self.params.get("T_max") or 100)

    @property
    def is_own(self) -> bool:
        """Whether the schedule is one of this package's, which follow their optimizer; otherwise it is torch's."""
        return self.type in SCHEDULERS

    @property
    def needs_run(self) -> list[str]:
        """The keys whose values depend on the length of the training run."""
        return self._waiting_for("run")

    @property
    def needs_optimizer(self) -> list[str]:
        """The keys whose values depend on the optimizer's own learning rates."""
        return self._waiting_for("optimizer")

    @property
    def needs_range_test(self) -> list[str]:
        """The keys whose values an LR range test at the start of the fit finds."""
        return self._waiting_for("range test")

    def without_range_test(self) -> SchedulerConfig:
        """Return the same configuration with ``"auto"`` in place of ``"lr_range_test"``, where no test is run."""
        if not self.needs_range_test:
            return self  # checked already
        params = {**self.by_path()[1], **dict.fromkeys(self.needs_range_test, "auto")}
        return SchedulerConfig(self.type, nest(params), self.unit)

    def _waiting_for(self, what: str) -> list[str]:
        parameters, params = self.by_path()
        return [key for key, value in params.items() if parameters[key].waits_for(value) == what]

    def by_path(self) -> tuple[Mapping[str, Parameter], Mapping[str, Any]]:
        """Return parameters and values, those in a list of mappings under their paths (``phases[0].steps``)."""
        return by_path(parameters_for(self.type), self.params)

    def resolve(
        self,
        optimizer: Optimizer,
        trainer: Any = None,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        findings: Mapping[Finding, Any] | None = None,
    ) -> SchedulerConfig:
        """Return the same configuration with numbers for everything that depends on the run or on the optimizer.

        Args:
            optimizer: the optimizer whose learning rates ``"auto"`` means.
            trainer: the Trainer that is about to fit, or a
                :class:`~lightning_lrsched.schedulers.durations.RunLength`; used only where a value depends on the run.
            total_steps: length of the whole run, in a loop without a Trainer [optimizer steps, or the schedule's unit].
            steps_per_epoch: length of one epoch there [the same].
            findings: what ``"lr_range_test"`` means: ``"low"``, ``"high"`` and ``"suggestion"`` -> lr (one float, or
                one per param group), as :meth:`RangeTestResult.learning_rates` returns them; None: no test was run.

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
        given = _given_length(trainer, total_steps, steps_per_epoch, self.unit)
        if not self.needs_run and not self.needs_optimizer and not self.needs_range_test:
            return self
        run = _run_length(given) if self.needs_run else RunLength()
        base_lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        return self.resolve_numbers(run, base_lrs, findings)

    def resolve_numbers(
        self,
        run: RunLength,
        base_lrs: list[float] | None,
        findings: Mapping[Finding, Any] | None = None,
        *,
        leave_unknown: bool = False,
    ) -> SchedulerConfig:
        """Return the same configuration with numbers, as far as they follow from a run and from learning rates.

        Args:
            run: how long the run is.
            base_lrs: the lr of each of the optimizer's param groups; None: not known, ``"auto"`` stays.
            findings: what a range test has found; None: no test was run.
            leave_unknown: leave lengths as they are where the run's length is not known, and ``"lr_range_test"``.

        Raises:
            ValueError: if the run's length is not known, or no test was run; the message names the key and the remedy.
        """
        run = replace(
            run, why_no_total=in_unit(run.why_no_total, self.unit), why_no_epoch=in_unit(run.why_no_epoch, self.unit)
        )
        parameters, written = self.by_path()
        params, end = dict(written), 0.0
        for key, parameter in parameters.items():
            if key in written:
                with key_path(PARAMS):
                    params[key], end = parameter.resolve_after(end, written[key], run, leave_unknown=leave_unknown)
        if findings is not None or not leave_unknown:
            with key_path(PARAMS):
                params = fill_in(parameters, params, findings)
        if base_lrs is not None:
            params = resolve_lrs(parameters, params, base_lrs)
        return SchedulerConfig(self.type, nest(params), self.unit)

    def build(
        self,
        optimizer: Optimizer,
        trainer: Any = None,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        follow: bool = False,
        capturable: bool = False,
    ) -> LRScheduler:
        """Make the schedule for ``optimizer`` and write its first values.

        Args:
            optimizer: the optimizer whose learning rate is scheduled.
            trainer: the Trainer that is about to fit (or a RunLength); needed only where a value depends on the run.
            total_steps: length of the whole run, in a loop without a Trainer [optimizer steps, or the schedule's unit].
            steps_per_epoch: length of one epoch there [the same].
            follow: have one of this package's schedules advance by the optimizer's own steps.
            capturable: turn lr and scheduled momentum into tensors, for a compiled or captured optimizer step.

        Returns:
            One of this package's schedules; or, where ``type`` names a class of ``torch.optim.lr_scheduler``, that.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range, the run's length is not known, or the optimizer or the scheduler
                cannot be made capturable.
        """
        resolved = self.resolve(optimizer, trainer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        return self.build_resolved(resolved, optimizer, follow=follow, capturable=capturable)

    def build_resolved(
        self, resolved: SchedulerConfig, optimizer: Optimizer, *, follow: bool = False, capturable: bool = False
    ) -> LRScheduler:
        """Make the schedule from what :meth:`resolve` has returned for ``optimizer``; otherwise as :meth:`build`."""
        if follow and self.unit != STEPS:
            raise ParameterValueError(
                "scheduler.unit",
                f'="{self.unit}": follow=True counts optimizer steps; call follow_optimizer(<function that returns the'
                f" {self.unit}s of a finished step>) of the schedule that build() returns, or use LRSchedulerCallback",
            )
        if capturable and not self.is_own:
            raise ValueError(f"capturable needs one of {', '.join(SCHEDULERS)}, not torch's {self.type}")
        params: dict[str, Any] = resolved.to_dict()["params"]
        if not self.is_own:
            with key_path("scheduler."):
                return build_torch_scheduler(torch_schedulers()[self.type], optimizer, params)
        parameters, written = self.by_path()
        flat = flatten(params)
        for key, value in written.items():
            rule, optional = parameters[key].rule, parameters[key].optional
            ratio = isinstance(rule, Number) and rule.ratio
            if is_auto(value) and rule.auto == OWN_LR and (ratio or optional):
                flat[key] = {RATIO: 1.0} if ratio else None  # also that of a group that is added later
        with key_path(PARAMS):
            schedule = SCHEDULERS[self.type](optimizer, **nest(flat))
        schedule.unit = self.unit
        if capturable:
            schedule.make_capturable()
        if follow:
            schedule.follow_optimizer()
        return schedule

    def to_dict(self) -> dict[str, Any]:
        """Return the ``{"type", "params"}`` dictionary; DeepSpeed accepts it once nothing in it depends on the run.

        There is a key ``"unit"`` too where that is not ``"step"``.
        """
        unit = {} if self.unit == STEPS else {"unit": self.unit}
        return {"type": self.type, "params": _plain(self.params), **unit}

    def __repr__(self) -> str:
        return f"SchedulerConfig({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"

    def __hash__(self) -> int:
        return hash((self.type, frozenset(self.params)))  # a value may be a mapping, which has no hash

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict can neither be copied nor pickled.
        return SchedulerConfig, (self.type, _plain(self.params), self.unit)


def _checked_unit(unit: Any, type_name: str) -> Unit:
    if unit == "second":
        raise ParameterValueError(
            "scheduler.unit",
            'cannot be "second": clocks differ between ranks, and the same run would have other learning rates each'
            f" time; use {', '.join(UNITS)}",
        )
    choice("scheduler.unit", unit, UNITS)
    if unit != STEPS and type_name not in SCHEDULERS:
        raise ParameterValueError(
            "scheduler.unit",
            f'="{unit}" needs one of {", ".join(SCHEDULERS)}; torch\'s {type_name} counts its own calls',
        )
    return unit  # type: ignore[no-any-return]


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def read_content(given: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """Return the whole configuration from what a user may pass: a mapping, or the path of a file, which is read.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if it is something else.
        ValueError: if it is the name of a schedule, or the file cannot be read.
    """
    if isinstance(given, str) and given in {**SCHEDULERS, **torch_schedulers()}:
        raise ValueError(f"{given!r} is the type of a schedule, not a configuration: write {FORM}")
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


def _given_length(trainer: Any, total_steps: int | None, steps_per_epoch: int | None, unit: str) -> Any:
    """Return the Trainer, or the RunLength that the two numbers mean."""
    given = RunLength.given(total_steps, steps_per_epoch)
    if trainer is None:
        return given
    if given != RunLength():
        raise ValueError("total_steps, steps_per_epoch: not together with a trainer, which has lengths of its own")
    if unit != STEPS and not isinstance(trainer, RunLength):
        raise ParameterValueError(
            "scheduler.unit", f'="{unit}" needs LRSchedulerCallback, which counts them, or total_steps=... [{unit}s]'
        )
    return trainer


def _run_length(trainer: Any) -> RunLength:
    if isinstance(trainer, RunLength):
        return trainer
    from lightning_lrsched.trainer.run_length import run_length_of  # noqa: PLC0415 - only where there is a Trainer

    return run_length_of(trainer)
