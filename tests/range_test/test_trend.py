"""LossTrend: the smoothing is exact."""

from __future__ import annotations

import math
import random

import pytest
import torch

from lightning_lrsched.range_test.smoothing import LossTrend


def averages(losses: list[float], smoothing: float) -> tuple[LossTrend, list[float]]:
    trend, values = LossTrend(smoothing), []
    for loss in losses:
        trend.update(torch.tensor(loss, dtype=torch.float64))
        values.append(trend.compute().item())
    return trend, values


def noisy(seed: int, length: int) -> list[float]:
    noise = random.Random(seed)
    return [noise.gauss(1.0, 0.5) for _ in range(length)]


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9, 0.98])
def test_the_average_is_the_weighted_mean_of_all_losses(smoothing):
    losses = noisy(0, 60)
    for t, average in enumerate(averages(losses, smoothing)[1]):
        weights = [smoothing ** (t - i) for i in range(t + 1)]
        mean = math.fsum(w * loss for w, loss in zip(weights, losses, strict=False)) / math.fsum(weights)
        assert average == pytest.approx(mean, rel=1e-12)


def test_the_first_average_is_the_first_loss():
    assert averages([3.25], 0.98)[1] == [3.25]


def test_the_average_of_a_constant_is_exactly_that_constant():
    assert averages([2.302585092994046] * 50, 0.9)[1] == [2.302585092994046] * 50


def test_the_mean_of_the_ranks_averages_is_the_average_of_the_mean_loss():
    losses = [noisy(rank, 20) for rank in range(3)]
    of_ranks = [averages(of_rank, 0.9)[0] for of_rank in losses]
    of_mean = averages([sum(step) / 3 for step in zip(*losses, strict=True)], 0.9)[0]
    assert of_mean.compute().item() == pytest.approx(sum(trend.compute().item() for trend in of_ranks) / 3)


def test_it_feeds_on_float32_without_losing_its_precision():
    trend = LossTrend()
    trend.update(torch.tensor(0.1, dtype=torch.float32))
    assert trend.compute().dtype == torch.float64


def test_reset_forgets_everything():
    trend = averages([1.0, math.nan], 0.9)[0]
    trend.reset()
    trend.update(torch.tensor(2.0))
    assert trend.compute() == 2.0
