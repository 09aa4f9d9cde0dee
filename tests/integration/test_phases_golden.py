"""Schedules of other libraries, written as phases, have their values (``make_phases_golden.py``), and torch's have."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lightning_lrsched import SchedulerConfig
from tests.integration.make_phases_golden import GOLDEN, LR, STEPS
from tests.kit.schedules import sgd

FOUND: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in json.loads(GOLDEN.read_text())}
PEAK = {"steps": 0, "lr": "auto"}
RISE = {"steps": 20, "lr": "auto"}

AS_PHASES: dict[str, dict[str, Any]] = {
    "timm cosine": {
        "start_lr": 1e-4,
        "phases": [{"steps": 10, "lr": "auto"}, {"steps": "rest", "lr": 1e-5, "shape": "cosine"}],
    },
    "timm cosine with cycles": {
        "start_lr": 1e-4,
        "phases": [
            {"steps": 8, "lr": "auto"},
            {
                "repeat": 3,
                "phases": [PEAK, {"steps": 16, "lr": 1e-5, "shape": "cosine"}],
                "length_factor": 2,
                "peak_factor": 0.5,
            },
        ],
    },
    "timm poly": {
        "start_lr": "auto",
        "phases": [{"steps": "100%", "lr": 0.01, "shape": "polynomial", "power": 0.5}],
    },
    "fastai fit_flat_cos": {
        "start_lr": "auto",
        "phases": [{"steps": 0.75}, {"steps": "rest", "lr": {"ratio": 1e-5}, "shape": "cosine"}],
    },
    "fastai fit_one_cycle": {
        "start_lr": {"ratio": 0.04},
        "phases": [
            {"steps": 0.25, "lr": "auto", "shape": "cosine"},
            {"steps": "rest", "lr": {"ratio": 1e-5}, "shape": "cosine"},
        ],
    },
    "fastai fit_sgdr": {
        "phases": [
            {"repeat": 4, "length_factor": 2, "phases": [PEAK, {"steps": "rest", "lr": 0.0, "shape": "cosine"}]}
        ],
    },
    "fastai SchedPoly": {
        "start_lr": "auto",
        "phases": [{"steps": "100%", "lr": 0.01, "shape": "1-power", "power": 3}],
    },
    "megatron inverse-square-root": {
        "phases": [RISE, {"steps": "rest", "lr": 0.0, "shape": "inverse_sqrt", "timescale": 20}]
    },
    "megatron cosine": {"phases": [RISE, {"steps": "rest", "lr": 0.01, "shape": "cosine"}]},
    "megatron exponential": {
        "phases": [RISE, {"steps": "rest"}, {"steps": 40, "lr": 0.01, "shape": "exponential"}],
    },
    "megatron minus_sqrt": {"phases": [RISE, {"steps": "rest"}, {"steps": 40, "lr": 0.01, "shape": "1-sqrt"}]},
    "rex": {"start_lr": "auto", "phases": [{"steps": "100%", "lr": 0.01, "shape": "rex"}]},
    "warmup restarts": {
        "start_lr": 0.01,
        "phases": [
            {
                "repeat": "rest",
                "peak_factor": 0.5,
                "phases": [
                    {"steps": 0, "lr": 0.01},
                    {"steps": 5, "lr": "auto"},
                    {"steps": 25, "lr": 0.01, "shape": "cosine"},
                ],
            }
        ],
    },
}


def lrs_of(params: dict[str, Any], steps: int = STEPS) -> list[float]:
    schedule = SchedulerConfig("PhasedLR", params).build(sgd(lr=LR), total_steps=STEPS)
    return [schedule.lr_at(step)[0] for step in range(steps)]


@pytest.mark.parametrize("name", AS_PHASES)
def test_the_values_are_those_of_the_other_library(name: str) -> None:
    assert lrs_of(AS_PHASES[name]) == pytest.approx(FOUND[name]["lrs"], rel=1e-12, abs=1e-14)


def test_each_entry_of_the_file_is_used_and_names_its_version() -> None:
    assert list(FOUND) == list(AS_PHASES)
    assert all(entry["source"].split()[1][0].isdigit() and len(entry["lrs"]) == STEPS for entry in FOUND.values())


TORCH: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "PolynomialLR": (
        {"total_iters": 90, "power": 1.7},
        {"start_lr": "auto", "phases": [{"steps": 90, "lr": 0.0, "shape": "polynomial", "power": 1.7}]},
    ),
    "ExponentialLR": (
        {"gamma": 0.97},
        {"start_lr": "auto", "phases": [{"steps": "rest", "lr": 0.0, "shape": "exponential", "gamma": 0.97}]},
    ),
    "CosineAnnealingWarmRestarts": (
        {"T_0": 11, "T_mult": 2, "eta_min": 0.01},
        {
            "phases": [
                {"repeat": "rest", "length_factor": 2, "phases": [PEAK, {"steps": 11, "lr": 0.01, "shape": "cosine"}]}
            ]
        },
    ),
    "CyclicLR": (
        {"base_lr": 0.01, "max_lr": LR, "step_size_up": 7, "step_size_down": 9, "cycle_momentum": False},
        {
            "start_lr": 0.01,
            "phases": [{"repeat": "rest", "phases": [{"steps": 7, "lr": LR}, {"steps": 9, "lr": 0.01}]}],
        },
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_the_values_are_those_of_torch(name: str) -> None:
    arguments, params = TORCH[name]
    optimizer = sgd(lr=LR)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert lrs_of(params) == pytest.approx(expected, rel=1e-12, abs=1e-14)
