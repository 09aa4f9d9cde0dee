"""The prior: what is known of an optimizer, and how far a suggestion is drawn to it."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from lightning_lrsched import LRRangeTestCallback, RangeTest, RangeTestResult
from lightning_lrsched.range_test.suggest import Curve, prior_of
from tests.kit.records import curve, exponential, falls_and_turns, sweep


def optimizer(name: str, **options: float) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    return getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1, **options)


@pytest.mark.parametrize(
    ("name", "options", "prior"),
    [
        ("Adam", {}, 0.006),
        ("AdamW", {}, 0.006),
        ("NAdam", {}, 0.006),
        ("RMSprop", {}, 0.006),
        ("SGD", {"momentum": 0.9}, 0.15),
        ("SGD", {"momentum": 0.95}, 0.075),
        ("SGD", {}, 1.5),
        ("Adafactor", {}, 0.05),
        ("Rprop", {}, None),
    ],
)
def test_each_family_has_its_peak(name, options, prior):
    assert prior_of(optimizer(name, **options)) == (None if prior is None else pytest.approx(prior))


def test_a_subclass_is_of_the_family_of_its_parent():
    class Own(torch.optim.AdamW):
        pass

    assert prior_of(Own([torch.nn.Parameter(torch.ones(1))])) == 0.006


class TestDoubt:
    """The weight of the prior."""

    def drawn(self, noise: float, prior: float | None = 0.05) -> Curve:
        record = curve()
        record.prior, record.noise = prior, noise * record.fall
        return record

    @pytest.mark.parametrize(("noise", "weight"), [(0.0, 0.0), (0.25, 0.2), (1.0, 0.8), (1.2, 0.8), (2.0, 1.0)])
    def test_it_grows_with_the_noise_in_comparison_with_the_fall(self, noise, weight):
        assert self.drawn(noise).doubt() == pytest.approx(weight)

    def test_it_is_all_where_the_loss_never_turned(self):
        record = self.drawn(0.0)
        record.losses[record.minimum :] = record.losses[record.minimum]
        assert record.doubt() == 1.0
        assert record.peak() == pytest.approx(0.05)

    def test_without_a_prior_the_record_alone_counts(self):
        assert self.drawn(2.0, None).doubt() == 0.0
        assert self.drawn(0.25, None).peak() == pytest.approx(self.drawn(0.25, None).edge() / 2)

    def test_the_peak_is_the_weighted_mean_in_log_lr(self):
        record = self.drawn(0.25)
        assert math.log(record.peak()) == pytest.approx(0.8 * math.log(record.edge() / 2) + 0.2 * math.log(0.05))

    def test_the_prior_lowers_a_peak_and_never_raises_it(self):
        assert self.drawn(2.0, 1e3).peak() == self.drawn(2.0, None).peak()

    def test_a_clear_record_may_exceed_the_prior_by_ten_times(self):
        assert self.drawn(0.0, 1e-3).peak() == pytest.approx(1e-2)
        assert self.drawn(0.0, 0.1).peak() == self.drawn(0.0, None).peak()


def test_noise_alone_is_no_turn():
    """After a tenth of a small fall the loss seems to climb again; only what exceeds the noise is taken for a turn."""
    turns = []
    for seed in range(20):
        steps, lrs = exponential(200)
        jitter = random.Random(seed)
        losses = [2.3 - 0.05 / (1 + (1e-3 / lr) ** 2) + 0.5 * lr**2 + jitter.gauss(0, 0.05) for lr in lrs]
        turns.append(Curve(steps, lrs, losses, "exponential").edge())
    assert sum(0.05 < turn < 2.0 for turn in turns) >= 18


def test_where_the_loss_is_noise_the_suggestion_is_near_the_prior_or_refused():
    """Within a decade in nine of ten records, wherever the lowest of the losses lies."""
    steps, lrs = exponential(200)
    peaks = []
    for seed in range(60):
        jitter = random.Random(seed)
        losses = [2.3 + jitter.gauss(0, 1.0) + (0.0 if lr < 1.0 else 10 * lr) for lr in lrs]
        with suppress(ValueError):  # the lowest loss is the first: it never fell
            peaks.append(Curve(steps, lrs, losses, "exponential", prior=0.006).peak())
    assert len(peaks) > 40
    assert sum(0.0006 < peak < 0.06 for peak in peaks) > 0.9 * len(peaks)


@pytest.mark.parametrize("seed", range(3))
def test_where_the_record_is_clear_the_prior_hardly_matters(seed):
    steps, lrs = exponential(200)
    jitter = random.Random(seed)
    losses = [falls_and_turns(lr) + jitter.gauss(0, 0.05) for lr in lrs]
    alone, drawn = (Curve(steps, lrs, losses, "exponential", prior=prior).peak() for prior in (None, 0.06))
    assert 0.85 < drawn / alone < 1.0


def test_the_prior_is_said_with_its_weight():
    noise = random.Random(0)
    result = sweep()
    noisy = replace(result, losses=[loss + noise.gauss(0, 1.0) for loss in result.losses], prior=0.006)
    assert f"(prior 0.006, weight {noisy.curve().doubt():.0%})" in repr(noisy)
    assert "| prior of the optimizer | 0.006, weight" in noisy.to_markdown()
    assert "prior" not in repr(replace(noisy, prior=None))


def test_a_caveat_says_what_the_suggestions_follow():
    noise = random.Random(0)
    result = sweep()
    noisy = replace(result, losses=[loss + noise.gauss(0, 20.0) for loss in result.losses], prior=0.006)
    assert any("follow mostly the prior of the optimizer (0.006)" in caveat for caveat in noisy.caveats())


def test_a_result_keeps_its_prior(tmp_path):
    result = replace(sweep(), prior=0.006)
    result.save(tmp_path / "test.json")
    assert RangeTestResult.load(tmp_path / "test.json") == result
    saved = result.to_dict()
    del saved["prior"]  # saved before there were priors
    assert RangeTestResult.from_dict(saved).prior is None


@pytest.mark.parametrize(("asked", "prior"), [("auto", 0.15), (0.3, 0.3), (None, None)])
def test_the_prior_can_be_given_and_switched_off(asked, prior):
    model = torch.nn.Linear(3, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = torch.randn(20, 8, 3)
    with RangeTest(model, sgd, num_steps=15, max_lr=10.0, prior=asked) as test:
        for inputs in test.batches(batches):
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            loss.backward()
            sgd.step()
            sgd.zero_grad()
            test.record(loss)
    assert test.result.prior == (None if prior is None else pytest.approx(prior))


@pytest.mark.parametrize(
    ("prior", "message"), [("atuo", "prior .*'atuo'.*auto"), (0.0, "prior .*0"), (-1.0, "prior .*-1")]
)
def test_a_prior_that_cannot_be_is_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        LRRangeTestCallback(prior=prior)


def test_where_the_loss_never_fell_the_prior_is_suggested_with_a_caveat():
    steps, lrs = exponential(120)
    rising = RangeTestResult(steps, lrs, [2.0 + lr for lr in lrs], [2.0 + lr for lr in lrs], "diverged", "exponential")
    with pytest.raises(ValueError, match="never fell"):
        rising.bounds()
    known = replace(rising, prior=0.006)
    assert known.bounds() == pytest.approx((0.0006, 0.006))
    [caveat] = known.caveats()
    assert caveat.startswith("The loss never fell: the suggestions are the prior of the optimizer (0.006)")
    with pytest.raises(ValueError, match="never fell"):
        known.suggestion("valley")
    assert known.plot().get_suptitle().startswith("LR range test\n")


def test_where_the_loss_never_fell_the_peak_is_at_most_half_the_lr_at_the_end():
    steps, lrs = exponential(120)
    lrs = [lr / 1e4 for lr in lrs]  # up to 0.001
    rising = RangeTestResult(steps, lrs, [2.0 + lr for lr in lrs], [2.0] * 120, "diverged", "exponential", prior=0.15)
    assert rising.bounds()[1] < lrs[-1] / 2
