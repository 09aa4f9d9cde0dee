"""What a range test shows of itself: a line, a table, a figure."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from matplotlib.colors import to_rgb

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test.report import summarize
from tests.kit.records import shortened, sweep


def rows(table: str) -> dict[str, str]:
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE))


def cells(table: str) -> dict[str, str]:
    """Return the rows of an HTML table; what is not well-formed fails."""
    rows = ET.fromstring(table).iter("tr")
    return {row.findtext("th"): row.findtext("td") for row in rows}


def two_sweeps() -> RangeTestResult:
    return replace(shortened(sweep(), 200), coarse=shortened(sweep(steps=100), 73))


def test_the_table_begins_with_what_the_next_training_needs():
    result = sweep()
    low, high = result.bounds()
    found = rows(result.to_markdown())
    assert list(found)[:2] == ["suggested lr", "bounds for 1Cycle"]
    assert found["suggested lr"] == f"{result.suggestion():.4g}"
    assert found["bounds for 1Cycle"] == f"{low:.4g} .. {high:.4g}"
    for name in ("valley", "steep", "minimum", "slide"):
        assert f"{name} {result.suggestion(name):.4g}" in found["rules of thumb"]
    assert found["stopped because"] == "diverged"


def test_the_configuration_below_the_table_is_ready_and_has_four_digits():
    result = sweep()
    [written] = re.findall(r"```json\n(.*)\n```", result.to_markdown(), re.DOTALL)
    exact, shown = result.one_cycle(1000), json.loads(written)["scheduler"]
    assert shown["type"] == exact["type"]
    assert shown["params"] == pytest.approx(exact["params"], rel=5e-4)
    assert f'"cycle_max_lr": {exact["params"]["cycle_max_lr"]:.4g},' in written


def test_the_line_at_the_end_has_steps_reason_and_findings():
    result = sweep()
    low, high = result.bounds()
    assert summarize(result) == (
        f"200 optimizer steps, lr 1e-06 .. {result.lrs[-1]:.3g}, stopped because: diverged; suggested lr"
        f" {result.suggestion():.3g}, bounds for 1Cycle {low:.3g} .. {high:.3g}"
    )
    assert repr(result) == f"RangeTestResult({summarize(result)})"


def test_the_steps_of_both_sweeps_are_shown():
    result = two_sweeps()
    assert summarize(result).startswith("73 + 200 optimizer steps, lr 1e-06")
    assert rows(result.to_markdown())["steps"] == "73 + 200"
    found = result.hyperparameters()
    assert (found["coarse_steps"], found["steps"]) == (73, 200)
    assert "coarse_steps" not in sweep().hyperparameters()


def test_of_losses_recorded_every_tenth_step_the_table_counts_the_steps():
    result = sweep()
    columns = {name: getattr(result, name)[9::10] for name in ("steps", "lrs", "losses", "smoothed_losses")}
    assert rows(replace(result, **columns).to_markdown())["steps"] == "200"


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_figure_says_what_was_taken_and_where_the_lr_is_too_high_in_four_rows():
    result = two_sweeps()
    low, high = result.bounds()
    edge = f"{result.curve().edge():.2g}"
    figure = result.plot()
    assert legend(figure) == [
        "loss, smoothed",
        f"good fixed lr: {result.suggestion():.2g}",
        f"1Cycle: {low:.2g} to {high:.2g}",
        f"too high: from {edge}",
    ]
    assert figure.get_suptitle() == f"LR range test\nhighest lr: half of {edge}, where it begins to harm"


def test_no_text_of_the_figure_is_cut_off_or_lies_over_the_curves():
    noisy = sweep()
    losses = [loss + 0.5 * (-1) ** step for step, loss in enumerate(noisy.losses)]
    figure = replace(noisy, losses=losses, prior=0.0123).plot()
    figure.draw_without_rendering()
    [axes], [names] = figure.axes, figure.legends
    assert "drawn to the usual" in figure.get_suptitle()
    for box in (names.get_window_extent(), figure._suptitle.get_window_extent()):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not box.overlaps(axes.get_window_extent())


def test_lines_that_cross_differ_also_in_grey():
    [axes] = two_sweeps().plot().axes
    red, green, blue = 0.299, 0.587, 0.114
    coarse, _, smoothed, fixed = axes.get_lines()
    colours = [line.get_color() for line in (coarse, smoothed, fixed)]
    greys = sorted(sum(w * c for w, c in zip((red, green, blue), to_rgb(each), strict=True)) for each in colours)
    assert min(high - low for low, high in pairwise(greys)) > 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": "linear"}, "highest lr: a quarter of "),
        ({"prior": 1e-4}, "highest lr: 10 times the usual peak 0.0001"),
        (
            {"losses": [2.0 + step for step in range(200)], "prior": 0.1},
            "the loss never fell: at most the usual peak 0.1",
        ),
        ({"losses": [2.0 - step / 200 for step in range(200)]}, "the loss did not rise: at most half of the last lr"),
        (
            {"losses": [2.0 - step / 200 for step in range(200)], "prior": 0.1},
            "the loss did not rise: at most the usual",
        ),
    ],
)
def test_the_figure_says_why_in_every_case(change, reason):
    assert reason in replace(sweep(), **change).plot().get_suptitle()


def test_an_explosion_does_not_press_the_fall_of_the_loss_flat():
    result = sweep()
    losses = [*result.losses[:150], *[1e6] * 50]
    low, high = replace(result, losses=losses).plot().axes[0].get_ylim()
    assert high - low < 2 * (max(result.losses[:10]) - min(result.losses))


def test_the_figure_shows_both_sweeps_as_curves_of_their_own():
    result = two_sweeps()
    [axes] = result.plot().axes
    coarse, loss, smoothed = axes.get_lines()[:3]
    assert list(smoothed.get_xdata()) == list(loss.get_xdata()) == result.lrs
    assert [text.get_text() for text in axes.texts] == ["coarse sweep"]
    assert list(coarse.get_xdata()) == [lr for lr in result.coarse.lrs if lr >= result.lrs[0] / 100]
    low, high = axes.get_ylim()
    assert low < min(result.coarse.losses) < result.coarse.losses[0] < high  # the level at which it began
    assert axes.get_xscale() == "log"
    assert sweep("linear").plot().axes[0].get_xscale() == "linear"


def test_a_result_without_suggestion_has_a_figure_too():
    result = RangeTestResult([0], [0.1], [math.nan], [math.nan], "non-finite loss", "linear")
    assert "no suggestion" in result.plot().get_suptitle()


def test_comparison_overlays_losses_and_learning_rates():
    left, right = RangeTestResult.compare({"slow": sweep(steps=300), "fast": sweep()}).axes
    for axes in (left, right):
        assert [line.get_label() for line in axes.get_lines()] == ["slow", "fast"]
        assert [len(line.get_xdata()) for line in axes.get_lines()] == [300, 200]


def test_a_notebook_shows_figure_and_table():
    for figure in (sweep().plot(), RangeTestResult.compare({"one": sweep()})):
        assert figure._repr_png_().startswith(b"\x89PNG")
    table = cells(sweep()._repr_html_())
    low, high = sweep().bounds()
    assert table["bounds for 1Cycle"] == f"{low:.4g} .. {high:.4g}"
    assert next(iter(table)) == "suggested lr"


def test_a_notebook_says_why_there_is_no_suggestion():
    result = RangeTestResult([0], [0.1], [math.nan], [math.nan], "non-finite loss", "linear")
    table = cells(result._repr_html_())
    assert next(iter(table)) == "no suggestion"
    assert "very first loss was not finite" in table["no suggestion"]


@pytest.mark.parametrize("steps", [176, 3])
def test_the_configuration_is_for_as_many_steps_as_asked_for(steps):
    assert f"Ready for a training of {max(10, steps)} optimizer steps" in sweep().to_markdown(steps)


def test_with_groups_of_different_lrs_the_line_says_whose_the_suggestion_is():
    assert summarize(sweep(ratios=(0.1, 1.0))).endswith("(of param group 2; all: times 0.1, 1)")


def test_without_matplotlib_a_range_test_says_it_too(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = RangeTestResult([0, 1], [0.1, 0.2], [1.0, 0.9], [1.0, 0.9], "max_lr", "linear", [1.0])
    for picture in (result.plot, lambda: RangeTestResult.compare({"one": result})):
        with pytest.raises(ImportError, match="a picture needs matplotlib: pip install matplotlib"):
            picture()
