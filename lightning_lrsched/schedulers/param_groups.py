"""The only writer of lr, momentum and betas in an optimizer's param groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.schedulers.packed_tensors import Run, Slot, pack, runs

Range = tuple[float, float]
Weights = tuple[float, float, float, float]
"""Weights of (lr low, lr high, momentum low, momentum high): every value is ``low * weight + high * weight``."""

Group = dict[str, Any]

LOOKS_PER_WRITE = 16
"""So many groups are looked at per write, on average, for a tensor that the user has replaced."""


A_BUFFER_FOR_EACH_BETA = ("AggMo",)
"""Optimizers whose betas are names of buffers: any other value is one that they do not find."""


def momentum_key(group: Group) -> str | None:
    """Return where ``group`` keeps its momentum: ``"betas"`` (the first), ``"momentum"``, or None."""
    if "betas" in group:
        return "betas"
    return "momentum" if "momentum" in group else None


def has_momentum(optimizer: Optimizer) -> bool:
    """Tell whether any param group has a momentum that is in use (SGD and RMSprop switch it off with 0)."""
    return any("betas" in group or bool(group.get("momentum", 0.0)) for group in optimizer.param_groups)


def check_groups(optimizer: Optimizer) -> None:
    """Raise ValueError for an optimizer that has no learning rate to schedule."""
    for number, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise ValueError(
                f"{type(optimizer).__name__} has no learning rate to schedule: its param group {number} has no 'lr'"
            )


class ParamGroupWriter:
    """Writes blended values into all param groups of one optimizer.

    Groups that share a range share one computed value, so the cost of the arithmetic does not grow with the number of
    groups. A float is replaced by a float. A tensor that a group holds is written in place and never replaced: compiled
    optimizers and captured graphs keep reading the same memory. Many tensors are packed, and one copy writes them all.
    """

    def __init__(self, optimizer: Optimizer, lr: list[Range], momentum: list[Range] | None) -> None:
        if momentum is not None and type(optimizer).__name__ in A_BUFFER_FOR_EACH_BETA:
            raise ValueError(
                f"cycle_momentum: {type(optimizer).__name__} keeps a buffer for each of its betas, so that none of them"
                " can be cycled; set cycle_momentum to false"
            )
        # load_state_dict puts a new list of new dicts here, add_param_group lengthens it.
        self.groups = optimizer.param_groups
        self.size = len(self.groups)
        lr_slots: dict[Range, list[Group]] = {}
        momentum_slots: dict[Range, list[Group]] = {}
        betas_slots: dict[tuple[Range, tuple[Any, ...]], list[Group]] = {}
        tensors = _Tensors(self.groups)

        for group, range_ in zip(self.groups, lr, strict=True):
            if isinstance(group["lr"], Tensor):
                tensors.add(group, "lr", range_)
            else:
                lr_slots.setdefault(range_, []).append(group)
        for group, range_ in zip(self.groups, momentum or [], strict=momentum is not None):
            key = momentum_key(group)
            if key is not None and isinstance(_held(group, key), Tensor):
                tensors.add(group, key, range_)
            elif key == "betas":
                betas_slots.setdefault((range_, tuple(group["betas"][1:])), []).append(group)
            elif key == "momentum":
                momentum_slots.setdefault(range_, []).append(group)

        self._lrs = [(low, high, groups) for (low, high), groups in lr_slots.items()]
        self._momenta = [(low, high, groups) for (low, high), groups in momentum_slots.items()]
        self._betas = [_Betas(low, high, groups) for ((low, high), _), groups in betas_slots.items()]
        self._tensors = tensors.bound()
        self.has_tensors = self._tensors is not None
        self.on_cuda = tensors.on_cuda

    def write(self, weights: Weights) -> bool:
        """Set lr and momentum of every group to its range, blended with ``weights``.

        Returns False where a group no longer holds the tensor that was written: then a new writer must be made.
        """
        lr_low, lr_high, momentum_low, momentum_high = weights
        for low, high, groups in self._lrs:
            value = low * lr_low + high * lr_high
            for group in groups:
                group["lr"] = value
        for betas in self._betas:
            before = betas.written
            # One tuple serves all groups, except where someone has set other betas since the last write.
            shared = betas.written = (betas.low * momentum_low + betas.high * momentum_high, *betas.others)
            for group in betas.groups:
                held = group["betas"]
                group["betas"] = shared if held is before else betas.written_over(held)
        for low, high, groups in self._momenta:
            value = low * momentum_low + high * momentum_high
            for group in groups:
                group["momentum"] = value
        return self._tensors is None or self._tensors.write(weights)


def _fill(tensor: Tensor, value: float) -> None:
    try:
        tensor.fill_(value)
    except RuntimeError:
        # More than its dtype can hold is infinite, as it is where many tensors are written by one copy.
        tensor.copy_(torch.tensor(value, dtype=torch.float64))


def _held(group: Group, key: str) -> Any:
    """Return what ``group`` holds as its lr, its momentum or its first beta."""
    if key != "betas":
        return group.get(key)
    return group["betas"][0] if isinstance(group["betas"], (tuple, list)) else None


class _Tensors:
    """The tensors among an optimizer's learning rates and momenta."""

    def __init__(self, groups: list[Group]) -> None:
        self._groups = groups
        self._held: list[tuple[Group, str, Tensor]] = []
        self._slots: dict[int, Slot] = {}
        self._writes = 0
        self._runs: list[Run] = []
        self._single: list[Slot] = []
        self._look_every = 1
        self.on_cuda = False

    def add(self, group: Group, key: str, range_: Range) -> None:
        """Have the tensor that ``group`` holds under ``key`` written from now on."""
        tensor = _held(group, key)
        slot = self._slots.setdefault(id(tensor), Slot(tensor, *range_, key != "lr"))
        # torch gives groups without a tensor of their own the optimizer's default: one tensor for all of them.
        if (slot.low, slot.high) != range_:
            raise ValueError(
                f"{key}: param groups with different ranges, {(slot.low, slot.high)} and {range_}, share one tensor;"
                " give each param group a tensor of its own"
            )
        self._held.append((group, key, tensor))
        self.on_cuda |= tensor.is_cuda

    def bound(self) -> _Tensors | None:
        """Pack what can be packed and return the writer; None where there is nothing to write."""
        if not self._slots:
            return None
        # Every schedule packs momenta too, written or not: a second one then finds the same memory as the first.
        candidates = [(group, key) for key in ("lr", "betas", "momentum") for group in self._groups if key in group]
        pack(value for group, key in candidates if isinstance(value := _held(group, key), Tensor))
        self._runs, self._single = runs(list(self._slots.values()))
        # Looking at every group would cost more than all the writing: with many groups, not every time.
        self._look_every = max(1, len(self._held) // LOOKS_PER_WRITE)
        self._outside_compiler = torch.compiler.disable(self._write)  # type: ignore[no-untyped-call]
        return self

    def write(self, weights: Weights) -> bool:
        """Write all tensors in place; return False where a group was given another one."""
        # Within a compiled step the writing would be compiled too, and anew for every value.
        return bool(self._outside_compiler(weights)) if torch.compiler.is_compiling() else self._write(weights)

    def _write(self, weights: Weights) -> bool:
        lr_low, lr_high, momentum_low, momentum_high = weights
        for run in self._runs:
            run.write(weights)
        for slot in self._single:
            if slot.is_momentum:
                _fill(slot.tensor, slot.low * momentum_low + slot.high * momentum_high)
            else:
                _fill(slot.tensor, slot.low * lr_low + slot.high * lr_high)
        self._writes += 1
        return self._writes % self._look_every > 0 or all(_held(g, key) is tensor for g, key, tensor in self._held)


class _Betas:
    """Groups with one range of the first beta; the betas after the first stay as the user set them."""

    __slots__ = ("groups", "high", "low", "others", "written")

    def __init__(self, low: float, high: float, groups: list[Group]) -> None:
        self.low, self.high, self.groups = low, high, groups
        self.written: tuple[Any, ...] = tuple(groups[0]["betas"])
        self.others = self.written[1:]

    def written_over(self, held: Any) -> tuple[Any, ...]:
        """Return what to put in the place of betas that are not those written last."""
        others = tuple(held[1:])
        return self.written if others == self.others else (self.written[0], *others)


def read_lrs(groups: Iterable[Group]) -> list[Any]:
    """Return each group's lr as it is held now; a tensor is copied, so that the caller cannot write through it."""
    return [group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in groups]


def read_momenta(groups: Iterable[Group]) -> list[float | None]:
    """Return each group's momentum (or first beta) as a number; None where it has none."""
    held = [_held(group, momentum_key(group) or "momentum") for group in groups]
    # Who knows what some optimizer keeps under these names.
    return [float(value) if isinstance(value, (int, float, Tensor)) else None for value in held]


def write_momenta(groups: Iterable[Group], momenta: Iterable[float | None]) -> None:
    """Set each group's momentum (or first beta); a tensor is written in place."""
    for group, momentum in zip(groups, momenta, strict=False):
        key = momentum_key(group)
        if key is None or momentum is None:
            continue
        if isinstance(held := _held(group, key), Tensor):
            held.fill_(momentum)
        else:
            group[key] = (momentum, *group["betas"][1:]) if key == "betas" else momentum
