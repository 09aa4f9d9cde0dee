"""PhasedLR: lr and momentum go from one phase to the next, each with a length, a goal and a shape of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any

from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.curves import fall
from lightning_lrsched.schedulers.errors import ParameterValueError
from lightning_lrsched.schedulers.group_values import Curve
from lightning_lrsched.schedulers.paths import flatten
from lightning_lrsched.schedulers.rules import OWN_LR, RATIO, ListOf, Number, Shape, Steps
from lightning_lrsched.schedulers.schedule import Circumstances, no_momentum

LR = Number(at_least=0, auto=OWN_LR, finding="suggestion", ratio=True)
MOMENTUM = Number(at_least=0, below=1)

LOW = 0.1
"""An lr that is at most this fraction of the highest one makes little progress."""


@dataclass(frozen=True)
class Phase:
    """The keys of one phase; absent: what is not required stays as the phase before left it.

    Args:
        steps: length of the phase [optimizer steps]; 0: lr and momentum jump.
        lr: lr at its end; one float, one per param group, or a multiple of each group's own: ``{"ratio": 0.1}``.
        momentum: momentum (or first beta) at its end, in [0, 1); one float, or one per param group.
        shape: ``"linear"``, ``"cosine"``, ``"1-sqrt"`` or ``"exponential"``.
    """

    steps: Annotated[int, Steps(follows=True)]
    lr: Annotated[float | list[float] | dict[str, float] | None, LR] = None
    momentum: Annotated[float | list[float] | None, MOMENTUM] = None
    shape: Shape = "linear"


class PhasedLR(ClosedFormLR):
    """Takes learning rate and momentum through phases: each has a length, values at its end, and a shape.

    In a phase of ``n`` steps that begins at step ``b``, with ``p(s) = (s - b) / n`` and the value of the phase before
    it (``start_lr`` in the first)::

        lr(s) = before + (lr - before) * (1 - f(p(s)))     momentum likewise

        f(p)  = 1 - p                   linear
        f(p)  = (1 + cos(pi * p)) / 2   cosine
        f(p)  = 1 - sqrt(p)             1-sqrt
        f(p)  = 2 * 0.5**p - 1          exponential

    After the last phase the values stay. A phase is a mapping with the keys of
    :class:`~lightning_lrsched.schedulers.phased.Phase`: ``steps``, ``lr``, ``momentum``, ``shape``. In a configuration
    ``steps`` may be a fraction of the whole run (0.1) or epochs (``"2ep"``).

    Args:
        optimizer: the optimizer whose lr and momentum are scheduled.
        phases: the phases, one mapping each.
        start_lr: lr at step 0; one float, one per param group, or a multiple of each group's own: ``{"ratio": 1.0}``.
        start_momentum: momentum (or first beta) at step 0, in [0, 1); one float, or one per param group; None: momentum
            is left alone.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a key of a phase is unknown or missing, a phase has a momentum and there
            is no ``start_momentum``, or a list is not as long as the optimizer's param groups.

    Source:
        The shapes are those of Hugging Face's ``get_wsd_schedule`` and of Megatron-Core's ``OptimizerParamScheduler``.
        DeepSpeed has no such type.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> warmup, hold, decay = {"steps": 2, "lr": 1.0}, {"steps": 3}, {"steps": 4, "lr": 0.0, "shape": "1-sqrt"}
        >>> schedule = PhasedLR(optimizer, [warmup, hold, decay])
        >>> [round(schedule.lr_at(step)[0], 3) for step in range(11)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0, 0.0]
    """

    in_deepspeed = False

    def __init__(
        self,
        optimizer: Optimizer,
        phases: Annotated[list[dict[str, Any]], ListOf(Phase)],
        start_lr: Annotated[float | list[float] | dict[str, float], LR] = 0.0,
        start_momentum: Annotated[float | list[float] | None, MOMENTUM] = None,
        last_batch_iteration: int = -1,
    ) -> None:
        super().__init__(optimizer, last_batch_iteration, PhasedLR, locals())

    @classmethod
    def check_together(cls, parameters: Mapping[str, Any]) -> None:
        """Raise ValueError where a phase has a momentum, but there is none before the first."""
        for index, phase in enumerate(parameters["phases"]):
            if phase.get("momentum") is not None and parameters["start_momentum"] is None:
                raise ParameterValueError(
                    f"phases[{index}].momentum", "needs start_momentum: the momentum before the first phase"
                )

    @classmethod
    def without_momentum(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters without ``start_momentum``."""
        return {**parameters, "start_momentum": None}

    @classmethod
    def scales_base_lr(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether an lr is a multiple of each group's own."""
        return any(isinstance(value, Mapping) for value in flatten(parameters).values())

    @classmethod
    def remarks(cls, about: Circumstances) -> list[str]:
        """Return a sentence about a momentum that the optimizer does not have."""
        if about.parameters["start_momentum"] is None:
            return []
        return no_momentum("start_momentum", about.without_momentum, "leave the momentum out")

    @classmethod
    def length(cls, parameters: Mapping[str, Any]) -> tuple[list[str], int]:
        """Return the end of the last phase."""
        return [f"phases[{index}].steps" for index in range(len(parameters["phases"]))], cls.turns(parameters)[-1]

    @classmethod
    def turns(cls, parameters: Mapping[str, Any]) -> list[int]:
        """Return the end of each phase."""
        return list(accumulate(phase["steps"] for phase in parameters["phases"]))

    @classmethod
    def ends_low(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether the last lr is a small fraction of the highest, as far as that is known without optimizer."""
        lrs = [parameters["start_lr"], *(phase["lr"] for phase in parameters["phases"] if phase["lr"] is not None)]
        kinds = {isinstance(lr, Mapping) for lr in lrs if _highest(lr) > 0.0}
        if len(kinds) > 1 and _highest(lrs[-1]) > 0.0:
            return False  # some are multiples of the optimizer's, some are not
        return _highest(lrs[-1]) <= LOW * max(map(_highest, lrs))

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, momentum) as a function of the position; momentum is None where it is not scheduled."""
        parts, starts = [], [0]
        lr, momentum = _lr(p.start_lr, p.base_lr), p.start_momentum
        for phase in p.phases:
            before = lr, momentum
            lr = lr if phase["lr"] is None else _lr(phase["lr"], p.base_lr)
            momentum = momentum if phase["momentum"] is None or momentum is None else phase["momentum"]
            parts.append((phase["steps"], phase["shape"], *before, lr, momentum))
            starts.append(starts[-1] + phase["steps"])
        del starts[-1]

        def values(s: int) -> tuple[Any, Any]:
            # Where several begin at once, all but the last are without length: jumps.
            index = bisect_right(starts, s) - 1
            steps, shape, lr_before, momentum_before, lr, momentum = parts[index]
            f = fall(s - starts[index], steps, shape)
            rest = 1.0 - f
            # By identity: what stays is the same number, to the last digit.
            return (
                lr if lr is lr_before else lr_before * f + lr * rest,
                momentum if momentum is momentum_before else momentum_before * f + momentum * rest,
            )

        return values


def _lr(value: Any, base_lr: Any) -> Any:
    return value[RATIO] * base_lr if isinstance(value, Mapping) else value


def _highest(value: Any) -> float:
    value = value[RATIO] if isinstance(value, Mapping) else value
    return max(value) if isinstance(value, list) else float(value)
