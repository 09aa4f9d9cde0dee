"""What a trial run changes and what puts it back, bit for bit: modules, optimizers, random generators, loaders."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy, deepcopy
from functools import partial
from operator import attrgetter
from types import MethodType
from typing import Any, Protocol, runtime_checkable
from weakref import ProxyTypes

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

MAX_ITEMS = 100
"""Containers with more entries hold data: they get their entries back, but what is inside of these is not looked at."""

MAX_ENTRIES = 10**6
"""Containers of data with more entries do not get them back."""

MAX_BYTES = 2**30
"""A larger tensor or array among a module's attributes is data, not a state."""

NOT_OF_THE_USER = {*vars(Module()), "_current_fx_name", "_trainer", "_fabric"}
"""Attributes that torch and Lightning keep up to date themselves."""

OF_OPTIMIZERS = {*vars(SGD([torch.zeros(1)])), "step", "_opt_called", "_lightning_lrsched_clocks"}
"""Attributes of optimizers that are put back otherwise, or belong to schedulers."""

NO_ATTRIBUTES = ("__dict__", "__weakref__")
"""Slots that hold no attribute."""

OF_PYTHON = ("argparse", "collections", "queue", "types", "weakref")
"""Packages of Python whose objects hold others: their attributes are looked at, like those of the user's objects."""

FRAMEWORKS = ("torch", "torchmetrics", "lightning", "pytorch_lightning", "lightning_fabric", "numpy", "builtins")
FRAMEWORK_CLASSES = ("Trainer", "Fabric", "Strategy", "Callback", "Logger", "LightningDataModule")
"""Whatever package the user's own subclass is in."""

PARTS = [name for name, value in vars(Module()).items() if isinstance(value, (dict, set))]
"""Where torch keeps what a module consists of: parameters, buffers, submodules, hooks."""

TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")

STAYING = (
    "lightning_lrsched.",
    "torch.distributed",
    "deepspeed",
    "lightning.",
    "pytorch_lightning.",
    "lightning_fabric.",
)
"""The hooks of these, which they add with the first batch at the latest, stay: else they would be half set up."""

WRAPPERS = ("FullyShardedDataParallel", "DistributedDataParallel", "_FabricModule")
"""Modules around the user's, whose attributes say how far they are set up: that is not undone after a trial."""

CONTAINERS = (OrderedDict, dict, list, deque, set, bytearray)
"""What is of one of these types, or inherits it, gets its entries back by the methods of this type."""

Reset = Callable[[], object]


# Module and optimizers ------------------------------------------------------------------------------------------------


class ModelSnapshot:
    """Remembers parameters, buffers, metrics, attributes and optimizer states, in host memory.

    Of tensors that are sharded over several devices (DTensors), each rank keeps its own shard. The copies are not in
    pinned memory: they are copied once in each direction, while to pin takes longer than that, rounds every tensor's
    size up to a power of two, and is not given back to the system.

    Args:
        module: the module that a trial run is about to train.
        optimizers: all of its optimizers, and whatever else has a ``state_dict`` and a ``load_state_dict``.
        earlier: an earlier snapshot of the same module; copies that are equal to those in it are kept only once.
        beside: other objects whose attributes change: callbacks, a datamodule.

    Raises:
        ValueError: if the module has lazy parameters, which have no value yet that could be restored.
    """

    def __init__(
        self,
        module: Module,
        optimizers: Sequence[Any],
        earlier: ModelSnapshot | None = None,
        beside: Sequence[object] = (),
    ) -> None:
        refuse_lazy_parameters(module)
        reshard(module)
        self._module = module
        self.copies: dict[int, HostCopy] = {}  # a parameter that two modules share is copied once
        known = {} if earlier is None else earlier.copies
        parts = list(module.modules())
        self._parts = [ModuleParts(part, self.copies, known) for part in parts]
        packages = {_package_of(part) for part in (*parts, *beside)}
        self._contents = Contents([*optimizers, *parts, *module.parameters(), *module.buffers()], packages)
        owners = [part for part in (*parts, *beside) if not is_one_of(part, *WRAPPERS)]
        self._attributes = [self._contents.attributes_of(owner) for owner in owners]
        tensors = [each for each in (*module.parameters(), *module.buffers()) if _package_of(each) == "torch"]
        self._attributes += [self._contents.attributes_of(tensor, _is_of_a_framework) for tensor in tensors]
        self._optimizers = [self._contents.state_of(optimizer) for optimizer in optimizers]
        self._contents.add(generators_beside([*parts, *beside]))

    def restore(self, *, keep: bool = False) -> None:
        """Put everything back.

        Args:
            keep: keep the copies for another trial; else they are dropped, and a second call changes nothing.
        """
        reshard(self._module)
        for reset in self._attributes:
            reset()
        self._contents.restore()
        for part in self._parts:
            part.restore()
        for state in self._optimizers:
            state.restore(keep=keep)
        if not keep:
            self._parts, self._attributes, self._optimizers, self.copies = [], [], [], {}
            self._contents = Contents()


