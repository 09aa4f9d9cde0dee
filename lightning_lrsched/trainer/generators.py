"""The random generators behind a trainer's data: of dataloaders and samplers, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Generator
from torch.utils.data import DataLoader, Sampler

from lightning_lrsched.trainer.protocol import is_a

MOST_ITEMS = 100
"""Containers with more entries hold data, no loaders."""


def generators_in(source: Any) -> list[Generator]:
    """Return the generators of loaders and samplers: ``source`` itself, or those in its containers or attributes."""
    found: list[Generator] = []
    seen: set[int] = set()
    waiting = [source, *getattr(source, "__dict__", {}).values()]
    while waiting:
        thing = waiting.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            if isinstance(thing, Generator):
                found.append(thing)
            waiting.extend(_parts(thing))
    return found


def _parts(thing: Any) -> Iterable[Any]:
    """Return what of ``thing`` may hold a generator."""
    if isinstance(thing, DataLoader):
        return thing.generator, thing.sampler, thing.batch_sampler
    if isinstance(thing, (list, tuple)):
        return thing if len(thing) <= MOST_ITEMS else ()
    if isinstance(thing, dict):
        return thing.values() if len(thing) <= MOST_ITEMS else ()
    if is_a(thing, "CombinedLoader"):
        return (thing.iterables,)
    return vars(thing).values() if isinstance(thing, Sampler) else ()
