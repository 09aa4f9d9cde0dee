"""Two processes: the same lr and momentum on both, checkpoints across world sizes, one verdict of a range test."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_lrsched import LRSchedulerCallback, SchedulerConfig, configure_optimizers
from tests.integration.two_ranks import CONFIG, EXPLODES_AT, HALF, STEPS, SWEEP_LENGTH, Module, data, make_trainer
from tests.kit.ranks import needs_fully_shard, run_on_two_ranks

needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
STRATEGIES = [
    pytest.param(("ddp", "cpu"), id="ddp"),
    pytest.param(("fsdp2", "cpu"), id="fsdp2", marks=needs_fully_shard),
    pytest.param(("ddp", "cuda"), id="ddp-cuda", marks=[pytest.mark.gpu, needs_two_gpus]),
    pytest.param(("fsdp2", "cuda"), id="fsdp2-cuda", marks=[pytest.mark.gpu, needs_two_gpus]),
    pytest.param(("fsdp", "cuda"), id="fsdp-cuda", marks=[pytest.mark.gpu, needs_two_gpus]),
]


def expected(steps: int) -> list[list[float]]:
    schedule = SchedulerConfig.of(CONFIG).build(torch.optim.AdamW([torch.zeros(1)], lr=0.001))
    return [[schedule.lr_at(step)[0], schedule.momentum_at(step)[0]] for step in range(steps)]


@pytest.fixture(scope="module", params=STRATEGIES)
def two_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The findings of both ranks, and the folder with their checkpoint; one process' checkpoint to begin with."""
    folder = tmp_path_factory.mktemp("ranks")
    trainer = make_trainer(LRSchedulerCallback(CONFIG), accelerator="cpu", devices=1, max_steps=HALF, max_epochs=-1)
    trainer.fit(Module(), data())
    trainer.save_checkpoint(folder / "one.ckpt")
    strategy, accelerator = request.param
    return run_on_two_ranks(strategy, folder, accelerator), folder


def test_both_ranks_have_the_schedules_lr_and_momentum_at_every_step(two_ranks: Any) -> None:
    for found in two_ranks[0]:
        assert found["first half"] == expected(STEPS)[:HALF]


def test_one_process_checkpoint_goes_on_in_two(two_ranks: Any) -> None:
    for found in two_ranks[0]:
        assert found["resumed from one process"] == expected(STEPS)[HALF:]
        assert found["position"] == STEPS


VARIANTS = {"accumulation": 6, "manual": 8, "skipped": 11, "helper": 16, "helper, accumulation": 6}
"""Kind of training -> optimizer steps that it makes in 16 batches."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_finished_steps_count_in_every_kind_of_training(two_ranks: Any, variant: str) -> None:
    for found in two_ranks[0]:
        assert found["variants"][variant] == expected(VARIANTS[variant])


@pytest.mark.parametrize("kind", ["by probe", "by range test"])
def test_one_line_finds_the_same_on_both_ranks_and_trains_from_the_untouched_weights(two_ranks: Any, kind: str) -> None:
    found = [rank[kind] for rank in two_ranks[0]]
    for rank in found:
        assert rank["used"] == rank["expected"]
        assert rank["position"] == len(rank["used"])
        assert rank["peak"] == pytest.approx(rank["found"][2]["high"], rel=1e-12)
        assert rank["restored"]
    assert found[0]["found"] == found[1]["found"]
    assert found[0]["found"][0] == {"by probe": "ProbeResult", "by range test": "RangeTestResult"}[kind]


@pytest.mark.parametrize("kind", ["by probe", "by range test"])
def test_one_line_goes_on_after_a_resume_with_what_it_had_found(two_ranks: Any, kind: str) -> None:
    for rank in two_ranks[0]:
        whole, resumed = rank[kind], rank[f"{kind}, resumed"]
        assert resumed["found"] == whole["found"]
        assert resumed["used"] == whole["used"][len(whole["used"]) // 2 :]


def test_two_processes_checkpoint_goes_on_in_two(two_ranks: Any) -> None:
    for found in two_ranks[0]:
        assert found["resumed from two processes"] == expected(STEPS)[HALF:]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_two_processes_checkpoint_goes_on_in_one(two_ranks: Any) -> None:
    module = Module()
    trainer = make_trainer(LRSchedulerCallback(CONFIG), accelerator="cpu", devices=1, max_steps=STEPS, max_epochs=-1)
    trainer.fit(module, data(), ckpt_path=two_ranks[1] / "two.ckpt")
    assert [list(pair) for pair in module.seen] == expected(STEPS)[HALF:]


def test_loaders_of_different_length_make_one_schedule(two_ranks: Any) -> None:
    assert [found["batches of the loader"] for found in two_ranks[0]] == [60, 80]
    assert [found["warmup of one epoch"] for found in two_ranks[0]] == [60, 60]


def test_a_loss_that_explodes_on_one_rank_stops_the_range_test_on_both_at_the_same_step(two_ranks: Any) -> None:
    first, second = (found["range test"] for found in two_ranks[0])
    assert first == second
    assert first["stop_reason"] in ("diverged", "non-finite loss")
    assert EXPLODES_AT <= first["steps"][-1] < SWEEP_LENGTH
    assert all(math.isfinite(loss) for loss in first["losses"][:EXPLODES_AT])


def test_after_the_range_test_the_weights_of_both_ranks_are_bit_for_bit_those_before(two_ranks: Any) -> None:
    assert [found["range test"]["restored"] for found in two_ranks[0]] == [True, True]


def test_after_the_range_test_of_a_trained_module_its_optimizers_state_is_as_before_and_sharded_as_before(
    two_ranks: Any, request: pytest.FixtureRequest
) -> None:
    for found in two_ranks[0]:
        ours = found["range test of a trained module"]
        assert ours["steps"] == list(range(12))
        assert ours["tensors"] == 4 + 4 * 3  # parameters; step and two moments of each
        assert ours["restored"]
        sharded = "fsdp2" in request.node.callspec.id
        assert ours["sharded"] == [False, sharded, sharded] * 4


def test_both_ranks_begin_the_fine_sweep_at_the_same_step_and_from_where_the_coarse_one_began(two_ranks: Any) -> None:
    first, second = (found["two sweeps"] for found in two_ranks[0])
    assert first == second
    assert all(len(steps) > 10 for steps in first["steps"])
    assert first["restored"] == [True, True, True]  # at the beginning of each sweep, and at the end


def test_a_fabric_loop_follows_the_schedule_and_its_range_test_is_one_for_all_ranks_and_leaves_nothing_behind(
    two_ranks: Any,
) -> None:
    first, second = (found["fabric"] for found in two_ranks[0])
    assert first == second
    assert first["used"] == expected(STEPS)
    assert first["position"] == STEPS
    stop_reason, steps, _ = first["range test"]
    assert stop_reason in ("diverged", "non-finite loss")
    assert EXPLODES_AT <= steps[-1] < SWEEP_LENGTH
    assert first["lrs"]
    assert not first["changed"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="DeepSpeedStrategy needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.filterwarnings("ignore")
def test_deepspeed_strategy_through_configure_optimizers(tmp_path: Path) -> None:
    class Configured(Module):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.001)
            return configure_optimizers(optimizer, {"scheduler": CONFIG}, trainer=self.trainer)

    module = Configured()
    trainer = make_trainer(
        accelerator="cuda", devices=1, strategy="deepspeed_stage_2", precision="bf16-mixed", max_steps=STEPS,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data())
    assert [list(pair) for pair in module.seen] == expected(STEPS)
