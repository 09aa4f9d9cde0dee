"""The decay equals that of Hugging Face's ``get_wsd_schedule`` (``make_wsd_golden.py``) and that of Megatron-Core."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from lightning_lrsched import WarmupStableDecayLR
from tests.integration.make_wsd_golden import GOLDEN, NUMBER, SHAPES
from tests.kit.schedules import sgd

CONFIGURATIONS: list[dict[str, Any]] = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("golden", CONFIGURATIONS, ids=lambda golden: f"{golden['decay_type']}-{golden['lr']:.3g}")
def test_the_lr_after_the_warmup_equals_hugging_faces(golden: dict[str, Any]) -> None:
    schedule = WarmupStableDecayLR(
        sgd(lr=golden["lr"]),
        golden["num_training_steps"],
        warmup_max_lr=None,
        warmup_num_steps=golden["num_warmup_steps"],
        warmup_type="log",  # at its peak when the warmup ends, as Hugging Face's; the linear one is a step later
        decay_num_steps=golden["num_decay_steps"],
        decay_type=golden["decay_type"],
        decay_min_lr=golden["lr"] * golden["min_lr_ratio"],
    )
    lrs = [schedule.lr_at(golden["num_warmup_steps"] + index)[0] for index in range(len(golden["lrs"]))]
    assert lrs == pytest.approx(golden["lrs"], rel=1e-12, abs=0)


def test_the_file_has_every_shape() -> None:
    assert [golden["decay_type"] for golden in CONFIGURATIONS] == [shape for shape in SHAPES for _ in range(NUMBER)]


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt", "exponential"])
def test_the_decay_equals_megatron_cores(shape: str) -> None:
    total, decay, max_lr, min_lr = 100, 37, 3e-4, 1e-5
    schedule = WarmupStableDecayLR(sgd(), total, 0.0, max_lr, 10, "log", decay, shape, min_lr)
    for step in range(total - decay, total + 1):
        ratio = (step - (total - decay)) / decay
        # megatron/core/optimizer_param_scheduler.py: OptimizerParamScheduler.get_lr, lr_decay_style "WSD"
        coefficient = {
            "linear": 1.0 - ratio,
            "cosine": 0.5 * (math.cos(math.pi * ratio) + 1.0),
            "1-sqrt": 1.0 - math.sqrt(ratio),
            "exponential": (2.0 * math.pow(0.5, ratio)) - 1.0,
        }[shape]
        assert schedule.lr_at(step)[0] == pytest.approx(min_lr + coefficient * (max_lr - min_lr), rel=1e-12, abs=0)
