"""The figures of a range test."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test.suggestions import METHODS
from tests.kit.records import sweep


def test_the_figure_marks_bounds_suggestions_and_divergence():
    result = sweep()
    [axes] = result.plot().axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith("bounds") for label in labels)
    assert any(label.startswith("suggested fixed lr") for label in labels)
    assert any(label.startswith("diverged at") for label in labels)
    assert {text.get_text() for text in axes.texts} == set(METHODS) - {"edge"}  # that one is the dashed line
    assert axes.get_xscale() == "log"
    assert sweep("linear").plot().axes[0].get_xscale() == "linear"


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_the_names_of_rules_of_thumb_are_clear_of_each_other_and_of_all_lines(mode):
    figure = sweep(mode).plot()
    figure.canvas.draw()
    [axes] = figure.axes
    for name in axes.texts:
        name.arrowprops = name.arrow_patch = None  # without the line to the mark
    boxes = [text.get_window_extent() for text in [*axes.texts, axes.title]]
    for number, box in enumerate(boxes):
        assert box.y0 > axes.bbox.y1
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_the_lowest_smoothed_loss_is_marked():
    result = sweep()
    [axes] = result.plot().axes
    [mark] = [line for line in axes.get_lines() if line.get_label().startswith("lowest")]
    assert mark.get_ydata()[0] == min(result.smoothed_losses)
    assert mark.get_xdata()[0] == result.lrs[result.smoothed_losses.index(min(result.smoothed_losses))]


def test_the_coarse_sweep_is_thin_and_grey_behind_the_fine_one():
    coarse = sweep(steps=100)
    fine = [number for number, lr in enumerate(sweep().lrs) if lr > 1e-3]
    result = replace(
        sweep(),
        steps=list(range(len(fine))),
        **{name: [getattr(sweep(), name)[number] for number in fine] for name in ("lrs", "losses", "smoothed_losses")},
        coarse=coarse,
    )
    [axes] = result.plot().axes
    first, second = axes.get_lines()[:2]
    assert [first.get_label(), second.get_label()] == ["loss of the coarse sweep", "loss"]
    assert first.get_linewidth() < second.get_linewidth()
    shown = list(first.get_xdata())
    assert shown == [lr for lr in coarse.lrs if lr >= result.lrs[0] / 100]
    low, high = axes.get_ylim()
    assert low < min(coarse.losses) < coarse.losses[0] < high  # the level at which it began


def test_a_result_without_suggestion_has_a_figure_too():
    result = RangeTestResult([0], [0.1], [math.nan], [math.nan], "non-finite loss", "linear")
    assert "no suggestion" in result.plot().axes[0].get_title()


def test_comparison_overlays_losses_and_learning_rates():
    left, right = RangeTestResult.compare({"slow": sweep(steps=300), "fast": sweep()}).axes
    for axes in (left, right):
        assert [line.get_label() for line in axes.get_lines()] == ["slow", "fast"]
        assert [len(line.get_xdata()) for line in axes.get_lines()] == [300, 200]


def test_a_notebook_shows_the_figure_and_the_result_as_pictures():
    assert sweep().plot()._repr_png_().startswith(b"\x89PNG")
    assert RangeTestResult.compare({"one": sweep()})._repr_png_().startswith(b"\x89PNG")
    assert "data:image/png;base64," in sweep()._repr_html_()


def test_without_matplotlib_a_range_test_says_it_too(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = RangeTestResult([0, 1], [0.1, 0.2], [1.0, 0.9], [1.0, 0.9], "max_lr", "linear", [1.0])
    for picture in (result.plot, lambda: RangeTestResult.compare({"one": result})):
        with pytest.raises(ImportError, match=r"pip install 'lightning-lrsched\[plots\]'"):
            picture()
