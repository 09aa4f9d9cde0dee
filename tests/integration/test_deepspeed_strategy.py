"""DeepSpeed's real engine, on the CPU: schedules and range tests in DeepSpeedStrategy, and schedules in a plain engine.

All cells of a table run one after the other, in one process and in two; see deepspeed_runs.py.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_lrsched import SchedulerConfig
from tests.integration.deepspeed_runs import (
    AUTO,
    BATCHES,
    CYCLE,
    LRS,
    PARTS,
    SECTION,
    STEPS_OF_TORCH,
    SWEEP_STEPS,
    TRIAL_BATCHES,
    Cell,
    cells_for,
)
from tests.kit.ranks import environment_of_ranks

has_compiler = any(map(shutil.which, ("c++", "g++", "clang++")))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
    pytest.mark.skipif(not has_compiler, reason="there is no C++ compiler, which DeepSpeed needs on the CPU"),
]


def run_in(processes: int, folder: Path) -> list[dict[str, dict[str, Any]]]:
    """Run deepspeed_runs.py in some processes and return what each has found: part -> cell -> values."""
    common = {**environment_of_ranks(processes), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("deepspeed_runs.py")), str(folder)]
    with ExitStack() as open_files:
        logs = [open_files.enter_context((folder / f"log{rank}.txt").open("w+")) for rank in range(processes)]
        ranks = [
            subprocess.Popen(command, env={**common, "LOCAL_RANK": str(rank)}, stdout=log, stderr=subprocess.STDOUT)
            for rank, log in enumerate(logs)
        ]
        try:
            for rank in ranks:
                rank.wait(timeout=280)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    logged = [(folder / f"log{rank}.txt").read_text()[-8000:] for rank in range(processes)]
    assert [rank.returncode for rank in ranks] == [0] * processes, "\n".join(logged)
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


@pytest.fixture(scope="module")
def found_in(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda processes: run_in(processes, tmp_path_factory.mktemp("deepspeed")))


@dataclass(frozen=True)
class Case:
    """One cell, and what each process has found in it."""

    cell: Cell
    ranks: list[dict[str, Any]]


def cells(part: str, *processes: int) -> pytest.MarkDecorator:
    """Parametrize with each cell of a part, in one process and in two."""
    params = [
        pytest.param((part, name, n), id=f"{name}-{n}") for n in processes or (1, 2) for name in cells_for(n, part)
    ]
    return pytest.mark.parametrize("case", params, indirect=True)


@pytest.fixture
def case(found_in: Any, request: pytest.FixtureRequest) -> Case:
    part, name, processes = request.param
    ranks = [rank[part][name] for rank in found_in(processes)]
    assert not any("error" in found for found in ranks), ranks[0].get("error")
    return Case(PARTS[part][1][name], ranks)


def values(config: Any, cell: Cell, steps: Iterable[int], total: int | None = None) -> list[Any]:
    """Return lr and momentum of each param group at some positions, as the schedule itself has them."""
    params = dict(config["params"])
    if total is not None:
        params["total_num_steps"] = total
    lrs = LRS[: cell.groups]
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in lrs]
    sgd = cell.optimizer == "SGD"
    optimizer = torch.optim.SGD(groups, lr=lrs[0], momentum=0.9) if sgd else torch.optim.AdamW(groups, lr=lrs[0])
    schedule = SchedulerConfig(config["type"], params).build(optimizer)
    own = [0.9] * len(lrs)
    return [[schedule.lr_at(step), schedule.momentum_at(step) or own] for step in steps]


def close(expected: list[Any]) -> Any:
    return pytest.approx(torch.tensor(expected, dtype=torch.float64).numpy(), rel=1e-12, abs=1e-15)


def as_array(values: list[Any]) -> Any:
    return torch.tensor(values, dtype=torch.float64).numpy()


# Schedules ----------------------------------------------------------------------------------------------------------


@cells("training")
def test_lr_and_momentum_are_those_of_the_number_of_applied_steps(case):
    for found in case.ranks:
        for run in ("whole", "half"):
            applied, total = found[run]["applied"], found[run]["total"]
            assert as_array(applied) == close(values(AUTO, case.cell, range(len(applied)), total))


@cells("training")
def test_the_position_is_the_number_of_applied_steps_and_the_length_what_the_engine_makes(case):
    for found in case.ranks:
        for run, epochs in (("whole", 4), ("half", 2)):
            here = found[run]
            assert here["position"] == here["steps of the engine"] == len(here["applied"])
            assert here["position"] + here["skipped"] == here["total"] == epochs * BATCHES // case.cell.accumulate
            assert here["skipped"] == len(case.cell.overflow)


@cells("training")
def test_a_resume_from_the_checkpoint_folder_goes_on_at_the_saved_position(case):
    for found in case.ranks:
        begin, here = found["half"]["position"], found["resumed"]
        # The engine forgets gradients that it has accumulated without a step.
        end = begin + 2 * BATCHES // case.cell.accumulate
        assert here["position"] == here["steps of the engine"] == here["total"] == end
        assert as_array(here["applied"][begin:]) == close(values(AUTO, case.cell, range(begin, end), end))


@cells("samples")
def test_samples_are_those_of_the_applied_steps_and_of_the_steps_skipped_before_them(case):
    of_a_step = 2 * len(case.ranks) * case.cell.accumulate
    skipped = {batch // case.cell.accumulate for batch in case.cell.overflow}
    groups = [group for group in range(4 * BATCHES // case.cell.accumulate) if group not in skipped]
    positions = [0, *(of_a_step * (group + 1) for group in groups)]
    half = 2 * BATCHES // case.cell.accumulate
    for found in case.ranks:
        whole, resumed, begin = found["whole"], found["resumed"], len(found["half"]["applied"])
        assert whole["position"] == whole["total"] == positions[-1]
        lrs = values(AUTO, case.cell, positions[:-1], whole["total"])
        assert as_array(whole["applied"]) == close(lrs)
        assert found["half"]["position"] == of_a_step * half == found["half"]["total"]
        # The engine forgets gradients that it has accumulated without a step.
        assert resumed["position"] == resumed["total"] == 2 * of_a_step * half
        lrs = values(AUTO, case.cell, range(of_a_step * half, 2 * of_a_step * half, of_a_step), resumed["total"])
        assert as_array(resumed["applied"][begin:]) == close(lrs)


@cells("lengths", 1)
def test_the_length_is_what_the_run_then_does(case):
    (found,) = case.ranks
    assert {run: here["total"] for run, here in found.items()} == {
        run: here["steps of the engine"] for run, here in found.items()
    }
    # 30 batches in groups of 4; Lightning's 5 steps end after 24 batches, at 2 steps in each epoch of 10.
    assert found["max_epochs=3"]["total"] == 7
    assert found["max_steps=5"]["total"] == 6
    assert found["a second fit"]["total"] == 5


@cells("others", 1)
def test_a_schedule_that_was_not_saved_goes_on_from_the_steps_that_the_engine_applied(case):
    (found,) = case.ranks
    here = found["saved without a schedule"]
    assert here["before"] == 2 * BATCHES // case.cell.accumulate - len(case.cell.overflow)
    assert here["position"] == here["steps of the engine"] == here["total"]
    steps = range(here["before"], here["position"])
    assert as_array(here["applied"][here["before"] :]) == close(values(AUTO, case.cell, steps, here["total"]))


@cells("others", 1)
@pytest.mark.parametrize("way", ["torch, callback", "torch, helper"])
def test_schedulers_of_torch_follow_the_engine_too(case, way):
    (found,) = case.ranks
    gamma, size = STEPS_OF_TORCH["params"]["gamma"], STEPS_OF_TORCH["params"]["step_size"]
    expected = [LRS[0] * gamma ** (step // size) for step in range(found[way]["steps of the engine"])]
    assert found[way]["position"] == len(expected) > size
    assert [lrs[0] for lrs, _ in found[way]["applied"]] == pytest.approx(expected, rel=1e-12)


@cells("others", 1)
def test_the_schedule_of_a_command_line_follows_the_engine(case):
    (found,) = case.ranks
    applied = found["command line"]["applied"]
    assert as_array(applied) == close(values(SECTION, case.cell, range(len(applied))))
    assert found["command line"]["position"] == len(applied) > 0


@cells("others", 1)
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("helper without trainer", "in Lightning use LRSchedulerCallback, or pass the module (or trainer=...)"),
        (
            "helper and Adagrad",
            "DeepSpeed trains with another one (Adagrad of 1 param groups): use LRSchedulerCallback",
        ),
        ("section and callback", "LRSchedulerCallback: the config of DeepSpeedStrategy has a 'scheduler' section"),
        ("section and helper", "configure_optimizers: the config of DeepSpeedStrategy has a 'scheduler' section"),
        ("callback and helper", "the module's configure_optimizers already returns a scheduler (OneCycle)"),
    ],
)
def test_a_mistake_is_one_clear_error(case, mistake, message):
    assert message in case.ranks[0][mistake]


# Range tests --------------------------------------------------------------------------------------------------------


@cells("range test")
def test_a_range_test_restores_the_weights_bit_for_bit_without_gathering_them(case):
    for found in case.ranks:
        assert found["after"] == found["before"]
        assert found["at the end"] != found["before"]
        assert not any(found["held after capture"] + found["held after restoring"])
        assert bool(found["held after capture"]) is (case.cell.stage == 3)


@cells("range test")
def test_a_training_after_a_range_test_is_as_if_there_had_been_none(case):
    for found in case.ranks:
        assert found["tested"] == found["untested"]
        applied = found["tested"]["applied"]
        assert as_array(applied) == close(values(CYCLE, case.cell, range(len(applied))))


@cells("range test")
def test_each_record_is_an_applied_step_with_its_lr_and_the_mean_of_its_losses(case):
    for found in case.ranks:
        steps = found["steps"]
        assert steps == list(range(len(steps)))
        assert found["losses"] == case.ranks[0]["losses"]
        lrs = [max(lrs) for lrs, _ in found["applied"][: len(steps)]]
        assert lrs == pytest.approx(found["lrs"], rel=1e-12)
    # Lightning divides the loss of a batch in the precision of the model.
    tolerance = {"32-true": 1e-5, "16-mixed": 2e-3, "bf16-mixed": 1e-2}[case.cell.precision]
    for step, loss in enumerate(case.ranks[0]["losses"]):
        batches = slice(step * case.cell.accumulate, (step + 1) * case.cell.accumulate)
        of_step = [loss for found in case.ranks for loss in found["batch losses"][batches]]
        assert loss == pytest.approx(sum(of_step) / len(of_step), rel=tolerance)


@cells("range test")
def test_a_range_test_ends_with_a_result(case):
    for found in case.ranks:
        assert found["stop_reason"] == case.ranks[0]["stop_reason"]
        if case.cell.overflow_from is not None:
            # DeepSpeed's scaler would raise "Current loss scale already at minimum" here.
            assert found["stop_reason"] == "skipped steps"
            assert len(found["steps"]) == case.cell.overflow_from
        elif case.cell.precision == "16-mixed":
            assert found["stop_reason"] in ("diverged", "non-finite loss")
        else:
            assert found["stop_reason"] == "num_steps"
            assert len(found["steps"]) == SWEEP_STEPS


@cells("two sweeps")
def test_a_range_test_without_a_range_sweeps_the_same_engine_twice_from_the_same_state(case):
    for found in case.ranks:
        assert {json.dumps(weights) for weights in found["weights"]} == {json.dumps(found["weights"][0])}
        assert found["engine"] == [found["engine"][0]] * 2
        coarse, fine = found["coarse"], found["fine"]
        assert [coarse, fine] == [case.ranks[0]["coarse"], case.ranks[0]["fine"]]
        assert [max(lrs) for lrs in found["lrs"]] == [coarse["lrs"][0], fine["lrs"][0]]
        assert fine["lrs"][0] == pytest.approx(coarse["lrs"][-1] / 100)
        for record in (coarse, fine):
            assert record["steps"] == list(range(len(record["steps"])))
            if case.cell.overflow_from is not None:
                assert (record["stop_reason"], len(record["steps"])) == ("skipped steps", case.cell.overflow_from)


@cells("trial")
def test_the_same_engine_trains_after_a_trial_as_if_there_had_been_none(case):
    for found in case.ranks:
        assert found["steps of the trial"] == TRIAL_BATCHES // case.cell.accumulate > 0
        assert found["after a trial"] == found["without"]
        assert found["weights in the trial"] != found["without"]["weights"]


@cells("inside")
def test_a_range_test_inside_the_fit_is_as_one_of_its_own_and_a_training_with_what_it_found(case):
    for found in case.ranks:
        alone, inside, resumed = found["results"]
        assert alone == inside == resumed
        assert found["inside"] == found["with what it found"]
        applied, config = found["inside"]["applied"], found["inside"]["config"]
        assert len(applied) == found["inside"]["position"] == 2 * BATCHES // case.cell.accumulate
        assert as_array(applied) == close(values(config, case.cell, range(len(applied))))


@cells("inside")
def test_a_resume_uses_what_the_range_test_inside_the_fit_found(case):
    for found in case.ranks:
        begin, here = found["inside"]["position"], found["resumed"]
        assert here["position"] == here["steps of the engine"] == begin + 2 * BATCHES // case.cell.accumulate
        steps = range(begin, here["position"])
        assert as_array(here["applied"][begin:]) == close(values(here["config"], case.cell, steps))


# A plain engine -----------------------------------------------------------------------------------------------------


@cells("plain", 1)
def test_a_plain_engine_steps_the_schedule_and_nothing_warns(case):
    (found,) = case.ranks
    ours = found["ours"]
    assert ours["warnings"] == []
    assert ours["position"] == len(ours["applied"]) == 2 * BATCHES // case.cell.accumulate - len(case.cell.overflow)
    assert as_array(ours["applied"]) == close(values(CYCLE, case.cell, range(ours["position"])))


@cells("plain", 1)
def test_following_an_optimizer_in_an_engine_is_an_error_that_says_what_to_do(case):
    assert "pass the schedule to the engine" in case.ranks[0]["followed"]


@cells("plain", 1)
@pytest.mark.parametrize("source", ["one_cycle", "convert"])
def test_a_plain_engine_loads_our_files_with_equal_lrs(case, source):
    (found,) = case.ranks
    applied = found[source]["applied"]
    expected = values(found["sections"][source], case.cell, range(len(applied)))
    assert [lrs for lrs, _ in applied] == [pytest.approx(lrs, rel=1e-12) for lrs, _ in expected]
    assert len(applied) > 3
