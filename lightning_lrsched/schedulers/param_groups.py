"""The only writer of lr, momentum and betas in an optimizer's param groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.schedulers.errors import ParameterValueError
from lightning_lrsched.schedulers.group_values import GroupValues, Value, as_list
from lightning_lrsched.schedulers.packed_tensors import Run, Slot, pack, runs

Group = dict[str, Any]

LOOKS_PER_WRITE = 16
"""Groups that each write examines, on average, for a tensor that the user has replaced."""

BUFFER_FOR_EACH_BETA = ("AggMo",)
"""Optimizers that name their buffers after the betas: for another value there is no buffer."""


def momentum_key(group: Group) -> str | None:
    """Return where ``group`` keeps its momentum: ``"betas"`` (the first), ``"momentum"``, or None."""
    if "betas" in group:
        return "betas"
    return "momentum" if "momentum" in group else None


def has_momentum(optimizer: Optimizer) -> bool:
    """Return whether any param group has a momentum that is in use (SGD and RMSprop switch it off with 0)."""
    return any("betas" in group or bool(group.get("momentum", 0.0)) for group in optimizer.param_groups)


def momentum_kind(optimizer: Optimizer) -> str | None:
    """Return where ``optimizer`` keeps its momentum: ``"momentum"``, ``"betas"``, or None if it has none."""
    return momentum_key(optimizer.param_groups[0]) if has_momentum(optimizer) else None


def check_groups(optimizer: Optimizer) -> None:
    """Raise ValueError for an optimizer that has no learning rate to schedule."""
    for number, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise ValueError(
                f"{type(optimizer).__name__} has no learning rate to schedule: its param_groups[{number}] has no 'lr'"
            )


class ParamGroupWriter:
    """Writes computed values into all param groups of one optimizer.

    A float is replaced by a float. A tensor that a group holds is written in place and never replaced: compiled
    optimizers and captured graphs keep reading the same memory. Many tensors are packed, and one copy writes them all.
    """

    def __init__(self, optimizer: Optimizer, values: GroupValues) -> None:
        if values.has_momentum and type(optimizer).__name__ in BUFFER_FOR_EACH_BETA:
            raise ParameterValueError(
                "cycle_momentum",
                f": {type(optimizer).__name__} keeps a buffer for each of its betas, so none of them can be cycled;"
                " set cycle_momentum to false",
            )
        # load_state_dict puts a new list of new dicts here, add_param_group lengthens it.
        self.groups = optimizer.param_groups
        self.size = len(self.groups)
        self._sets = values.sets
        floats = [_FloatGroups() for _ in range(values.sets)]
        tensors = _Tensors(self.groups)
        for group, number in zip(self.groups, values.set_of_group, strict=True):
            for key in ("lr", momentum_key(group) if values.has_momentum else None):
                if key is not None and isinstance(_held(group, key), Tensor):
                    tensors.add(group, key, number)
                elif key is not None:
                    floats[number].add(group, key)
        self._floats = [(number, groups) for number, groups in enumerate(floats) if not groups.is_empty]
        self._tensors = tensors.bound()
        self.has_tensors = self._tensors is not None
        self.on_cuda = tensors.on_cuda
        # The common cases, without a detour.
        if values.sets == 1 and self._tensors is None:
            self.write = floats[0].write  # type: ignore[method-assign]
        elif self._tensors is not None and not self._floats:
            self.write = self._tensors.write  # type: ignore[method-assign]

    def write(self, lr: Value, momentum: Value) -> bool:
        """Set lr and momentum of every group: a float for all, or an array with one for each set of groups.

        Returns False where a group no longer holds the tensor that was written: then a new writer must be made.
        """
        lrs, momenta = as_list(lr, self._sets), as_list(momentum, self._sets)
        for number, groups in self._floats:
            groups.write(lrs[number], momenta[number])
        return self._tensors is None or self._tensors.write(lr, momentum)


class _FloatGroups:
    """The param groups of one set whose lr, momentum or first beta are floats."""

    def __init__(self) -> None:
        self._lrs: list[Group] = []
        self._momenta: list[Group] = []
        self._betas: list[_Betas] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self._lrs or self._momenta or self._betas)

    def add(self, group: Group, key: str) -> None:
        """Write ``group[key]`` from now on."""
        if key == "betas":
            others = tuple(group["betas"][1:])
            alike = [betas for betas in self._betas if betas.others == others]
            alike[0].groups.append(group) if alike else self._betas.append(_Betas(group))
        else:
            (self._lrs if key == "lr" else self._momenta).append(group)

    def write(self, lr: float, momentum: float | None) -> bool:
        """Set lr and momentum of every group."""
        for group in self._lrs:
            group["lr"] = lr
        for betas in self._betas:
            before = betas.written
            # One tuple serves all groups, except where other code has set other betas since the last write.
            shared = betas.written = (momentum, *betas.others)
            for group in betas.groups:
                held = group["betas"]
                group["betas"] = shared if held is before else betas.written_over(held)
        for group in self._momenta:
            group["momentum"] = momentum
        return True


class _Betas:
    """Groups with the same betas; those after the first stay as the user set them."""

    __slots__ = ("groups", "others", "written")

    def __init__(self, group: Group) -> None:
        self.groups = [group]
        self.written: tuple[Any, ...] = tuple(group["betas"])
        self.others = self.written[1:]

    def written_over(self, held: Any) -> tuple[Any, ...]:
        """Return the betas to write over some that are not those written last."""
        others = tuple(held[1:])
        return self.written if others == self.others else (self.written[0], *others)


def _fill(tensor: Tensor, value: float) -> None:
    try:
        tensor.fill_(value)
    except RuntimeError:
        # A value too large for the dtype becomes infinite, as it does when one copy writes many tensors.
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

    def add(self, group: Group, key: str, number: int) -> None:
        """Write the tensor that ``group`` holds under ``key`` from now on, with the values of a set."""
        tensor = _held(group, key)
        slot = self._slots.setdefault(id(tensor), Slot(tensor, number, key != "lr"))
        # torch gives groups without a tensor of their own the optimizer's default: one tensor for all of them.
        if slot.number != number:
            raise ValueError(
                f"{key}: param groups with different values share one tensor; give each param group a tensor of its own"
            )
        self._held.append((group, key, tensor))
        self.on_cuda |= tensor.is_cuda

    def bound(self) -> _Tensors | None:
        """Pack what can be packed and return the writer; None where there is nothing to write."""
        if not self._slots:
            return None
        # Momenta are packed even when they are not written: a second schedule then finds the same memory.
        candidates = [(group, key) for key in ("lr", "betas", "momentum") for group in self._groups if key in group]
        pack(value for group, key in candidates if isinstance(value := _held(group, key), Tensor))
        self._runs, self._single = runs(list(self._slots.values()))
        # Examining every group would cost more than writing: with many groups it is not done every time.
        self._look_every = max(1, len(self._held) // LOOKS_PER_WRITE)
        return self

    def write(self, lr: Value, momentum: Value) -> bool:
        """Write all tensors in place; return False where a group was given another one."""
        for run in self._runs:
            run.write(lr, momentum)
        for slot in self._single:
            _fill(slot.tensor, slot.value(lr, momentum))
        self._writes += 1
        return self._writes % self._look_every > 0 or all(_held(g, key) is tensor for g, key, tensor in self._held)


def read_lrs(groups: Iterable[Group]) -> list[Any]:
    """Return each group's lr as it is held now; a tensor is copied, so that the caller cannot write through it."""
    return [group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in groups]


