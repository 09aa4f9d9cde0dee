"""Hyperparameters of an optimizer by name: where they live in a param group. The only writer of param groups."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.schedules.schedule import Value, Values

Group = dict[str, Any]

LR, MOMENTUM = "lr", "momentum"

BETAS = {MOMENTUM: 0, "beta2": 1, "beta3": 2}
"""Name -> its place among the betas, where an optimizer has them."""

BUFFER_FOR_EACH_BETA = ("AggMo",)
"""Optimizers that name their buffers after the betas: for another value there is no buffer."""


def key_of(name: str, group: Group) -> str | None:
    """Return the key under which ``group`` keeps a hyperparameter; None: it has none.

    The momentum of an optimizer with ``betas`` is the first of them, ``beta2`` the second; everything else has its own
    name.
    """
    key = "betas" if name in BETAS and "betas" in group else name
    return key if key in group else None


def read(name: str, group: Group) -> Any:
    """Return what ``group`` holds as a hyperparameter, a number or a tensor; None where it has none."""
    return _held(name, group, key_of(name, group))


def _held(name: str, group: Group, key: str | None) -> Any:
    if key == "betas":
        betas, place = group["betas"], BETAS[name]
        return betas[place] if isinstance(betas, (tuple, list)) and place < len(betas) else None
    return None if key is None else group[key]


def write(name: str, group: Group, value: float) -> None:
    """Set a hyperparameter of one group; a tensor is filled in place, other betas stay as they are."""
    key, held = key_of(name, group), read(name, group)
    if key is None or held is None:
        return
    if isinstance(held, Tensor):
        _fill(held, value)
    elif key == "betas":
        _set_beta(group, BETAS[name], value)
    else:
        group[key] = value


def _set_beta(group: Group, place: int, value: float) -> None:
    betas = group["betas"]
    group["betas"] = (*betas[:place], value, *betas[place + 1 :])


def read_number(name: str, group: Group) -> float | None:
    """Return a hyperparameter as a number; None where the group has none, or something else."""
    return numbers_of(group).get(name)


def numbers_of(group: Group) -> dict[str, float]:
    """Return the hyperparameters of a group that are numbers, by name."""
    betas = group.get("betas")
    of_betas = zip(BETAS, betas, strict=False) if isinstance(betas, (tuple, list)) else ()
    numbers = {}
    for name, held in chain(group.items(), of_betas):
        value = held.item() if isinstance(held, Tensor) and held.numel() == 1 else held
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name[:8] != "initial_":
            numbers[name] = float(value)
    return numbers


def has_momentum(optimizer: Optimizer) -> bool:
    """Return whether any param group has a momentum that is in use (SGD and RMSprop switch it off with 0)."""
    return any("betas" in group or bool(group.get(MOMENTUM, 0.0)) for group in optimizer.param_groups)


def momentum_kind(optimizer: Optimizer) -> str | None:
    """Return where ``optimizer`` keeps its momentum: ``"momentum"``, ``"betas"``, or None if it has none."""
    return key_of(MOMENTUM, optimizer.param_groups[0]) if has_momentum(optimizer) else None


def check_lrs(optimizer: Optimizer) -> None:
    """Raise ValueError for an optimizer that has no learning rate to schedule."""
    for number, group in enumerate(optimizer.param_groups):
        if group.get(LR) is None:
            held = "has lr=None" if LR in group else "has no 'lr'"
            raise ValueError(
                f"{type(optimizer).__name__} has no learning rate to schedule: its param_groups[{number}] {held}"
            )


def read_lrs(groups: Iterable[Group]) -> list[Any]:
    """Return each group's lr as it is held now; a tensor is copied, so that the caller cannot write through it."""
    return [group[LR].clone() if isinstance(group[LR], Tensor) else group[LR] for group in groups]


def holds_lrs(groups: Iterable[Group], lrs: Iterable[float]) -> bool:
    """Return whether the groups hold exactly these learning rates; tensors, to the precision of their dtype."""
    held = ((group[LR], lr) for group, lr in zip(groups, lrs, strict=True))
    return all(
        bool((own == torch.full_like(own, lr)).all()) if isinstance(own, Tensor) else own == lr for own, lr in held
    )


def torch_optimizer(optimizer: object) -> Optimizer:
    """Return ``optimizer``, or the torch optimizer inside a wrapper (Lightning's, DeepSpeed's, SAM's, Lookahead's)."""
    groups = getattr(optimizer, "param_groups", None)
    named = [getattr(optimizer, name, None) for name in ("optimizer", "base_optimizer")]
    for inner in (*named, *getattr(optimizer, "__dict__", {}).values()):
        # An inner optimizer with param groups of its own is not the one that is stepped.
        if isinstance(inner, Optimizer) and (inner.param_groups is groups or not isinstance(optimizer, Optimizer)):
            return inner
    if isinstance(optimizer, Optimizer):
        return optimizer
    raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")


