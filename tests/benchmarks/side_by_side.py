"""Timings that can be compared: everything in one process, in turns, as medians and ratios."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def medians(candidates: Mapping[str, Callable[[], object]], *, rounds: int, calls: int) -> dict[str, float]:
    """Return the median time of one call [us] of each candidate; in every round each has its turn of ``calls`` calls.

    What else the machine does then hits all of them alike. The order is turned by one from round to round.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    gc.collect()
    gc.disable()
    try:
        for round_ in range(rounds):
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                call = candidates[name]
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                times[name].append((time.perf_counter() - start) / calls * 1e6)
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as an aligned table; numbers with three digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option that all benchmarks have."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=None, help="folder for the figures as JSON")
    return parser


def show(name: str, rows: list[dict[str, Any]], out: Path | None) -> None:
    """Print the table, and write the same figures as ``out/name.json``."""
    print(f"\n{name}\n{table(rows)}", flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        about = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        (out / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1), encoding="utf-8")
