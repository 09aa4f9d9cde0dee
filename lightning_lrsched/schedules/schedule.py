"""Schedule: the values of an optimizer's hyperparameters as a pure function of the position; it knows no optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, ClassVar, TypeVar

import numpy as np

from lightning_lrsched.schedules.errors import ParameterValueError
from lightning_lrsched.schedules.fields import (
    AUTO,
    FROM_RANGE_TEST,
    Fields,
    Finding,
    FromRangeTest,
    Number,
    OfOther,
    Own,
    Params,
    Steps,
    Word,
)
from lightning_lrsched.schedules.length import Epochs, Fraction, Horizon, rounded

Value = float
"""A number; with several distinct sets of parameters, an array with one number for each of them.

Formulas do with an array what they do with a number, and are written for numbers."""

Curve = Callable[[int], dict[str, Value]]
"""position -> value by name of the hyperparameter (``"lr"``, ``"momentum"``, ...)."""

HYPERPARAMETERS = {
    name: Number(at_least=low, below=high, ratio=True, optional=True, per_group=True, of=name)
    for name, low, high in (
        ("weight_decay", 0.0, math.inf),
        ("beta2", 0.0, 1.0),
        ("beta3", 0.0, 1.0),
        ("eps", 0.0, math.inf),
        ("dampening", -math.inf, math.inf),
        ("alpha", 0.0, math.inf),
        ("rho", 0.0, 1.0),
        ("lambd", 0.0, math.inf),
        ("lr_decay", 0.0, math.inf),
        ("momentum_decay", 0.0, math.inf),
        ("beta2_decay", -math.inf, math.inf),
    )
}
"""Which values the numbers in the param groups of torch's optimizers take; beta2 is the second of the betas.

An optimizer may have others; those take any number."""

Own_ = Mapping[str, Sequence[float]]
"""Name of a hyperparameter -> each param group's own value; ``"lr"`` is always there."""

Findings = Mapping[Finding, float | Sequence[float]]
"""What a range test has found -> lr: one, or one per param group."""

Self = TypeVar("Self", bound="Schedule")


