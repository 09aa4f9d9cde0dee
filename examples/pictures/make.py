"""Draws the README's pictures: the schedules, a range test, the large-batch experiment.

    python examples/pictures/make.py

Text and lines have colours that stand out from a white page as from a nearly black one; the ground is transparent. Two
experiments take long: their pictures come from the records that ``large_batch.py --full`` and ``cooldown.py`` left. The
screenshots of TensorBoard need a browser: ``tensorboard_pages.py`` makes them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from lightning.pytorch import seed_everything
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parents[1])]  # the examples, and the package where it is not installed

import cooldown  # noqa: E402
import digits  # noqa: E402
import large_batch  # noqa: E402
from common import make_trainer, quieten  # noqa: E402

from lightning_lrsched import LRRangeTestCallback, RangeTestResult, SchedulerConfig  # noqa: E402
from lightning_lrsched.schedulers import ClosedFormLR  # noqa: E402

GREY = "#808080"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.prop_cycle": mpl.cycler(color=["#3a86c8", "#d9731a", "#2f9e44"]),
    "grid.color": GREY,
    "legend.edgecolor": GREY,
    "legend.facecolor": "none",
    "legend.framealpha": 1.0,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # letters, not outlines of letters: a tenth of the size
    "svg.hashsalt": "the same picture again is the same file again",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}

SCHEDULES: dict[str, tuple[list[dict[str, Any]], int]] = {
    "LRRangeTest": ([{"lr_range_test_min_lr": 0.001, "lr_range_test_step_size": 2}], 10),
    "OneCycle": (
        [
            {
                "cycle_min_lr": 0.01,
                "cycle_max_lr": 0.1,
                "cycle_first_step_size": 4,
                "decay_step_size": 2,
                "decay_lr_rate": 4.0,
            }
        ],
        12,
    ),
    "WarmupLR": ([{"warmup_max_lr": 0.1, "warmup_num_steps": 4, "warmup_type": kind} for kind in ("log", "linear")], 8),
    "WarmupDecayLR": ([{"warmup_max_lr": 0.1, "warmup_num_steps": 2, "total_num_steps": 8}], 8),
    "WarmupCosineLR": ([{"warmup_num_steps": 2, "total_num_steps": 8}], 8),
    "WarmupStableDecayLR": (
        [
            {
                "warmup_max_lr": 0.1,
                "warmup_num_steps": 2,
                "total_num_steps": 10,
                "decay_num_steps": 6,
                "decay_type": kind,
            }
            for kind in ("linear", "cosine", "1-sqrt")
        ],
        12,
    ),
    "PhasedLR": (
        [
            {
                "phases": [
                    {"steps": 2, "lr": 0.1, "momentum": 0.8},
                    {"steps": 4},
                    {"steps": 4, "lr": 0.02, "momentum": 0.9, "shape": "cosine"},
                ],
                "start_momentum": 0.9,
            }
        ],
        12,
    ),
}
"""Parameters and length of the README's example of each type, on SGD at lr 0.1 with momentum 0.9."""


def build(name: str, params: dict[str, Any]) -> ClosedFormLR:
    """Return the schedule of the README's table with these parameters."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    return SchedulerConfig.of({"type": name, "params": params}).build(optimizer)


def draw_schedule(name: str) -> Figure:
    """Return a picture small enough for a table's cell: the lr after each step, and the momentum where it cycles."""
    variants, length = SCHEDULES[name]
    schedules = [build(name, params) for params in variants]
    has_momentum = schedules[0].momentum_at(0) is not None
    figure = Figure((2.6, 2.4 if has_momentum else 1.5), layout="constrained")
    plots = figure.subplots(2 if has_momentum else 1, squeeze=False)[:, 0]
    steps = range(length + 1)
    plots[-1].set_xticks(range(0, length + 1, 2))
    for schedule, params in zip(schedules, variants, strict=True):
        label = params.get("decay_type", params.get("warmup_type"))
        plots[0].plot(steps, [schedule.lr_at(step)[0] for step in steps], marker="o", markersize=3, label=label)
    plots[0].set_ylabel("lr")
    if len(schedules) > 1:
        plots[0].legend(loc="lower right" if name == "WarmupLR" else "lower left")
    if has_momentum:
        momenta = [schedules[0].momentum_at(step)[0] for step in steps]
        plots[1].plot(steps, momenta, marker="o", markersize=3, color="#d9731a")
        plots[1].set_ylabel("momentum")
    plots[-1].set_xlabel("step")
    for plot in plots:
        plot.set_ylim(bottom=0.0 if plot is plots[0] else None)
        plot.grid(alpha=0.3)
    return figure


def save(figure: Figure, name: str) -> None:
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    # Without the spaces that matplotlib leaves at the ends of lines, which no editor and no reviewer likes.
    path.write_text("\n".join(map(str.rstrip, path.read_text("utf-8").splitlines())) + "\n", encoding="utf-8")
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


def range_test() -> RangeTestResult:
    """Make the range test of the digits example, in a fit of its own."""
    seed_everything(0, verbose=False)
    test = LRRangeTestCallback()
    with tempfile.TemporaryDirectory() as logs:
        make_trainer(Path(logs), "range_test", test).fit(digits.Digits(), digits.loaders(0)[0])
    return test.result


def main() -> None:
    quieten()
    torch.set_num_threads(1)
    with mpl.rc_context(STYLE):
        for name in SCHEDULES:
            save(draw_schedule(name), name)
        save(range_test().plot(), "range_test")
        save(cooldown.draw(json.loads((FOLDER / "cooldown.json").read_text("utf-8"))), "cooldown")
        record = large_batch.read_record(FOLDER / "large_batch.json")
        tests, trainings = large_batch.draw(record["records"], record["best_lr"])
        save(tests, "large_batch_tests")
        save(trainings, "large_batch_trainings")


if __name__ == "__main__":
    main()
