"""Beside: a schedule, and hyperparameters that go beside it: constant, through phases of their own, or with the lr."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np

from lightning_lrsched.schedules.errors import (
    ParameterError,
    ParameterTypeError,
    ParameterValueError,
    key_path,
    short,
)
from lightning_lrsched.schedules.fields import (
    OWN_LR,
    AnyValue,
    Choice,
    Fields,
    Leaf,
    Named,
    Number,
    Others,
    Params,
    declared,
)
from lightning_lrsched.schedules.length import Horizon
from lightning_lrsched.schedules.phases import MOMENTUM, Phases
from lightning_lrsched.schedules.schedule import (
    HYPERPARAMETERS,
    Curve,
    Findings,
    Own_,
    Schedule,
    Value,
    Values,
    Wrapping,
    without_zeros,
)

TOTAL = "total_num_steps"
BESIDE = "hyperparameters"
"""The key among a schedule's params."""

FORMS = (
    'must be a number, {"ratio": 0.5} of each param group\'s own, {"follows": "lr"} or {"phases": [{"steps": ...,'
    ' "value": ...}, ...]}'
)

PEAK = "peak of the lr"
"""Name, among the values, of the lr at which a hyperparameter that follows it has its own value."""

KNOWN = {"momentum": MOMENTUM, **HYPERPARAMETERS}

HIDDEN = {"name", "follows", "lr", "start_lr", "start_momentum", *KNOWN}
"""Fields of a course that a user does not write, unless one is the hyperparameter itself."""


@declared
class Constant(Schedule):
    """Holds one hyperparameter at a number.

    Args:
        others: the hyperparameter.
    """

    type: ClassVar[str] = "constant"

    others: Annotated[tuple[Named, ...], Others(KNOWN)] = ()

    @property
    def own_names(self) -> set[str]:
        """The hyperparameter where it is a multiple of each group's own; a weight decay, which may be none."""
        return super().own_names | ({"weight_decay"} & set(dict(self.others)))

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return its value, at every position."""
        values = without_zeros(dict(self.others), own)
        return lambda _: values


@declared
class WithLr(Schedule):
    """Has one hyperparameter go in proportion to the lr: ``value(s) = own * lr(s) / peak``.

    ``own`` is each param group's own value. With decoupled weight decay, as AdamW has it, the weights shrink by
    ``lr(s) * value(s)`` in a step, so by ``own * lr(s)**2 / peak``.

    Args:
        name: the hyperparameter.
        follows: ``"lr"``.
        peak: the lr at which the hyperparameter has its own value; one float, one per param group, or a multiple of
            each group's own; None: the highest lr of the schedule.

    Source:
        For weight decay: AdamC and SGDC in A. Defazio, "Why Gradients Rapidly Increase Near the End of Training"
        (arXiv 2506.02285), which has it for layers that a normalization follows.
    """

    type: ClassVar[str] = "with lr"

    name: Annotated[str, AnyValue()]
    follows: Annotated[str, Choice(("lr",))]
    peak: Annotated[Value | None, Number(above=0, auto=OWN_LR, ratio=True, optional=True, per_group=True)] = None

    @property
    def own_names(self) -> set[str]:
        """The hyperparameter, and the lr where the peak is a multiple of it."""
        return super().own_names | {self.name}

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the value at the peak, and the peak where it is given."""
        values = {self.name: own[self.name]} | ({} if self.peak is None else {PEAK: self.peak})
        return lambda _: values


Self = TypeVar("Self", bound="Beside")