def holds_lrs(groups: Iterable[Group], lrs: Iterable[float]) -> bool:
    """Return whether the groups hold exactly these learning rates; tensors, to the precision of their dtype."""
    held = ((group["lr"], lr) for group, lr in zip(groups, lrs, strict=True))
    return all(
        bool((own == torch.full_like(own, lr)).all()) if isinstance(own, Tensor) else own == lr for own, lr in held
    )


def read_momenta(groups: Iterable[Group]) -> list[float | None]:
    """Return each group's momentum (or first beta) as a number; None where it has none."""
    held = [_held(group, momentum_key(group) or "momentum") for group in groups]
    # Third-party optimizers may store non-numbers here.
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


def torch_optimizer(optimizer: Any) -> Optimizer:
    """Return ``optimizer``, or the torch optimizer inside a wrapper (Lightning's, DeepSpeed's, SAM's, Lookahead's)."""
    groups = getattr(optimizer, "param_groups", None)
    for name in ("optimizer", "base_optimizer"):
        inner = getattr(optimizer, name, None)
        # An inner optimizer with param groups of its own is not the one that is stepped.
        if isinstance(inner, Optimizer) and (inner.param_groups is groups or not isinstance(optimizer, Optimizer)):
            return inner
    if isinstance(optimizer, Optimizer):
        return optimizer
    raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
