"""Phases: the hyperparameters go from one phase to the next, each with a length, goals and a shape of its own."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, repeat
from operator import mul
from typing import Annotated, Any, ClassVar

from lightning_lrsched.schedules.curves import NEEDS, AnyShape, falling
from lightning_lrsched.schedules.errors import MAX_COUNT, ParameterValueError
from lightning_lrsched.schedules.fields import (
    OWN_LR,
    REST,
    Count,
    Fields,
    ListOf,
    Named,
    Number,
    Others,
    Own,
    Steps,
    declared,
)
from lightning_lrsched.schedules.schedule import HYPERPARAMETERS, Curve, Schedule, Value, without_zeros

LR = Number(at_least=0, auto=OWN_LR, finding="suggestion", ratio=True, optional=True, per_group=True)
MOMENTUM = Number(at_least=0, below=1, optional=True, per_group=True)

LOW = 0.1
"""An lr that is at most this fraction of the highest one makes little progress."""

MAX_REPEATS = 10_000
"""More repeats are a typo: each is written out."""

WHOLE = 1e-6
"""A phase that ends this near to a whole step ends there: lengths that are no whole numbers have rounding errors."""


@declared
class Phase(Fields):
    """The keys of one phase; absent: what is not required stays as the phase before left it.

    Args:
        steps: length of the phase [optimizer steps]; 0: the values jump; ``"rest"``: what the other phases leave of
            ``total_num_steps``, in equal parts where several take it.
        lr: lr at its end (a shape with a tail goes towards it); one float, one per param group, or a multiple of each
            group's own: ``{"ratio": 0.1}``.
        momentum: momentum (or first beta) at its end, in [0, 1); one float, or one per param group.
        weight_decay: weight decay at its end; one float, one per param group, or a multiple of each group's own. The
            first phase begins with each group's own; a group that has none keeps none.
        shape: ``"linear"``, ``"cosine"``, ``"1-sqrt"``, ``"exponential"``, ``"rex"``, ``"polynomial"``, ``"1-power"``,
            ``"inverse_sqrt"`` or ``"power_law"``.
        power: exponent of polynomial, 1-power and power_law.
        timescale: when inverse_sqrt has come to ``1 / sqrt(2)``, and power_law to ``2**-power`` [optimizer steps].
        gamma: factor of each step of an exponential with a tail, at most 1.
        others: any other number in the optimizer's param groups, by its name (``beta2``, ``eps``, ``dampening``, ...),
            as ``weight_decay``.
    """

    steps: Annotated[int | str, Steps(follows=True, rest=True)]
    lr: Annotated[Value | None, LR] = None
    momentum: Annotated[Value | None, MOMENTUM] = None
    weight_decay: Annotated[Value | None, HYPERPARAMETERS["weight_decay"]] = None
    shape: AnyShape = "linear"
    power: Annotated[float | None, Number(above=0, optional=True)] = None
    timescale: Annotated[int | None, Steps(at_least=1, optional=True, aside=True)] = None
    gamma: Annotated[float | None, Number(above=0, at_most=1, optional=True)] = None
    others: Annotated[tuple[Named, ...], Others(HYPERPARAMETERS)] = ()

    @property
    def goals(self) -> dict[str, Value]:
        """The hyperparameters that the phase sets, by name, with their values at its end."""
        goals = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay, **dict(self.others)}
        return {name: goal for name, goal in goals.items() if goal is not None}

    @property
    def arguments(self) -> dict[str, float]:
        """The arguments of its shape."""
        known = {"power": self.power, "timescale": self.timescale, "gamma": self.gamma}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def has_tail(self) -> bool:
        """Whether it goes towards its values, and does not reach them."""
        return self.timescale is not None or self.gamma is not None

    def fraction(self, num_steps: float) -> Callable[[float], float]:
        """Return what is left of the way, as a function of the steps since its start."""
        return falling(num_steps, self.shape, **self.arguments)

    def check(self, path: str) -> None:
        """Raise ValueError where the shape lacks an argument, or has one too many."""
        needed = NEEDS.get(self.shape, ())
        for name in needed:
            if name not in self.arguments:
                raise ParameterValueError(f"{path}.{name}", f'is missing: the shape "{self.shape}" needs it')
        for name in self.arguments:
            if name not in needed and (name, self.shape) != ("gamma", "exponential"):
                having = [shape for shape, names in NEEDS.items() if name in names] or ["exponential"]
                raise ParameterValueError(
                    f"{path}.{name}", f': the shape "{self.shape}" does not have it; {", ".join(having)} may'
                )


@declared
class Repeat(Fields):
    """The keys of a group of phases that is gone through several times; it stands in the list like a phase.

    Args:
        repeat: how often; ``"rest"``: as long as the other phases leave room in ``total_num_steps``; the last time is
            cut off there.
        phases: the phases, one mapping each.
        length_factor: each time is this many times as long as the one before.
        peak_factor: the highest lr of the phases is each time this many times that of the one before, at most 1.
    """

    repeat: Annotated[int | str, Count(at_least=1, rest=True)]
    phases: Annotated[tuple[Phase, ...], ListOf(Phase)]
    length_factor: Annotated[float, Number(above=0)] = 1.0
    peak_factor: Annotated[float, Number(at_least=0, at_most=1)] = 1.0

    @property
    def lengths(self) -> list[float]:
        """How long each time is, as multiples of the first."""
        times = MAX_REPEATS if isinstance(self.repeat, str) else self.repeat
        return list(accumulate(repeat(self.length_factor, times - 1), mul, initial=1.0))

    def check(self, path: str) -> None:
        """Raise ValueError where it would never end."""
        if isinstance(self.repeat, int) and self.repeat > MAX_REPEATS:
            raise ParameterValueError(f"{path}.repeat", f"must be at most {MAX_REPEATS}, got {self.repeat}")
        if isinstance(self.repeat, int) and not self.lengths[-1] <= MAX_COUNT:
            raise ParameterValueError(
                f"{path}.length_factor", f"must not make a repeat {MAX_COUNT} times as long, got {self.length_factor!r}"
            )

    def lr(self, phase: Phase, number: int) -> Any:
        """Return the lr at the end of a phase that has one, the ``number``-th time."""
        if not number or self.peak_factor == 1.0:
            return phase.lr
        # Products of comparisons: an lr may be an array.
        lr: Any = phase.lr
        highest = math.prod((lr >= other.lr) * 1.0 for other in self.phases if other.lr is not None)
        return lr * (1.0 + highest * (self.peak_factor**number - 1.0))


@dataclass(frozen=True)
class Part:
    """A phase where it has its place: ``steps`` long, but cut off at ``end``; the ``number``-th time of its group."""

    phase: Phase
    begin: float
    end: float
    steps: float
    group: Repeat
    number: int

    @property
    def goals(self) -> dict[str, Value]:
        """What the phase sets, with the lr of this time."""
        goals = self.phase.goals
        return {**goals, "lr": self.group.lr(self.phase, self.number)} if "lr" in goals else goals


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
        f(p)  = (1 - p) / (1 - p / 2)   rex
        f(p)  = (1 - p)**power          polynomial
        f(p)  = 1 - p**power            1-power

    Three shapes have a tail: they go towards the value, and the next phase begins where they have come to. With
    ``t = s - b`` steps since the phase began, ``1 - f(t)`` takes the place of ``1 - f(p)``::

        f(t)  = (1 + t / timescale)**-0.5      inverse_sqrt
        f(t)  = (1 + t / timescale)**-power    power_law
        f(t)  = gamma**t                       exponential with a gamma

    After the last phase the values stay. A phase is a mapping with the keys of
    :class:`~lightning_lrsched.schedules.phases.Phase`: ``steps``, ``lr``, ``momentum``, ``weight_decay``, ``shape``,
    and the name of any other number in the optimizer's param groups (``beta2``, ``eps``). In a configuration ``steps``
    may be a fraction of the whole run (0.1, ``"100%"``) or epochs (``"2ep"``). A mapping with the keys of
    :class:`~lightning_lrsched.schedules.phases.Repeat` repeats several phases.

    Args:
        phases: the phases, one mapping each; or a mapping with ``repeat`` and ``phases``.
        start_lr: lr at step 0; one float, one per param group, or a multiple of each group's own: ``{"ratio": 1.0}``.
        start_momentum: momentum (or first beta) at step 0, in [0, 1); one float, or one per param group; None: momentum
            is left alone.
        total_num_steps: what ``"rest"`` fills [optimizer steps]; None: the run.

    Source:
        Hugging Face's ``get_wsd_schedule`` (linear, cosine, 1-sqrt), ``get_polynomial_decay_schedule_with_warmup`` and
        ``get_inverse_sqrt_schedule``; Megatron-Core's ``OptimizerParamScheduler`` (exponential); torch's ExponentialLR
        (with a gamma); J. Chen et al., "REX: Revisiting Budgeted Training with an Improved Schedule" (arXiv
        2107.04197); for repeats I. Loshchilov and F. Hutter, "SGDR" (arXiv 1608.03983). DeepSpeed has no such type.
    """

    type: ClassVar[str] = "PhasedLR"
    in_deepspeed: ClassVar[bool] = False
    momentum_switch: ClassVar[tuple[str, str]] = ("start_momentum", "leave the momentum out")

    phases: Annotated[tuple[Phase | Repeat, ...], ListOf(Phase, Repeat)]
    start_lr: Annotated[Value, Number(at_least=0, auto=OWN_LR, finding="suggestion", ratio=True, per_group=True)] = 0.0
    start_momentum: Annotated[Value | None, MOMENTUM] = None
    total_num_steps: Annotated[int | None, Steps(at_least=1, auto=1.0, optional=True)] = None

    @classmethod
    def parse(cls, given: Mapping[str, object], path: str = "") -> Phases:
        """Return the values that ``given`` means; what ``"rest"`` fills is the run, unless it says something else."""
        parsed = super().parse(given, path)
        filled = parsed.total_num_steps is None and parsed._rests()
        return parsed.with_auto("total_num_steps") if filled else parsed

    def each_phase(self) -> Iterator[tuple[str, Phase]]:
        """Return path and phase of each, those of a group too."""
        for index, item in enumerate(self.phases):
            if isinstance(item, Repeat):
                yield from ((f"phases[{index}].phases[{inner}]", phase) for inner, phase in enumerate(item.phases))
            else:
                yield f"phases[{index}]", item

    def _rests(self) -> list[str]:
        """Return the paths of the values that are ``"rest"``: repeats first, then lengths."""
        repeats = [
            f"phases[{i}].repeat" for i, p in enumerate(self.phases) if isinstance(p, Repeat) and p.repeat == REST
        ]
        return repeats + [f"{path}.steps" for path, phase in self.each_phase() if phase.steps == REST]

    def check_together(self) -> None:
        """Raise ValueError where a phase has a momentum without one before the first, or values do not fit."""
        for path, phase in self.each_phase():
            phase.check(path)
            if phase.momentum is not None and self.start_momentum is None:
                raise ParameterValueError(
                    f"{path}.momentum", "needs start_momentum: the momentum before the first phase"
                )
        for index, item in enumerate(self.phases):
            if isinstance(item, Repeat):
                item.check(f"phases[{index}]")
        rests = self._rests()
        if len(rests) > 1 and rests[0].endswith("repeat"):
            raise ParameterValueError(rests[1], f': {rests[0]} takes "{REST}" already, all of it; write a length')
        if self.total_num_steps is not None and not rests:
            raise ParameterValueError("total_num_steps", f'has no effect: no phase takes the "{REST}"')

    @property
    def sets_momentum(self) -> bool:
        """Whether the phases have a momentum."""
        return self.start_momentum is not None

    @property
    def names(self) -> list[str]:
        """The hyperparameters that a phase sets."""
        momentum = ["momentum"] if self.sets_momentum else []
        return list(dict.fromkeys(["lr", *momentum, *(name for _, phase in self.each_phase() for name in phase.goals)]))

    @property
    def own_names(self) -> set[str]:
        """The lr where one is a multiple of each group's own; all others that begin with each group's own."""
        begin = {"lr"} if self.start_momentum is None else {"lr", "momentum"}
        return super().own_names | (set(self.names) - begin)

    @property
    def length(self) -> tuple[list[str], int]:
        """The end of the last phase."""
        end = self.turns[-1] if self.turns else 0
        if end == self.total_num_steps:
            return ["total_num_steps"], end
        return [f"{path}.steps" for path, _ in self.each_phase()], end

    @property
    def turns(self) -> list[int]:
        """The end of each phase."""
        return list(dict.fromkeys(math.ceil(part.end) for part in self.parts()))

    @property
    def highest_at(self) -> list[int]:
        """The ends of the phases, and the steps before them: the next phase may begin with a jump."""
        return [0, *(max(0, turn - back) for turn in self.turns for back in (0, 1))]

    @property
    def ends_low(self) -> bool:
        """Whether the last lr is a small fraction of the highest, as far as that is known without an optimizer."""
        phases = [phase for _, phase in self.each_phase()]
        if phases[-1].has_tail:
            return False  # how low depends on its length
        lrs = [self.start_lr, *(phase.lr for phase in phases if phase.lr is not None)]
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
        parts = []
        for part in self.parts():
            goals = without_zeros(part.goals, own)
            ways = [(name, value, goals.get(name, value)) for name, value in now.items()]
            fraction = part.phase.fraction(part.steps)
            parts.append((part.begin, part.end, fraction, ways))
            now = _between(ways, fraction(part.end - part.begin))
        starts = [begin for begin, *_ in parts]

        def values(s: int) -> dict[str, Value]:
            # Where several begin at once, all but the last are without length: jumps.
            begin, end, fraction, ways = parts[bisect_right(starts, s) - 1]
            return _between(ways, fraction(min(s, end) - begin))

        return values

    def parts(self) -> list[Part]:
        """Return the phases one after the other, with repeats written out and lengths for ``"rest"``."""
        groups = [item if isinstance(item, Repeat) else Repeat(1, (item,)) for item in self.phases]
        left, shares = float(self.total_num_steps or 0), 0.0
        for group in groups:
            for phase in group.phases if group.repeat != REST else ():
                if isinstance(phase.steps, str):
                    shares += sum(group.lengths)
                else:
                    left -= sum(group.lengths) * phase.steps
        left = max(0.0, left)
        found, begin = [], 0.0
        for index, group in enumerate(groups):
            full = begin + left if group.repeat == REST else math.inf
            for number, length in enumerate(group.lengths):
                for phase in group.phases if begin < full else ():
                    steps = left / shares if isinstance(phase.steps, str) else phase.steps
                    end = _whole(begin + length * steps) if steps else begin
                    found.append(Part(phase, begin, min(end, full), end - begin, group, number))
                    begin = found[-1].end
                if begin >= full:
                    break
            if begin < full < math.inf:
                raise ParameterValueError(
                    f"phases[{index}].repeat",
                    f'="{REST}" does not fill the run with {MAX_REPEATS} repeats; make its phases longer',
                )
        return found


def _between(ways: list[tuple[str, Value, Value]], f: float) -> dict[str, Value]:
    """Return the values where the fraction ``f`` of each way is left."""
    # By identity: what stays is the same number, to the last digit.
    return {name: end if end is begin else begin * f + end * (1.0 - f) for name, begin, end in ways}


def _whole(steps: float) -> float:
    return float(round(steps)) if abs(steps - round(steps)) < WHOLE else steps


def _highest(lr: float | tuple[float, ...] | Own) -> float:
    if isinstance(lr, Own):
        return lr.ratio
    return max(lr) if isinstance(lr, tuple) else lr
