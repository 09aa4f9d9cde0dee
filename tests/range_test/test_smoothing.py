"""SmoothedLoss: the average is exact, and does not depend on how often a loss is recorded."""

from __future__ import annotations

import math
import random

import pytest

from lightning_lrsched.range_test.loss_watch import SmoothedLoss


def averages(losses: list[float], smoothing: float, every: int = 1) -> list[float]:
    smoothed = SmoothedLoss(smoothing)
    return [smoothed.update(every * index, loss) for index, loss in enumerate(losses)]


def noisy(seed: int, length: int) -> list[float]:
    noise = random.Random(seed)
    return [noise.gauss(1.0, 0.5) for _ in range(length)]


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("every", [1, 10])
def test_the_average_is_the_weighted_mean_of_all_losses(smoothing, every):
    losses = noisy(0, 60)
    for t, average in enumerate(averages(losses, smoothing, every)):
        weights = [smoothing ** (every * (t - i)) for i in range(t + 1)]
        mean = math.fsum(w * loss for w, loss in zip(weights, losses, strict=False)) / math.fsum(weights)
        assert average == pytest.approx(mean, rel=1e-12)


def test_the_first_average_is_the_first_loss():
    assert averages([3.25], 0.98) == [3.25]


@pytest.mark.parametrize("loss", [0.0, 1e-300, -1e-30, 1e300])
def test_the_first_average_is_the_first_loss_whatever_its_size(loss):
    assert averages([loss], 0.9) == [loss]


@pytest.mark.parametrize("first_step", [0, 1, 7, 1000])
def test_it_does_not_matter_at_which_step_the_sweep_begins(first_step):
    smoothed = SmoothedLoss(0.5)
    assert [smoothed.update(first_step, 1.0), smoothed.update(first_step + 1, 4.0)] == [1.0, 3.0]


def test_the_average_of_a_constant_is_exactly_that_constant():
    assert averages([2.302585092994046] * 50, 0.9) == [2.302585092994046] * 50


@pytest.mark.parametrize("every", [1, 2, 5, 10])
def test_after_a_jump_the_average_follows_in_as_many_steps_however_often_a_loss_is_recorded(every):
    smoothed = SmoothedLoss(0.9)
    values = {step: smoothed.update(step, float(step >= 200)) for step in range(0, 261, every)}
    assert values[260] == pytest.approx(1.0, abs=0.01)
    assert 0.65 < values[210] < 0.9
