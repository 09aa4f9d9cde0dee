"""The pages for those who come from other libraries: their code runs, and the differences are those that they state."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from lightning_lrsched import SchedulerConfig
from tests.integration.make_phases_golden import GOLDEN, LR, STEPS
from tests.kit.pages import DOCS, blocks, run_python
from tests.kit.schedules import sgd

PAGES = DOCS / "coming_from"
NOT_INSTALLED_HERE = {"deepspeed", "fastai", "pl_bolts", "timm"}
"""Pages whose code *before* is shown and not run. (DeepSpeed's engine takes long to start.)"""

TOTAL, WARMUP = 1000, 100

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # Lightning's finder restores one
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    return lambda page: run_python(PAGES / f"{page}.md", tmp_path)


def ours(section: dict[str, Any], steps: int = TOTAL) -> tuple[list[float], list[float]]:
    """Return lr and momentum (if it is scheduled) of a section at the positions of a run."""
    schedule = SchedulerConfig.of(section).build(sgd(), total_steps=TOTAL)
    momenta = [schedule.momentum_at(step) for step in range(steps)]
    return [schedule.lr_at(step)[0] for step in range(steps)], [found[0] for found in momenta if found]


def theirs(make: Callable[[Any], Any], steps: int = TOTAL) -> tuple[list[float], list[float]]:
    """Return lr and momentum of another library's scheduler, step by step."""
    optimizer = sgd()
    scheduler = make(optimizer)
    lrs, momenta = [], []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    return lrs, momenta


@pytest.mark.parametrize("page", sorted({page.stem for page in PAGES.glob("*.md")} - {"index"}))
def test_the_blocks_run_and_only_those_of_libraries_that_are_missing_do_not(
    run: Callable[[str], dict[str, Any]], page: str
) -> None:
    names = run(page)
    assert names["model"].lrs
    assert ("py" in {language for language, _ in blocks(PAGES / f"{page}.md")}) == (page in NOT_INSTALLED_HERE)


def test_torch(run: Callable[[str], dict[str, Any]]) -> None:
    names = run("torch")
    lrs, momenta = theirs(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=TOTAL))
    near, _ = ours(names["one_cycle"])
    assert round(max(abs(a - b) for a, b in zip(near, lrs, strict=True)), 4) == 0.0132
    assert round(1 - fmean(near) / fmean(lrs), 2) == 0.07
    exact_lrs, exact_momenta = ours(names["exact"])
    assert exact_lrs == pytest.approx(lrs, rel=1e-14)
    assert exact_momenta == pytest.approx(momenta, rel=1e-14)


def test_hugging_face(run: Callable[[str], dict[str, Any]]) -> None:
    hf = pytest.importorskip("transformers", minversion="4.46", reason="get_wsd_schedule came with transformers 4.46")

    names = run("hugging_face")
    auto = {"warmup_max_lr": "auto", "warmup_type": "linear", "warmup_num_steps": 0.1, "total_num_steps": "auto"}

    linear, _ = theirs(lambda o: hf.get_linear_schedule_with_warmup(o, WARMUP, TOTAL))
    assert ours(names["linear"])[0][1:] == pytest.approx(linear[:-1], rel=1e-12, abs=1e-15)
    assert ours(names["exact_linear"])[0] == pytest.approx(linear, rel=1e-12, abs=1e-15)

    cosine, _ = theirs(lambda o: hf.get_cosine_schedule_with_warmup(o, WARMUP, TOTAL))
    params = {"warmup_num_steps": 0.1, "total_num_steps": "auto", "warmup_type": "linear", "cos_min_ratio": 0}
    found, _ = ours({"type": "WarmupCosineLR", "params": params})
    assert found[1 : WARMUP + 1] == pytest.approx(cosine[:WARMUP], rel=1e-12)
    assert found[WARMUP + 1 :] == pytest.approx(cosine[WARMUP + 1 :], rel=1e-12, abs=1e-15)
    assert ours(names["exact_cosine"])[0] == pytest.approx(cosine, rel=1e-12, abs=1e-15)

    constant, _ = theirs(lambda o: hf.get_constant_schedule_with_warmup(o, WARMUP))
    section = {"type": "WarmupLR", "params": {key: auto[key] for key in auto if key != "total_num_steps"}}
    assert ours(section)[0][1:] == pytest.approx(constant[:-1], rel=1e-12)

    wsd, _ = theirs(lambda o: hf.get_wsd_schedule(o, WARMUP, 200, num_training_steps=TOTAL))
    found, _ = ours({"type": "WarmupStableDecayLR", "params": {**auto, "decay_num_steps": 0.2, "decay_type": "cosine"}})
    assert found[1 : WARMUP + 1] == pytest.approx(wsd[:WARMUP], rel=1e-12)
    assert found[WARMUP + 1 :] == pytest.approx(wsd[WARMUP + 1 :], rel=1e-12, abs=1e-15)


def test_fastai(run: Callable[[str], dict[str, Any]]) -> None:
    def cosines(position: float, start: float, middle: float, end: float) -> float:
        """fastai's combined_cos with pct=0.25, at a position in [0, 1)."""
        low, high, p = (start, middle, position / 0.25) if position < 0.25 else (middle, end, (position - 0.25) / 0.75)
        return low + (1 + math.cos(math.pi * (1 - p))) * (high - low) / 2

    lrs, momenta = ours(run("fastai")["fit_one_cycle"])
    places = [step / TOTAL for step in range(TOTAL)]
    assert lrs == pytest.approx([cosines(p, 0.1 / 25, 0.1, 0.1 / 1e5) for p in places], rel=1e-9)
    assert momenta == pytest.approx([cosines(p, 0.95, 0.85, 0.95) for p in places], rel=1e-12)


@pytest.mark.parametrize(
    ("page", "pages_name", "name"),
    [
        ("timm", "cosine", "timm cosine"),
        ("timm", "cycles", "timm cosine with cycles"),
        ("timm", "poly", "timm poly"),
        ("fastai", "fit_flat_cos", "fastai fit_flat_cos"),
        ("fastai", "fit_sgdr", "fastai fit_sgdr"),
    ],
)
def test_the_values_are_those_of_the_library_itself(
    run: Callable[[str], dict[str, Any]], page: str, pages_name: str, name: str
) -> None:
    schedule = SchedulerConfig.of(run(page)[pages_name]).build(sgd(lr=LR), total_steps=STEPS)
    [golden] = [entry["lrs"] for entry in json.loads(GOLDEN.read_text()) if entry["name"] == name]
    assert [schedule.lr_at(step)[0] for step in range(STEPS)] == pytest.approx(golden, rel=1e-12, abs=1e-14)


def test_pl_bolts(run: Callable[[str], dict[str, Any]]) -> None:
    def closed_form(step: int) -> float:
        """LinearWarmupCosineAnnealingLR with warmup_epochs=10, max_epochs=40, warmup_start_lr=0, eta_min=0."""
        return 0.02 * step / 9 if step < 10 else 0.01 * (1 + math.cos(math.pi * (step - 10) / 30))

    lrs, _ = ours(run("pl_bolts")["exact"], steps=40)
    assert lrs == pytest.approx([closed_form(step) for step in range(40)], rel=1e-12, abs=1e-15)
