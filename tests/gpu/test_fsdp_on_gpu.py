"""Both callbacks under FSDP1 and FSDP2 on one GPU, in a process of its own; FSDP1 refuses the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_lrsched import SchedulerConfig
from tests.integration.two_ranks import CONFIG, HALF, STEPS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ACCELERATOR = "cuda"


@pytest.fixture(scope="module", params=["fsdp", "fsdp2"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sharded")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(Path(__file__).with_name("one_device.py")), request.param, str(folder), ACCELERATOR]
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr)[-8000:]
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def expected() -> list[Any]:
    schedule = SchedulerConfig.of(CONFIG).build(torch.optim.AdamW([torch.zeros(1)], lr=0.001))
    pairs = [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0]) for step in range(STEPS)]
    return [pytest.approx(pair, rel=1e-12) for pair in pairs]


def test_lr_and_momentum_are_the_schedules_at_every_step_also_after_a_resume(found: dict[str, Any]) -> None:
    assert found["first half"] == expected()[:HALF]
    assert found["resumed"] == expected()[HALF:]


def test_a_range_test_puts_the_weights_back_bit_for_bit(found: dict[str, Any]) -> None:
    assert found["range test"] == {"steps": list(range(30)), "changed": True, "restored": True}