class ModuleParts:
    """What one module consists of: its class, submodules and hooks, parameters and buffers, and the values of these.

    Args:
        module: the module.
        copies: the copies of all tensors so far, by the identity of the tensor; those of this module are added.
        known: the copies of an earlier snapshot.
    """

    def __init__(self, module: Module, copies: dict[int, HostCopy], known: dict[int, HostCopy]) -> None:
        self._module, self._class, self._training = module, type(module), module.training
        # Also parameters and buffers that are None: they may be filled later. Those of a compiled script stay.
        places = [getattr(module, name) for name in PARTS]
        self._held = [(each, copy(each)) for each in places if isinstance(each, CONTAINERS)]
        held = [*module._parameters.values(), *module._buffers.values()]
        tensors = [tensor for tensor in held if tensor is not None]
        for tensor in tensors:
            if id(tensor) not in copies:
                copies[id(tensor)] = HostCopy(tensor, known.get(id(tensor)))
        self._values = [
            (copies[id(tensor)], tensor, tensor.requires_grad, _hooks_of(tensor, TENSOR_HOOKS)) for tensor in tensors
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the same parts back into their places, and their values into the tensors."""
        if type(self._module) is not self._class:  # a parametrization gives a module a class of its own
            self._module.__class__ = self._class
        self._module.training = self._training
        for places, held in self._held:
            _refill(places, held, keep=_stays)
        for value, tensor, requires_grad, restore_hooks in self._values:
            value.write_into(tensor)
            tensor.requires_grad_(requires_grad).grad = None
            restore_hooks()


def _hooks_of(thing: object, names: Iterable[str]) -> Reset:
    """Remember the hooks of a tensor or an optimizer; return what removes those that have come since."""
    held = {name: copy(getattr(thing, name, None) or {}) for name in names}

    def reset() -> None:
        for name, hooks in held.items():
            if getattr(thing, name, None) is not None:
                _refill(getattr(thing, name), hooks, keep=_stays)

    return reset


def _stays(part: object) -> bool:
    """Return whether what has come into a module or an optimizer is such a hook, or True, which stands beside it."""
    home = getattr(getattr(part, "func", part), "__module__", None) or ""
    return part is True or (not isinstance(part, Module) and home.startswith(STAYING))


class HostCopy:
    """The value of one tensor in host memory; of a sharded one (DTensor), this rank's shard, and how it is sharded.

    Args:
        tensor: the tensor.
        earlier: an earlier copy of it; where it is equal, there is no second one.
    """

    def __init__(self, tensor: Any, earlier: HostCopy | None = None) -> None:
        tensor = tensor.detach()
        self._value = tensor if tensor.is_meta else _own_part(tensor).to("cpu", copy=True)
        if earlier is not None and _equal(self._value, earlier._value):
            self._value = earlier._value
        self._device = tensor.device
        self._sharding: Any = None
        if hasattr(tensor, "to_local"):
            self._sharding = {"device_mesh": tensor.device_mesh, "placements": tensor.placements}
            self._sharding |= {"shape": tensor.shape, "stride": tensor.stride()}
            self._from_local = type(tensor).from_local

    def write_into(self, tensor: Tensor) -> None:
        """Give ``tensor`` the copied value, in its own memory where it still has the size."""
        part, value = _own_part(tensor), self._value
        if part.shape == value.shape:
            if part.layout == torch.strided and 0 in part.stride():  # an expanded tensor has one value for many places
                once = tuple(slice(None if stride else 1) for stride in part.stride())
                part, value = part[once], value[once]
            with torch.inference_mode() if part.is_inference() else torch.no_grad():
                part.copy_(value)
        else:
            tensor.data = value.to(tensor.device, copy=True)

    def original(self, *, keep: bool) -> Any:
        """Return a tensor with the value, on its device; with ``keep``, one that may be changed."""
        value = self._value.to(self._device, copy=keep)
        return value if self._sharding is None else self._from_local(value, run_check=False, **self._sharding)


def _own_part(tensor: Any) -> Any:
    """Return ``tensor``, or the shard of it that this rank holds; the same memory, where gradients are off."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _equal(first: Tensor, second: Tensor) -> bool:
    comparable = first.layout == torch.strided and not first.is_meta
    return comparable and first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)


