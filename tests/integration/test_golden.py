"""Every schedule equals DeepSpeed's own, at the positions and to the digits of ``golden.json`` (``make_golden.py``)."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.integration.make_golden import DRAWS, GOLDEN, NUMBER
from tests.kit.schedules import adamw, lrs, momenta

CONFIGURATIONS: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
KINDS = {"floats": float, "tensors": lambda lr: torch.tensor(lr, dtype=torch.float64)}


def build(golden: dict[str, Any], kind: str = "floats", start: int = 0) -> ScheduledLR:
    optimizer = adamw(*map(KINDS[kind], golden["own_lrs"]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is less than warmup_num_steps", category=UserWarning)
        return SCHEDULERS[golden["schedule"]](optimizer, **golden["params"], last_batch_iteration=start - 1)


def close(expected: list[float]) -> Any:
    return pytest.approx(expected, rel=1e-12, abs=0)


def values(golden: dict[str, Any]) -> dict[int, tuple[Any, Any]]:
    """Return lr and momentum, or None where DeepSpeed's differ on purpose, at each position."""
    nothing = [None] * len(golden["steps"])
    pairs = zip(golden["lr"], golden["momentum"] or nothing, strict=True)
    return dict(zip(golden["steps"], pairs, strict=True))


each = pytest.mark.parametrize(
    "golden",
    [pytest.param(golden, id=f"{golden['schedule']}-{index}") for index, golden in enumerate(CONFIGURATIONS)],
)


@each
def test_lr_and_momentum_at_a_position_equal_deepspeed(golden: dict[str, Any]) -> None:
    schedule = build(golden)
    for step, (lr, momentum) in values(golden).items():
        assert lr is None or schedule.lr_at(step) == close(lr), step
        assert momentum is None or schedule.momentum_at(step) == close(momentum), step
        assert (schedule.momentum_at(step) is None) == (golden["momentum"] is None)


@each
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("middle", [False, True], ids=["from the start", "from the middle"])
def test_the_stepped_optimizer_equals_deepspeeds(golden: dict[str, Any], kind: str, middle: bool) -> None:
    start = golden["steps"][len(golden["steps"]) // 2] if middle else 0
    schedule, expected = build(golden, kind, start), values(golden)
    for step in range(start, golden["steps"][-1] + 1):
        if step > start:
            schedule.step()
        lr, momentum = expected.get(step, (None, None))
        assert lr is None or lrs(schedule.optimizer) == close(lr), step
        assert momentum is None or momenta(schedule.optimizer) == close(momentum), step


def test_the_file_has_every_schedule_of_deepspeed() -> None:
    assert [golden["schedule"] for golden in CONFIGURATIONS] == [name for name in DRAWS for _ in range(NUMBER)]
