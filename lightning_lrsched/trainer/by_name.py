"""Classes of Lightning known by their names: it comes in two distributions, and neither need be imported to ask."""

from __future__ import annotations

from typing import Any


def is_a(thing: Any, *class_names: str) -> bool:
    """Tell whether ``thing`` is an instance of a class with one of these names."""
    return any(cls.__name__ in class_names for cls in type(thing).__mro__)


def callbacks_named(trainer: Any, *class_names: str) -> list[Any]:
    """Return the trainer's callbacks that are instances of a class with one of these names; none without a trainer."""
    return [callback for callback in getattr(trainer, "callbacks", ()) if is_a(callback, *class_names)]
