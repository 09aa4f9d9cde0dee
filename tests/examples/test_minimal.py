"""The shortest example: what it prints is what its last lines say, as far as that is the same on all machines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal.py"
SOURCE = EXAMPLE.read_text(encoding="utf-8")
NUMBER = re.compile(r"\d(?:[\d.e-]*\d)?")


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> str:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1]), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, EXAMPLE],
        cwd=tmp_path_factory.mktemp("minimal"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


def test_the_last_line_is_the_one_in_its_comment(printed):
    [shown] = re.findall(r"^#     (.+)$", SOURCE, re.MULTILINE)
    assert NUMBER.sub("_", printed) == NUMBER.sub("_", shown)
    values, shown_values = ([float(number) for number in NUMBER.findall(line)[1:]] for line in (printed, shown))
    assert values[0] == pytest.approx(shown_values[0], rel=0.5)  # the peak: rounding differs between machines


def test_it_ends_well_below_a_training_without_the_callback(printed):
    without = float(NUMBER.findall(SOURCE)[-1])
    assert float(printed.rsplit(" ", 1)[1]) < without / 2


def test_it_is_short_enough_to_be_read_at_once():
    assert len(SOURCE.splitlines()) <= 45
