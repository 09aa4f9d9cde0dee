"""The suggestion rules: a table from a record to what each rule reads off it, and what no rule may do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from lightning_lrsched.range_test.suggestions import METHODS, Curve, bounds, suggest
from tests.kit.records import LOWEST, curve, falls_and_turns

# Rule -> what it reads off the record whose loss falls around lr 0.05 and rises around lr 1. Without the smoothing, the
# loss falls fastest per log lr at 0.05 and half as fast at 0.12, is lowest at 0.31, and has climbed back a tenth of its
# fall at 0.69.
TABLE = {"edge": 0.066, "valley": 0.035, "steep": 0.05, "minimum": 0.03, "slide": 0.14}


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("method", METHODS)
def test_each_rule_reads_its_lr_off_the_record(method, scale):
    found = suggest(curve(falls_at=0.05 * scale, turns_at=scale), method)
    assert found == pytest.approx(TABLE[method] * scale, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("every", [2, 5, 10])
def test_how_often_a_loss_is_recorded_does_not_move_a_suggestion(method, every):
    often, seldom = curve(), curve(every=every)
    assert 0.5 < suggest(seldom, method) / suggest(often, method) < 2.0
    assert 0.5 < bounds(seldom)[1] / bounds(often)[1] < 2.0


@pytest.mark.parametrize("steps", [50, 100, 400, 2000])
def test_how_long_the_sweep_is_moves_a_suggestion_by_no_more_than_the_lag(steps):
    assert 1 / 3 < suggest(curve(steps=steps), "edge") / suggest(curve(), "edge") < 3.0


def attempt(find: Callable[[], list[float]]) -> list[float]:
    """Return what ``find`` finds, nothing where it raises the error that asks for a lower lr to begin at."""
    try:
        return find()
    except ValueError as error:
        if "begin at a lower lr" not in str(error):
            raise
        return []


@pytest.mark.parametrize("seed", range(300))
def test_what_is_suggested_was_tested(seed):
    """Noise around a weak fall, and a turn near the beginning: a suggestion inside the range, or an error."""
    shape = random.Random(seed)
    turns_at, noise = 10 ** shape.uniform(-5, 0), 10 ** shape.uniform(-2, 0.5)

    def record() -> Curve:
        return curve(noise=noise, seed=seed, falls_at=turns_at / 20, turns_at=turns_at)

    found = attempt(lambda: list(bounds(record())))
    for method in METHODS:
        found += attempt(lambda method=method: [suggest(record(), method)])
    assert all(lr >= LOWEST * (1 - 1e-9) and lr <= 10.0 for lr in found)


def test_a_low_bound_below_the_tested_range_is_the_lowest_tested_lr():
    lrs = [0.01 * 10 ** (2 * step / 100) for step in range(100)]
    record = Curve(range(100), lrs, [falls_and_turns(lr, 0.03, 0.1) for lr in lrs], "exponential")
    low, high = bounds(record)
    assert low == 0.01
    assert high > low


@pytest.mark.parametrize(
    ("losses", "reason", "advice"),
    [
        ([], "num_steps", "recorded no loss"),
        ([math.nan] * 50, "non-finite loss", "the very first loss was not finite"),
        ([2.0] * 9, "diverged", r"the test stopped itself .*divergence_factor=float\('inf'\)"),
        ([2.0] * 9, "num_steps", "make the test longer"),
        ([2.0] * 9 + [math.nan], "non-finite loss", "let it begin at a lower lr"),
    ],
)
def test_a_record_that_is_too_short_is_refused_with_what_to_change_for_its_reason(losses, reason, advice):
    with pytest.raises(ValueError, match=advice):
        Curve(range(len(losses)), [1e-3 * 2**step for step in range(len(losses))], losses, "exponential", reason)
