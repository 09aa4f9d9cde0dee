"""Many one-element tensors, side by side in memory, written by one copy.

A tensor stays the same Python object, with the same dtype, shape and device; only the memory behind it moves, once,
when it is packed. Anything that stored its *address* before that (a CUDA graph captured earlier) would go on reading
the old memory. Packing happens when a schedule is made, and again when the optimizer's state was loaded: capture
after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from lightning_lrsched.schedulers.group_values import Value

MIN_PACKED = 4
"""Fewer tensors are filled faster one by one than by one common copy."""


@dataclass(frozen=True)
class Slot:
    """A tensor to be written: the lr or the momentum of one set of param groups."""

    tensor: Tensor
    number: int
    is_momentum: bool

    def value(self, lr: Value, momentum: Value) -> float:
        """Return the value for this tensor."""
        value = momentum if self.is_momentum else lr
        return float(value[self.number] if isinstance(value, np.ndarray) else value)


def pack(tensors: Iterable[Tensor]) -> None:
    """Move tensors of one device and dtype into common memory, where that is safe; the others stay where they are.

    Only a tensor that has its memory to itself is moved: no view, no part of a buffer that other code packed.
    """
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in {id(tensor): tensor for tensor in tensors if _is_movable(tensor)}.values():
        by_kind.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for alike in by_kind.values():
        if len(alike) >= MIN_PACKED:
            common = torch.stack([tensor.detach().reshape(()) for tensor in alike])
            for index, tensor in enumerate(alike):
                tensor.data = common[index].view(tensor.shape)


def _is_movable(tensor: Tensor) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.device.type in ("cpu", "cuda")
        and tensor.numel() == 1
        and not tensor.requires_grad
        and not tensor._is_view()
        and tensor.untyped_storage().nbytes() == tensor.element_size()
    )


def runs(slots: Sequence[Slot]) -> tuple[list[Run], list[Slot]]:
    """Split slots into runs of neighbours in memory, whoever packed them, and single slots."""
    packable: list[Slot] = []
    single: list[Slot] = []
    for slot in slots:
        alone = type(slot.tensor) is not Tensor or slot.tensor.numel() != 1
        (single if alone else packable).append(slot)
    found = []
    packable.sort(key=_place)
    # Within a run, storage offset and sorted position both grow by one, so that their difference is the same.
    for _, run in groupby(enumerate(packable), key=lambda item: (_place(item[1])[:-1], _offset(item[1]) - item[0])):
        members = [slot for _, slot in run]
        lr_first = sorted(members, key=lambda slot: slot.is_momentum) == members
        if len(members) >= MIN_PACKED and lr_first:
            found.append(Run(members))
        else:
            single += members
    return found, single


def _offset(slot: Slot) -> int:
    return int(slot.tensor.storage_offset())


def _place(slot: Slot) -> tuple[str, str, int, int]:
    tensor = slot.tensor
    return str(tensor.device), str(tensor.dtype), tensor.untyped_storage().data_ptr(), _offset(slot)


class Run:
    """Neighbours in memory: first those that hold an lr, then those that hold a momentum."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        first = slots[0].tensor
        self._device = torch.empty(0, dtype=first.dtype, device=first.device)
        self._device.set_(first.untyped_storage(), first.storage_offset(), (len(slots),), (1,))
        values = np.empty(len(slots))
        self._values, self._on_host = values, torch.from_numpy(values)
        lrs = sum(not slot.is_momentum for slot in slots)
        self._lrs, self._momenta = values[:lrs], values[lrs:]
        numbers = np.array([slot.number for slot in slots])
        self._lr_numbers, self._momentum_numbers = numbers[:lrs], numbers[lrs:]
        self._pinned = first.device.type == "cuda"

    def write(self, lr: Value, momentum: Value) -> None:
        """Collect all values on the host, as float64, and send them with one copy; nothing waits for the device."""
        self._lrs[:] = lr[self._lr_numbers] if isinstance(lr, np.ndarray) else lr
        if self._momenta.size:
            self._momenta[:] = momentum[self._momentum_numbers] if isinstance(momentum, np.ndarray) else momentum
        if self._pinned:
            # New pinned memory for each copy: torch reuses freed pinned memory only when the copies from it are
            # done, so a host that runs ahead of the device cannot overwrite data that is still to be sent.
            staged = torch.empty(len(self._values), dtype=self._device.dtype, pin_memory=True)
            staged.copy_(self._on_host)
            self._device.copy_(staged, non_blocking=True)
        else:
            self._device.copy_(self._on_host)
