"""The only writer of lr, momentum and betas in an optimizer's param groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Range = tuple[float, float]
Weights = tuple[float, float, float, float]
"""Weights of (lr low, lr high, momentum low, momentum high): every value is ``low * weight + high * weight``."""

Group = dict[str, Any]


def momentum_key(group: Group) -> str | None:
    """Return where ``group`` keeps its momentum: ``"betas"`` (the first), ``"momentum"``, or None."""
    if "betas" in group:
        return "betas"
    return "momentum" if "momentum" in group else None


def has_momentum(optimizer: Optimizer) -> bool:
    """Tell whether any param group has a momentum that is in use (SGD and RMSprop switch it off with 0)."""
    return any("betas" in group or bool(group.get("momentum", 0.0)) for group in optimizer.param_groups)


class ParamGroupWriter:
    """Writes blended values into all param groups of one optimizer.

    Groups that share a range share one computed value, so the cost of the arithmetic does not grow with the number of
    groups. A tensor that a group holds is filled in place and never replaced: compiled optimizers and captured graphs
    keep reading the same memory. A float is replaced by a float.
    """

    def __init__(self, optimizer: Optimizer, lr: list[Range], momentum: list[Range] | None) -> None:
        # load_state_dict puts a new list of new dicts here, add_param_group lengthens it: both are seen in is_stale.
        self._groups = optimizer.param_groups
        self._bound = len(self._groups)
        lr_slots: dict[Range, list[Group]] = {}
        momentum_slots: dict[Range, list[Group]] = {}
        betas_slots: dict[tuple[Range, tuple[Any, ...]], list[Group]] = {}
        self._lr_tensors: list[tuple[float, float, Group]] = []
        self._momentum_tensors: list[tuple[float, float, Group]] = []
        ranges_of_tensors: dict[int, Range] = {}

        for group, range_ in zip(self._groups, lr, strict=True):
            if isinstance(group["lr"], Tensor):
                _same_range("lr", ranges_of_tensors.setdefault(id(group["lr"]), range_), range_)
                self._lr_tensors.append((*range_, group))
            else:
                lr_slots.setdefault(range_, []).append(group)
        for group, range_ in zip(self._groups, momentum or [], strict=momentum is not None):
            key = momentum_key(group)
            value = group["betas"][0] if key == "betas" else group.get("momentum")
            if isinstance(value, Tensor):
                _same_range(str(key), ranges_of_tensors.setdefault(id(value), range_), range_)
                self._momentum_tensors.append((*range_, group))
            elif key == "betas":
                betas_slots.setdefault((range_, tuple(group["betas"][1:])), []).append(group)
            elif key == "momentum":
                momentum_slots.setdefault(range_, []).append(group)

        self._lrs = [(low, high, groups) for (low, high), groups in lr_slots.items()]
        self._momenta = [(low, high, groups) for (low, high), groups in momentum_slots.items()]
        self._betas = [_Betas(low, high, groups) for ((low, high), _), groups in betas_slots.items()]

    def is_stale(self, optimizer: Optimizer) -> bool:
        """Tell whether the optimizer's groups are no longer the ones that this writer was made for."""
        groups = optimizer.param_groups
        return groups is not self._groups or len(groups) != self._bound

    def write(self, weights: Weights) -> None:
        """Set lr and momentum of every group to its range, blended with ``weights``."""
        lr_low, lr_high, momentum_low, momentum_high = weights
        for low, high, groups in self._lrs:
            value = low * lr_low + high * lr_high
            for group in groups:
                group["lr"] = value
        for betas in self._betas:
            betas.write(momentum_low, momentum_high)
        for low, high, groups in self._momenta:
            value = low * momentum_low + high * momentum_high
            for group in groups:
                group["momentum"] = value
        for low, high, group in self._lr_tensors:
            _put(group, "lr", low * lr_low + high * lr_high)
        for low, high, group in self._momentum_tensors:
            _put(group, "betas" if "betas" in group else "momentum", low * momentum_low + high * momentum_high)


def _same_range(key: str, known: Range, range_: Range) -> None:
    """Refuse one tensor for two ranges: torch gives groups without a tensor of their own the optimizer's default."""
    if known != range_:
        raise ValueError(
            f"{key}: param groups with different ranges, {known} and {range_}, share one tensor;"
            " give each param group a tensor of its own"
        )


def _put(group: Group, key: str, value: float) -> None:
    """Fill the tensor that ``group`` holds now, or replace the float that someone has put in its place."""
    held = group[key][0] if key == "betas" else group[key]
    if isinstance(held, Tensor):
        held.fill_(value)
    else:
        group[key] = (value, *group[key][1:]) if key == "betas" else value


class _Betas:
    """Groups with one range of the first beta; the betas after the first stay as the user set them."""

    __slots__ = ("groups", "high", "low", "written")

    def __init__(self, low: float, high: float, groups: list[Group]) -> None:
        self.low, self.high, self.groups = low, high, groups
        self.written: tuple[Any, ...] = groups[0]["betas"]

    def write(self, low_weight: float, high_weight: float) -> None:
        momentum = self.low * low_weight + self.high * high_weight
        before = self.written
        shared = self.written = (momentum, *before[1:])
        for group in self.groups:
            # One tuple serves all groups, except where someone has set other betas since the last write.
            betas = group["betas"]
            same = betas is before or betas[1:] == before[1:]
            group["betas"] = shared if same else (momentum, *betas[1:])


def read_lrs(groups: Iterable[Group]) -> list[Any]:
    """Return each group's lr as it is held now; a tensor is copied, so that the caller cannot write through it."""
    return [group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in groups]
