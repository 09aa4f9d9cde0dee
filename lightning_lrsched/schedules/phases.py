"""Phases: the hyperparameters go from one phase to the next, each with a length, goals and a shape of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Annotated, ClassVar

from lightning_lrsched.schedules.curves import Shape, fall
from lightning_lrsched.schedules.errors import ParameterValueError
from lightning_lrsched.schedules.fields import OWN_LR, Fields, ListOf, Named, Number, Others, Own, Steps, declared
from lightning_lrsched.schedules.schedule import HYPERPARAMETERS, Curve, Schedule, Value, without_zeros

LR = Number(at_least=0, auto=OWN_LR, finding="suggestion", ratio=True, optional=True, per_group=True)
MOMENTUM = Number(at_least=0, below=1, optional=True, per_group=True)

LOW = 0.1
"""An lr that is at most this fraction of the highest one makes little progress."""


@declared
class Phase(Fields):
    """The keys of one phase; absent: what is not required stays as the phase before left it.

    Args:
        steps: length of the phase [optimizer steps]; 0: the values jump.
        lr: lr at its end; one float, one per param group, or a multiple of each group's own: ``{"ratio": 0.1}``.
        momentum: momentum (or first beta) at its end, in [0, 1); one float, or one per param group.
        weight_decay: weight decay at its end; one float, one per param group, or a multiple of each group's own. The
            first phase begins with each group's own; a group that has none keeps none.
        shape: ``"linear"``, ``"cosine"``, ``"1-sqrt"`` or ``"exponential"``.
        others: any other number in the optimizer's param groups, by its name (``beta2``, ``eps``, ``dampening``, ...),
            as ``weight_decay``.
    """

    steps: Annotated[int, Steps(follows=True)]
    lr: Annotated[Value | None, LR] = None
    momentum: Annotated[Value | None, MOMENTUM] = None
    weight_decay: Annotated[Value | None, HYPERPARAMETERS["weight_decay"]] = None
    shape: Shape = "linear"
    others: Annotated[tuple[Named, ...], Others(HYPERPARAMETERS)] = ()

    @property
    def goals(self) -> dict[str, Value]:
        """The hyperparameters that the phase sets, by name, with their values at its end."""
        goals = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay, **dict(self.others)}
        return {name: goal for name, goal in goals.items() if goal is not None}


@declared
class Phases(Schedule):
    """Takes the hyperparameters of an optimizer through phases, each with a length, values at its end and a shape.

    In a phase of ``n`` steps that begins at step ``b``, with ``p(s) = (s - b) / n`` and the value of the phase before
    it (``start_lr`` in the first)::

        lr(s) = before + (lr - before) * (1 - f(p(s)))     momentum, weight decay, ... likewise

        f(p)  = 1 - p                   linear
        f(p)  = (1 + cos(pi * p)) / 2   cosine
        f(p)  = 1 - sqrt(p)             1-sqrt
        f(p)  = 2 * 0.5**p - 1          exponential

    After the last phase the values stay. A phase is a mapping with the keys of
    :class:`~lightning_lrsched.schedules.phases.Phase`: ``steps``, ``lr``, ``momentum``, ``weight_decay``, ``shape``,
    and the name of any other number in the optimizer's param groups (``beta2``, ``eps``). In a configuration ``steps``
    may be a fraction of the whole run (0.1) or epochs (``"2ep"``).

    Args:
        phases: the phases, one mapping each.
        start_lr: lr at step 0; one float, one per param group, or a multiple of each group's own: ``{"ratio": 1.0}``.
        start_momentum: momentum (or first beta) at step 0, in [0, 1); one float, or one per param group; None: momentum
            is left alone.

    Source:
        The shapes are those of Hugging Face's ``get_wsd_schedule`` and of Megatron-Core's ``OptimizerParamScheduler``.
        DeepSpeed has no such type.
    """

    type: ClassVar[str] = "PhasedLR"
    in_deepspeed: ClassVar[bool] = False
    momentum_switch: ClassVar[tuple[str, str]] = ("start_momentum", "leave the momentum out")

    phases: Annotated[tuple[Phase, ...], ListOf(Phase)]
    start_lr: Annotated[Value, Number(at_least=0, auto=OWN_LR, finding="suggestion", ratio=True, per_group=True)] = 0.0
    start_momentum: Annotated[Value | None, MOMENTUM] = None

    def check_together(self) -> None:
        """Raise ValueError where a phase has a momentum, but there is none before the first."""
        for index, phase in enumerate(self.phases):
            if phase.momentum is not None and self.start_momentum is None:
                raise ParameterValueError(
                    f"phases[{index}].momentum", "needs start_momentum: the momentum before the first phase"
                )

    @property
    def sets_momentum(self) -> bool:
        """Whether the phases have a momentum."""
        return self.start_momentum is not None

    @property
    def names(self) -> list[str]:
        """The hyperparameters that a phase sets."""
        momentum = ["momentum"] if self.sets_momentum else []
        return list(dict.fromkeys(["lr", *momentum, *(name for phase in self.phases for name in phase.goals)]))

    @property
    def own_names(self) -> set[str]:
        """The lr where one is a multiple of each group's own; all others that begin with each group's own."""
        begin = {"lr"} if self.start_momentum is None else {"lr", "momentum"}
        return super().own_names | (set(self.names) - begin)

    @property
    def length(self) -> tuple[list[str], int]:
        """The end of the last phase."""
        return [f"phases[{index}].steps" for index in range(len(self.phases))], self.turns[-1]

    @property
    def turns(self) -> list[int]:
        """The end of each phase."""
        return list(accumulate(phase.steps for phase in self.phases))

    @property
    def highest_at(self) -> list[int]:
        """The ends of the phases, and the steps before them: the next phase may begin with a jump."""
        return [0, *(max(0, turn - back) for turn in self.turns for back in (0, 1))]

    @property
    def ends_low(self) -> bool:
        """Whether the last lr is a small fraction of the highest, as far as that is known without an optimizer."""
        lrs = [self.start_lr, *(phase.lr for phase in self.phases if phase.lr is not None)]
        kinds = {isinstance(lr, Own) for lr in lrs if _highest(lr) > 0.0}
        if len(kinds) > 1 and _highest(lrs[-1]) > 0.0:
            return False  # some are multiples of the optimizer's, some are not
        return _highest(lrs[-1]) <= LOW * max(map(_highest, lrs))

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the values as functions of the position; those that no phase sets are left out."""
        starts_of = {"lr": self.start_lr, "momentum": self.start_momentum}
        now: dict[str, Value] = {}
        for name in self.names:
            start = starts_of.get(name)
            now[name] = own[name] if start is None else start
        parts, starts = [], [0]
        for phase in self.phases:
            after = now | without_zeros(phase.goals, own)
            parts.append((phase.steps, phase.shape, [(name, now[name], after[name]) for name in now]))
            starts.append(starts[-1] + phase.steps)
            now = after
        del starts[-1]

        def values(s: int) -> dict[str, Value]:
            # Where several begin at once, all but the last are without length: jumps.
            index = bisect_right(starts, s) - 1
            steps, shape, ways = parts[index]
            f = fall(s - starts[index], steps, shape)
            # By identity: what stays is the same number, to the last digit.
            return {name: end if end is begin else begin * f + end * (1.0 - f) for name, begin, end in ways}

        return values


def _highest(lr: float | tuple[float, ...] | Own) -> float:
    if isinstance(lr, Own):
        return lr.ratio
    return max(lr) if isinstance(lr, tuple) else lr
