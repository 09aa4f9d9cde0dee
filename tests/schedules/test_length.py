"""Lengths in a configuration: "auto", fractions and epochs become optimizer steps."""

from __future__ import annotations

import pytest
import torch

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.schedules.length import Horizon

RUN = Horizon(total=1000, per_epoch=100)


@pytest.mark.parametrize(
    ("value", "steps"),
    [("auto", 100), ("AUTO", 100), (" Auto ", 100), (0.25, 250), ("0.25", 250), ("2ep", 200), ("0.5 Epochs", 50),
     ("1 epoch", 100), (1e-9, 1), (0, 0), (7, 7), ("10%", 100), ("100%", 1000),
     ("ceil(0.1)", 100), ("CEIL( 0.1001 )", 101), ("ceil(1e-5)", 1)],
)  # fmt: skip
def test_a_length_becomes_optimizer_steps(value, steps):
    config = SchedulerConfig("WarmupLR", warmup_num_steps=value, warmup_max_lr=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    assert config.build(optimizer, RUN).warmup_num_steps == steps
    assert config.resolve(optimizer, RUN).to_dict()["params"]["warmup_num_steps"] == steps


@pytest.mark.parametrize(
    "value",
    [
        "2e p",
        "ep",
        "-1ep",
        "2 days",
        "half",
        -0.1,
        1.5,
        "nanep",
        True,
        [0.1],
        None,
        1.0,
        "200%",
        "0%",
        "ceil(2)",
        "ceil()",
        "ceil(0)",
        "rest",
    ],
)
def test_what_is_no_length_is_refused_by_name(value):
    with pytest.raises((TypeError, ValueError), match=r"scheduler\.params\.warmup_num_steps"):
        SchedulerConfig("WarmupLR", warmup_num_steps=value)
