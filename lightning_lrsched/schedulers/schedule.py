"""Schedule: the parameters of a schedule and its curve, a pure function of the position; it knows no optimizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_lrsched.schedulers.group_values import Curve, GroupValues, check_order
from lightning_lrsched.schedulers.parameters import Parameter, by_path, parameters_of
from lightning_lrsched.schedulers.paths import nest


@dataclass(frozen=True)
class Circumstances:
    """What a schedule's remarks are about.

    Args:
        parameters: all hyperparameters; where a configuration leaves one to the run, its word.
        defaulted: those that were not given.
        base_lrs: each group's own lr; empty where they are not known.
        without_momentum: name of the optimizer if it has no momentum to cycle, else None.
    """

    parameters: Mapping[str, Any]
    defaulted: Collection[str]
    base_lrs: Sequence[float]
    without_momentum: str | None = None


def no_momentum(key: str, optimizer: str | None, remedy: str) -> list[str]:
    """Return a sentence about a momentum that ``optimizer`` does not have; none if it has one."""
    if optimizer is None:
        return []
    return [
        f"{key} has no effect: {optimizer} has no momentum (neither betas nor a momentum other than 0); the lr is"
        f" scheduled all the same. Give the optimizer a momentum, or {remedy}."
    ]


class Schedule:
    """Base of all schedules: a subclass declares its parameters in its constructor, and gives the :meth:`curve`."""

    low_and_high: tuple[tuple[str, str], ...] = ()
    """Pairs of parameters of which the first may not be greater than the second."""

    in_deepspeed = True
    """Whether DeepSpeed itself has a schedule of this name."""

    # What a subclass provides ----------------------------------------------------------------------------------------

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, momentum) as a function of the position.

        Args:
            p: has one attribute per parameter, and ``base_lr``: a float, or an array with one per set of param groups.
        """
        raise NotImplementedError

    @classmethod
    def complete(cls, parameters: dict[str, Any]) -> None:
        """Fill in defaults that depend on other parameters."""

    @classmethod
    def check_together(cls, parameters: Mapping[str, Any]) -> None:
        """Raise ValueError where values do not fit each other; some may still be words that depend on the run."""
        check_order(parameters, None, cls.low_and_high)

    @classmethod
    def without_momentum(cls, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters for an optimizer that has no momentum."""
        return parameters

    @classmethod
    def scales_base_lr(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether the values depend on the lr that the optimizer was made with."""
        return False

    @classmethod
    def remarks(cls, about: Circumstances) -> list[str]:
        """Return a sentence for each setting that is valid but suspicious."""
        return []

    @classmethod
    def length(cls, parameters: Mapping[str, Any]) -> tuple[list[str], int] | None:
        """Return the keys that give the schedule its length, and the step at which it ends; None: it has no end."""
        return None

    @classmethod
    def ends_low(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether the lr stays low after the schedule's end, so that training makes no more progress."""
        return False

    @classmethod
    def preview_steps(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many steps show the whole schedule when the length of the run is not known."""
        found = cls.length(parameters)
        return 100 if found is None else found[1]

    @classmethod
    def turns(cls, parameters: Mapping[str, Any]) -> list[int]:
        """Return the steps at which the parts of the schedule end, for a preview that marks them."""
        return []

    # Parameters ------------------------------------------------------------------------------------------------------

    @classmethod
    def parameters(cls) -> Mapping[str, Parameter]:
        """Return the hyperparameters that a configuration may give, by name."""
        return parameters_of(cls)  # type: ignore[arg-type]  # a class is hashable; mypy looks at its instances

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all hyperparameters, checked and with their defaults; no optimizer is needed.

        Args:
            given: values by name; names that are not hyperparameters are ignored.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is missing or out of range, or a low end lies above its high end.
        """
        parameters, values = by_path(cls.parameters(), given)
        checked = nest({name: p.check(values.get(name, p.default)) for name, p in parameters.items()})
        cls.complete(checked)
        cls.check_together(checked)
        return checked

    @classmethod
    def values(
        cls, parameters: Mapping[str, Any], base_lrs: list[float], *, cycles_momentum: bool = True
    ) -> GroupValues:
        """Return the lr and momentum of every param group as functions of the position; no optimizer is needed.

        Args:
            parameters: all hyperparameters, as :meth:`check` returns them.
            base_lrs: each group's own lr.
            cycles_momentum: whether the optimizer has a momentum to cycle.

        Raises:
            ValueError: if a list does not have one value for each group, or a low end lies above its high end.
        """
        if not cycles_momentum:
            parameters = cls.without_momentum(parameters)
        scales = cls.scales_base_lr(parameters)
        return GroupValues(cls.curve, parameters, base_lrs, cls.low_and_high, scales_base_lr=scales)
