"""The schedulers of torch as schedules; DeepSpeed accepts them too, where it has none of its own of that name.

torch's have no values to ask for, so each is run once, as far as it is asked for, on param groups without parameters;
what it wrote is kept. So they resume, follow optimizers and are previewed like all other schedules.
"""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

import numpy as np
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.schedules.errors import ParameterTypeError, ParameterValueError
from lightning_lrsched.schedules.fields import AnyValue, Count, Params, Rule, Several, Steps, Switch, declared
from lightning_lrsched.schedules.schedule import Own_, Schedule, Values

NOT_FROM_A_FILE = {
    "LambdaLR": "it needs a function",
    "MultiplicativeLR": "it needs a function",
    "SequentialLR": "it needs other schedulers",
    "ChainedScheduler": "it needs other schedulers",
    "ReduceLROnPlateau": "it follows a metric, not the steps; return it from configure_optimizers with its monitor",
}
"""Name -> why a type and numbers are not enough for it."""

COUNTS = ("int", "int | None", int, int | None)
"""How torch annotates counts; newer versions use strings."""

LENGTHS = {"T_max": 1.0, "total_steps": 1.0, "total_iters": 1.0, "step_size": 1 / 3, "T_0": 1.0, "step_size_up": 0.5}
"""Counts that are lengths -> the fraction of the run that ``"auto"`` means."""

ENDS = ("total_steps", "total_iters", "T_max")
"""The lengths at whose end a scheduler has done its work, as far as it has one."""

TRIAL_STEPS = 3
"""Some wrong values (a period of 0) fail only once the scheduler has advanced."""


class TorchSchedule(Schedule):
    """Base of the schedules that are made from torch's classes, one for each."""

    scheduler_class: ClassVar[type[LRScheduler]]
    momentum_switch: ClassVar[tuple[str, str]] = ("cycle_momentum", "set cycle_momentum to false")

    def check_together(self) -> None:
        """Raise ValueError where torch refuses the values."""
        if not self.waiting("run"):
            self.values({"lr": [1e-3] * self._groups()}).at(TRIAL_STEPS)

    def _groups(self) -> int:
        """Return how many param groups the lists among the parameters are for."""
        lists = [v for _, field, v in self.leaves() if isinstance(v, tuple) and isinstance(field.rule, AnyValue)]
        return max(map(len, lists), default=1)

    @property
    def sets_momentum(self) -> bool:
        """Whether the momentum is cycled."""
        return bool(getattr(self, "cycle_momentum", False))

    @property
    def own_names(self) -> set[str]:
        """The lr: what torch's schedulers do with it is their own matter."""
        return {"lr"}

    @property
    def length(self) -> tuple[list[str], int] | None:
        """The end of the run for which it was made, where a parameter says it."""
        ends = [key for key in ENDS if isinstance(getattr(self, key, None), int)]
        return ([ends[0]], getattr(self, ends[0])) if ends else None

    def values(self, own: Own_) -> Values:
        """Return the values of every param group; those of groups with the same own lr are computed once."""
        lrs = list(own["lr"])
        alike = len(set(lrs)) == 1 and self._groups() == 1
        record = _Record(self, lrs[:1] if alike else lrs)

        def at(position: int) -> Params:
            of_groups = record.at(position)
            return {name: value[0] if alike else np.array(value) for name, value in of_groups.items()}

        return Values(at, 1 if alike else len(lrs), [0] * len(lrs) if alike else list(range(len(lrs))))

    def __reduce__(self) -> tuple[object, ...]:
        # The class itself is made at run time and cannot be found by its name.
        return _rebuilt, (self.type, self.given_params())


