"""The probe: where a loss is lowest along an update, and the peak that follows."""

from __future__ import annotations

import itertools
import math
from copy import deepcopy
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

from lightning_lrsched.range_test.probe import (
    SHORT_RUN,
    STEPS,
    STEPS_OF_SHORT_RUN,
    WARM_STEPS,
    Probe,
    ProbeResult,
    Weights,
    lowest_along,
    of_the_prior,
    peak_of,
)
from lightning_lrsched.range_test.suggest import prior_of

# Searching ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1e-6, 0.006, 1.0, 1e3])
@pytest.mark.parametrize("lowest", [1e-4, 0.03, 7.0])
def test_the_lowest_place_of_a_parabola_is_found_exactly_from_anywhere(start, lowest):
    found, _ = lowest_along(lambda place: (place / lowest - 1) ** 2, start)
    assert found == pytest.approx(lowest, rel=1e-6)


def test_a_valley_far_out_does_not_count():
    def loss(place: float) -> float:
        return min((place - 1) ** 2, 0.5 * (place - 1000) ** 2 - 5)

    assert lowest_along(loss, start=8.0)[0] == pytest.approx(1, rel=0.5)


@pytest.mark.parametrize("loss", [lambda place: place, lambda place: 1.0, lambda place: math.nan])
def test_there_may_be_no_lower_place(loss):
    assert lowest_along(loss, 1.0)[0] is None


def test_what_is_lost_in_rounding_is_no_fall():
    def loss(place: float) -> float:  # rises along the update, but for the last digits of a float32
        return 1.0 + 0.1 * place - (1e-7 if place < 1e-5 and place > 0 else 0.0)

    assert lowest_along(loss, 1.0)[0] is None
    assert lowest_along(lambda place: 1.0 - 1e-3 * place + 2e-4 * place**2, 1e-4)[0] == pytest.approx(2.5)


def test_a_loss_that_is_not_finite_is_beyond_the_lowest_place():
    found, tried = lowest_along(lambda place: (place - 1) ** 2 if place < 1.5 else math.nan, 64.0)
    assert found == pytest.approx(1, rel=0.5)
    assert tried[64.0] == math.inf


# What follows ---------------------------------------------------------------------------------------------------------


DEEP = Weights(matrices=32)


@pytest.mark.parametrize(
    ("lowest", "prior", "weights", "is_sgd", "peak", "words"),
    [
        (0.0015, 0.006, Weights(), False, 0.003, "between the prior 0.006 and 0.0015"),
        (1.0, 0.006, Weights(), False, 0.024, "4 times the prior"),
        (1.0, 0.006, DEEP, False, 0.006, "1 times the prior 0.006, which is the limit with 32 weight matrices"),
        (1.0, 0.006, Weights(0.1, 32, pretrained=True), False, 0.024, "4 times the prior"),
        (1e-4, 0.006, Weights(pretrained=True), False, 2**-0.5 * 1e-4, "the limit of a pretrained net"),
        (0.0015, 0.001, Weights(pretrained=True), False, 2**-0.5 * 0.0015, "the limit of a pretrained net"),
        (0.004, 0.001, Weights(pretrained=True), False, 0.002, "between the prior 0.001"),
        (1e-4, 0.006, Weights(0.1, pretrained=True), False, 6e-7**0.5, "between the prior"),
        (1.0, None, Weights(), False, 0.75, "has no prior"),
        (0.01, 0.15, Weights(pretrained=True), True, 0.02, "twice 0.01"),
        (1.0, 0.15, Weights(), True, 0.15, "the prior 0.15"),
        (96.0, 0.15, Weights(), True, 3.0, "1/32 of 96"),
        (None, 0.15, Weights(), True, 0.15, "falls nowhere"),
    ],
)
def test_the_peak_follows_from_prior_and_search(lowest, prior, weights, is_sgd, peak, words):
    found, because = peak_of(lowest, prior, weights, is_sgd=is_sgd)
    assert found == pytest.approx(peak)
    assert words in because


def test_without_prior_and_without_a_fall_there_is_no_peak():
    with pytest.raises(ValueError, match="has no prior"):
        peak_of(None, None, Weights())


def test_weight_matrices_are_those_that_are_trained_and_no_tables_or_vectors():
    frozen = nn.Linear(4, 4)
    frozen.requires_grad_(False)
    found = Weights.of(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), frozen))
    assert (found.matrices, found.trained_share) == (1, pytest.approx(64 / 84))
    found = Weights.of(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Linear(1, 8), nn.LazyLinear(3)))
    assert (found.matrices, found.width) == (1, 3)


def test_the_width_is_that_of_the_hidden_layers_and_not_of_the_input():
    net = nn.Sequential(nn.Linear(10_000, 256), nn.Linear(256, 256), nn.Linear(256, 1024))
    assert Weights.of(net).width == pytest.approx(256)
    assert Weights.of(nn.LayerNorm(4)).width == 1