class Binding:
    """Writes the values of a schedule into all param groups of one optimizer.

    A float is replaced by a float. A tensor that a group holds is filled in place and never replaced: compiled
    optimizers and captured graphs keep reading the same memory.

    Args:
        groups: the optimizer's param groups.
        values: the values to be written.
        names: which hyperparameters are written.

    Attributes:
        has_tensors: whether a group holds a tensor that is written.
        on_cuda: whether one of them is on a CUDA device.
    """

    def __init__(self, groups: list[Group], values: Values, names: Sequence[str]) -> None:
        # load_state_dict puts a new list of new dicts here, add_param_group lengthens it.
        self.groups, self.size = groups, len(groups)
        self._filled: list[tuple[str, Group, Tensor, int]] = []
        self._writers: list[tuple[str, int, Callable[[float], None]]] = []
        for name in names:
            self._bind(name, values.set_of_group)
        self._one_set = [(name, write) for name, _, write in self._writers] if values.sets == 1 else []
        self.has_tensors = bool(self._filled)
        self.on_cuda = any(tensor.is_cuda for _, _, tensor, _ in self._filled)
        # torch gives groups without a tensor of their own the optimizer's default: one tensor for all of them.
        of_set: dict[int, int] = {}
        for name, _, tensor, number in self._filled:
            if of_set.setdefault(id(tensor), number) != number:
                raise ValueError(
                    f"{name}: param groups with different values share one tensor; give each param group a tensor of"
                    " its own"
                )

    def _bind(self, name: str, set_of_group: Sequence[int]) -> None:
        alike: dict[Any, list[Group]] = {}
        for group, number in zip(self.groups, set_of_group, strict=True):
            key = key_of(name, group)
            held = _held(name, group, key)
            if isinstance(held, Tensor):
                self._filled.append((name, group, held, number))
                self._writers.append((name, number, partial(_fill, held)))
            elif key is not None and held is not None:
                # A list, after a distributed checkpoint.
                others = tuple(group["betas"][1:]) if key == "betas" and name == MOMENTUM else ()
                alike.setdefault((number, key, others), []).append(group)
        for (number, key, others), groups in alike.items():
            self._writers.append((name, number, _writer_of(name, key, groups, others)))

    def write(self, values: Mapping[str, Value]) -> bool:
        """Set the hyperparameters of every group.

        Returns False where a group no longer holds the tensor that was filled: then a new binding must be made.
        """
        if self._one_set:
            for name, write in self._one_set:
                write(values[name])
        else:
            for name, number, write in self._writers:
                value = values[name]
                write(float(value[number]) if isinstance(value, np.ndarray) else value)
        return not self._filled or all(read(name, group) is tensor for name, group, tensor, _ in self._filled)


def _writer_of(name: str, key: str, groups: list[Group], others: tuple[Any, ...]) -> Callable[[float], None]:
    if key != "betas":
        return _writer(groups, key)
    if name == MOMENTUM:
        return _betas_writer(groups, others)
    place = BETAS[name]

    def write(value: float) -> None:
        for group in groups:
            _set_beta(group, place, value)

    return write


def _writer(groups: list[Group], key: str) -> Callable[[float], None]:
    """Return a function that sets a number in several groups."""
    if len(groups) == 1:
        return partial(operator.setitem, groups[0], key)

    def write(value: float) -> None:
        for group in groups:
            group[key] = value

    return write


def _betas_writer(groups: list[Group], others: tuple[Any, ...]) -> Callable[[float], None]:
    """Return a function that sets the first beta of groups with the same others, which stay as the user set them."""
    written: object = None
    [only, *more] = groups

    def write_one(value: float) -> None:
        nonlocal written, others
        held = only["betas"]
        if held is not written:
            others = tuple(held[1:])
        written = only["betas"] = (value,) + others  # noqa: RUF005 - the quickest way

    def write(value: float) -> None:
        nonlocal written
        before = written
        # One tuple serves all groups, except where other code has set other betas since the last write.
        shared = written = (value, *others)
        for group in groups:
            held = group["betas"]
            group["betas"] = shared if held is before or tuple(held[1:]) == others else (value, *held[1:])

    return write if more else write_one


def _fill(tensor: Tensor, value: float) -> None:
    try:
        tensor.fill_(value)
    except RuntimeError:  # the value is too large for the dtype: it becomes infinite
        tensor.copy_(torch.tensor(value, dtype=torch.float64))