class _Record:
    """What one of torch's schedulers has written, step by step."""

    def __init__(self, schedule: TorchSchedule, lrs: Sequence[float]) -> None:
        self._schedule = schedule
        self._groups: list[Params] = [{"params": [], "lr": lr, "betas": (0.9, 0.999)} for lr in lrs]
        self._rows: list[dict[str, list[float]]] = []
        self._scheduler: LRScheduler | None = None

    def at(self, position: int) -> dict[str, list[float]]:
        """Return name -> value of each group; run the scheduler as far as that."""
        if position >= len(self._rows):
            self._run_to(position)
        return self._rows[position]

    def _run_to(self, position: int) -> None:
        arguments = self._schedule.given_params()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                while len(self._rows) <= position:
                    self._advance(arguments)
        except Exception as error:  # noqa: BLE001 - anything may come from values that torch does not check
            kind = ParameterTypeError if isinstance(error, TypeError) else ParameterValueError
            values = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise kind("", f": {self._schedule.type} refuses {values[:300]}: {error}") from None

    def _advance(self, arguments: Params) -> None:
        if self._scheduler is None:
            self._scheduler = self._schedule.scheduler_class(_Groups(self._groups), **arguments)
        else:
            self._scheduler.step()
        row = {"lr": [float(group["lr"]) for group in self._groups]}
        if self._schedule.sets_momentum:
            row["momentum"] = [float(group["betas"][0]) for group in self._groups]
        self._rows.append(row)


class _HoldingOneCycleLR(lr_scheduler.OneCycleLR):
    """torch's OneCycleLR, but past its end it keeps the last lr instead of raising in the middle of a run."""

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step, up to the end."""
        if epoch is not None or self.last_epoch + 1 < self.total_steps:
            super().step(epoch)


class _Groups(Optimizer):
    """Param groups without parameters."""

    def __init__(self, groups: list[Params]) -> None:
        # Without torch's own constructor: it loads the compiler, which takes a second.
        self.param_groups, self.defaults, self.state = groups, dict(groups[0]), defaultdict(dict)
        self._opt_called = True  # torch's schedulers else warn that no step was made

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Do nothing."""


@cache
def torch_schedules() -> Mapping[str, type[TorchSchedule]]:
    """Return name -> schedule for every scheduler of torch that numbers alone can describe."""
    return {
        name: _schedule_of(name, thing)
        for name, thing in vars(lr_scheduler).items()
        if isinstance(thing, type)
        and issubclass(thing, LRScheduler)
        and thing is not LRScheduler
        and not name.startswith("_")
        and name not in NOT_FROM_A_FILE
    }


def _schedule_of(name: str, scheduler_class: type[LRScheduler]) -> type[TorchSchedule]:
    arguments = inspect.signature(scheduler_class.__init__).parameters.values()
    known = [a for a in arguments if a.name not in ("self", "optimizer", "last_epoch", "verbose")]
    empty = inspect.Parameter.empty
    attributes: list[Any] = [
        (a.name, Annotated[Any, _rule(a)], *([] if a.default is empty else [field(default=a.default)])) for a in known
    ]
    runs = _HoldingOneCycleLR if scheduler_class is lr_scheduler.OneCycleLR else scheduler_class
    doc = f"torch's {name}."
    space = {"type": name, "scheduler_class": runs, "in_deepspeed": True, "__doc__": doc}
    made = make_dataclass(
        f"Torch{name}", attributes, bases=(TorchSchedule,), namespace=space, frozen=True, kw_only=True
    )
    return declared(made)


def _rebuilt(name: str, params: Params) -> TorchSchedule:
    return torch_schedules()[name].parse(params)


def _rule(argument: inspect.Parameter) -> Rule:
    if isinstance(argument.default, bool):
        return Switch()
    if argument.name == "milestones":
        return Several(Steps())
    if argument.annotation not in COUNTS and argument.name not in LENGTHS:  # torch 2.4 does not annotate all of them
        return AnyValue()
    optional = argument.annotation in COUNTS[1::2] or argument.default is None
    auto = LENGTHS.get(argument.name)
    return Count(optional=optional) if auto is None else Steps(at_least=1, auto=auto, optional=optional)
