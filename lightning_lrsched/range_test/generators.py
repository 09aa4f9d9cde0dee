"""What a range test uses up of the data: random generators, global ones too, and the position of a loader."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

MAX_ITEMS = 100
"""Containers with more entries hold data, not loaders."""


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


def global_states() -> list[Callable[[], object]]:
    """Remember the global generators of torch (on every device), numpy and Python; return what restores each."""
    resets: list[Callable[[], object]] = [
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(np.random.set_state, np.random.get_state()),  # noqa: NPY002 - the one that user code may use
        partial(random.setstate, random.getstate()),
    ]
    if torch.cuda.is_available():
        resets.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        resets.append(partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))
    return resets


def generator_states(source: Any) -> list[Callable[[], object]]:
    """Remember the generators of loaders, samplers and datasets; return a function for each that restores it.

    They are looked for in ``source`` itself, in its attributes and in containers: generators of torch, of numpy (also
    its old RandomState) and of Python's random, and loaders with a ``state_dict``.
    """
    resets: list[Callable[[], object]] = []
    seen: set[int] = set()
    waiting = [source, *getattr(source, "__dict__", {}).values()]
    while waiting:
        thing = waiting.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            reset = _reset_of(thing)
            if reset is not None:
                resets.append(reset)
            waiting.extend(_parts(thing))
    return resets


def _reset_of(thing: Any) -> Callable[[], object] | None:
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
        if isinstance(thing, kind):
            return partial(getattr(thing, load), deepcopy(getattr(thing, save)()))
    return None


def _parts(thing: Any) -> Iterable[Any]:
    """Return the parts of ``thing`` that may hold a generator."""
    if isinstance(thing, DataLoader):
        return thing.generator, thing.sampler, thing.batch_sampler, thing.dataset
    if isinstance(thing, (list, tuple)):
        return thing if len(thing) <= MAX_ITEMS else ()
    if isinstance(thing, dict):
        return thing.values() if len(thing) <= MAX_ITEMS else ()
    if type(thing).__name__ == "CombinedLoader":  # Lightning's, from either of its distributions
        return (thing.iterables,)
    return vars(thing).values() if isinstance(thing, (Sampler, Dataset)) or _is_loader_of_fabric(thing) else ()


def _is_loader_of_fabric(thing: Any) -> bool:
    return type(thing).__name__ == "_FabricDataLoader"
