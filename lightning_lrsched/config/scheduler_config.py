"""SchedulerConfig: which schedule, with which hyperparameters; checked when made, built for an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.schedulers import SCHEDULERS, ClosedFormLR
from lightning_lrsched.schedulers.checks import did_you_mean


@dataclass(frozen=True)
class SchedulerConfig:
    """A schedule's type and hyperparameters, in DeepSpeed's ``{"type": ..., "params": {...}}`` form.

    Args:
        type: name of the schedule: LRRangeTest, OneCycle, WarmupLR, WarmupDecayLR or WarmupCosineLR.
        params: the hyperparameters under the names of the schedule's constructor. Numbers written as strings
            (``"1e-5"``, as YAML reads ``1e-5``) become numbers.

    Raises:
        TypeError: if ``params`` is no mapping.
        ValueError: if the type or a key is unknown, or a required key is missing.

    Source:
        DeepSpeed 0.19.8, section ``scheduler`` of its configuration.

    Example:
        >>> SchedulerConfig("WarmupLR", {"warmup_num_steps": "1e2"})
        SchedulerConfig(type='WarmupLR', params={'warmup_num_steps': 100.0})
    """

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.type, str) or self.type not in SCHEDULERS:
            raise ValueError(
                f"scheduler.type must be one of {', '.join(SCHEDULERS)}, got {self.type!r}"
                f"{did_you_mean(self.type, list(SCHEDULERS))}"
            )
        if not isinstance(self.params, Mapping):
            raise TypeError(f"scheduler.params must be a mapping of keys to values, got {self.params!r}")
        allowed = SCHEDULERS[self.type].parameters()
        for key in self.params:
            if key not in allowed:
                raise ValueError(
                    f"scheduler.params.{key}: {self.type} has no such parameter{did_you_mean(key, list(allowed))};"
                    f" it takes {', '.join(allowed)}"
                )
        for key, parameter in allowed.items():
            if parameter.default is parameter.empty and key not in self.params:
                raise ValueError(f"scheduler.params.{key} is missing: {self.type} needs it")
        object.__setattr__(self, "params", {key: _repair_number(value) for key, value in self.params.items()})

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> SchedulerConfig:
        """Read a ``{"type", "params"}`` section, or the ``scheduler`` section of a whole DeepSpeed configuration."""
        if not isinstance(config, Mapping):
            raise TypeError(f"a scheduler configuration must be a mapping, got {config!r}")
        section = config.get("scheduler", config) if "type" not in config else config
        if not isinstance(section, Mapping):
            raise TypeError(f"scheduler must be a mapping with the keys type and params, got {section!r}")
        if "type" not in section:
            raise ValueError(f"no 'type' in the scheduler configuration, got the keys {', '.join(map(repr, section))}")
        unknown = [key for key in section if key not in ("type", "params")]
        if unknown:
            raise ValueError(
                f"scheduler.{unknown[0]}: a scheduler section has only the keys type and params;"
                f" hyperparameters belong into params"
            )
        return cls(section["type"], section.get("params") or {})

    @classmethod
    def load(cls, path: str | Path) -> SchedulerConfig:
        """Read a JSON or YAML file that holds what :meth:`from_dict` takes; errors begin with the file's name."""
        content = read_mapping(path)
        try:
            return cls.from_dict(content)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from None

    @classmethod
    def of(cls, scheduler: SchedulerConfig | Mapping[str, Any] | str | Path) -> SchedulerConfig:
        """Return a configuration from whatever a user may pass: one of these, a dict, or the path of a file."""
        if isinstance(scheduler, SchedulerConfig):
            return scheduler
        if isinstance(scheduler, (str, Path)):
            return cls.load(scheduler)
        return cls.from_dict(scheduler)

    def build(self, optimizer: Optimizer) -> ClosedFormLR:
        """Make the schedule for ``optimizer`` and write its first values."""
        return SCHEDULERS[self.type](optimizer, **self.params)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``{"type", "params"}`` dictionary; DeepSpeed accepts it."""
        return {"type": self.type, "params": dict(self.params)}


def _repair_number(value: Any) -> Any:
    """Turn a string that spells a number into that number; leave everything else to the constructor's checks."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, (list, tuple)):
        return [_repair_number(item) for item in value]
    return value
