"""TensorBoard with the demo's logs: what it serves, and what a real browser shows of it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_lrsched import RangeTestResult, SchedulerConfig

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
EPOCHS, BATCHES = 3, 22
WIDTH, HEIGHT = 675, 570
"""[pixels] Of the range test's figure."""

RUN = "one_line_seed0"


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    command = [
        sys.executable,
        ROOT / "examples" / "digits.py",
        "--seeds",
        "1",
        "--epochs",
        str(EPOCHS),
        "--out",
        out,
        "--range-test",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return out


@pytest.fixture(scope="module")
def result(demo) -> RangeTestResult:
    return RangeTestResult.load(demo / "range_test.json")


@pytest.fixture(scope="module")
def board(pages, demo) -> Iterator[str]:
    """The address of a TensorBoard that has read everything."""
    with pages.serve(demo / "tensorboard") as address:
        everything = {"scalars/tags": 3, "images/tags": 1, "text/tags": 1, "custom_scalars/layout": 1}
        for path, size in everything.items():
            pages.until(lambda path=path, size=size: len(ask(address, path)) >= size, path)
        yield address


def fetch(board: str, path: str, **query: str) -> bytes:
    # This machine's own address is never behind a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{board}/data/plugin/{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return answer.read()


def ask(board: str, path: str, **query: str) -> Any:
    return json.loads(fetch(board, path, **query))


# Served -----------------------------------------------------------------------------------------------------------


def test_the_curves_are_served_with_the_schedules_own_values(board, result):
    total = EPOCHS * BATCHES
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.001, momentum=0.9)
    schedule = SchedulerConfig.of(result.one_cycle()).build(optimizer, total_steps=total)
    for tag, value_at in (("lr-SGD", schedule.lr_at), ("lr-SGD-momentum", schedule.momentum_at)):
        points = {step: value for _, step, value in ask(board, "scalars/scalars", run=RUN, tag=tag)}
        assert list(points) == list(range(4, total, 5))  # log_every_n_steps=5
        assert list(points.values()) == pytest.approx([value_at(step)[0] for step in points], rel=1e-6)


def test_the_range_tests_curves_are_served(board, result):
    steps = list(range(result.coarse.num_steps + result.num_steps))  # the coarse sweep, then the fine one
    for tag, name in (("loss", "losses"), ("smoothed_loss", "smoothed_losses"), ("lr", "lrs")):
        points = ask(board, "scalars/scalars", run=RUN, tag=f"lr_range_test/{tag}")
        assert [step for _, step, _ in points] == steps
        values = getattr(result.coarse, name) + getattr(result, name)
        assert [value for _, _, value in points] == pytest.approx(values, rel=1e-6)


def test_lr_and_momentum_have_a_chart_each_among_the_custom_scalars(board):
    [category] = ask(board, "custom_scalars/layout")["category"]
    found = {}
    for chart in category["chart"]:
        [pattern] = chart["multiline"]["tag"]
        answer = ask(board, "custom_scalars/scalars", run=RUN, tag=pattern)
        assert answer["regex_valid"]
        found[chart["title"]] = list(answer["tag_to_events"])
    assert found == {"lr": ["lr-SGD"], "momentum": ["lr-SGD-momentum"]}


def test_the_figure_is_served(board, result):
    [figure] = ask(board, "images/images", run=RUN, tag="lr_range_test/loss_vs_lr")
    assert figure["step"] == result.coarse.num_steps + result.steps[-1]
    query = dict(urllib.parse.parse_qsl(figure["query"]))
    picture = Image.open(io.BytesIO(fetch(board, "images/individualImage", **query)))
    assert picture.format == "PNG"
    assert picture.size == (WIDTH, HEIGHT)
    assert len(picture.convert("RGB").getcolors(WIDTH * HEIGHT)) > 50  # lines, letters and their edges


def test_the_table_is_served_with_the_results_values(board, result):
    [text] = ask(board, "text/text", run=RUN, tag="lr_range_test/result/text_summary")
    rows = dict(re.findall(r"<td>(.*?)</td>\s*<td>(.*?)</td>", text["text"]))
    low, high = result.bounds()
    assert rows["suggested lr"] == f"{result.suggestion():.4g}"
    assert rows["bounds for 1Cycle"] == f"{low:.4g} .. {high:.4g}"
    assert rows["stopped because"] == result.stop_reason
    assert f"{low:.4g}," in text["text"].partition("cycle_min_lr")[2]


# Shown ------------------------------------------------------------------------------------------------------------


def test_the_page_time_series_shows_the_curves_and_the_figure(board, browser):
    # Lines as SVG: they are part of the document then, which those on a canvas are not.
    browser.open(f"{board}/?forceSVG=true&smoothing=0&tagFilter=lr-SGD|loss_vs_lr#timeseries", 1400, 1400)
    browser.wait_for("findAll('line-chart .series-view path').length == 2")
    assert browser.ask("findAll('scalar-card .tag').map(tag => tag.innerText)") == ["lr-SGD", "lr-SGD-momentum"]
    corners = browser.ask(
        "findAll('line-chart .series-view path').map(line => line.getAttribute('d').split('L').length)"
    )
    assert corners == [EPOCHS * BATCHES // 5] * 2
    assert browser.wait_for("findAll('image-card img').map(image => image.naturalWidth)[0]") == WIDTH


def test_the_page_custom_scalars_draws_both_charts(board, browser):
    browser.open(f"{board}/#custom_scalars&_smoothingWeight=0", 1400, 900)
    browser.wait_for("findAll('path.line').length == 2")
    assert browser.ask("findAll('tf-card-heading').map(heading => heading.displayName)") == ["lr", "momentum"]


def test_the_page_text_shows_the_table(board, browser, result):
    browser.open(f"{board}/#text", 1400, 900)
    browser.wait_for("findAll('table table').length")
    cells = browser.ask("findAll('table table td').map(cell => cell.innerText)")
    assert cells[:2] == ["suggested lr", f"{result.suggestion():.4g}"]


def test_the_page_hparams_shows_the_schedule_and_what_the_range_test_found(board, browser):
    browser.open(f"{board}/#hparams", 1400, 900)
    browser.wait_for("findAll('.hparam-checkbox').length")
    shown = set(browser.ask("findAll('.hparam-checkbox').map(box => box.innerText.trim())"))
    assert {"lr_scheduler/type", "lr_scheduler/cycle_max_lr"} <= shown
    assert {"lr_range_test/suggestion", "lr_range_test/low", "lr_range_test/high"} <= shown
