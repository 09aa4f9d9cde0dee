"""ddp_spawn, ddp_fork, ddp_notebook: training happens in child processes, and what it found is here afterwards."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_lrsched import LRRangeTestCallback

ROOT = Path(__file__).parents[2]
SLOW = ["ddp_notebook", "ddp_spawn"]


def run_script(strategy: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Return what the script has found, and all that it and its children have written to the terminal."""
    if strategy != "ddp_spawn" and not hasattr(os, "fork"):
        pytest.skip("this system cannot fork processes")
    # In a process of its own: to fork one that has used several threads may hang.
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("child_processes.py")), strategy, str(folder), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:]
    return json.loads((folder / "found.json").read_text(encoding="utf-8")), run.stdout


@pytest.fixture(scope="module", params=["ddp_fork", *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)])
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    return run_script(request.param, tmp_path_factory.mktemp("children"))


def check_result(found: dict[str, Any]) -> None:
    stop_reason, steps, losses = found["children"]
    assert (stop_reason, steps) == ("num_steps", list(range(30)))
    assert losses != found["here"][2]  # of another batch size in all
    assert found["result is whole"] == "OneCycle"
    assert found["weights as before"]


def test_the_result_of_a_range_test_comes_back_and_the_weights_are_as_before(script):
    check_result(script[0])


def test_it_comes_back_from_spawned_processes_too(tmp_path):
    check_result(run_script("ddp_spawn", tmp_path, "--short")[0])


def test_the_result_of_an_earlier_test_is_never_shown_for_a_later_one(script):
    found, _ = script
    assert "the user's code" in found["error"]
    assert found["children that failed"].startswith("no LR range test has ended yet")
    assert found["here again"] == found["here"]


def test_the_file_in_which_it_comes_back_does_not_stay(script):
    found, _ = script
    assert found["file"]
    assert not Path(found["path"]).exists()


def test_a_schedule_trains_in_the_children_and_does_not_pretend_to_be_here(script):
    found, _ = script
    assert found["trained"]
    assert found["schedulers"] == []


def test_a_range_test_inside_the_fit_and_the_training_are_in_the_children(script):
    found, said = script
    assert found["trained by one line"]
    assert found["results of one line"] == {}
    assert said.count("cycle_max_lr           | from the test |") == 1


def test_two_processes_say_everything_once(script):
    _, said = script
    assert said.count("cycle_momentum has no effect") == 1
    assert said.count("LR range test: 30 optimizer steps") == 4  # four tests that came to their end


def test_a_copy_of_a_callback_has_no_file_in_common_with_it():
    callback = LRRangeTestCallback()
    assert copy.deepcopy(callback)._child_result._path != callback._child_result._path
