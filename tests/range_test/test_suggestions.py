"""The suggestion rules: a table from a record to what each rule reads off it, and what no rule may do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lightning_lrsched.range_test import suggest as suggestions
from lightning_lrsched.range_test.suggest import METHODS, Curve, bounds, suggest
from tests.kit.records import LOWEST, curve, exact_records, falls_and_turns

# Rule -> what it reads off the record whose loss falls around lr 0.05 and rises around lr 1. Without the smoothing, the
# loss falls fastest per log lr at 0.05 and half as fast at 0.12, is lowest at 0.31, and has climbed back a tenth of its
# fall at 0.69.
TABLE = {"edge": 0.062, "valley": 0.035, "steep": 0.05, "minimum": 0.03, "slide": 0.14}


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


# What each record of the kit gives, to ten digits: a change of a number here is a change for every user. After such a
# change run tests/benchmarks/range_test_quality.py. Where losses are far apart, the slope is the same all along the
# straight line between two of them, and rounding decides where on it "steep" lies: those records have no "steep".
EXACT: dict[str, dict[str, Any]] = {
    "exponential": {
        "edge": 0.058756522362,
        "valley": 0.03532787148,
        "steep": 0.045468503848,
        "minimum": 0.028330961018,
        "slide": 0.14154027279,
        "bounds": (0.019585507454, 0.19585507454),
        "start and fall": (2.2935572798, 1.6239288864),
        "noise": 0.022013684567,
        "lag and spacing": (1.6257556664, 1.0843659687),
        "index of the minimum": 155,
    },
    "exponential, no turn": {
        "edge": 0.036141053404,
        "valley": 0.046290113458,
        "steep": 0.046290113458,
        "minimum": 0.039171014908,
        "slide": 0.15830327944,
        "bounds": (0.012047017801, 0.12047017801),
        "start and fall": (2.2915329138, 1.801500241),
        "noise": 0.021813616851,
        "lag and spacing": (1.6257556664, 1.0843659687),
        "index of the minimum": 159,
    },
    "linear": {
        "edge": 0.101325,
        "valley": 0.28222564456,
        "steep": 0.34693845659,
        "minimum": 0.0941,
        "slide": 0.64449618026,
        "bounds": (0.033775, 0.33775),
        "start and fall": (2.0869327386, 1.3930862623),
        "noise": 0.019882924611,
        "lag and spacing": (1.044411547, 1.0071377587),
        "index of the minimum": 94,
    },
    "linear, no turn": {
        "edge": 0.069825,
        "valley": 0.25639139233,
        "steep": 0.3886612104,
        "minimum": 0.0991,
        "slide": 0.991,
        "bounds": (0.023275, 0.23275),
        "start and fall": (2.1530360555, 1.6703450864),
        "noise": 0.020151965391,
        "lag and spacing": (1.0644468314, 1.0101936799),
        "index of the minimum": 99,
    },
    "short": {
        "edge": 0.11920928955,
        "valley": 0.015691663726,
        "minimum": 0.038146972656,
        "slide": 0.14706945434,
        "bounds": (0.03973642985, 0.3973642985),
        "start and fall": (2.0557512081, 0.73055202973),
        "noise": 0.2466647412,
        "lag and spacing": (244.140625, 2.5),
        "index of the minimum": 9,
    },
    "every fifth step": {
        "edge": 0.081238070671,
        "valley": 0.029011092025,
        "minimum": 0.026126752256,
        "slide": 0.11814005309,
        "bounds": (0.02707935689, 0.2707935689),
        "start and fall": (2.3153573092, 1.6964368711),
        "noise": 0.092800526511,
        "lag and spacing": (1.6257556664, 1.4992684328),
        "index of the minimum": 30,
    },
}


def readings(record: Curve) -> dict[str, Any]:
    return {
        **{method: suggest(record, method) for method in METHODS},
        "bounds": bounds(record),
        "start and fall": (record.start, record.fall),
        "noise": record.noise,
        "lag and spacing": record.lag_and_spacing(),
        "index of the minimum": record.minimum,
    }


@pytest.mark.parametrize("name", EXACT)
def test_a_record_gives_these_numbers(name):
    found = readings(exact_records()[name])
    for reading, expected in EXACT[name].items():
        assert found[reading] == pytest.approx(expected, rel=1e-9), reading


def test_a_record_has_turned_at_this_loss_or_has_not():
    assert {name: record.climb() for name, record in exact_records().items()} == {
        "exponential": 165,
        "exponential, no turn": None,
        "linear": 141,
        "linear, no turn": None,
        "short": 11,
        "every fifth step": 33,
    }


class Grid(Curve):
    """A curve that gives the rules these losses at log lr 0, 1, 2, ..."""

    def __init__(self, *losses: float) -> None:
        self.grid = np.arange(len(losses), dtype=np.float64), np.array(losses, dtype=np.float64)
        self.start, self.fall = losses[0], losses[0] - min(losses)

    def on_log_grid(self):
        return self.grid


@pytest.mark.parametrize(
    ("losses", "log_lr"),
    [
        ((20, 19, 10, 5, 0), 2),  # from 19 on, which is just a twentieth of the fall, to the end
        ((20, 19.02, 10, 5, 0), 3),  # 19.02 is not yet a twentieth
        ((20, 19, 10, 10, 10, 0), 3),  # a level stretch does not end the fall
        ((20, 10, 8, 6, 4, 2, 9, 1, 0), 3),  # the longer of two stretches
        ((20, 10, 5, 9, 4, 2, 0), 4),  # the later one is longer
        ((20, 10, 5, 2, 9, 4, 0), 2),  # both are as long: the first
    ],
)
def test_valley_is_the_middle_of_the_longest_stretch_of_falling_losses(losses, log_lr):
    assert METHODS["valley"](Grid(*losses)) == pytest.approx(math.exp(log_lr))


def test_steep_and_slide_read_the_slope_of_the_loss():
    record = Grid(10, 10, 6, 2, 0, -2, -2)  # slopes: 0, -2, -4, -3, -2, -1, 0
    assert METHODS["steep"](record) == pytest.approx(math.exp(2))
    assert METHODS["slide"](record) == pytest.approx(math.exp(4))


@pytest.fixture
def unsmoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses are read as they are, so that the numbers of a test are exact."""
    monkeypatch.setattr(suggestions, "SMOOTHING", 0.0)


