"""The page on how good the suggestions are, and README's sentence: what was measured, and what the rules do."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest

from lightning_lrsched.range_test import probe, suggest, sweep

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "suggestions.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
OURS = "range test, 1Cycle"


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "benchmarks" / "range_test_quality.json").read_text(encoding="utf-8"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    pytest.importorskip("sklearn", reason="the benchmark's data ships with scikit-learn")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("range_test_quality")


@pytest.fixture
def report(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("fresh_report")


@pytest.fixture
def study(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("peak_rules")


def runs_of(study: ModuleType) -> dict[str, list[Any]]:
    """Return the runs of the study: all of them, and those that README speaks of."""
    runs = study.load(study.STORE, [*study.CHOOSING, *study.REPORTED, *study.OLD])
    older = [run for run in runs if run.task in study.OLD]
    return {
        "all": runs,
        "older": older,
        "fine-tuning": [run for run in runs if run.kind != study.SCRATCH and run.task not in study.OLD],
        "older, short": [run for run in older if run.steps < study.SHORT_RUN],
    }


def mean_regret(study: ModuleType, runs: list[Any], rule: str, *, equal_steps: bool = True) -> float:
    found = study.evaluated(runs, study.RULES[rule], equal_steps=equal_steps)
    return fmean(fmean(regrets) for regrets in found.values())


PROBE = "probe of one batch"


def test_the_table_of_the_probe_is_the_studys(study):
    assert study.summary(runs_of(study)["all"]) in PAGE


def test_the_tables_of_new_tasks_are_the_reports(report):
    tables = report.report(json.loads(report.STORE.read_text(encoding="utf-8"))).split("\n\n")
    for table in [part for part in tables if part.startswith("| trained with")]:
        assert table in PAGE


def test_what_no_rule_can_reach_is_the_reports(report):
    runs = json.loads(report.STORE.read_text(encoding="utf-8"))
    by_task = {name: [runs[f"{name}/{seed}"] for seed in range(5)] for name in report.TASKS}
    found = re.search(r"one line (.*?);.*best of (.*?) rules.*, (0.*?) \(.*before, (.*)\.$", report.limits(by_task))
    number, (ours, best, known) = found[2], (f"{100 * float(found[group]):.0f} %" for group in (1, 3, 4))
    sentence = " ".join(PAGE.split())
    assert f"the one line's peaks miss {ours}. The best of {number} rules" in sentence
    assert f"misses {best}. The best peak of each task, known before, misses {known}" in sentence


def test_the_table_of_real_nets_is_the_stored_one(load):
    nets = load("real_nets")
    assert nets.report(json.loads(nets.STORE.read_text(encoding="utf-8"))) in PAGE


@pytest.mark.parametrize("text", [README.split("<!-- quality figures -->")[1], PAGE.split("## The rule")[0]])
def test_the_figures_in_words_are_the_reports_and_name_the_strongest_rival(report, text):
    sentence = " ".join(text.split())
    runs = json.loads(report.STORE.read_text(encoding="utf-8"))
    fine = {key: run for key, run in runs.items() if run["kind"] in report.FINE_TUNING}

    def mean(kind: str, some: dict[str, Any] = runs) -> float:
        by_task: dict[str, list[float]] = {}
        for key, run in some.items():
            by_task.setdefault(key.split("/")[0], []).append(report.regret(run, kind))
        return fmean(fmean(regrets) for regrets in by_task.values())

    def percent(*which: Any) -> str:
        return f"{100 * mean(*which):.0f} %"

    assert f"the one line misses {percent('one line')} of the improvement" in sentence
    assert f"misses {percent('the prior')}, Prodigy {percent('Prodigy')}, schedule-free AdamW" in sentence
    assert f"AdamW {percent('schedule-free')}, AdamW at 0.001 with a cosine {percent('habit')}." in sentence
    assert min(report.ROWS[1:], key=mean) == "the prior"
    assert percent("Prodigy", fine) in sentence
    assert percent("one line", fine) in sentence


def test_the_page_says_that_the_aims_were_not_met(study):
    runs = runs_of(study)["all"]
    regrets = [values[0] for values in study.evaluated(runs, study.RULES[PROBE]).values()]
    high, below = sum(regret > 0.25 for regret in regrets), fmean(regret < 0.1 for regret in regrets)
    assert fmean(regrets) > 0.03
    assert f"{100 * below:.0f} % are below 10 %; {high} of {len(regrets)} are above 25 %" in " ".join(PAGE.split())
    assert f"a mean regret of {fmean(regrets):.3f} ±" in PAGE
    reported = [run for run in runs if run.task in study.REPORTED]
    failed = mean_regret(study, reported, "probe: the rule of the first report", equal_steps=False)
    assert f"On the reported half it had {failed:.3f}" in PAGE


@pytest.mark.parametrize(
    "sentence",
    [
        f"makes a probe: {probe.STEPS} optimizer steps",
        f"Make ten steps with 1/{1 / probe.WARM_SHARE:.0f} of that lr; in a run of fewer than {probe.SHORT_RUN} steps",
        f"In a run of fewer than {probe.SHORT_RUN} steps it makes {probe.STEPS_OF_SHORT_RUN} optimizer steps",
        f"at most {probe.MOST_PRIORS:g} priors",
        f"{probe.MOST_BY_DEPTH:g} / n priors in a net of n trained weight matrices",
        f"at most {probe.MOST_OF_SGD:g} times lowest and at least 1/{1 / probe.LEAST_OF_SGD:.0f} of lowest",
        f"the peak is {probe.WITHOUT_PRIOR:g} of lowest",
        f"fewer than {probe.SHORTEST_RUN} steps takes the prior",
    ],
)
def test_the_rule_of_the_probe_that_the_page_states_is_the_one_that_runs(sentence):
    assert sentence in " ".join(PAGE.split())
    assert probe.WARM_STEPS == 10
    assert probe.LOW == 0.1


def test_the_table_is_the_benchmarks(benchmark, figures):
    assert benchmark.as_markdown(figures) in PAGE
    assert f"{figures[OURS]['runs']} trainings" in PAGE


def test_the_sentences_round_the_tables_numbers(figures):
    ours = figures[OURS]
    assert f"1Cycle from the range test misses {100 * ours['mean regret']:.0f} %" in re.sub(r"\s+", " ", PAGE)


def test_the_range_test_is_ahead_of_every_other_way_to_an_lr(figures):
    for method, row in figures.items():
        if method not in ("best of 13 1Cycles", "best of 12 fixed lrs") and not method.startswith("range test, "):
            assert row["ahead of it"] > 0, method


@pytest.mark.parametrize(
    "sentence",
    [
        f"at most {sweep.COARSE_STEPS + sweep.FINE_STEPS} steps",
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
