"""ModelSnapshot: restores a module and its optimizers after a trial run, bit for bit."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torchmetrics import Metric

from lightning_lrsched.range_test.generators import MAX_ITEMS

NOT_OF_THE_USER = {*vars(torch.nn.Module()), "_current_fx_name"}
"""Attributes that torch and Lightning keep up to date themselves."""

WRAPPERS = ("FullyShardedDataParallel", "DistributedDataParallel", "_FabricModule")
"""Modules around the user's, whose attributes say how far they are set up: that is not undone after a trial."""


class ModelSnapshot:
    """Remembers parameters, buffers, metrics, plain attributes and optimizer states, in host memory.

    Of tensors that are sharded over several devices (DTensors), each rank keeps its own shard. The copies are not in
    pinned memory: they are copied once in each direction, while to pin takes longer than that, rounds every tensor's
    size up to a power of two, and is not given back to the system.

    Args:
        module: the module that a trial run is about to train.
        optimizers: all of its optimizers, and whatever else has a ``state_dict`` and a ``load_state_dict``.

    Raises:
        ValueError: if the module has lazy parameters, which have no value yet that could be restored.
    """

    def __init__(self, module: Any, optimizers: Sequence[Any]) -> None:
        refuse_lazy_parameters(module)
        reshard(module)
        self._module = module
        parts = list(module.modules())
        copies: dict[int, HostCopy] = {}  # a parameter that two modules share is copied once
        self._parts: list[PlainAttributes | ModuleTensors | MetricState] = [
            PlainAttributes(part) for part in parts if not is_one_of(part, *WRAPPERS)
        ]
        self._parts += [ModuleTensors(part, copies) for part in parts]
        self._parts += [MetricState(part) for part in parts if isinstance(part, Metric)]
        self._optimizers = [(optimizer, copy_of_state(optimizer.state_dict())) for optimizer in optimizers]

    def restore(self, *, keep: bool = False) -> None:
        """Put everything back.

        Args:
            keep: keep the copies for another trial; else they are dropped, and a second call changes nothing.
        """
        reshard(self._module)
        for part in self._parts:
            part.restore()
        for optimizer, state in self._optimizers:
            if isinstance(optimizer, Optimizer) and "param_groups" in state:
                del optimizer.param_groups[len(state["param_groups"]) :]  # added during the trial
                optimizer.state.clear()  # before the device gets the old one: it may not hold both
            optimizer.load_state_dict(original_of(state, keep=keep))
        self._module.zero_grad(set_to_none=True)
        if not keep:
            self._parts, self._optimizers = [], []


class PlainAttributes:
    """The numbers, switches and texts that a module keeps beside its tensors, also in small containers.

    A module that counts its batches, or collects its losses in a list, goes on from where it was before the trial.
    """

    def __init__(self, module: Any) -> None:
        """Remember them."""
        self._attributes = vars(module)
        held = {name: value for name, value in self._attributes.items() if name not in NOT_OF_THE_USER}
        self._plain = {name: (value, deepcopy(value)) for name, value in held.items() if _is_plain(value)}
        self._names = set(self._attributes)

    def restore(self) -> None:
        """Put them back, into the same containers; remove those that are new."""
        for name in [name for name in self._attributes if name not in self._names and not name.startswith("_")]:
            if _is_plain(self._attributes[name], at_most=None):
                del self._attributes[name]
        for name, (value, copied) in self._plain.items():
            if isinstance(value, (list, deque, set, dict)):
                value.clear()
                getattr(value, "extend", getattr(value, "update", None))(deepcopy(copied))  # type: ignore[misc]
            self._attributes[name] = value


def _is_plain(value: Any, at_most: int | None = MAX_ITEMS) -> bool:
    """Return whether ``value`` is a number, a string, None, or a container of at most ``at_most`` of these."""
    if type(value) in (list, tuple, set, deque, dict):
        inside = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        return (at_most is None or len(value) <= at_most) and all(_is_plain(item, at_most) for item in inside)
    return value is None or isinstance(value, (bool, int, float, complex, str))