class State:
    """The state of an optimizer, or of whatever else has a ``state_dict``.

    An optimizer's is put back in place: others may share its state and its param groups.

    Args:
        thing: the optimizer.
    """

    def __init__(self, thing: Any) -> None:
        self._thing, self._restore_hooks = thing, _hooks_of(thing, OPTIMIZER_HOOKS)
        self._copy = copy_of_state(thing.state if isinstance(thing, Optimizer) else thing.state_dict())

    def restore(self, *, keep: bool) -> None:
        """Put it back; with ``keep``, it can be repeated."""
        self._restore_hooks()
        if isinstance(self._thing, Optimizer):
            self._thing.state.clear()  # before the device gets the old one: it may not hold both
            self._thing.state.update(original_of(self._copy, keep=keep))
        else:
            self._thing.load_state_dict(original_of(self._copy, keep=keep))


def copy_of_state(state: Any) -> Any:
    """Return a copy of an optimizer's state with a :class:`HostCopy` in the place of each tensor."""
    if isinstance(state, Tensor):
        return HostCopy(state)
    if isinstance(state, dict):
        copied = copy(state)  # a module's state also has attributes
        copied.update({key: copy_of_state(value) for key, value in state.items()})
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
        original.update({key: original_of(value, keep=keep) for key, value in copied.items()})
        return original
    if type(copied) in (list, tuple):
        return type(copied)(original_of(value, keep=keep) for value in copied)
    return deepcopy(copied)


def reshard(module: Module) -> None:
    """Have a module of FSDP2 hold its shards again: after a forward pass alone it may hold the gathered parameters."""
    for part in module.modules():
        if is_one_of(part, "FSDPModule"):
            part.reshard()  # type: ignore[operator]


def is_one_of(thing: object, *class_names: str) -> bool:
    """Return whether ``thing`` is an instance of a class with one of these names."""
    # By name: what is not used need not be imported, and may be missing in this version of torch.
    return not set(map(attrgetter("__name__"), type(thing).__mro__)).isdisjoint(class_names)


