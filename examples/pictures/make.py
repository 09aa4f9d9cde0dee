"""Draws the pictures of README and documentation: a range test, the large-batch experiment, cooldowns.

    python examples/pictures/make.py

Text and lines have colours that stand out from a white page as from a nearly black one; the ground is transparent. Two
experiments take long: their pictures come from the records that ``large_batch.py --full`` and ``cooldown.py`` left. The
screenshots of TensorBoard need a browser: ``tensorboard_pages.py`` makes them. The curves of the schedules are drawn
while the documentation is built.
"""

from __future__ import annotations

import json
import math
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

from lightning_lrsched import LRRangeTestCallback, RangeTestResult, SchedulerConfig  # noqa: E402

GREY, BLUE, ORANGE, GREEN = "#808080", "#3a86c8", "#d9731a", "#2f9e44"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN]),
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


def draw_found(result: RangeTestResult, epochs: int = 20, batches: int = 22) -> Figure:
    """Return what a range test found beside the lr and momentum that it leads to; all is named where it stands."""
    figure = Figure((8.4, 2.9), layout="constrained")
    test, training = figure.subplots(1, 2)
    draw_test(test, result)
    draw_training(training, result, epochs * batches)
    return figure


def draw_test(axes: Any, result: RangeTestResult) -> None:
    """Draw loss against lr, and the bounds between which the loss falls."""
    low, high = result.bounds()
    axes.axvspan(low, high, color=GREEN, alpha=0.15, linewidth=0, gid="found-band-left")
    axes.plot(*both_sweeps(result, "losses"), color=GREY, linewidth=0.8, gid="found-loss")
    axes.plot(*both_sweeps(result, "smoothed_losses"), color=BLUE, linewidth=2, gid="found-smoothed")
    least, most = low / 40, result.lrs[-1]
    axes.set(xscale="log", xlim=(least, 1.3 * most), ylim=(0, 1.2 * result.smoothed_losses[0]))
    axes.set(xlabel="learning rate", ylabel="loss")
    axes.set_title("The LR range test raises the lr", pad=22)
    for words, ends, colour in (
        ("too small", (least, low), GREY),
        (f"{low:.2g} to {high:.2g}", (low, high), GREEN),
        ("too large", (high, most), GREY),
    ):
        at, above = math.sqrt(ends[0] * ends[1]), axes.get_xaxis_transform()
        axes.text(at, 1.03, words, transform=above, ha="center", color=colour, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def both_sweeps(result: RangeTestResult, losses: str) -> tuple[list[float], list[float]]:
    """Return learning rates and losses of the fine sweep; below its first lr, those of the coarse one."""
    coarse = result.coarse
    below = [] if coarse is None else [lr for lr in coarse.lrs if lr < result.lrs[0]]
    before = getattr(coarse, losses)[: len(below)] if below else []
    return below + result.lrs, before + getattr(result, losses)


def draw_training(axes: Any, result: RangeTestResult, length: int) -> None:
    """Draw the lr and the momentum of the 1Cycle schedule between the bounds."""
    low, high = result.bounds()
    cycle = SchedulerConfig.of(result.one_cycle())
    schedule = cycle.build(torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9), total_steps=length)
    steps, momentum = range(length + 1), axes.twinx()
    axes.axhspan(low, high, color=GREEN, alpha=0.15, linewidth=0, gid="found-band-right")
    axes.plot(steps, [schedule.lr_at(step)[0] for step in steps], color=BLUE, linewidth=2, gid="found-lr")
    momenta = [schedule.momentum_at(step)[0] for step in steps]
    momentum.plot(steps, momenta, color=ORANGE, linewidth=2, gid="found-momentum")
    peak = momenta.index(min(momenta))
    axes.annotate("lr", (peak, high), (0, -10), textcoords="offset points", color=BLUE, ha="center", va="top")
    momentum.annotate("momentum", (peak, max(momenta)), color=ORANGE, ha="center", va="center")
    axes.set(ylim=(0, 1.9 * high), xlabel="step")
    axes.set_title("Training follows 1Cycle between these bounds", pad=22)
    axes.set_yticks([low, high], [f"{low:.2g}", f"{high:.2g}"])
    momentum.set(ylim=(0.62, 0.98), yticks=[min(momenta), max(momenta)])
    axes.tick_params(axis="y", colors=BLUE)
    momentum.tick_params(axis="y", colors=ORANGE)
    for plot in (axes, momentum):
        plot.spines["top"].set_visible(False)


def animate(svg: str) -> str:
    """Let the range test run once, then the training, in a viewer that moves; elsewhere the picture stands finished."""
    lines = ["@keyframes found-draw {from {clip-path: inset(-9px 100% -9px -9px)} to {clip-path: inset(-9px)}}"]
    lines += [
        "@keyframes found-show {from {opacity: 0} to {opacity: 1}}",
        "@media (prefers-reduced-motion: no-preference) {",
    ]
    for names, animation in (
        (("loss", "smoothed"), "found-draw 4s linear"),
        (("band-left", "band-right"), "found-show 1s 4s"),
        (("lr", "momentum"), "found-draw 4s 5s linear"),
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
    with mpl.rc_context(STYLE):
        result = range_test()
        save(draw_found(result), "found", animate)
        save(result.plot(), "range_test")
        save(cooldown.draw(json.loads((FOLDER / "cooldown.json").read_text("utf-8"))), "cooldown")
        record = large_batch.read_record(FOLDER / "large_batch.json")
        tests, trainings = large_batch.draw(record["records"], record["best_lr"])
        save(tests, "large_batch_tests")
        save(trainings, "large_batch_trainings")


if __name__ == "__main__":
    main()
