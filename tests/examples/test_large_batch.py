"""The large-batch experiment: a short run as a user starts it, and what its tables say of known records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "large_batch.md").read_text(encoding="utf-8")


def record(large_batch, seed: int, *, final: dict[str, float], fast_at: int) -> dict:
    """Return what one seed leaves: the fixed lr has loss 2.0 after 100 batches, the fast test after ``fast_at``."""
    batches = list(range(2, 301, 2))
    losses = {
        "fixed": [2.0 + max(0.0, 1.0 - n / 100) - max(0.0, n / 1000 - 0.1) for n in batches],
        "slow": [3.0 - n / 60 for n in batches],
        "fast": [2.0 if n >= fast_at else 3.0 for n in batches],
    }
    trainings = {
        key: {"samples": [128_000, 256_000], "losses": [loss + 0.1, loss], "accuracy": 50.0 + seed}
        for key, loss in final.items()
    }
    tests = {name: {"batches": batches, "losses": values, "lrs": [0.1] * 150} for name, values in losses.items()}
    return {"seed": seed, "tests": tests, "schedule": {"params": {"cycle_max_lr": 0.02}}, **trainings}


def test_the_tables_have_medians_and_ranges(large_batch):
    records = [
        record(large_batch, 0, final={"a": 1.5, "b": 1.6, "d": 1.40}, fast_at=30),
        record(large_batch, 1, final={"a": 1.5, "b": 1.6, "d": 1.45}, fast_at=40),
        record(large_batch, 2, final={"a": 1.5, "b": 1.4, "d": 1.51}, fast_at=34),
    ]
    report = large_batch.report(records, {8: 0.002, 32: 0.004}, 256_000)
    # The first word of a table's row, of which the legend has some too, comes last.
    lines = {line.split()[0]: line for line in report.splitlines() if line}
    assert max(map(len, report.splitlines())) <= 80
    assert "34 (30 .. 40)" in lines["fast"]
    assert "60 (60 .. 60)" in lines["slow"]
    assert "3.8 (3.8 .. 3.8)" in lines["fast"]  # [%] 300 of 8000 batches
    assert "never (128,000 .. never)" in lines["(b)"]
    assert "\n(d) 256,000 (128,000 .. never)    1.450 (1.400 .. 1.510)  51.00 (50.00 .. 52.00)\n" in report
    assert "matches or beats (a) in 2 of 3" in report


def test_the_page_has_the_tables_of_the_record_that_its_pictures_show(large_batch):
    kept = large_batch.read_record(ROOT / "examples" / "pictures" / "large_batch.json")
    assert kept["best_lr"] == large_batch.BEST_LR
    assert [record["seed"] for record in kept["records"]] == large_batch.FRESH_SEEDS
    assert not set(large_batch.FRESH_SEEDS) & set(large_batch.GRID_SEEDS)
    assert f"```text\n{large_batch.report(**kept)}\n```" in PAGE


@pytest.mark.slow  # 600 batches of range test, with a validation after every other one
def test_a_short_run_prints_its_tables_and_draws_its_pictures(large_batch, tmp_path):
    command = [sys.executable, ROOT / "examples" / "large_batch.py"]
    command += ["--seeds", "1", "--workers", "1", "--samples", "2560", "--out", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    [found] = json.loads((tmp_path / "large_batch.json").read_text(encoding="utf-8"))["records"]
    assert large_batch.report([found], large_batch.BEST_LR, 2560) in run.stdout
    for name in ("tests.png", "trainings.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    # The same seed, the same first batches, the same lr: the range test begins as the training does.
    tests = found["tests"]
    assert tests["slow"]["lrs"][0] < tests["fast"]["lrs"][0]
    assert tests["slow"]["losses"][0] == pytest.approx(tests["fixed"]["losses"][0], rel=0.2)
    assert min(tests["slow"]["losses"]) < tests["slow"]["losses"][0]
    assert found["schedule"]["type"] == "OneCycle"
    assert found["a"]["samples"][-1] == found["b"]["samples"][-1] == found["d"]["samples"][-1] == 2560
