"""The page on how good the suggestions are, and README's sentence: what was measured, and what the rule does."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lightning_lrsched.range_test import settings, suggest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "suggestions.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
OURS = "range test, 1Cycle"


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "benchmarks" / "range_test_quality.json").read_text(encoding="utf-8"))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("sklearn", reason="the benchmark's data ships with scikit-learn")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    spec = importlib.util.spec_from_file_location(
        "range_test_quality", ROOT / "tests" / "benchmarks" / "range_test_quality.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_the_benchmarks(benchmark, figures):
    assert benchmark.as_markdown(figures) in PAGE
    assert f"{figures[OURS]['runs']} trainings" in PAGE


def test_the_sentences_round_the_tables_numbers(figures):
    ours, lightning = figures[OURS], figures["Lightning's finder, fixed lr"]
    assert f"misses {100 * ours['mean regret']:.0f} %" in re.sub(r"\s+", " ", PAGE)
    sentence = re.sub(r"\s+", " ", README.split("<!-- quality figures -->")[1])
    rivals = ("Prodigy", "fastai valley, its 1Cycle", "the prior without a test, 1Cycle")
    for figure in (ours, lightning, *(figures[rival] for rival in rivals)):
        assert f"{100 * figure['mean regret']:.0f} %" in sentence
    others = {
        name: row["mean regret"] for name, row in figures.items() if not name.startswith(("best of", "range test"))
    }
    assert sorted(others, key=others.get)[0] == "Prodigy"  # README names the strongest


def test_the_range_test_is_ahead_of_every_other_way_to_an_lr(figures):
    for method, row in figures.items():
        if method not in ("best of 13 1Cycles", "best of 12 fixed lrs") and not method.startswith("range test, "):
            assert row["ahead of it"] > 0, method


@pytest.mark.parametrize(
    "sentence",
    [
        f"at most {settings.COARSE_STEPS + settings.FINE_STEPS} steps",
        f"at least {suggest.NOISE_CLIMB:g} times the noise",
        f"{suggest.MAX_DOUBT:g} * min(1, noise / fall)",
        f"{suggest.MAX_OVER_PRIOR:g} times the prior",
        f"a fixed lr, is {suggest.FIXED_OF_PEAK:g} of the peak",
        f"| Lion | {suggest.PRIORS['Lion']:g} |",
        f"RMSprop, and the fused and 8-bit ones | {suggest.ADAM:g} |",
        f"| SGD with momentum m | {suggest.SGD / 0.1:g} (1 - m): {suggest.SGD:g} for m = 0.9 |",
        f"| Adafactor (torch) | {suggest.PRIORS['Adafactor']:g} |",
        f"| Muon (torch) | {suggest.PRIORS['Muon']:g} |",
    ],
)
def test_the_rule_that_the_page_states_is_the_one_that_runs(sentence):
    assert sentence in re.sub(r"\s+", " ", PAGE)


def test_the_optimizers_of_the_table_are_those_that_have_a_prior():
    for family in suggest.PRIORS:
        assert family in PAGE or re.search(r"Fused|8bit|DeepSpeed|Paged|Stable|Sparse", family), family