class Schedule(Fields):
    """Base of all schedules: a subclass is a frozen dataclass that declares its fields, and gives the :meth:`curve`."""

    type: ClassVar[str]
    """Its name in a configuration."""

    low_and_high: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of fields of which the first may not be greater than the second."""

    in_deepspeed: ClassVar[bool] = True
    """Whether DeepSpeed itself has a schedule of this name."""

    momentum_switch: ClassVar[tuple[str, str]] = ("", "")
    """The field that has the momentum scheduled, and how to leave it out."""

    # What a subclass provides ----------------------------------------------------------------------------------------

    def curve(self, own: Mapping[str, Value]) -> Curve:
        """Return the values as a function of the position; no field is a word any more.

        Args:
            own: each param group's own values by name: a number, or an array with one per set of param groups.
        """
        raise NotImplementedError

    def completed(self: Self) -> Self:
        """Return the same with defaults that depend on other fields; nothing waits for the run any more."""
        return self

    def check_together(self) -> None:
        """Raise ValueError where values do not fit each other; some may still be words."""
        self._check_order(self)

    def remarks(self, own_lrs: Sequence[float], without_momentum: str | None) -> list[str]:
        """Return a sentence for each setting that is valid but suspicious.

        Args:
            own_lrs: each group's own lr; empty where they are not known.
            without_momentum: name of the optimizer if it has no momentum to schedule, else None.
        """
        if without_momentum is None or not self.sets_momentum:
            return []
        key, remedy = self.momentum_switch
        return [
            f"{key} has no effect: {without_momentum} has no momentum (neither betas nor a momentum other than 0); the"
            f" lr is scheduled all the same. Give the optimizer a momentum, or {remedy}."
        ]

    @property
    def section_keys(self) -> Params:
        """What the user gave beside type and params of the schedule."""
        return {}

    @property
    def sets_momentum(self) -> bool:
        """Whether the momentum is scheduled too."""
        return False

    @property
    def names(self) -> list[str]:
        """The hyperparameters that are scheduled."""
        return ["lr", "momentum"] if self.sets_momentum else ["lr"]

    @property
    def highest_at(self) -> Sequence[int] | None:
        """Positions at which the lr may be highest, or None where its highest value is not known beforehand."""
        return None if self.length is None else range(self.length[1] + 1)

    @property
    def own_names(self) -> set[str]:
        """The hyperparameters on whose own values the schedule depends."""
        names: set[str] = set()
        for _, field, value in self.leaves():
            if isinstance(value, Own) and value.ratio and isinstance(field.rule, Number):
                names.add(field.rule.of)
        return names

    @property
    def length(self) -> tuple[list[str], int] | None:
        """The keys that give the schedule its length, and the position of its end; None if it has no end."""
        return None

    @property
    def ends_low(self) -> bool:
        """Whether the lr stays low after the schedule's end, so that training makes no more progress."""
        return False

    @property
    def turns(self) -> list[int]:
        """The positions at which the parts of the schedule end, for a preview that marks them."""
        return []

    @property
    def preview_steps(self) -> int:
        """How many steps show the whole schedule when the length of the run is not known."""
        return 100 if self.length is None else self.length[1]

    # Words become numbers ---------------------------------------------------------------------------------------------

    def waiting(self, what: str) -> list[str]:
        """Return the paths of the values that wait for ``"run"``, ``"optimizer"`` or ``"range test"``.

        ``None`` and a ratio mean each group's own lr for good; they wait for nothing.
        """
        return [
            path
            for path, _, value in self.leaves()
            if isinstance(value, Word) and value.waits_for == what and (what != "optimizer" or value.written == AUTO)
        ]

    def resolve(self: Self, horizon: Horizon, findings: Findings | None = None, *, leave_unknown: bool = False) -> Self:
        """Return the same with numbers for all that depends on the run or on a range test.

        Args:
            horizon: how long the run is.
            findings: ``"low"``, ``"high"`` and ``"suggestion"`` -> lr (one, or one per param group) that a range test
                has found; None: there was none.
            leave_unknown: leave a word that cannot become a number as it is.

        Raises:
            ValueError: if the run's length is not known, or there was no range test; the message says what helps.
        """
        numbers: dict[str, object] = {}
        end = 0.0  # of the length before, unrounded: lengths that follow each other are rounded at their ends
        for path, field, value in self.leaves():
            if isinstance(field.rule, Steps):
                begin = until = end if field.rule.follows else 0.0
                if isinstance(value, (Fraction, Epochs)) and not (leave_unknown and not horizon.knows(value)):
                    numbers[path], until = rounded(horizon, value, begin, key=path)
                end = end if field.rule.aside else until
            elif isinstance(value, FromRangeTest):
                if findings is not None:
                    found = findings[value.finding]
                    numbers[path] = tuple(found) if isinstance(found, Sequence) else found
                elif not leave_unknown:
                    raise ParameterValueError(
                        path,
                        f': "{FROM_RANGE_TEST}" needs LRSchedulerCallback, which runs the test before the first batch;'
                        " here write a number (LRRangeTestCallback finds one in a fit of its own)",
                    )
        return self.with_leaves(numbers)

    def without_range_test(self: Self) -> Self:
        """Return the same with ``"auto"`` in place of ``"lr_range_test"``, where no test is run."""
        leaves = self.leaves()
        return self.with_leaves({path: field.auto for path, field, v in leaves if isinstance(v, FromRangeTest)})

    def with_own(self: Self, own: Own_, *, only_auto: bool = False) -> Self:
        """Return the same with numbers for multiples of each group's own values; with ``only_auto``, for ``"auto"``."""
        numbers: dict[str, float | tuple[float, ...]] = {}
        leaves = self.leaves()
        for path, field, value in leaves:
            if isinstance(value, Own) and (value.written == AUTO or not only_auto):
                assert isinstance(field.rule, Number)
                values = tuple([value.ratio * one for one in own[field.rule.of]])
                numbers[path] = values[0] if len(set(values)) == 1 else values
        for path, _, value in leaves:  # after those that they refer to
            if isinstance(value, OfOther):
                base = numbers.get(value.name, getattr(self, value.name))
                if isinstance(base, tuple):
                    numbers[path] = tuple([value.ratio * one for one in base])
                elif not isinstance(base, Word):
                    numbers[path] = value.ratio * base
        return self.with_leaves(numbers)

    # Checks -----------------------------------------------------------------------------------------------------------

    def _check_order(self, as_written: Schedule) -> None:
        """Raise ValueError where a low end lies above its high end."""
        for low_key, high_key in self.low_and_high:
            low, high = getattr(self, low_key), getattr(self, high_key)
            if isinstance(low, Word) or isinstance(high, Word):
                continue
            high_name = "the optimizer's lr" if isinstance(getattr(as_written, high_key), Own) else high_key
            ends = [(low, high)]
            if isinstance(low, tuple) or isinstance(high, tuple):
                ends = list(zip(*(end if isinstance(end, tuple) else repeat(end) for end in (low, high)), strict=False))
            for group, (low, high) in enumerate(ends):
                if low > high:
                    raise ParameterValueError(
                        low_key,
                        f"must not be greater than {high_name}, got {low_key}={low!r} and {high_name}={high!r}"
                        f" (optimizer.param_groups[{group}])",
                    )

    def check_lists(self) -> None:
        """Raise ValueError where lists for the param groups differ in length."""
        lengths = {path: len(value) for path, _, value in self.leaves() if isinstance(value, tuple)}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise ParameterValueError(
                "", f": lists need one value for each param group, so all have the same length, got {listed}"
            )

    def values(self, own: Own_) -> Values:
        """Return the values of every param group as functions of the position.

        Args:
            own: each param group's own values by name.

        Raises:
            ValueError: if a list does not have one value for each group, or a low end lies above its high end.
        """
        groups, numbers = len(own["lr"]), self.with_own(own)
        columns = {path: value for path, _, value in numbers.leaves() if isinstance(value, tuple)}
        for path, value in columns.items():
            if len(value) != groups:
                raise ParameterValueError(
                    path, f"lists {len(value)} values, but the optimizer has {count_groups(groups)}: {list(value)!r}"
                )
        numbers._check_order(self)
        alone, varying = {}, {}
        for name, of_groups in own.items():
            alone[name] = of_groups[0]
            if len(set(of_groups)) > 1 and name in self.own_names:
                varying[name] = of_groups
        if not columns and not varying:
            return Values(numbers.curve(alone), 1, [0] * groups)
        # Groups with the same parameters are one set, with one computed value.
        rows = list(zip(*columns.values(), *varying.values(), strict=True))
        distinct = {row: number for number, row in enumerate(dict.fromkeys(rows))}
        stacked: list[Any] = [np.array(column) for column in zip(*distinct, strict=True)]
        if len(distinct) == 1:
            stacked = list(next(iter(distinct)))
        of_sets = {**alone, **dict(zip(varying, stacked[len(columns) :], strict=True))}
        curve = numbers.with_leaves(dict(zip(columns, stacked, strict=False))).curve(of_sets)
        return Values(curve, len(distinct), [distinct[row] for row in rows])


