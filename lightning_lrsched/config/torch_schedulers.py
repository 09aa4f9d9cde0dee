"""The schedulers of torch, by name; DeepSpeed accepts them too, where it has none of its own of that name."""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from numbers import Real
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError, key_path
from lightning_lrsched.schedulers.param_groups import torch_optimizer
from lightning_lrsched.schedulers.parameters import Parameter
from lightning_lrsched.schedulers.rules import AnyValue, Count, Rule, Switch

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

TRIAL_STEPS = 3
"""Some wrong values (a period of 0) fail only once the scheduler has advanced."""


class _HoldingOneCycleLR(lr_scheduler.OneCycleLR):
    """torch's OneCycleLR, but past its end it keeps the last lr instead of raising in the middle of a run.

    The underscore keeps it out of the classes that LightningCLI offers.
    """

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step, up to the end."""
        if epoch is not None or self.last_epoch + 1 < self.total_steps:
            super().step(epoch)


class _Groups(Optimizer):
    """Param groups without parameters: torch's schedulers have no values to ask for: they can only be run."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        # Without torch's own constructor: it loads the compiler, which takes a second.
        self.param_groups, self.defaults, self.state = groups, dict(groups[0]), defaultdict(dict)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


@cache
def torch_schedulers() -> Mapping[str, type[LRScheduler]]:
    """Return name -> class of every scheduler of torch that numbers alone can describe."""
    found = {
        name: thing
        for name, thing in vars(lr_scheduler).items()
        if isinstance(thing, type)
        and issubclass(thing, LRScheduler)
        and thing is not LRScheduler
        and not name.startswith("_")
        and name not in NOT_FROM_A_FILE
    }
    return {**found, "OneCycleLR": _HoldingOneCycleLR}


def torch_parameters(scheduler_class: Any) -> Mapping[str, Parameter]:
    """Return the hyperparameters that a configuration may give, by name."""
    own_init = lr_scheduler.OneCycleLR if scheduler_class is _HoldingOneCycleLR else scheduler_class
    return {
        name: Parameter(name, _rule(argument), argument.default, optional=argument.annotation in COUNTS[1::2])
        for name, argument in inspect.signature(own_init.__init__).parameters.items()
        if name not in ("self", "optimizer", "last_epoch", "verbose")
    }


def _rule(argument: inspect.Parameter) -> Rule:
    if isinstance(argument.default, bool):
        return Switch()
    return Count() if argument.annotation in COUNTS else AnyValue()


def build_torch_scheduler(
    scheduler_class: type[LRScheduler], optimizer: Optimizer, params: dict[str, Any]
) -> LRScheduler:
    """Make one for ``optimizer``; if its values are refused, the optimizer stays as it was.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """
    # torch's constructors change the optimizer before they have checked everything, so a copy of its groups is tried.
    torch_lrs_at(scheduler_class, optimizer.param_groups, params, range(TRIAL_STEPS + 1))
    if not isinstance(optimizer, Optimizer):  # torch's take no wrapper: DeepSpeed's, for one
        optimizer = torch_optimizer(optimizer)
    return scheduler_class(optimizer, **{**params, **_counts(scheduler_class, params)})


def torch_lrs_at(
    scheduler_class: type[LRScheduler], groups: list[dict[str, Any]], params: dict[str, Any], steps: Iterable[int]
) -> list[list[float]]:
    """Return the lr of each param group at each of some steps, of a scheduler that runs on a copy of ``groups``.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """
    params = {**params, **_counts(scheduler_class, params)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _run(scheduler_class(_Groups([_copy(group) for group in groups]), **params), sorted(steps))
    except Exception as error:  # noqa: BLE001 - anything may come from values that torch does not check
        kind = ParameterTypeError if isinstance(error, TypeError) else ParameterValueError
        values = ", ".join(f"{key}={value!r}" for key, value in params.items())
        name = scheduler_class.__name__.removeprefix("_Holding")
        raise kind("params", f": {name} refuses {values[:300]}: {error}") from None


def _run(scheduler: LRScheduler, steps: list[int]) -> list[list[float]]:
    found: list[list[float]] = []
    for step in range(steps[-1] + 1):
        if step:
            scheduler.optimizer.step()
            scheduler.step()
        if step == steps[len(found)]:
            found.append([float(lr) for lr in scheduler.get_last_lr()])
    return found


def _copy(group: dict[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    return {**{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in values.items()}, "params": []}


def _counts(scheduler_class: type[LRScheduler], params: dict[str, Any]) -> dict[str, Any]:
    """Return the counts among ``params``, checked, because torch does not; a fraction of the run is not a count."""
    counted = [p for p in torch_parameters(scheduler_class).values() if isinstance(p.rule, Count)]
    with key_path("params."):
        return {p.name: p.check(params[p.name]) for p in counted if isinstance(params.get(p.name), Real)}
