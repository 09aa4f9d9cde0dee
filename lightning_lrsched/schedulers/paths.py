"""A list of mappings among the parameters, as one value per path: ``phases[0].steps``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PATH = re.compile(r"(\w+)\[(\d+)\]\.(.+)")


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return path -> value; what is not a list of mappings stays as it is.

    >>> flatten({"start_lr": 0.0, "phases": [{"steps": 3, "lr": 1.0}, {"steps": 4}]})
    {'start_lr': 0.0, 'phases[0].steps': 3, 'phases[0].lr': 1.0, 'phases[1].steps': 4}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, (list, tuple)) and value and all(isinstance(entry, Mapping) for entry in value):
            for index, entry in enumerate(value):
                flat.update({f"{key}[{index}].{name}": item for name, item in entry.items()})
        else:
            flat[key] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`flatten` has flattened.

    >>> nest({"start_lr": 0.0, "phases[0].steps": 3, "phases[0].lr": 1.0, "phases[1].steps": 4})
    {'start_lr': 0.0, 'phases': [{'steps': 3, 'lr': 1.0}, {'steps': 4}]}
    """
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        found = PATH.fullmatch(path)
        if found is None:
            nested[path] = value
            continue
        entries = nested.setdefault(found[1], [])
        if int(found[2]) == len(entries):
            entries.append({})
        entries[-1][found[3]] = value
    return nested