Wrapped = TypeVar("Wrapped", bound="Wrapping")


class Wrapping(Schedule):
    """Base of a schedule that wraps another one, and is known as it: what it does not change is the other one's."""

    inner: Schedule

    def each(self: Wrapped, change: Callable[[Any], Any]) -> Wrapped:
        """Return the same with all schedules in it changed alike."""
        raise NotImplementedError

    def completed(self: Wrapped) -> Wrapped:
        """Return the same with defaults that depend on other fields."""
        return self.each(lambda schedule: schedule.completed())

    def without_range_test(self: Wrapped) -> Wrapped:
        """Return the same with ``"auto"`` in place of ``"lr_range_test"``."""
        return self.each(lambda schedule: schedule.without_range_test())

    def with_own(self: Wrapped, own: Own_, *, only_auto: bool = False) -> Wrapped:
        """Return the same with numbers for multiples of each group's own values."""
        return self.each(lambda schedule: schedule.with_own(own, only_auto=only_auto))

    def check_together(self) -> None:
        """Raise ValueError where values of the schedule do not fit each other."""
        self.inner.check_together()

    def remarks(self, own_lrs: Sequence[float], without_momentum: str | None) -> list[str]:
        """Return a sentence for each setting that is valid but suspicious."""
        return self.inner.remarks(own_lrs, without_momentum)

    @property
    def sets_momentum(self) -> bool:
        """Whether the momentum is scheduled too."""
        return self.inner.sets_momentum

    @property
    def names(self) -> list[str]:
        """The hyperparameters that are scheduled."""
        return self.inner.names

    @property
    def own_names(self) -> set[str]:
        """The hyperparameters on whose own values the schedule depends."""
        return self.inner.own_names