def refuse_lazy_parameters(module: Module) -> None:
    """Raise ValueError where a lazy module (LazyLinear, for example) has not seen any data yet."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"{name} of {type(module).__name__} is a lazy parameter without a shape or a value, so the range test"
                " could not put it back: before fit, call the module once with a batch of data (module(batch))"
            )


# Attributes -----------------------------------------------------------------------------------------------------------


class Contents:
    """What can change inside of the attributes of objects: it is put back into the same containers and tensors.

    Looked into are containers, tensors and arrays, generators, modules, optimizers, whatever else has a ``state_dict``,
    and other objects of the user's own package. What holds data is left alone.

    Args:
        seen: what is put back by somebody else.
        packages: the top-level packages of the user's code; those of the frameworks are left out.
    """

    def __init__(self, seen: Iterable[object] = (), packages: Iterable[str] = ()) -> None:
        self._seen = {id(thing): thing for thing in seen}  # held: the id of what is gone may be used again
        self._packages = {*packages, *OF_PYTHON} - {*FRAMEWORKS}
        self._resets: list[Reset] = []
        self._waiting: list[object] | None = None

    def restore(self) -> None:
        """Put everything back; it can be repeated."""
        _call(*self._resets)

    def attributes_of(self, thing: object, but: Callable[[str], bool] = NOT_OF_THE_USER.__contains__) -> Reset:
        """Remember what the attributes of ``thing`` hold; return what sets them again and removes new ones."""
        attributes = vars(thing)
        held = {name: value for name, value in attributes.items() if not but(name)}
        self.add(held.values())
        return partial(_set_attributes, attributes, held, but)

    def state_of(self, thing: Any) -> State:
        """Remember what is inside of an optimizer, beside its state, which is returned."""
        if isinstance(thing, Optimizer):
            groups = thing.param_groups
            self.add([groups, *groups, *(parameter for group in groups for parameter in group["params"])])
            if _package_of(thing) not in FRAMEWORKS:
                self._resets.append(self.attributes_of(thing, OF_OPTIMIZERS.__contains__))
        return State(thing)

    def add(self, things: Iterable[object]) -> None:
        """Remember what is inside of ``things``."""
        if self._waiting is not None:  # not by recursion: a chain of objects may be long
            self._waiting.extend(things)
            return
        self._waiting = [*things]
        while self._waiting:
            thing = self._waiting.pop()
            if type(thing) in ProxyTypes:  # of what is held elsewhere, or no longer exists
                continue
            thing = thing.__self__ if isinstance(thing, MethodType) else thing
            plain = thing is None or isinstance(thing, (bool, int, float, complex, str, bytes, type))
            if not plain and id(thing) not in self._seen and not is_one_of(thing, *FRAMEWORK_CLASSES):
                self._seen[id(thing)] = thing
                reset = self._reset_of_container(thing) or _reset_of_values(thing) or self._reset_of_object(thing)
                if reset is not None and reset is not _nothing:
                    self._resets.append(reset)
        self._waiting = None

    def _reset_of_container(self, thing: Any) -> Reset | None:
        if isinstance(thing, partial):
            self.add([thing.func, thing.args, thing.keywords])
        if not isinstance(thing, (*CONTAINERS, tuple)):
            return None
        content = thing if isinstance(thing, tuple) else _content_of(thing)
        if len(content) <= MAX_ITEMS:
            self.add(content.values() if isinstance(content, dict) else content)
        if isinstance(thing, tuple):
            return _nothing
        attributes = self.attributes_of(thing) if self._is_of_the_user(thing) else _nothing
        return partial(_call, partial(_refill, thing, content), attributes)

    def _is_of_the_user(self, thing: object) -> bool:
        return hasattr(thing, "__dict__") and _package_of(thing) in self._packages

    def _reset_of_object(self, thing: Any) -> Reset | None:
        if isinstance(thing, Module):  # one that is no part of the trained module
            self.add(thing.children())
            parts, attributes = ModuleParts(thing, {}, {}), self.attributes_of(thing)
            return partial(_call, parts.restore, attributes)
        if isinstance(thing, Optimizer):  # one of its own
            return partial(self.state_of(thing).restore, keep=True)
        slots = self._slots_of(thing) if _package_of(thing) in self._packages else _nothing
        if self._is_of_the_user(thing):
            attributes = self.attributes_of(thing)
            return partial(_call, attributes, slots)
        if slots is _nothing and hasattr(type(thing), "state_dict") and hasattr(type(thing), "load_state_dict"):
            return partial(State(thing).restore, keep=True)
        return slots

    def _slots_of(self, thing: object) -> Reset:
        """Remember what an object holds in ``__slots__``; return what sets them again."""
        listed = [vars(cls).get("__slots__", ()) for cls in type(thing).__mro__]
        names = [name for slots in listed for name in ([slots] if isinstance(slots, str) else slots)]
        held = {name: getattr(thing, name) for name in names if name not in NO_ATTRIBUTES and hasattr(thing, name)}
        self.add(held.values())

        def reset() -> None:
            for name, value in held.items():
                object.__setattr__(thing, name, value)  # it may be frozen

        return reset


def _reset_of_values(thing: object) -> Reset | None:
    """Return what restores the values of a tensor, an array or a generator; nothing is done with what holds data."""
    if isinstance(thing, Tensor):
        # One with a history belongs to a graph that may still be used; such a tensor is replaced, not changed.
        own = thing.grad_fn is None and not is_lazy(thing) and not thing.is_nested
        own = own and thing.numel() * thing.element_size() <= MAX_BYTES
        return partial(_set_tensor, thing, HostCopy(thing), thing.requires_grad, thing.grad) if own else _nothing
    if isinstance(thing, np.ndarray):
        own = thing.flags.writeable and thing.nbytes <= MAX_BYTES
        return partial(np.copyto, thing, thing.copy()) if own else _nothing
    return _nothing if isinstance(thing, (DataLoader, Dataset, Sampler)) else _reset_of(thing)


def _set_tensor(tensor: Tensor, value: HostCopy, requires_grad: bool, grad: Tensor | None) -> None:
    value.write_into(tensor)
    tensor.requires_grad_(requires_grad).grad = grad


def _is_of_a_framework(name: str) -> bool:
    """Return whether an attribute of a tensor, by its name, is of torch or DeepSpeed."""
    return name.startswith(("_", "ds_"))


def _call(*resets: Reset) -> None:
    for reset in resets:
        reset()


def _nothing() -> None:
    """Change nothing."""


def _package_of(thing: object) -> str:
    return type(thing).__module__.partition(".")[0]


def _content_of(container: Any) -> Any:
    """Return a copy of what a container holds, as a list or a dictionary."""
    base: Any = next(base for base in CONTAINERS if isinstance(container, base))
    return dict(base.items(container)) if issubclass(base, dict) else [*base.__iter__(container)]


def _refill(container: Any, content: Any, keep: Callable[[object], bool] | None = None) -> None:
    """Give a container its content again; in a mapping, beside what has come since and is to be kept."""
    # A class of the user's own may do more with its entries than to hold them.
    base: Any = next(base for base in CONTAINERS if isinstance(container, base))
    if keep is not None and isinstance(container, dict):
        content = {**content, **{key: value for key, value in container.items() if key not in content and keep(value)}}
    base.clear(container)
    if issubclass(base, dict):
        for key, value in content.items():
            base.__setitem__(container, key, value)
    else:
        (base.update if base is set else base.extend)(container, content)


def _set_attributes(attributes: dict[str, object], held: dict[str, object], but: Callable[[str], bool]) -> None:
    for name in [name for name in attributes if name not in held and not but(name)]:
        del attributes[name]
    attributes.update(held)


# Random numbers and the position of loaders ---------------------------------------------------------------------------


@runtime_checkable
class Loader(Protocol):
    """Data that keeps its position, as Lightning saves it in a checkpoint."""

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...  # noqa: D102


STATES = (
    (Generator, "get_state", "set_state"),
    (np.random.RandomState, "get_state", "set_state"),
    (random.Random, "getstate", "setstate"),
    (Loader, "state_dict", "load_state_dict"),
)
"""What has a state that changes with every batch, and its methods to save and to load it."""


GENERATORS = (Generator, np.random.Generator, np.random.RandomState, random.Random)


def generators_beside(things: Iterable[object]) -> list[object]:
    """Return the random generators at the top of the files in which the classes of these things are, the user's own."""
    names = {cls.__module__ for thing in things for cls in type(thing).__mro__}
    files = [
        vars(sys.modules[name]) for name in names if name.partition(".")[0] not in FRAMEWORKS and name in sys.modules
    ]
    return [value for file in files for value in file.values() if isinstance(value, GENERATORS)]


