"""GroupValues: the lr and momentum of every param group at any position; it needs only numbers, no optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from lightning_lrsched.schedulers.errors import ParameterValueError
from lightning_lrsched.schedulers.paths import flatten, nest

Value = Any
"""A float; with several distinct sets of parameters, an array with one float for each of them."""

Curve = Callable[[int], tuple[Value, Value]]
"""position -> (lr, momentum); momentum is None where it is not scheduled."""


class GroupValues:
    """Computes the lr and momentum of every param group.

    Groups with the same parameters share one computed value, so that the cost does not grow with their number.

    Args:
        schedule: makes the curve from a set of parameters; one attribute for each parameter, and ``base_lr``.
        parameters: all parameters of the schedule; a list has one value for each group.
        base_lrs: each group's own lr.
        low_and_high: pairs of parameters of which the first may not be greater than the second.
        scales_base_lr: whether the curve depends on ``base_lr``.

    Raises:
        ValueError: if a list does not have one value for each group, or a low end lies above its high end.
    """

    def __init__(
        self,
        schedule: Callable[[Any], Curve],
        parameters: Mapping[str, Any],
        base_lrs: Sequence[float],
        low_and_high: Sequence[tuple[str, str]] = (),
        *,
        scales_base_lr: bool = False,
    ) -> None:
        flat = flatten(parameters)
        per_group = {key: value for key, value in flat.items() if isinstance(value, list)}
        for key, values in per_group.items():
            if len(values) != len(base_lrs):
                raise ParameterValueError(
                    key, f"lists {len(values)} values, but the optimizer has {groups(len(base_lrs))}: {values!r}"
                )
        check_order(parameters, base_lrs, low_and_high)
        columns = {**({"base_lr": list(base_lrs)} if scales_base_lr else {}), **per_group}
        rows = list(zip(*columns.values(), strict=True)) if columns else [()] * len(base_lrs)
        distinct = {row: number for number, row in enumerate(dict.fromkeys(rows))}
        self.sets = len(distinct)
        self.set_of_group = [distinct[row] for row in rows]
        of_sets = dict(zip(columns, zip(*distinct, strict=True), strict=True))
        chosen = {key: values[0] if self.sets == 1 else np.array(values) for key, values in of_sets.items()}
        self.at = schedule(SimpleNamespace(**nest({"base_lr": None, **flat, **chosen})))
        self.has_momentum = self.at(0)[1] is not None

    def lr_at(self, position: int) -> list[float]:
        """Return the lr of each param group."""
        return self._of_groups(self.at(position)[0])

    def momentum_at(self, position: int) -> list[float] | None:
        """Return the momentum (or first beta) of each param group, or None where it is not scheduled."""
        momentum = self.at(position)[1]
        return None if momentum is None else self._of_groups(momentum)

    def _of_groups(self, value: Value) -> list[float]:
        values = as_list(value, self.sets)
        return [values[number] for number in self.set_of_group]


def groups(number: int) -> str:
    """Return a number of param groups as words.

    >>> groups(1), groups(2)
    ('1 param group', '2 param groups')
    """
    return f"{number} param group{'' if number == 1 else 's'}"


def as_list(value: Value, sets: int) -> list[Any]:
    """Return a computed value as one float for each distinct set of parameters."""
    return value.tolist() if isinstance(value, np.ndarray) else [value] * sets


def check_order(
    parameters: Mapping[str, Any], base_lrs: Sequence[float] | None, low_and_high: Sequence[tuple[str, str]]
) -> None:
    """Raise ValueError where a low end lies above its high end.

    Args:
        parameters: the parameters; a pair in which one is not a number is not compared.
        base_lrs: each group's own lr, used for a high end that is None; None: not known.
        low_and_high: pairs of parameters.
    """
    for low_key, high_key in low_and_high:
        high_name, lows, highs = high_key, _listed(parameters[low_key]), _listed(parameters[high_key])
        if parameters[high_key] is None and base_lrs is not None:
            high_name, highs = "the optimizer's lr", list(base_lrs)
        size = max(len(lows), len(highs))
        for group, (low, high) in enumerate(zip(_stretched(lows, size), _stretched(highs, size), strict=False)):
            if isinstance(low, float) and isinstance(high, float) and low > high:
                raise ParameterValueError(
                    low_key,
                    f"must not be greater than {high_name}, got {low_key}={low!r} and {high_name}={high!r}"
                    f" (optimizer.param_groups[{group}])",
                )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _stretched(values: list[Any], length: int) -> list[Any]:
    return values * length if len(values) == 1 else values
