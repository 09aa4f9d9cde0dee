"""The schedulers of torch, by name, as DeepSpeed takes them too where it has none of its own."""

from __future__ import annotations

import inspect
import warnings
from numbers import Real
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.stand_in import stand_in_for
from lightning_lrsched.schedulers.checks import count

NOT_FROM_A_FILE = {
    "LambdaLR": "it needs a function",
    "MultiplicativeLR": "it needs a function",
    "SequentialLR": "it needs other schedulers",
    "ChainedScheduler": "it needs other schedulers",
    "ReduceLROnPlateau": "it follows a metric, not the steps; return it from configure_optimizers with its monitor",
}
"""Name -> why a type and numbers are not enough for it."""


COUNTS = ("int", "int | None", int, int | None)
"""How torch annotates them; as text in its newer versions."""


class _HoldingOneCycleLR(lr_scheduler.OneCycleLR):
    """torch's OneCycleLR, but past its end it keeps the last lr instead of raising in the middle of a run.

    The underscore keeps it out of the classes that LightningCLI offers.
    """

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step, up to the end."""
        if epoch is not None or self.last_epoch + 1 < self.total_steps:
            super().step(epoch)


def torch_schedulers() -> dict[str, type[LRScheduler]]:
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


def parameters_of(scheduler_class: type[LRScheduler]) -> dict[str, inspect.Parameter]:
    """Return the hyperparameters that a configuration may give, by name."""
    own_init = lr_scheduler.OneCycleLR if scheduler_class is _HoldingOneCycleLR else scheduler_class
    signature = inspect.signature(own_init.__init__).parameters
    return {name: p for name, p in signature.items() if name not in ("self", "optimizer", "last_epoch", "verbose")}


def build_torch_scheduler(
    scheduler_class: type[LRScheduler], optimizer: Optimizer, params: dict[str, Any]
) -> LRScheduler:
    """Make one for ``optimizer``; if its values are refused, the optimizer stays as it was.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """
    params = {**params, **_counts(scheduler_class, params)}
    # torch's constructors change the optimizer before they have checked everything, so a copy goes first; and some
    # values (a period of 0) fail only when it has moved.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rehearsal = scheduler_class(stand_in_for(optimizer), **params)
            for _ in range(3):
                rehearsal.step()
    except Exception as error:  # noqa: BLE001 - anything may come from values that torch does not check
        kind = TypeError if isinstance(error, TypeError) else ValueError
        values = ", ".join(f"{key}={value!r}" for key, value in params.items())
        raise kind(f"{scheduler_class.__name__} refuses {values[:300]}: {error}") from None
    return scheduler_class(optimizer, **params)


def _counts(scheduler_class: type[LRScheduler], params: dict[str, Any]) -> dict[str, int]:
    """Return those numbers that torch takes for counts, which it does not check; a share of the run is none."""
    counted = [key for key, p in parameters_of(scheduler_class).items() if p.annotation in COUNTS]
    numbers = [key for key in counted if isinstance(params.get(key), Real)]
    return {key: count(key, params[key]) for key in numbers}