def global_states() -> list[Reset]:
    """Remember the global generators of torch (on every device), numpy and Python; return what restores each."""
    resets: list[Reset] = [
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(np.random.set_state, np.random.get_state()),  # noqa: NPY002 - the one that user code may use
        partial(random.setstate, random.getstate()),
    ]
    if torch.cuda.is_available():
        resets.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        resets.append(partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))
    return resets


def generator_states(source: object) -> list[Reset]:
    """Remember where loaders, samplers and datasets are; return functions that restore it.

    They are looked for in ``source`` itself, in its attributes and in containers: generators of torch, of numpy (also
    its old RandomState) and of Python's random, loaders with a ``state_dict``, and what data of the user's own package
    count or shuffle in place.
    """
    parts = [*_walk(source)]
    found = [_reset_of(thing) or (_counts_of(thing) if own else None) for thing, own in parts]
    found += map(_reset_of, generators_beside(thing for thing, own in parts if own))
    return [reset for reset in found if reset is not None]


def loaders_in(source: object) -> list[DataLoader[Any]]:
    """Return the loaders in ``source``, its attributes and containers, each once."""
    return [thing for thing, _ in _walk(source) if isinstance(thing, DataLoader)]


def _walk(source: object) -> Iterator[tuple[Any, bool]]:
    """Return everything that may belong to data, each once, and whether it is data of the user's own package."""
    seen: set[int] = set()
    packages: set[str] = set()
    # What a module or its data hold beside data is put back with their attributes.
    holds_more = isinstance(source, Module) or is_one_of(source, "LightningDataModule")
    waiting = [*((each, False) for each in getattr(source, "__dict__", {}).values()), (source, not holds_more)]
    while waiting:
        thing, within = waiting.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            is_data, parts = isinstance(thing, (DataLoader, Sampler, Dataset)), [*_parts(thing)]
            within |= is_data
            if is_data or thing is source:
                packages.update({_package_of(each) for each in (thing, *parts)} - {*FRAMEWORKS})
            of_the_user = hasattr(thing, "__dict__") and _package_of(thing) in packages
            yield thing, within and (of_the_user or isinstance(thing, (*CONTAINERS, Sampler)))
            waiting.extend(
                (part, within) for part in (*(vars(thing).values() if within and of_the_user else ()), *parts)
            )


