"""Every public name, used with types: mypy --strict accepts this file (`make lint`), and the tests run it.

``assert_type`` is what a user's type checker finds; ``Any`` would silently accept every mistake.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import assert_type

import lightning_lrsched
from lightning_lrsched import (
    LR_RANGE_TEST,
    ONE_CYCLE,
    PHASED_LR,
    VALID_LR_SCHEDULES,
    WARMUP_COSINE_LR,
    WARMUP_DECAY_LR,
    WARMUP_LR,
    WARMUP_STABLE_DECAY_LR,
    LRRangeTest,
    LRRangeTestCallback,
    LRSchedulerCallback,
    OneCycle,
    PhasedLR,
    ProbeResult,
    RangeTest,
    RangeTestResult,
    SchedulerConfig,
    WarmupCosineLR,
    WarmupDecayLR,
    WarmupLR,
    WarmupStableDecayLR,
    __version__,
    add_tuning_arguments,
    configure_optimizers,
    get_config_from_args,
    get_lr_from_config,
    override_params,
    trainer_arguments,
)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.zeros(1)], lr=0.1)


def config() -> SchedulerConfig:
    return SchedulerConfig("WarmupLR", warmup_max_lr=0.1, warmup_num_steps=4)


def result() -> RangeTestResult:
    lrs = [1e-4 * 1.05**step for step in range(200)]
    losses = [2.3 - 2.0 / (1 + (0.05 / lr) ** 2) + 0.5 * lr**2 for lr in lrs]
    return RangeTestResult(list(range(200)), lrs, losses, losses, "diverged", "exponential")


def test_the_rest_of_a_deepspeed_file() -> None:
    assert_type(trainer_arguments({"gradient_clipping": 1.0}, world_size=2), dict[str, Any])


def test_the_schedules() -> None:
    schedules: list[LRScheduler] = [
        LRRangeTest(optimizer(), 0.1, lr_range_test_staircase=True),
        OneCycle(optimizer(), 0.1, [1.0], cycle_first_step_size=4, cycle_momentum=False),
        WarmupLR(optimizer(), warmup_max_lr=None, warmup_type="linear"),
        WarmupDecayLR(optimizer(), 2000, warmup_max_lr=0.1),
        WarmupStableDecayLR(
            optimizer(), 2000, warmup_max_lr=None, decay_num_steps=400, decay_type="1-sqrt", decay_min_lr=[0.0]
        ),
        PhasedLR(
            optimizer(), [{"steps": 3, "lr": 0.1}, {"steps": 4, "lr": [0.0], "momentum": 0.8}], start_momentum=0.9
        ),
    ]
    schedule = WarmupCosineLR(optimizer(), total_num_steps=8, warmup_num_steps=4, last_batch_iteration=-1)
    assert_type(schedule.lr_at(3), list[float])
    assert_type(schedule.momentum_at(3), list[float] | None)
    assert_type(schedule.get_last_lr(), list[float | Tensor])
    assert_type(schedule.last_epoch, int)
    assert_type(schedule.last_batch_iteration, int)
    assert_type(schedule.is_following, bool)
    assert_type(schedule.hyperparameters, dict[str, Any])
    assert_type(schedule.state_dict(), dict[str, Any])
    schedule.load_state_dict(schedule.state_dict())
    schedule.follow_optimizer()
    schedule.follow_optimizer(lambda: 8)
    schedule.advance()
    schedule.unfollow_optimizer()
    schedule.step()
    schedule.step(3)
    assert len(schedules) == 6


def test_the_names_of_the_schedules() -> None:
    names: list[str] = [LR_RANGE_TEST, ONE_CYCLE, WARMUP_LR, WARMUP_DECAY_LR, WARMUP_COSINE_LR]
    names += [WARMUP_STABLE_DECAY_LR, PHASED_LR]
    assert_type(VALID_LR_SCHEDULES, list[str])
    assert set(names) <= set(VALID_LR_SCHEDULES)
    assert_type(__version__, str)


def test_configurations(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"type": "WarmupLR"}')
    assert_type(SchedulerConfig.load(path), SchedulerConfig)
    assert_type(SchedulerConfig.load(str(path)), SchedulerConfig)
    assert_type(SchedulerConfig.of({"type": "WarmupLR"}), SchedulerConfig)
    assert_type(SchedulerConfig.from_dict({"scheduler": {"type": "WarmupLR"}}), SchedulerConfig)
    assert_type(config().type, str)
    assert_type(config().to_dict(), dict[str, Any])
    assert_type(config().needs_run, list[str])
    assert_type(config().resolve(optimizer()), SchedulerConfig)
    assert_type(config().resolve(optimizer(), total_steps=100, steps_per_epoch=10), SchedulerConfig)
    schedule: LRScheduler = config().build(optimizer(), total_steps=100, steps_per_epoch=10, follow=True)
    assert isinstance(schedule, WarmupLR)
    configured = configure_optimizers(optimizer(), config())
    assert_type(configured, dict[str, Any])
    assert set(configured) == {"optimizer", "lr_scheduler"}


def test_command_lines() -> None:
    parser = add_tuning_arguments(argparse.ArgumentParser())
    assert_type(parser, argparse.ArgumentParser)
    args = parser.parse_args(["--lr_schedule", "WarmupLR", "--warmup_max_lr", "0.1"])
    override_params(args, {})
    section, why_not = get_config_from_args(args)
    assert_type(section, dict[str, Any] | None)
    assert_type(why_not, str | None)
    assert section is not None
    lr, message = get_lr_from_config(section)
    assert_type(message, str)
    assert lr == 0.1


def test_the_range_test(tmp_path: Path) -> None:
    assert_type(result().suggestion("steep"), float)
    assert_type(result().bounds(), tuple[float, float])
    assert_type(result().caveats(), list[str])
    assert_type(result().one_cycle(100, cycle_momentum=False), dict[str, Any])
    assert_type(result().warmup_decay(100), dict[str, Any])
    assert_type(result().to_markdown(), str)
    assert_type(RangeTestResult.combine([result(), result()]), RangeTestResult)
    result().save(tmp_path / "result.json")
    assert_type(RangeTestResult.load(tmp_path / "result.json"), RangeTestResult)


def test_the_range_test_in_a_loop() -> None:
    model = torch.nn.Linear(1, 1)
    trained = torch.optim.SGD(model.parameters(), lr=0.1)
    with RangeTest(model, trained, 1e-3, max_lr=1.0, num_steps=10, also=[torch.nn.Linear(1, 1)]) as test:
        for batch in test.batches([torch.ones(1)]):
            assert_type(batch, Tensor)
            loss = model(batch).sum()
            loss.backward()
            trained.step()
            test.record(loss)
            test.record(0.1)
    assert_type(test.result, RangeTestResult)


def test_the_callbacks() -> None:
    callbacks: list[Callback] = [
        LRSchedulerCallback(config(), log=False),
        LRSchedulerCallback([{"type": "WarmupLR"}, None]),
        LRSchedulerCallback(SchedulerConfig("WarmupLR", unit="token"), tokens=len),
        LRSchedulerCallback({"type": "WarmupLR", "unit": "token"}, tokens=512),
        LRSchedulerCallback({"type": "WarmupLR"}, optimizer_index=1),
        LRRangeTestCallback(max_lr=1.0, num_steps="1ep", monitor="val_loss"),
        LRRangeTestCallback([1e-4], lr_range_test_step_size=0.1, mode="linear", smoothing=0.5),
    ]
    scheduling = LRSchedulerCallback(config())
    assert_type(scheduling.schedulers, list[LRScheduler])
    assert_type(scheduling.range_test_results, dict[int, RangeTestResult])
    assert_type(scheduling.probe_results, dict[int, ProbeResult])
    assert len(callbacks) == 7


def test_every_public_name_is_used_here() -> None:
    text = Path(__file__).read_text()
    body = text[text.index("def optimizer") :]
    assert [name for name in lightning_lrsched.__all__ if name not in body] == []