@dataclass(frozen=True)
class Beside(Wrapping):
    """A schedule, and a course of its own for each of some other hyperparameters.

    It is resolved, previewed, saved and bound as any schedule is.

    Args:
        inner: the schedule.
        courses: name and course of each hyperparameter.
    """

    inner: Schedule
    courses: tuple[tuple[str, Schedule], ...]

    def __post_init__(self) -> None:
        inner = self.inner
        own = {"type": inner.type, "in_deepspeed": False, "fields": inner.fields, "given": inner.given}
        momentum = (f"{BESIDE}.momentum", "leave it out") if "momentum" in dict(self.courses) else inner.momentum_switch
        vars(self).update(**own, momentum_switch=momentum)

    @classmethod
    def of(cls, inner: Schedule, given: object) -> Beside:
        """Return ``inner`` with the hyperparameters that a user has written.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range, or the schedule sets the hyperparameter itself.
        """
        if not isinstance(given, Mapping):
            raise ParameterTypeError(BESIDE, f"must be a mapping of names to values, got {short(given)}")
        courses = []
        for name, value in given.items():
            path = f"{BESIDE}.{str(name)[:60]}"
            _check_name(path, name, inner)
            courses.append((name, _course(path, name, value)))
        return cls(inner, tuple(courses))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.inner, self.courses)

    def each(self: Self, change: Callable[[Any], Any]) -> Self:
        """Return the same with the schedule and all courses changed alike."""
        return type(self)(change(self.inner), tuple((name, change(course)) for name, course in self.courses))

    # What it says ------------------------------------------------------------------------------------------------

    def leaves(self, path: str = "") -> list[Leaf]:
        """Return all values with their paths: ``hyperparameters.beta2.phases[0].value``."""
        return self.inner.leaves() + [
            (_shown(name, path), field, value)
            for name, course in self.courses
            for path, field, value in course.leaves()
            if field.name == name or field.name not in HIDDEN
        ]

    def params(self) -> Params:
        """Return the values by name, as they stand in a configuration."""
        return {**self.inner.params(), BESIDE: self._written(Fields.params)}

    def given_params(self) -> Params:
        """Return the values that the user gave, by name, as they stand in a configuration."""
        return {**self.inner.given_params(), BESIDE: self._written(Fields.given_params)}

    def _written(self, params: Callable[[Schedule], Params]) -> Params:
        return {name: _as_written(name, course, params) for name, course in self.courses}

    @property
    def sets_momentum(self) -> bool:
        """Whether the momentum is scheduled too."""
        return super().sets_momentum or "momentum" in dict(self.courses)

    @property
    def names(self) -> list[str]:
        """The hyperparameters that are scheduled."""
        return [*super().names, *dict(self.courses)]

    @property
    def own_names(self) -> set[str]:
        """Those of the schedule, and all beside it that depend on each group's own value."""
        return super().own_names.union(*(course.own_names for _, course in self.courses))

    @property
    def length(self) -> tuple[list[str], int] | None:
        """The end of the schedule."""
        return self.inner.length

    @property
    def ends_low(self) -> bool:
        """Whether the lr stays low after the schedule's end."""
        return self.inner.ends_low

    @property
    def highest_at(self) -> Sequence[int] | None:
        """Positions at which the lr may be highest."""
        return self.inner.highest_at

    @property
    def turns(self) -> list[int]:
        """The positions at which the parts of the schedule end, and the phases beside it."""
        return sorted({*self.inner.turns, *(turn for _, course in self.courses for turn in course.turns)})

    @property
    def preview_steps(self) -> int:
        """How many steps show the whole schedule when the length of the run is not known."""
        return max(self.inner.preview_steps, *(0, *(turn for _, course in self.courses for turn in course.turns)))

    def remarks(self, own_lrs: Sequence[float], without_momentum: str | None) -> list[str]:
        """Return the schedule's, and one about a momentum that the optimizer does not have."""
        of_momentum = Schedule.remarks(self, [], without_momentum) if "momentum" in dict(self.courses) else []
        return super().remarks(own_lrs, without_momentum) + of_momentum

    # Words become numbers ------------------------------------------------------------------------------------------

    def resolve(self: Self, horizon: Horizon, findings: Findings | None = None, *, leave_unknown: bool = False) -> Self:
        """Return the same with numbers for all that depends on the run or on a range test."""
        inner, courses = self.inner.resolve(horizon, findings, leave_unknown=leave_unknown), []
        for name, course in self.courses:
            with key_path(f"{BESIDE}.{name}."):
                courses.append((name, course.resolve(horizon, findings, leave_unknown=leave_unknown)))
        return type(self)(inner, tuple(courses))

    # Values --------------------------------------------------------------------------------------------------------

    def values(self, own: Own_) -> Values:
        """Return the values of every param group as functions of the position.

        Raises:
            ValueError: if a list does not have one value for each group, or a hyperparameter follows an lr without a
                highest value.
        """
        values = self.inner.values(own)
        for name, course in self.courses:
            with key_path(f"{BESIDE}." if isinstance(course, Constant) else f"{BESIDE}.{name}."):
                beside = course.values(own)
            if isinstance(course, WithLr):
                values = self._with_lr(name, values.joined(beside), has_peak=course.peak is not None)
            else:
                values = values.joined(_only(name, beside))
        return values

    def _with_lr(self, name: str, values: Values, *, has_peak: bool) -> Values:
        before = values.at
        if has_peak:
            peak = before(0)[PEAK]
        elif self.highest_at is None:
            raise ParameterValueError(
                f"{BESIDE}.{name}.peak",
                f"is missing: {self.type} has no end, so its highest lr is not known; give the lr at which {name} has"
                ' its own value, or "auto" for the optimizer\'s own lr',
            )
        else:
            peak = _highest([before(position)["lr"] for position in self.highest_at])

        def at(position: int) -> dict[str, Value]:
            found = dict(before(position))
            found.pop(PEAK, None)
            found[name] = found[name] * (found["lr"] / peak)
            return found

        return Values(at, values.sets, values.set_of_group)