class Values:
    """The values of every param group: groups with the same parameters share one computed value.

    Args:
        at: position -> value by name: a number, or an array with one for each set of groups.
        sets: number of distinct sets of parameters.
        set_of_group: the set of each param group.
    """

    def __init__(self, at: Curve, sets: int, set_of_group: list[int]) -> None:
        self.at, self.sets, self.set_of_group = at, sets, set_of_group
        self.names = list(at(0))

    def of_groups(self, position: int) -> dict[str, list[float]]:
        """Return name -> value of each param group."""
        found = {}
        for name, value in self.at(position).items():
            of_sets = value.tolist() if isinstance(value, np.ndarray) else [value] * self.sets
            found[name] = [of_sets[number] for number in self.set_of_group]
        return found

    def joined(self, other: Values) -> Values:
        """Return the values of both, for the same param groups."""
        pairs = list(zip(self.set_of_group, other.set_of_group, strict=True))
        distinct = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        ways = [
            (values.at, np.array(sets)) for values, sets in zip((self, other), zip(*distinct, strict=True), strict=True)
        ]

        def at(position: int) -> dict[str, Value]:
            return {
                name: value[sets] if isinstance(value, np.ndarray) else value
                for values_at, sets in ways
                for name, value in values_at(position).items()
            }

        return Values(at, len(distinct), [distinct[pair] for pair in pairs])

    def scaled(self, name: str, scales: Sequence[float]) -> Values:
        """Return the values with those of one hyperparameter multiplied by a number for each param group."""
        if set(scales) <= {1.0}:
            return self
        pairs = list(zip(self.set_of_group, scales, strict=True))
        distinct = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        sets, factors = (np.array(column) for column in zip(*distinct, strict=True))
        before = self.at

        def at(position: int) -> dict[str, Value]:
            found: dict[str, Any] = before(position)
            of_sets = {key: value[sets] if isinstance(value, np.ndarray) else value for key, value in found.items()}
            of_sets[name] = of_sets[name] * factors
            return of_sets

        return Values(at, len(distinct), [distinct[pair] for pair in pairs])


def without_zeros(values: Mapping[str, Value], own: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values, but no weight decay for param groups that have none (biases, norms)."""
    decay = {name: value * (own[name] > 0.0) for name, value in values.items() if name == "weight_decay"}
    return {**values, **decay}


def count_groups(number: int) -> str:
    """Return a number of param groups as words.

    >>> count_groups(1), count_groups(2)
    ('1 param group', '2 param groups')
    """
    return f"{number} param group{'' if number == 1 else 's'}"