def growing(*losses: float) -> Curve:
    return Curve(range(len(losses)), [2.0**step for step in range(len(losses))], losses, "exponential")


FALLEN = [10.0, 10.0, 10.0, 9.0, 8.0, 7.0, 5.0, 0.0]


@pytest.mark.usefixtures("unsmoothed")
def test_the_loss_has_turned_where_it_exceeds_its_minimum_by_more_than_a_tenth_of_its_fall(monkeypatch):
    monkeypatch.setattr(suggestions, "NOISE_CLIMB", 0.0)
    assert growing(*FALLEN, 1.0, 1.0).climb() is None
    assert growing(*FALLEN, 1.0, 1.0, 1.001).climb() == 10


@pytest.mark.usefixtures("unsmoothed")
def test_and_by_more_than_seven_tenths_of_the_noise_of_a_single_loss():
    rise = 0.7 * growing(*FALLEN, 1.0, 1.0).noise
    assert rise > 1.0
    assert growing(*FALLEN, rise, rise).climb() is None
    assert growing(*FALLEN, rise, rise * 1.001).climb() == 9


@pytest.mark.usefixtures("unsmoothed")
def test_a_fall_by_a_rounding_error_is_none():
    start = [1e9] * 9
    assert growing(*start, 1e9 - 2.0).fall == 2.0
    with pytest.raises(ValueError, match="the loss never fell below its starting value"):
        growing(*start, 1e9 - 1.0)


