"""Divergence: the stop rule knows an explosion from noise."""

from __future__ import annotations

import math
import random

import pytest

from lightning_lrsched.range_test.divergence import SETTLING_LOSSES, Divergence


def stops_at(losses: list[float], smoothing: float = 0.9) -> int | None:
    """Return the index of the loss at which the rule first calls the sweep diverged."""
    rule, total, weight = Divergence(), 0.0, 0.0
    for index, loss in enumerate(losses):
        distance = loss - losses[0]
        total, weight = smoothing * total + distance, smoothing * weight + 1.0
        if rule.update(loss, losses[0] + total / weight):
            return index
    return None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 3, 40])
def test_a_loss_that_is_not_finite_is_divergence_at_once(bad, index):
    assert stops_at([1.0] * index + [bad] + [1.0] * 5) == index


@pytest.mark.parametrize("seed", range(20))
def test_noise_around_a_constant_is_no_divergence(seed):
    noise = random.Random(seed)
    assert stops_at([2.3 + noise.gauss(0, 0.1) for _ in range(300)]) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_falling_loss_is_no_divergence(seed):
    noise = random.Random(seed)
    assert stops_at([2.3 - 0.005 * step + noise.gauss(0, 0.2) for step in range(300)]) is None


@pytest.mark.parametrize("slope", [0.001, 0.1, 10.0])
def test_a_loss_that_only_rises_is_divergence(slope):
    stopped = stops_at([1.0 + slope * step for step in range(100)])
    assert stopped is not None
    assert stopped >= SETTLING_LOSSES


@pytest.mark.parametrize("offset", [-1e3, -1.0, 0.0, 1e3])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_verdict_does_not_depend_on_offset_or_scale(offset, scale):
    noise = random.Random(1)
    losses = [
        2.0 - 0.02 * min(step, 60) + 0.05 * max(0, step - 80) + noise.gauss(0, 0.05) for step in range(150)
    ]  # fmt: skip
    stopped = stops_at(losses)
    assert stopped is not None
    assert stops_at([offset + scale * loss for loss in losses]) == stopped


def test_a_saturating_classifier_that_returns_to_chance_has_diverged():
    # Falls from 2.3 to 0.5 and back to 2.3: never four times its best, as the usual rule asks.
    losses = [2.3] * 20 + [2.3 - 0.06 * step for step in range(30)] + [0.5] * 20 + [2.3] * 40
    stopped = stops_at(losses)
    assert stopped is not None
    assert 70 <= stopped <= 85


@pytest.mark.parametrize("at", [12, 80, 140])
def test_a_single_spike_is_no_divergence(at):
    noise = random.Random(at)
    losses = [2.3 - 0.01 * step + noise.gauss(0, 0.05) for step in range(150)]
    losses[at] += 50.0
    assert stops_at(losses) is None
