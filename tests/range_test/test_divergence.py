"""Divergence: the stop rule knows an explosion from noise."""

from __future__ import annotations

import math
import random

import pytest

from lightning_lrsched.range_test.loss_watch import (
    SETTLING_STEPS,
    VALIDATION_RISE,
    Divergence,
    SmoothedLoss,
    StopReason,
)


def stops_at(losses: list[float], every: int = 1, **options: float) -> int | None:
    """Return the optimizer step at which the rule first calls the sweep diverged; a loss every so many steps."""
    rule, smoothed = Divergence(**options), SmoothedLoss()
    for index, loss in enumerate(losses):
        step = every * (index + 1) - 1
        if rule.update(step, loss, smoothed.update(step, loss)):
            return step
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
    assert stopped >= SETTLING_STEPS


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


@pytest.mark.parametrize("every", [1, 2, 5, 10, 20])
def test_a_validation_loss_that_hardly_moves_is_no_divergence(every):
    """Of a model that was trained before: its loss falls by nothing, and its jitter is next to nothing."""
    losses = [1.5072 - 0.0002 * math.sin(index / 3) + 0.0002 * index / 20 for index in range(200 // every)]
    assert stops_at(losses, every, min_rise=VALIDATION_RISE) is None


@pytest.mark.parametrize("every", [1, 2, 5, 10])
def test_a_validation_loss_that_explodes_is_divergence_a_few_steps_after_it_began(every):
    losses = [1.5 + 0.05 * max(0, every * (index + 1) - 120) for index in range(200 // every)]
    stopped = stops_at(losses, every, min_rise=VALIDATION_RISE)
    assert stopped is not None
    assert 120 < stopped <= 140


def test_with_an_infinite_factor_only_a_loss_that_is_not_finite_ends_the_sweep():
    rising = [1.0 + 10.0 * index for index in range(100)]
    assert stops_at(rising, factor=math.inf) is None
    assert stops_at([*rising, math.nan], factor=math.inf) == 100


def test_the_beginning_is_as_many_steps_however_often_a_loss_is_recorded():
    falls_then_rises = [5.0] * 4 + [1.0] * 4 + [9.0] * 6
    assert stops_at(falls_then_rises, every=5) == 5 * 10 - 1


def first_verdict(losses: list[float], smoothed: list[float] | None = None, every: int = 1, **options: float) -> int:
    """Return the index of the loss at which the rule first calls the sweep diverged, -1 if it never does."""
    rule = Divergence(**options)
    pairs = zip(losses, smoothed or losses, strict=True)
    verdicts = [rule.update(every * (index + 1) - 1, *pair) for index, pair in enumerate(pairs)]
    return verdicts.index(True) if True in verdicts else -1


# The bar that a loss must exceed, from losses whose sums are exact in floats. Each row: the losses up to the best
# average, these averages, the options, the bar.
FALLS_IN_EIGHTHS = [5.0] * 10 + [5.0 - step / 8 for step in range(1, 33)]
JITTERS = [
    1.0,
    3.0,
    3.0,
    1.0,
    1.0,
    3.0,
    3.0,
    1.0,
    1.0,
    3.0,
    3.0,
]  # mean square of the differences: 2, so the noise is 1
BARS = {
    "a quarter of the fall": (FALLS_IN_EIGHTHS, FALLS_IN_EIGHTHS, {}, 2.0),
    "half of the fall": (FALLS_IN_EIGHTHS, FALLS_IN_EIGHTHS, {"factor": 0.5}, 3.0),
    "three times the noise": (JITTERS, [1.0] * 10 + [0.0], {}, 3.0),
    "share of the first losses": ([-4.0] * 10, [-4.0] * 10, {"min_rise": 0.25}, -3.0),
    "the largest of them": (FALLS_IN_EIGHTHS, FALLS_IN_EIGHTHS, {"min_rise": 1.0}, 6.0),
}


@pytest.mark.parametrize("scale", [2.0**-90, 1.0, 2.0**90])
@pytest.mark.parametrize("name", BARS)
def test_a_sweep_has_diverged_when_losses_and_average_exceed_the_bar(name, scale):
    losses, smoothed, options, bar = BARS[name]
    losses, smoothed, at = [scale * x for x in losses], [scale * x for x in smoothed], scale * bar
    above = at + abs(at) / 2**20

    def verdict(loss: float, average: float) -> int:
        return first_verdict(losses + [loss] * 20, smoothed + [average] * 20, **options)

    assert verdict(above, above) == len(losses) + 2  # the third loss above the bar, two steps after the first
    assert verdict(at, above) == -1
    assert verdict(above, at) == -1


def test_losses_that_explode_beside_an_unchanged_average_do_not_widen_the_tolerance():
    losses = [1.0] * 10 + [9.0, 1.0, 2.0, 2.0, 2.0]
    assert first_verdict(losses, [1.0] * 12 + [1.5] * 3) == 14


def test_the_first_verdict_comes_two_steps_after_the_beginning():
    assert first_verdict([1.0] * 10 + [9.0] * 5) == 12
    assert first_verdict([1.0] * 9 + [9.0] * 6, [1.0] * 10 + [50.0] * 5) == 12


def test_the_beginning_has_three_losses_where_they_are_recorded_seldom():
    assert first_verdict([1.0] * 3 + [9.0] * 5, every=10) == 4


def test_a_loss_below_the_bar_begins_the_count_anew():
    assert first_verdict([1.0] * 10 + [9.0, 9.0, 1.0, 9.0, 9.0, 9.0], [1.0] * 10 + [8.0] * 6) == 15


def test_a_stop_reason_is_its_text():
    assert StopReason.DIVERGED == "diverged"
    assert f"{StopReason.NON_FINITE}" == str(StopReason.NON_FINITE) == "non-finite loss"
    assert f"{StopReason.MAX_LR:>8}" == "  max_lr"