class ModuleTensors:
    """The parameters and buffers that one module holds itself: which they are, and their values in host memory.

    Args:
        module: the module.
        copies: the copies of all tensors so far, by the identity of the tensor; those of this module are added.
    """

    def __init__(self, module: Any, copies: dict[int, HostCopy]) -> None:
        self._module, self._training = module, module.training
        # Also those that are None: a buffer may be filled later.
        self._held = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
        tensors = [tensor for held in self._held.values() for tensor in held.values() if tensor is not None]
        for tensor in tensors:
            if id(tensor) not in copies:
                copies[id(tensor)] = HostCopy(tensor)
        self._values = [(copies[id(tensor)], tensor, tensor.requires_grad) for tensor in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the same tensors back into their places, and their values into them."""
        self._module.training = self._training
        for kind, held in self._held.items():
            places = getattr(self._module, kind)
            places.clear()
            places.update(held)
        for value, tensor, requires_grad in self._values:
            value.write_into(tensor)
            tensor.requires_grad_(requires_grad)


class HostCopy:
    """The value of one tensor in host memory; of a sharded one (DTensor), this rank's shard, and how it is sharded."""

    def __init__(self, tensor: Any) -> None:
        """Copy it."""
        tensor = tensor.detach()
        self._value = _own_part(tensor).to("cpu", copy=True)
        self._device = tensor.device
        self._sharding: Any = None
        if hasattr(tensor, "to_local"):
            self._sharding = {"device_mesh": tensor.device_mesh, "placements": tensor.placements}
            self._sharding |= {"shape": tensor.shape, "stride": tensor.stride()}
            self._from_local = type(tensor).from_local

    def write_into(self, tensor: Tensor) -> None:
        """Give ``tensor`` the copied value, in its own memory where it still has the size."""
        part = _own_part(tensor)
        if part.shape == self._value.shape:
            part.copy_(self._value)
        else:
            tensor.data = self._value.to(tensor.device, copy=True)

    def original(self, *, keep: bool) -> Any:
        """Return a tensor with the value: in host memory; a sharded one on its devices.

        With ``keep``, one that may be changed: loading copies what comes from another device, and nothing else.
        """
        value = self._value.clone() if keep and self._device.type == "cpu" else self._value
        if self._sharding is None:
            return value
        return self._from_local(value.to(self._device), run_check=False, **self._sharding)


def _own_part(tensor: Any) -> Any:
    """Return ``tensor``, or the shard of it that this rank holds; the same memory, where gradients are off."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class MetricState:
    """The states of one metric of torchmetrics, which are neither parameters nor buffers."""

    def __init__(self, metric: Metric) -> None:
        """Remember them."""
        self._metric = metric
        names = [*metric._defaults, "_update_count", "_computed"]
        self._state = {name: deepcopy(getattr(metric, name)) for name in names}

    def restore(self) -> None:
        """Put them back."""
        for name, value in self._state.items():
            setattr(self._metric, name, deepcopy(value))


def copy_of_state(state: Any) -> Any:
    """Return a copy of an optimizer's state with a :class:`HostCopy` in the place of each tensor.

    The param groups are copied as they are: loading moves what belongs to a parameter back to its device, but not a
    tensor lr.
    """
    if isinstance(state, Tensor):
        return HostCopy(state)
    if isinstance(state, dict):
        copied = copy(state)  # a module's state also has attributes
        copied.update({key: deepcopy(of) if key == "param_groups" else copy_of_state(of) for key, of in state.items()})
        return copied
    if type(state) in (list, tuple):
        return type(state)(map(copy_of_state, state))
    return deepcopy(state)


def original_of(copied: Any, *, keep: bool) -> Any:
    """Return the state that :func:`copy_of_state` has copied, to be loaded.

    With ``keep``, loading and training leave ``copied`` as it is.
    """
    if isinstance(copied, HostCopy):
        return copied.original(keep=keep)
    if isinstance(copied, dict):
        original = copy(copied)
        for key, value in copied.items():
            original[key] = deepcopy(value) if key == "param_groups" else original_of(value, keep=keep)
        return original
    if type(copied) in (list, tuple):
        return type(copied)(original_of(value, keep=keep) for value in copied)
    return deepcopy(copied)


def reshard(module: Any) -> None:
    """Have a module of FSDP2 hold its shards again: after a forward pass alone it may hold the gathered parameters."""
    for part in module.modules():
        if is_one_of(part, "FSDPModule"):
            part.reshard()


def is_one_of(thing: Any, *class_names: str) -> bool:
    """Return whether ``thing`` is an instance of a class with one of these names."""
    # By name: what is not used need not be imported, and may be missing in this version of torch.
    return any(cls.__name__ in class_names for cls in type(thing).__mro__)


def refuse_lazy_parameters(module: Any) -> None:
    """Raise ValueError where a lazy module (LazyLinear, for example) has not seen any data yet."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"{name} of {type(module).__name__} is a lazy parameter without a shape or a value, so the range test"
                " could not put it back: before fit, call the module once with a batch of data (module(batch))"
            )