FALLING = [2.0 - 0.1 * step for step in range(12)]


def test_an_lr_that_did_not_change_is_refused():
    with pytest.raises(
        ValueError, match=r"^the lr did not change during the range test: raise max_lr or lr_range_test_step_rate$"
    ):
        Curve(range(12), [0.1] * 12, FALLING, "linear")


@pytest.mark.parametrize("changes_at", [1, 6, 11])
def test_an_lr_that_changed_once_is_enough(changes_at):
    lrs = [0.1] * changes_at + [0.2] * (12 - changes_at)
    assert Curve(range(12), lrs, FALLING, "linear").lrs.tolist() == lrs


def test_integers_are_read_as_floats():
    record = Curve(range(12), range(1, 13), range(12, 0, -1), "linear")
    assert {record.steps.dtype, record.lrs.dtype, record.losses.dtype} == {np.dtype("float64")}
    narrow = Curve(range(12), np.arange(1, 13, dtype=np.float32), np.float32(FALLING), "linear")
    assert narrow.noise == pytest.approx(0.1 / math.sqrt(2), rel=1e-6)
    assert narrow.lrs.dtype == np.dtype("float64")


@pytest.mark.parametrize("lengths", [(11, 12, 12), (12, 11, 12), (12, 12, 11)])
def test_columns_of_different_lengths_are_refused(lengths):
    steps, lrs, losses = lengths
    with pytest.raises(ValueError, match=r"zip\(\)"):
        Curve(range(steps), [2.0**step for step in range(lrs)], FALLING[:losses], "exponential")


@pytest.mark.parametrize("found", [1.0, 1.0 - 1e-9])
def test_the_lowest_tested_lr_may_be_suggested(monkeypatch: pytest.MonkeyPatch, found):
    monkeypatch.setitem(METHODS, "edge", lambda record: found)
    assert suggest(growing(*FALLING), "edge") == found


def test_an_lr_below_the_lowest_that_was_tested_is_not_suggested(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(METHODS, "edge", lambda record: 1.0 - 2e-9)
    with pytest.raises(ValueError, match="below every lr that was tested: begin at a lower lr than 1 "):
        suggest(growing(*FALLING), "edge")


def test_the_low_bound_is_a_tenth_of_the_high_one(monkeypatch):
    monkeypatch.setattr(Curve, "edge", lambda record: 1000.0)
    assert bounds(growing(*FALLING)) == (50.0, 500.0)


def test_a_high_bound_at_the_lowest_tested_lr_is_refused(monkeypatch):
    monkeypatch.setattr(Curve, "edge", lambda record: 2.0)
    with pytest.raises(ValueError, match="the suggested lr would be 1, below every lr that was tested"):
        bounds(growing(*FALLING))


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


NINE = "^the range test recorded only 9 finite losses; at least 10 are needed"
LOWER = rf"{NINE}: let it begin at a lower lr \(lr_range_test_min_lr\)$"


@pytest.mark.parametrize(
    ("losses", "reason", "advice"),
    [
        ([], "num_steps", "recorded no loss"),
        ([math.nan] * 50, "non-finite loss", "the very first loss was not finite"),
        ([2.0] * 9, "diverged", r"the test stopped itself .*divergence_factor=float\('inf'\)"),
        ([2.0] * 9, "num_steps", "make the test longer"),
        ([2.0] * 9, "", f"{NINE}: make the test longer"),
        ([2.0] * 9 + [math.nan], "non-finite loss", LOWER),
        ([2.0] * 9, "skipped steps", LOWER),
    ],
)
def test_a_record_that_is_too_short_is_refused_with_what_to_change_for_its_reason(losses, reason, advice):
    with pytest.raises(ValueError, match=advice):
        Curve(range(len(losses)), [1e-3 * 2**step for step in range(len(losses))], losses, "exponential", reason)
