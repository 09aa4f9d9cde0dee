"""The comparison of weight decays, in a tiny setting."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")


def test_each_way_trains_and_the_biases_have_no_decay(weight_decay: ModuleType, tmp_path: Path) -> None:
    for way in weight_decay.WAYS:
        assert 1 < weight_decay.train(way, 0, argparse.Namespace(steps=30, out=tmp_path)) < 7  # 7 bits are chance


def test_the_table_has_medians_ranges_and_wins(weight_decay: ModuleType) -> None:
    losses = {"none": [3.0, 3.2, 3.1], "constant": [3.1, 3.1, 3.1], "follows the lr": [3.0, 3.0, 3.0]}
    lines = weight_decay.table(losses).splitlines()
    assert lines[2].split(" | ")[1].strip() == "3.100 (3.000 to 3.200)"
    assert [line.rpartition("|")[2].strip() for line in lines[2:]] == ["1 of 3 seeds", "", "3 of 3 seeds"]