def _highest(lrs: Sequence[Value]) -> Value:
    """Return the highest lr of each set of param groups; 1 where all are 0, so that a quotient stays a number."""
    if not any(isinstance(lr, np.ndarray) for lr in lrs):
        return max(lrs) or 1.0
    highest: Any = np.max(np.stack(np.broadcast_arrays(*lrs)), axis=0)
    highest[highest == 0.0] = 1.0
    return highest  # type: ignore[no-any-return]


def _only(name: str, values: Values) -> Values:
    before = values.at
    return Values(lambda position: {name: before(position)[name]}, values.sets, values.set_of_group)


# What a user writes ---------------------------------------------------------------------------------------------------


def _check_name(path: str, name: object, inner: Schedule) -> None:
    if name == "lr":
        raise ParameterValueError(path, f": the lr is set by {inner.type} itself")
    if name == "beta1":
        raise ParameterValueError(path, ': the first of the betas is called "momentum" here')
    wrong = Others(KNOWN).nearest(name, [])
    if wrong:
        raise ParameterValueError(path, f": no optimizer has a number of this name{wrong}")
    if name in inner.names:
        key, remedy = inner.momentum_switch
        hint = f"; {remedy}" if name == "momentum" and key else ""
        raise ParameterValueError(path, f": {inner.type} sets it already{hint}")


def _course(path: str, name: str, value: object) -> Schedule:
    """Return what a user wrote for one hyperparameter."""
    if value is None:
        raise ParameterTypeError(path, f"{FORMS}, got None")
    if isinstance(value, Mapping) and "follows" in value:
        return WithLr.parse({**_checked(path, value, ("follows", "peak")), "name": name}, f"{path}.")
    if isinstance(value, Mapping) and "phases" in value:
        given = _checked(path, value, ("phases", TOTAL))
        phases = given.pop("phases")
        renamed = [_renamed(f"{path}.phases[{n}]", name, phase) for n, phase in enumerate(_list(path, phases))]
        try:
            return Phases.parse({"phases": renamed, **given}, f"{path}.")
        except ParameterError as error:
            raise type(error)(error.key.replace(f"].{name}", "].value"), error.problem) from None
    if isinstance(value, Mapping) and set(value) != {"ratio"}:
        raise ParameterValueError(path, f"{FORMS}, got {short(dict(value))}")
    return Constant.parse({name: value}, f"{BESIDE}.")


def _checked(path: str, value: Mapping[object, object], keys: Sequence[str]) -> dict[str, object]:
    for key in value:
        if key not in keys:
            raise ParameterValueError(f"{path}.{str(key)[:60]}", f": no such key; here are {' and '.join(keys)}")
    return {str(key): one for key, one in value.items()}


def _list(path: str, value: object) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise ParameterTypeError(f"{path}.phases", f"must be a list with a mapping for each phase, got {short(value)}")
    return list(value)


def _renamed(path: str, name: str, phase: object) -> object:
    """Return a phase with the hyperparameter's name in place of ``value``, as PhasedLR has it."""
    if not isinstance(phase, Mapping):
        return phase
    for key in phase:
        if key in ("lr", *KNOWN, name):
            raise ParameterValueError(f"{path}.{key}", f': the phases of {name} have the key "value"')
    return {name if key == "value" else key: _inner(path, name, key, one) for key, one in phase.items()}


def _inner(path: str, name: str, key: object, value: object) -> object:
    """Return the phases of a repeat renamed; any other value as it is."""
    if key != "phases" or not isinstance(value, list):
        return value
    return [_renamed(f"{path}.phases[{number}]", name, phase) for number, phase in enumerate(value)]


def _shown(name: str, path: str) -> str:
    """Return the path of a course's value as the user has it."""
    if path == name:
        return f"{BESIDE}.{name}"
    return f"{BESIDE}.{name}.{path.replace(f'].{name}', '].value')}"


def _as_written(name: str, course: Schedule, params: Callable[[Schedule], Params]) -> Any:
    if isinstance(course, Constant):
        return params(course)[name]
    if isinstance(course, WithLr):
        return {key: value for key, value in params(course).items() if key != "name"}
    given = params(course)
    total = {TOTAL: given[TOTAL]} if given.get(TOTAL) is not None else {}
    return {"phases": [_phase_as_written(name, phase) for phase in given["phases"]], **total}


def _phase_as_written(name: str, phase: Params) -> Params:
    """Return a phase, or a repeat of phases, as the user has it."""
    return {
        "value" if key == name else key: [_phase_as_written(name, each) for each in one] if key == "phases" else one
        for key, one in phase.items()
        if key == name or key not in HIDDEN
    }
