"""Draws the pictures of README and documentation: a probe, a range test, the large-batch experiment, cooldowns.

    python examples/pictures/make.py

Text and lines have colours that stand out from a white page as from a nearly black one; the ground is transparent. Only
the range test is as a user sees it, on white. Two experiments take long: their pictures come from the records that
``large_batch.py --full`` and ``cooldown.py`` left. The screenshots of TensorBoard need a browser:
``tensorboard_pages.py`` makes them. The curves of the schedules are drawn while the documentation is built.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
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

from lightning_lrsched import (  # noqa: E402
    LRRangeTestCallback,
    LRSchedulerCallback,
    ProbeResult,
    RangeTestResult,
    SchedulerConfig,
)
from lightning_lrsched.range_test.probe import LOW  # noqa: E402
from lightning_lrsched.range_test.record import one_cycle  # noqa: E402
from lightning_lrsched.range_test.report import scale_lrs  # noqa: E402

GREY, BLUE, ORANGE, GREEN = "#808080", "#3a86c8", "#d9731a", "#2f9e44"
SVG = {
    "svg.fonttype": "none",  # letters, not outlines of letters: a tenth of the size
    "svg.hashsalt": "the same picture again is the same file again",
}
STYLE = {
    **SVG,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN]),
    "grid.color": GREY,
    "legend.edgecolor": GREY,
    "legend.facecolor": "none",
    "legend.framealpha": 1.0,
    "savefig.transparent": True,
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def draw_found(result: ProbeResult, epochs: int = 20, batches: int = 22) -> Figure:
    """Return what a probe found beside the lr that it leads to; all is named where it stands."""
    figure = Figure((8.4, 2.9), layout="constrained")
    probe, training = figure.subplots(1, 2)
    draw_probe(probe, result)
    draw_training(training, result, epochs * batches)
    return figure


def draw_probe(axes: Any, result: ProbeResult) -> None:
    """Draw the loss of a batch along the optimizer's update, and the three learning rates that count."""
    rows = sorted(zip(result.lrs, result.losses, strict=True))
    before, lrs, losses = rows[0][1], [lr for lr, _ in rows[1:]], [loss for _, loss in rows[1:]]
    axes.axhline(before, color=GREY, linewidth=0.8, gid="found-before")
    axes.plot(lrs, losses, "o-", color=BLUE, linewidth=2, markersize=4, gid="found-loss")
    axes.axvline(result.peak, color=GREEN, linewidth=2, gid="found-peak")
    drawn = [*lrs, result.peak, result.prior]
    axes.set(xscale="log", xlim=(min(drawn) / 2, max(drawn) * 2))
    shown = [loss for loss in losses if loss < 1.5 * before] + [before]
    margin = 0.15 * (max(shown) - min(shown))
    axes.set(ylim=(min(shown) - margin, max(shown) + margin), xlabel="learning rate of the step", ylabel="loss")
    axes.set_title("One batch, along the optimizer's update", pad=22)
    above = axes.get_xaxis_transform()
    marks = [
        (result.prior, f"usual {result.prior:.2g}", GREY),
        (result.peak, f"peak {result.peak:.2g}", GREEN),
        (result.lowest, f"lowest {result.lowest:.2g}", BLUE),
    ]
    for side, (lr, words, colour) in zip(
        ("right", "center", "left"), sorted(marks), strict=True
    ):  # away from each other
        axes.axvline(lr, color=colour, linewidth=0.8, linestyle="--")
        axes.text(lr, 1.03, words, transform=above, ha=side, color=colour, fontsize=9)
    scale_lrs(axes)
    # At the right end, which is twice as far as the last line.
    below = {"xytext": (0, -3), "textcoords": "offset points", "ha": "right", "va": "top"}
    axes.annotate("before\nthe step", (axes.get_xlim()[1], before), color=GREY, fontsize=9, **below)
    axes.spines[["top", "right"]].set_visible(False)


def draw_training(axes: Any, result: ProbeResult, length: int) -> None:
    """Draw the lr of the 1Cycle schedule up to the peak."""
    low, high = LOW * result.peak, result.peak
    cycle = SchedulerConfig.of(one_cycle(low, high, None, cycle_momentum=False))
    schedule = cycle.build(torch.optim.AdamW([torch.zeros(1)], lr=0.1), total_steps=length)
    axes.axhline(high, color=GREEN, linewidth=2, gid="found-high")
    lrs = [schedule.lr_at(step)[0] for step in range(length + 1)]
    axes.plot(range(length + 1), lrs, color=BLUE, linewidth=2, gid="found-lr")
    axes.set(ylim=(0, 1.15 * high), xlabel="step", ylabel="learning rate")
    axes.set_title("Training follows 1Cycle up to this peak", pad=22)
    axes.set_yticks([low, high], [f"{low:.2g}", f"{high:.2g}"])
    axes.spines[["top", "right"]].set_visible(False)


def animate(svg: str) -> str:
    """Let the probe run once, then the training, in a viewer that moves; elsewhere the picture stands finished."""
    lines = ["@keyframes found-draw {from {clip-path: inset(-9px 100% -9px -9px)} to {clip-path: inset(-9px)}}"]
    lines += [
        "@keyframes found-show {from {opacity: 0} to {opacity: 1}}",
        "@media (prefers-reduced-motion: no-preference) {",
    ]
    for names, animation in (
        (("loss",), "found-draw 1s linear"),
        (("peak", "high"), "found-show 0.5s 1s"),
        (("lr",), "found-draw 1.5s 1.5s linear"),
    ):
        lines.append(f"{', '.join(f'#found-{name}' for name in names)} {{animation: {animation} both}}")
    return svg.replace("</style>", "\n".join(["", *lines, "}", "</style>"]), 1)


def save(figure: Figure, name: str, change: Callable[[str], str] = str) -> None:
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    # Without the spaces that matplotlib leaves at the ends of lines, which no editor and no reviewer likes.
    lines = map(str.rstrip, change(path.read_text("utf-8")).splitlines())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


class DigitsWithAdamW(digits.Digits):
    """The network of the digits example, with the optimizer that most modules have."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def probe() -> ProbeResult:
    """Make the probe of the digits example with AdamW, in a fit that needs no more epochs than a probe does."""
    seed_everything(0, verbose=False)
    callback = LRSchedulerCallback()
    with tempfile.TemporaryDirectory() as logs:
        make_trainer(Path(logs), "probe", callback, max_epochs=2).fit(DigitsWithAdamW(), digits.loaders(0)[0])
    return callback.probe_result


def range_test() -> RangeTestResult:
    """Make the range test of the digits example, in a fit of its own."""
    seed_everything(0, verbose=False)
    test = LRRangeTestCallback()
    with tempfile.TemporaryDirectory() as logs:
        make_trainer(Path(logs), "range_test", test, max_epochs=1).fit(digits.Digits(), digits.loaders(0)[0])
    return test.result


def main() -> None:
    quieten()
    torch.set_num_threads(1)
    with mpl.rc_context(SVG):
        save(range_test().plot(), "range_test")
    with mpl.rc_context(STYLE):
        save(draw_found(probe()), "found", animate)
        save(cooldown.draw(json.loads((FOLDER / "cooldown.json").read_text("utf-8"))), "cooldown")
        record = large_batch.read_record(FOLDER / "large_batch.json")
        tests, trainings = large_batch.draw(record["records"], record["best_lr"])
        save(tests, "large_batch_tests")
        save(trainings, "large_batch_trainings")


if __name__ == "__main__":
    main()