class LlamaRMSNorm(nn.Module):
    """As packages have them: a norm of their own, of which torch knows nothing; Gemma's begins with zeros."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), start))


ZERO_INITIALISED = nn.BatchNorm2d(4)  # the last norm of a residual block, in timm and in torchvision's ResNets
nn.init.zeros_(ZERO_INITIALISED.weight)


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), ZERO_INITIALISED, LlamaRMSNorm(1.0), LlamaRMSNorm(0.0)],
    ids=["layer", "group", "batch", "zero-initialised", "own", "own from zero"],
)
def test_a_net_is_pretrained_if_the_weights_of_a_trained_norm_differ(norm):
    norm = deepcopy(norm)
    net = nn.Sequential(nn.Linear(4, 4), norm, nn.LayerNorm(4, elementwise_affine=False))
    assert not Weights.of(net).pretrained
    norm.weight.data[1] += 0.1
    assert Weights.of(net).pretrained
    norm.requires_grad_(False)
    assert not Weights.of(net).pretrained


@pytest.mark.parametrize(("name", "factor"), [("AdamW", 1 / 8), ("Adafactor", 1.0), ("SGD", 1.0)])
def test_in_a_wide_net_the_prior_of_steps_that_ignore_the_width_is_lower(name, factor):
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    optimizer = getattr(torch.optim, name)([nn.Parameter(torch.ones(1))], lr=0.1)
    assert prior_of(optimizer, 512) == pytest.approx(factor * prior_of(optimizer))
    assert prior_of(optimizer, 32) == prior_of(optimizer)
    if name == "AdamW":
        assert of_the_prior(nn.Linear(512, 512), optimizer, "in a test").peak == pytest.approx(0.006 / 8)


# The probe ------------------------------------------------------------------------------------------------------------


def run(optimizer_class: Any, lr: float = 0.01, factor: float = 1.0, constant: float = 0.0, **options: Any) -> Any:
    """A probe in a plain loop."""
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)), torch.randn(20, 16, 4)
    optimizer = optimizer_class(model.parameters(), lr=lr, **options)
    probe, batches = Probe(model, optimizer), iter(inputs)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    while not probe.is_over:
        if probe.rewinds:
            probe.rewinds = False
            model.load_state_dict(start)
            optimizer.state.clear()
        x = next(batches)

        def loss(x: Any = x) -> Any:
            return factor * nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)) + constant

        optimizer.zero_grad()
        loss().backward()
        probe.before_step()
        optimizer.step()
        probe.after_step(loss)
    return probe.result()


@pytest.mark.parametrize("lr", [1e-6, 0.01, 10.0])
@pytest.mark.parametrize("constant", [0.0, 10.0])
def test_neither_the_users_lr_nor_a_constant_in_the_loss_changes_the_peak(lr, constant):
    plain, other = run(torch.optim.Adam), run(torch.optim.Adam, lr, constant=constant)
    assert other.peak == pytest.approx(plain.peak, rel=1e-2)
    assert other.steps == STEPS


def test_a_factor_of_the_loss_changes_what_sgd_finds_by_its_inverse_and_of_adam_nothing():
    adam, sgd = (run(each).lowest for each in (torch.optim.Adam, torch.optim.SGD))
    assert run(torch.optim.Adam, factor=1000.0).lowest == pytest.approx(adam, rel=1e-2)
    assert run(torch.optim.SGD, factor=1000.0).lowest == pytest.approx(sgd / 1000, rel=1e-2)


def test_an_optimizer_that_never_moves_leads_to_the_prior():
    found = run(torch.optim.Adam, factor=0.0, eps=1.0)
    assert found.peak == found.prior
    assert "falls nowhere" in found.because


def probe_of(losses: Any, run: int | None = None) -> Any:
    """A probe with SGD at lr 1 of one weight, whose loss at each batch is a function of the weight."""
    weight = nn.Parameter(torch.zeros(1))
    module = nn.Module()
    module.weight = weight
    optimizer = torch.optim.SGD([weight], lr=1.0)
    probe, number = Probe(module, optimizer, run), 0
    while not probe.is_over:
        if probe.rewinds:
            probe.rewinds = False
            weight.data.zero_()
        batch = min(number, len(losses) - 1)
        optimizer.zero_grad()
        weight.grad = torch.ones(1)
        probe.before_step()
        optimizer.step()
        probe.after_step(lambda batch=batch: losses[batch](weight.sum()))
        number += 1
    return probe.result()


def falls_to(place: float, moved: float = 0.0) -> Any:
    """A loss that is lowest after a step with this lr, where the weight has moved so far before, down the gradient."""
    return lambda weight: (weight + place + moved) ** 2 + 0.01 * place**2


def then(place: float) -> Any:
    """The same for a batch of the search that counts, where the first search has found 1."""
    return falls_to(place, WARM_STEPS / 64)


RISES = [lambda weight: 1.0 - weight]


@pytest.mark.parametrize(
    ("last", "lowest", "steps"),
    [
        ([then(2.0)], 2.0, STEPS),  # no reason to ask again: SGD's prior without momentum is 1.5
        ([then(0.01), then(2.0), then(3.0)], 2.0, STEPS + 2),
        ([then(0.01), then(0.02), then(0.04)], 0.02, STEPS + 2),
        ([*RISES, then(2.0), then(3.0)], 2.0, STEPS + 2),
        ([*RISES, *RISES, then(2.0)], 2.0, STEPS + 2),
        ([*RISES, *RISES, *RISES], None, STEPS + 2),
    ],
)
def test_a_batch_that_misleads_does_not_decide_alone(last, lowest, steps):
    found = probe_of([falls_to(1.0)] * (STEPS - 1) + last)
    assert found.lowest == (None if lowest is None else pytest.approx(lowest, rel=1e-3))
    assert (found.steps, found.peak <= found.prior) == (steps, True)


def test_the_first_search_asks_another_batch_where_it_finds_nothing():
    first = [*RISES, lambda weight: weight * torch.nan, *[falls_to(2.0)] * (WARM_STEPS + 1)]
    found = probe_of([*first, falls_to(2.5, 2 * WARM_STEPS / 64)])
    assert (found.lowest, found.steps) == (pytest.approx(2.5, rel=1e-3), STEPS + 2)


@pytest.mark.parametrize(("run", "steps"), [(SHORT_RUN - 1, STEPS_OF_SHORT_RUN), (SHORT_RUN, STEPS), (None, STEPS)])
def test_a_short_run_has_one_small_step_before_the_search_that_counts(run, steps):
    found = probe_of([falls_to(2.0)] * (steps - 1) + [falls_to(2.5, 2 * (steps - 2) / 64)], run)
    assert (found.lowest, found.steps) == (pytest.approx(2.5, rel=1e-3), steps)


def test_a_loss_that_is_never_finite_is_said():
    found = probe_of([lambda weight: weight * torch.nan])
    assert found.because == "the prior 1.5, because the loss is not finite; look for the cause in module or data"
    assert found.steps == 3


def test_an_unknown_optimizer_has_what_the_search_says():
    class Mine(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(group["lr"] * parameter.grad.sign())

    found = run(Mine)
    assert (found.prior, found.peak) == (None, pytest.approx(0.75 * found.lowest))
    assert of_the_prior(nn.Linear(1, 1), Mine([nn.Parameter(torch.ones(1))], 0.1), "in a test") is None


def test_a_result_comes_back_from_its_dict_and_gives_each_group_its_lr():
    found = run(torch.optim.SGD)
    assert ProbeResult.from_dict(found.to_dict()) == found
    rates = ProbeResult(0.3, "", 0.3, group_ratios=[1.0, 0.1]).learning_rates()
    assert rates["high"] == pytest.approx([0.3, 0.03])
    assert rates["low"] == pytest.approx([0.03, 0.003])


def test_the_figure_marks_prior_and_peak():
    pytest.importorskip("matplotlib")
    found = run(torch.optim.Adam)
    labels = [text.get_text() for text in found.plot().legends[0].get_texts()]
    assert f"peak {found.peak:.2g}" in labels
    assert f"prior {found.prior:.2g}" in labels


def test_a_notebook_shows_the_probe_as_a_table():
    found = ProbeResult(0.3, "1 < 2", 0.15, None, steps=12, forwards=14)
    rows = ET.fromstring(found._repr_html_()).iter("tr")
    assert {row.findtext("th"): row.findtext("td") for row in rows} == {
        "peak of 1Cycle": "0.3",
        "because": "1 < 2",
        "prior of the optimizer": "0.15",
        "cost": "12 steps, 14 forward passes",
    }


@pytest.mark.parametrize("peak", [0.001, 0.02, 0.3])
def test_the_words_for_the_loss_before_the_step_stand_where_no_line_is(peak):
    pytest.importorskip("matplotlib")
    figure = ProbeResult(peak, "", 0.15, 0.1, [0.0, 0.001, 0.01, 0.1, 0.3], [1.0, 0.99, 0.9, 0.8, 0.99]).plot()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    [words] = axes.texts
    assert words.get_text().split() == ["before", "the", "step"]
    assert words.get_window_extent().x0 > axes.get_window_extent().x1
    assert words.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("decades", [0.3, 0.8, 1.2, 1.5, 1.9, 2.1, 4.0, 7.0])
@pytest.mark.parametrize("low", [1.3e-5, 0.004])
def test_the_labels_of_the_lr_axis_do_not_overlap(low, decades):
    pytest.importorskip("matplotlib")
    lrs = [0.0, low, low * 10 ** (decades / 2), low * 10**decades]
    figure = ProbeResult(low, "", None, low, lrs, [1.0, 0.9, 0.8, 0.9]).plot()
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    labels = [each for each in axis.get_ticklabels(which="both") if each.get_text()]
    left, right = figure.axes[0].get_xlim()
    boxes = sorted(
        (each.get_window_extent().x0, each.get_window_extent().x1)
        for each in labels
        if left <= each.get_position()[0] <= right
    )
    assert len(boxes) > 1
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(boxes))
