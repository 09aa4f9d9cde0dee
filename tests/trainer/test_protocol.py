"""The Trainer of the installed Lightning has all that this package uses of one, also what is private to Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_type_hints

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from lightning_lrsched.trainer import protocol
from tests.kit.modules import Regression, data


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """(name, class that it must be like, or None) of everything that a protocol names."""
    yield from get_type_hints(cls).items()
    for name, member in vars(cls).items():
        if callable(member) and not name.startswith(("__", "_abc", "_no_init", "_proto")):
            yield name, None


def missing(thing: Any, cls: type, path: str) -> list[str]:
    found = []
    for name, like in members(cls):
        if not hasattr(thing, name):
            found.append(f"{path}.{name}")
        elif isinstance(like, type) and getattr(like, "_is_protocol", False):
            found += missing(getattr(thing, name), like, f"{path}.{name}")
    return found


def test_a_trainer_has_every_attribute_that_is_used(make_trainer):
    found: list[list[str]] = []

    class Look(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            found.append(missing(trainer, protocol.TrainerLike, "trainer"))

    make_trainer(Look(), max_epochs=1).fit(Regression(), data())
    assert found == [[]]


def test_the_protocol_is_walked_to_its_leaves():
    class Bare:
        fit_loop = object()

    names = missing(Bare(), protocol.TrainerLike, "trainer")
    assert {"trainer.strategy", "trainer.callbacks", "trainer.fit_loop.epoch_loop"} <= set(names)
    assert "trainer.fit_loop" not in names


def test_a_strategy_of_several_processes_has_what_is_used_of_it():
    assert hasattr(DDPStrategy(), *protocol.ParallelStrategy.__annotations__)
