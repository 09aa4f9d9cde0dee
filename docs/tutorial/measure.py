"""Measures the numbers of the tutorial, and draws its picture: run it when the range test or the page's code changes.

    python docs/tutorial/measure.py [--draw]

It runs the page's own module and data, on five seeds, for some minutes; with --draw, it draws the picture again from
what it wrote before. A test compares the page with that.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, RangeTestResult

FOLDER = Path(__file__).parent
RECORD, PICTURE = FOLDER / "first_range_test.json", FOLDER / "first_range_test.svg"
SEEDS = range(5)
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "the same picture again is the same file again"}


def code() -> dict[str, Any]:
    """Return the names that the page's first block defines."""
    page = (FOLDER / "first_range_test.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1], names)
    return names


def range_test(names: dict[str, Any], seed: int) -> RangeTestResult:
    """Make a range test as the page does."""
    seed_everything(seed, verbose=False)
    test = LRRangeTestCallback()
    Trainer(max_epochs=20, callbacks=[test], logger=False, enable_progress_bar=False).fit(
        names["Digits"](), names["train_data"]
    )
    return test.result


def trainings(names: dict[str, Any], result: RangeTestResult, seed: int) -> dict[str, float]:
    """Return row of the table -> accuracy [%] of one seed."""
    fixed = {"default": 0.001, "suggestion": result.suggestion(), **marks(result)}
    found = {row: names["train"](lr, seed=seed) for row, lr in fixed.items()}
    found["one_cycle"] = names["train"](callbacks=[LRSchedulerCallback(result.one_cycle())], seed=seed)
    return {row: round(100 * accuracy, 2) for row, accuracy in found.items()}


def marks(result: RangeTestResult) -> dict[str, float]:
    """Return the learning rates of the places in the plot that the page numbers."""
    low, high = result.bounds()
    lowest = min(range(len(result.lrs)), key=lambda index: result.smoothed_losses[index])
    return {"low": low, "high": high, "lowest": result.lrs[lowest], "end": result.lrs[-1]}


def loss_at(lr: float, lrs: list[float], losses: list[float]) -> float:
    """Return the loss that was recorded nearest to an lr."""
    return losses[min(range(len(lrs)), key=lambda index: abs(lrs[index] - lr))]


def draw(result: RangeTestResult) -> None:
    """Draw the plot of the range test with numbered places."""
    with mpl.rc_context(STYLE):
        figure = result.plot()
        (axes,) = figure.axes
        found = marks(result)
        flat = result.lrs[0] / 5  # which only the coarse sweep has seen
        others = (found["low"], result.suggestion(), found["high"], found["lowest"], found["end"])
        places = [(flat, loss_at(flat, result.coarse.lrs, result.coarse.losses))]
        places += [(lr, loss_at(lr, result.lrs, result.smoothed_losses)) for lr in others]
        for number, place in enumerate(places, start=1):
            axes.annotate(
                str(number),
                place,
                color="white",
                fontsize=8,
                ha="center",
                va="center",
                bbox={"boxstyle": "circle,pad=0.2", "facecolor": "#000000", "edgecolor": "none"},
                annotation_clip=False,
            )
        figure.savefig(PICTURE, metadata={"Date": None})
    PICTURE.write_text("\n".join(map(str.rstrip, PICTURE.read_text("utf-8").splitlines())) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print the table, write the record; with --draw, draw the picture from the record alone."""
    if "--draw" in sys.argv:
        draw(RangeTestResult.from_dict(json.loads(RECORD.read_text(encoding="utf-8"))["result"]))
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = code()
    results = [range_test(names, seed) for seed in SEEDS]
    rows = [trainings(names, result, seed) for seed, result in zip(SEEDS, results, strict=True)]
    table = {row: [one[row] for one in rows] for row in rows[0]}
    record = {
        "result": results[0].to_dict(),
        "suggestions": [result.suggestion() for result in results],
        "bounds": [result.bounds() for result in results],
        "accuracies": table,
    }
    RECORD.write_text(json.dumps(record) + "\n", encoding="utf-8")
    draw(results[0])
    print(results[0], {name: f"{lr:.2g}" for name, lr in marks(results[0]).items()}, results[0].caveats())
    for row, accuracies in table.items():
        print(f"{row:<12} {median(accuracies):.1f} ({min(accuracies):.1f} .. {max(accuracies):.1f})")


if __name__ == "__main__":
    main()
