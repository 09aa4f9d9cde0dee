"""Reading and writing configuration files: JSON as DeepSpeed reads it, and YAML; safely, with limits on their size."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 1024
"""Largest file; real configuration files are smaller than a tenth of it."""

MAX_DEPTH = 60
"""Levels of mappings and lists inside one another; real configuration files have less than ten."""

MAX_VALUES = 100_000
"""Values in a YAML file with its aliases expanded: a few lines of aliases of aliases can expand to billions."""

YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (".json", *YAML_SUFFIXES)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the top-level mapping of a JSON or YAML file.

    JSON may hold comments and trailing commas, as in DeepSpeed. Nothing in the file is executed or imported.

    Args:
        path: the file; with the suffix ``.yaml`` or ``.yml`` it is read as YAML, otherwise as JSON.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is too large or too deeply nested, cannot be parsed, repeats a key, or holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    # The file system's idea of the size is not used: some special files have none.
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES} bytes, this is not a scheduler configuration")
    try:
        text = content.decode("utf-8-sig")
        parsed = _parse_yaml(text) if path.suffix.lower() in YAML_SUFFIXES else _parse_json(text)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply, this is not a scheduler configuration") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(parsed, Mapping):
        raise ValueError(f"{path}: must hold a mapping of keys to values, got {type(parsed).__name__}")
    return dict(parsed)


def write_text(path: str | Path, text: str) -> None:
    """Write a file as a whole: a full disk leaves the one that was there before."""
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_file()):  # /dev/stdout must stay what it is
        path.write_text(text, encoding="utf-8")
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def dump_mapping(content: Mapping[str, object], form: str) -> str:
    """Return ``content`` as the text of a file; ``form`` is ``"json"`` or ``"yaml"``."""
    if form == "json":
        return json.dumps(content, indent=2, default=str) + "\n"
    import yaml  # noqa: PLC0415 - most users pass a dict and need no parser

    # Via JSON: the safe dumper does not know tuples and read-only mappings.
    text: str = yaml.safe_dump(json.loads(json.dumps(content, default=str)), sort_keys=False)
    return text


def _parse_json(text: str) -> object:
    import hjson  # noqa: PLC0415 - most users pass a dict and need no parser

    try:
        parsed = hjson.loads(text, object_pairs_hook=_without_duplicates)
    except hjson.HjsonDecodeError as error:
        raise ValueError(f"not valid JSON, even with comments and trailing commas allowed: {error}") from None
    except OverflowError:  # 1e999, which hjson makes an integer
        raise ValueError("not valid JSON: a number is too large") from None
    except (ValueError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - hjson stumbles over some broken texts, such as '''
        raise ValueError(f"not valid JSON: {type(error).__name__}: {error}") from None
    if _depth(parsed) > MAX_DEPTH:
        raise RecursionError
    return parsed


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} appears twice in one section")
    return mapping


def _parse_yaml(text: str) -> object:
    import yaml  # noqa: PLC0415 - most users pass a dict and need no parser

    # The safe loader accepts plain values only, no tags that name a class. In two stages: the tree is measured
    # before the values are made, because making them expands the aliases.
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, 1)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - values that do not fit their tags, such as !!bool maybe
        raise ValueError(f"not valid YAML: {type(error).__name__}: {error}") from None


def _measure(node: Any, known: dict[int, int], depth: int) -> int:
    """Return the number of values in ``node``, aliases expanded; refuse one that is too large, too deep or circular."""
    if depth > MAX_DEPTH or known.get(id(node)) == 0:
        raise RecursionError
    if id(node) not in known:
        known[id(node)] = 0  # being measured: finding it again inside itself is a cycle
        parts = node.value if isinstance(node.value, list) else []
        if node.id == "mapping":
            _without_duplicates([(key.value, None) for key, _ in parts if key.id == "scalar" and key.value != "<<"])
            parts = [part for pair in parts for part in pair]
        known[id(node)] = 1 + sum(_measure(part, known, depth + 1) for part in parts)
        if known[id(node)] > MAX_VALUES:
            raise ValueError(
                f"its aliases expand to more than {MAX_VALUES} values, this is not a scheduler configuration"
            )
    return known[id(node)]


def _depth(value: object) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)
