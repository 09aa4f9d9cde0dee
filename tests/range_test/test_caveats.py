"""Caveats: where a record does not support the suggestions that are read off it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from lightning_lrsched.range_test.suggest import Curve, caveats
from tests.kit.records import LOWEST, curve, exact_records, exponential, falls_and_turns, shortened, sweep


def test_a_sweep_that_falls_and_turns_has_no_caveats():
    assert sweep().caveats() == []


def test_a_loss_that_never_turns_gives_lower_bounds_and_says_so():
    result = sweep()
    result = replace(shortened(result, result.losses.index(min(result.losses))), stop_reason="max_lr")
    [caveat] = result.caveats()
    assert "lower bounds. Raise max_lr" in caveat
    assert caveat in result.to_markdown()


def test_a_fall_smaller_than_the_noise_is_told():
    noise = random.Random(0)
    result = sweep()
    result = replace(result, losses=[loss + noise.gauss(0, 20.0) for loss in result.losses])
    assert any("less than the noise" in caveat for caveat in result.caveats())


def test_a_sweep_that_shows_everything_has_no_caveat():
    assert caveats(curve()) == []


@pytest.mark.parametrize("steps", [30, 50])
def test_a_sweep_that_is_too_coarse_has_a_caveat(steps):
    assert any("in the 6 optimizer steps that the loss needs to show it" in caveat for caveat in caveats(curve(steps)))


def test_losses_that_are_too_far_apart_have_a_caveat():
    assert any("from one recorded loss to the next" in caveat for caveat in caveats(curve(every=20)))


def test_few_losses_have_a_caveat():
    assert any("rest on only 20 losses" in caveat for caveat in caveats(curve(every=10)))


def test_a_sweep_that_begins_near_the_edge_has_a_caveat():
    lrs = [0.2 * 10 ** (2 * step / 100) for step in range(100)]
    record = Curve(range(100), lrs, [falls_and_turns(lr, 0.3, 3.0) for lr in lrs], "exponential")
    assert any("less than a decade above the lowest lr" in caveat for caveat in caveats(record))


def test_a_test_that_stopped_itself_on_a_plateau_has_a_caveat():
    steps, lrs = exponential(200)
    losses = [1.5072 - 0.0002 * math.exp(-((step - 60) ** 2) / 200) for step in steps[:90]]
    record = Curve(steps[:90], lrs[:90], losses, "exponential", "diverged")
    assert any("stopped itself" in caveat and "divergence_factor" in caveat for caveat in caveats(record))


@pytest.mark.parametrize(
    ("name", "beginnings"),
    [
        ("exponential", []),
        ("exponential, no turn", ["The loss had not turned upwards when the test ended at lr 0.392:"]),
        ("linear", []),
        ("linear, no turn", ["The loss had not turned upwards when the test ended at lr 0.991:"]),
        ("short", ["The lr grew by a factor of 2.4e+02 in the 6 optimizer", "The suggestions rest on only 12 losses."]),
        ("every fifth step", []),
    ],
)
def test_a_record_has_these_caveats(name, beginnings):
    found = caveats(exact_records()[name])
    assert [text[: len(start)] for text, start in zip(found, beginnings, strict=True)] == beginnings


def test_a_fall_as_large_as_the_noise_is_enough():
    record = curve()
    record.noise = record.fall
    assert caveats(record) == []
    record.noise = record.fall * 1.001
    assert [text.split(" fell by")[0] for text in caveats(record)] == ["The loss"]


@pytest.mark.parametrize(("losses", "few"), [(29, True), (30, False)])
def test_thirty_losses_are_enough(losses, few):
    steps, lrs = exponential(10 * losses, every=10)
    record = Curve(steps, lrs, [falls_and_turns(lr) for lr in lrs], "exponential")
    assert any(f"rest on only {losses} losses" in text for text in caveats(record)) is few


@pytest.mark.parametrize(("share", "count"), [(0.0099, 1), (0.01, 0)])
def test_a_test_that_stopped_itself_after_a_hundredth_of_the_loss_has_no_caveat(share, count):
    record = curve()
    record.stopped_itself = True
    record.start, record.fall = 100.0, 100.0 * share
    assert sum("The test stopped itself" in text for text in caveats(record)) == count


@pytest.mark.parametrize(
    ("lag", "spacing", "cause"),
    [
        (3.0, 3.0, None),
        (3.1, 3.0, "in the 6 optimizer steps"),
        (3.0, 3.1, "from one recorded loss"),
        (4.0, 4.0, "in the 6"),
    ],
)
def test_a_factor_of_three_is_not_too_coarse(monkeypatch, lag, spacing, cause):
    monkeypatch.setattr(Curve, "lag_and_spacing", lambda record: (lag, spacing))
    found = [text for text in caveats(curve()) if text.startswith("The lr grew by")]
    assert [cause in text for text in found] == ([] if cause is None else [True])


@pytest.mark.parametrize(("edge", "count"), [(9.999e-6, 1), (10.0 * LOWEST, 0)])
def test_an_edge_a_decade_above_the_lowest_lr_is_far_enough(monkeypatch, edge, count):
    monkeypatch.setattr(Curve, "edge", lambda record: edge)
    assert len(caveats(curve())) == count


@pytest.mark.parametrize(("prior", "count"), [(1e-4, 1), (0.1, 0), (None, 0)])
def test_suggestions_that_are_cut_off_at_ten_priors_have_a_caveat(prior, count):
    found = [text for text in replace(sweep(), prior=prior).caveats() if "cut off at 10 times" in text]
    assert len(found) == count
    assert all("(prior=...)" in text for text in found)
