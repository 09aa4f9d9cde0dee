"""Reading configuration files: JSON as DeepSpeed reads it, and YAML; safely, with bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST_FILE = 1_000_000
"""Bytes; real configuration files stay below a hundredth of it."""


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the top-level mapping of a JSON or YAML file.

    JSON may hold comments and trailing commas, as in DeepSpeed. Nothing in the file is executed or imported.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is too large, cannot be parsed, repeats a key, or holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {str(path)!r}")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: larger than {LARGEST_FILE} bytes, this is no scheduler configuration")
    text = path.read_text(encoding="utf-8")
    try:
        content = _parse_yaml(text) if path.suffix.lower() in (".yaml", ".yml") else _parse_json(text)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply, this is no scheduler configuration") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: must hold a mapping of keys to values, got {type(content).__name__}")
    return dict(content)


def _parse_json(text: str) -> Any:
    import hjson  # noqa: PLC0415 - most users pass a dict and need no parser

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"key {key!r} stands here twice")
        return dict(pairs)

    return hjson.loads(text, object_pairs_hook=no_duplicates)


def _parse_yaml(text: str) -> Any:
    import yaml  # noqa: PLC0415 - most users pass a dict and need no parser

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from None