def _counts_of(data: Any) -> Reset:
    """Return what restores the numbers and containers of data: a sampler may count its passes, or shuffle its list."""
    attributes = getattr(data, "__dict__", {})
    held = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (int, float, *CONTAINERS, Tensor, np.ndarray))
    }
    resets = [_reset_of_values(value) or _nothing for value in attributes.values() if isinstance(data, Sampler)]
    if isinstance(data, CONTAINERS) and len(data) <= MAX_ENTRIES:
        resets.append(partial(_refill, data, _content_of(data)))
    return partial(_call, partial(attributes.update, held), *resets)


def _reset_of(thing: Any) -> Reset | None:
    """Return a function that restores a generator to its present state; None for anything else."""
    if isinstance(thing, DistributedSampler):
        return partial(thing.set_epoch, thing.epoch)
    if _is_loader_of_fabric(thing):  # it sets the epoch of a distributed sampler to the number of passes so far
        return partial(setattr, thing, "_num_iter_calls", thing._num_iter_calls)
    if isinstance(thing, np.random.Generator):
        return partial(setattr, thing.bit_generator, "state", thing.bit_generator.state)
    if isinstance(thing, (type, DataLoader, Module)):
        return None
    for kind, save, load in STATES:
        if issubclass(type(thing), kind):  # not what an object makes up when it is asked for an attribute
            return partial(getattr(thing, load), deepcopy(getattr(thing, save)()))
    return None


def _parts(thing: Any) -> Iterable[Any]:
    """Return the parts of ``thing`` that may hold a generator."""
    if isinstance(thing, DataLoader):
        return thing.generator, thing.sampler, thing.batch_sampler, thing.dataset, thing.collate_fn
    if isinstance(thing, (list, tuple)):
        return thing if len(thing) <= MAX_ITEMS else ()
    if isinstance(thing, dict):
        return thing.values() if len(thing) <= MAX_ITEMS else ()
    if type(thing).__name__ == "CombinedLoader":  # Lightning's, from either of its distributions
        return (thing.iterables,)
    return vars(thing).values() if isinstance(thing, (Sampler, Dataset)) or _is_loader_of_fabric(thing) else ()


def _is_loader_of_fabric(thing: Any) -> bool:
    return type(thing).__name__ == "_FabricDataLoader"
