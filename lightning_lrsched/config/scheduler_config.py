"""SchedulerConfig: which schedule, with which hyperparameters; checked when made, built for an optimizer."""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.deepspeed import Sections, type_and_params
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.key_hints import explain
from lightning_lrsched.config.schema import parameters_for, read_value, short
from lightning_lrsched.config.stand_in import stand_in
from lightning_lrsched.config.torch_schedulers import (
    build_torch_scheduler,
    torch_schedulers,
)
from lightning_lrsched.schedulers import SCHEDULERS, durations
from lightning_lrsched.schedulers.durations import RunLength

PARAMS = "scheduler.params."
LARGE_LR = 1e300
"""Stands for the optimizer's own lr as long as there is no optimizer: no other lr is larger."""


@dataclass(frozen=True, init=False, repr=False)
class SchedulerConfig:
    """A schedule's type and hyperparameters, in DeepSpeed's ``{"type": ..., "params": {...}}`` form.

    Everything that can be known without an optimizer is checked at once; what depends on the training run (``"auto"``,
    a fraction of the run such as 0.1, epochs such as ``"2ep"``; see :mod:`lightning_lrsched.schedulers.durations`)
    becomes numbers in :meth:`build`.

    Args:
        type: name of the schedule: LRRangeTest, OneCycle, WarmupLR, WarmupDecayLR, WarmupCosineLR, or a class of
            ``torch.optim.lr_scheduler``.
        params: the hyperparameters under the names of the schedule's constructor. Numbers written as strings
            (``"1e-5"``, as YAML reads ``1e-5``) become numbers.
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

    def __init__(self, type: str, params: Mapping[str, Any] | None = None, **hyperparameters: Any) -> None:  # noqa: A002 - DeepSpeed's key
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f"scheduler.params must be a mapping of keys to values, got {params!r}")
        given = {**(params or {}), **hyperparameters}
        allowed = parameters_for(type)
        for key in given:
            if key not in allowed:
                raise ValueError(f"{PARAMS}{key}: {explain(key, type, list(allowed))}")
        for key, parameter in allowed.items():
            if parameter.default is parameter.empty and key not in given:
                raise ValueError(f"{PARAMS}{key} is missing: {type} needs it")
        with _key_path(PARAMS):
            checked = {key: read_value(key, value, allowed[key]) for key, value in given.items()}
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "params", MappingProxyType(checked))
        self._rehearse()

    def _rehearse(self) -> None:
        """Make the schedule once for an optimizer of no consequence: wrong values are told now, not in training."""
        if not self.is_own:
            return  # what torch's own take as a list is not known
        lengths = {key: len(value) for key, value in self.params.items() if isinstance(value, tuple) and value}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise ValueError(f"scheduler.params: lists need one value for each param group, got as many as: {listed}")
        groups = max(lengths.values(), default=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again when it is built
            # A run that is so long that no share of it is 0, and no warmup longer than the rest.
            self.build(stand_in([LARGE_LR] * groups), RunLength(10**6, 10**3))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> SchedulerConfig:
        """Read a ``{"type", "params"}`` section, or the ``scheduler`` section of a whole DeepSpeed configuration.

        The section may also stand one level down, under ``deepspeed``. What else the configuration holds is left alone.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if there is no scheduler section, or something in it is wrong.
        """
        sections = Sections.find(config)
        if sections.scheduler is None:
            raise ValueError(f"{sections.prefix}scheduler is missing; the configuration has the keys {_keys(config)}")
        with _key_path(sections.prefix):
            return cls(*type_and_params("scheduler", sections.scheduler))

    @classmethod
    def load(cls, path: str | Path) -> SchedulerConfig:
        """Read a JSON or YAML file that holds what :meth:`from_dict` takes; errors begin with the file's name.

        Raises:
            FileNotFoundError: if there is no such file.
            TypeError: if a value has the wrong type.
            ValueError: if the file is no configuration, or something in it is wrong.
        """
        content = read_mapping(path)
        with _key_path(f"{path}: "):
            return cls.from_dict(content)

    @classmethod
    def of(cls, scheduler: SchedulerConfig | Mapping[str, Any] | str | Path) -> SchedulerConfig:
        """Return a configuration from whatever a user may pass: one of these, a dict, or the path of a file."""
        if isinstance(scheduler, SchedulerConfig):
            return scheduler
        if isinstance(scheduler, (str, Path)):
            return cls.load(scheduler)
        return cls.from_dict(scheduler)

    @property
    def is_own(self) -> bool:
        """Whether the schedule is one of this package's, which follow their optimizer; otherwise it is torch's."""
        return self.type in SCHEDULERS

    @property
    def needs_run(self) -> list[str]:
        """The keys whose values depend on the length of the training run."""
        return [key for key, value in self.params.items() if durations.Duration.of(key, value) is not None]

    @property
    def needs_optimizer(self) -> list[str]:
        """The keys whose values depend on the optimizer's own learning rates."""
        return [key for key, value in self.params.items() if durations.is_auto_lr(key, value)]

    def resolve(self, optimizer: Optimizer, trainer: Any = None) -> SchedulerConfig:
        """Return the same configuration with numbers for everything that depends on the run or on the optimizer.

        Args:
            optimizer: whose param groups' learning rates ``"auto"`` means.
            trainer: the Trainer that is about to fit, or a :class:`~lightning_lrsched.trainer.run_length.RunLength`;
                asked only where a value depends on the run.

        Raises:
            ValueError: if the run does not tell its length; the message names the key and the remedy.
        """
        if not self.needs_run and not self.needs_optimizer:
            return self
        run = RunLength()
        if self.needs_run:  # the trainer has to load its data to answer
            from lightning_lrsched.trainer.run_length import run_length_of  # noqa: PLC0415 - not for those without one

            run = run_length_of(trainer)
        own_lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        with _key_path(PARAMS):
            return SchedulerConfig(self.type, durations.resolve(self.params, run, own_lrs))

    def build(
        self, optimizer: Optimizer, trainer: Any = None, *, follow: bool = False, capturable: bool = False
    ) -> LRScheduler:
        """Make the schedule for ``optimizer`` and write its first values.

        Args:
            optimizer: the optimizer whose learning rate is scheduled.
            trainer: the Trainer that is about to fit (or a RunLength); needed only where a value depends on the run.
            follow: have one of this package's schedules advance by the optimizer's own steps.
            capturable: turn lr and scheduled momentum into tensors, for a compiled or captured optimizer step.

        Returns:
            One of this package's schedules; or, where ``type`` names a class of ``torch.optim.lr_scheduler``, that.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range, the run does not tell its length, or the optimizer or the scheduler
                cannot be made capturable.
        """
        if capturable and not self.is_own:
            raise ValueError(f"capturable needs one of {', '.join(SCHEDULERS)}, not torch's {self.type}")
        params = self.resolve(optimizer, trainer).to_dict()["params"]
        if durations.is_auto(self.params.get("warmup_max_lr")):
            params["warmup_max_lr"] = None  # each group's own lr; also that of a group that is added later
        if self.is_own:
            with _key_path(PARAMS, only=params):
                schedule = SCHEDULERS[self.type](optimizer, **params)
            if capturable:
                schedule.make_capturable()
            if follow:
                schedule.follow_optimizer()
            return schedule
        with _key_path(PARAMS.replace("params.", "params: ")):
            return build_torch_scheduler(torch_schedulers()[self.type], optimizer, params)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``{"type", "params"}`` dictionary; DeepSpeed accepts it once nothing in it depends on the run."""
        listed = {key: list(value) if isinstance(value, tuple) else value for key, value in self.params.items()}
        return {"type": self.type, "params": listed}

    def __repr__(self) -> str:
        return f"SchedulerConfig(type={self.type!r}, params={dict(self.params)!r})"

    def __hash__(self) -> int:
        return hash((self.type, frozenset(self.params.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict can neither be copied nor pickled.
        return SchedulerConfig, (self.type, dict(self.params))


@contextmanager
def _key_path(prefix: str, only: Container[str] | None = None) -> Iterator[None]:
    """Put ``prefix`` before the messages of errors; ``only`` before those that begin with one of these keys."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        if only is not None and re.split(r"\W", message, maxsplit=1)[0] not in only:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{prefix}{message}") from None


def _keys(config: Mapping[str, Any]) -> str:
    return ", ".join(short(key) for key in list(config)[:8]) or "none"
