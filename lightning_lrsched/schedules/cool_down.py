"""A cool-down beside any schedule: up to a position the values are the schedule's, then the lr goes down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar

from lightning_lrsched.schedules.curves import Shape, falling
from lightning_lrsched.schedules.errors import ParameterValueError, key_path
from lightning_lrsched.schedules.fields import REST, Leaf, Number, Params, Steps, declared
from lightning_lrsched.schedules.length import Horizon
from lightning_lrsched.schedules.schedule import Findings, Own_, Schedule, Value, Values, Wrapping

COOL_DOWN = "cool_down"
"""The key beside ``type`` and ``params``."""


@declared
class CoolDown(Schedule):
    """A cool-down that begins at any position of any schedule: the key ``cool_down`` beside ``type`` and ``params``.

    Up to ``start`` the values are those of the schedule. Then, with the shapes of
    :class:`~lightning_lrsched.PhasedLR`, which go from 1 to 0::

        lr(s) = lr(start) * f + lr * (1 - f)        f = f((s - start) / steps)

    Momentum and weight decay stay as they are at ``start``.

    Args:
        start: position at which it begins, such as that of a checkpoint [optimizer steps].
        steps: its length [optimizer steps]; ``"rest"``: what is left of ``total_num_steps``.
        shape: ``"linear"``, ``"cosine"``, ``"1-sqrt"``, ``"exponential"`` or ``"rex"``.
        lr: lr at its end, and after it.
        total_num_steps: where ``"rest"`` ends [optimizer steps]; None: with the run.

    Source:
        A. Haegele et al., "Scaling laws and compute-optimal training beyond fixed training durations" (arXiv
        2405.18392).
    """

    type: ClassVar[str] = COOL_DOWN

    start: Annotated[int, Steps()]
    steps: Annotated[int | str, Steps(at_least=1, rest=True, follows=True)] = REST
    shape: Shape = "1-sqrt"
    lr: Annotated[float, Number(at_least=0)] = 0.0
    total_num_steps: Annotated[int | None, Steps(at_least=1, auto=1.0, optional=True)] = None

    @classmethod
    def parse(cls, given: Mapping[str, object], path: str = "") -> CoolDown:
        """Return the values that ``given`` means; what ``"rest"`` fills is the run, unless it says something else."""
        parsed = super().parse(given, path)
        if parsed.steps == REST:
            return parsed if parsed.total_num_steps is not None else parsed.with_auto("total_num_steps")
        if parsed.total_num_steps is not None:
            raise ParameterValueError(f"{path}total_num_steps", f'has no effect: steps is not "{REST}"')
        return parsed

    @property
    def num_steps(self) -> int:
        """Its length in numbers."""
        left = (self.total_num_steps or 0) - self.start
        if isinstance(self.steps, str) and left < 1:
            raise ParameterValueError(
                f"{COOL_DOWN}.start", f"must lie before the end of the run, {self.total_num_steps}, got {self.start}"
            )
        return left if isinstance(self.steps, str) else self.steps


Self = TypeVar("Self", bound="Cooled")


@dataclass(frozen=True)
class Cooled(Wrapping):
    """A schedule that is cooled down: it wraps another one, of which it has the type and all parameters."""

    inner: Schedule
    cool_down: CoolDown

    def __post_init__(self) -> None:
        """Be known as the other one."""
        for name in ("type", "momentum_switch"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def leaves(self, path: str = "") -> list[Leaf]:
        """Return all values with their paths."""
        return self.inner.leaves(path) + self.cool_down.leaves(f"{COOL_DOWN}.")

    def each(self: Self, change: Callable[[Any], Any]) -> Self:
        """Return the same with the schedule and the cool-down changed alike."""
        inner = change(self.inner)
        with key_path(f"{COOL_DOWN}."):
            return replace(self, inner=inner, cool_down=change(self.cool_down))

    def resolve(self: Self, horizon: Horizon, findings: Findings | None = None, *, leave_unknown: bool = False) -> Self:
        """Return the same with numbers for all that depends on the run or on a range test."""
        return self.each(lambda each: each.resolve(horizon, findings, leave_unknown=leave_unknown))

    def params(self) -> Params:
        """Return the values by name, as they stand in a configuration."""
        return {**self.inner.params(), COOL_DOWN: self.cool_down.params()}

    def given_params(self) -> Params:
        """Return the values of the schedule that the user gave."""
        return self.inner.given_params()

    @property
    def section_keys(self) -> Params:
        """What the user gave beside type and params."""
        return {COOL_DOWN: self.cool_down.given_params()}

    @property
    def length(self) -> tuple[list[str], int]:
        """The end of the cool-down."""
        down = self.cool_down
        key = "total_num_steps" if down.steps == REST else "steps"
        return [f"{COOL_DOWN}.{key}"], down.start + down.num_steps

    @property
    def ends_low(self) -> bool:
        """Whether it goes down to nothing."""
        return self.cool_down.lr == 0.0

    @property
    def turns(self) -> list[int]:
        """The turns of the schedule before it, its start and its end."""
        start = self.cool_down.start
        return [*(turn for turn in self.inner.turns if turn < start), start, self.length[1]]

    def values(self, own: Own_) -> Values:
        """Return the values of every param group as functions of the position."""
        inner, start, end_lr = self.inner.values(own), self.cool_down.start, self.cool_down.lr
        fraction = falling(self.cool_down.num_steps, self.cool_down.shape)

        def at(s: int) -> dict[str, Value]:
            if s <= start:
                return inner.at(s)
            found, f = inner.at(start), fraction(s - start)
            return {**found, "lr": found["lr"] * f + end_lr * (1.0 - f)}

        return Values(at, inner.sets, inner.set_of_group)
