"""RangeTestResult: configurations that train, files that come back, errors that say what to change."""

from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch

from lightning_lrsched import RangeTestResult, SchedulerConfig
from lightning_lrsched.range_test.divergence import StopReason
from lightning_lrsched.range_test.suggestions import METHODS
from lightning_lrsched.schedulers.durations import RunLength


def sweep(mode: str = "exponential", steps: int = 200, ratios: tuple[float, ...] = (1.0,)) -> RangeTestResult:
    """A smooth sweep that falls from lr 1e-2 on and turns at lr 1."""
    if mode == "exponential":
        lrs = [1e-6 * 10 ** (7 * step / steps) for step in range(steps)]
    else:
        lrs = [1e-3 + 0.02 * step for step in range(steps)]
    losses = [2.3 - 2.0 / (1 + (0.05 / lr) ** 2) + 0.5 * lr**2 for lr in lrs]
    return RangeTestResult(list(range(steps)), lrs, losses, losses, "diverged", mode, list(ratios))


def shortened(result: RangeTestResult, length: int) -> RangeTestResult:
    columns = ("steps", "lrs", "losses", "smoothed_losses")
    return replace(result, **{name: getattr(result, name)[:length] for name in columns})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_every_method_finds_a_usable_lr_and_bounds_enclose_it(method, mode):
    result = sweep(mode)
    low, high = result.bounds()
    assert low < high
    assert 1e-4 < result.suggestion(method) < 1.0


@pytest.mark.parametrize("ratios", [(1.0,), (0.1, 1.0)])
@pytest.mark.parametrize("total", [10, 99, 1000])
@pytest.mark.parametrize("make", [RangeTestResult.one_cycle, RangeTestResult.warmup_decay])
def test_the_configuration_is_json_and_builds(make, total, ratios):
    config = json.loads(json.dumps(make(sweep(ratios=ratios), total)))
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)]} for _ in ratios], lr=0.1)
    schedule = SchedulerConfig.of(config).build(optimizer)
    highest = max(schedule.lr_at(step)[-1] for step in range(total + 1))
    key = "cycle_max_lr" if config["type"] == "OneCycle" else "warmup_max_lr"
    assert highest == pytest.approx(schedule.hyperparameters[key][-1] if len(ratios) > 1 else config["params"][key])
    assert schedule.lr_at(total)[-1] < 0.2 * highest
    for first, last in [(lr[0], lr[-1]) for lr in map(schedule.lr_at, range(total))]:
        assert first == pytest.approx(ratios[0] * last)


@pytest.mark.parametrize("ratios", [(1.0,), (0.1, 1.0)])
@pytest.mark.parametrize("total", [10, 99, 1000])
@pytest.mark.parametrize("make", [RangeTestResult.one_cycle, RangeTestResult.warmup_decay])
def test_the_configuration_builds_in_deepspeed_too(make, total, ratios, deepspeed):
    config = make(sweep(ratios=ratios), total)
    ours, theirs = (torch.optim.AdamW([{"params": [torch.zeros(1)]} for _ in ratios], lr=0.1) for _ in range(2))
    schedule = SchedulerConfig.of(config).build(ours)
    twin = getattr(deepspeed, config["type"])(theirs, **config["params"])
    for _ in range(total):
        twin.step()
    assert twin.get_last_lr() == pytest.approx(schedule.lr_at(total))


@pytest.mark.parametrize(
    ("momentum", "asked", "cycled"),
    [("momentum", None, True), ("betas", None, False), (None, None, False), ("betas", True, True),
     ("momentum", False, False)],
)  # fmt: skip
def test_momentum_is_cycled_where_that_serves_and_where_it_is_asked_for(momentum, asked, cycled):
    result = replace(sweep(), momentum=momentum)
    params = result.one_cycle(100, cycle_momentum=asked)["params"]
    assert params["cycle_momentum"] is cycled
    assert ("cycle_min_mom" in params) is cycled


@pytest.mark.parametrize("total", [9, -1, 2.5, "many", True])
def test_a_wrong_length_is_refused(total):
    with pytest.raises((TypeError, ValueError), match="total_num_steps"):
        sweep().one_cycle(total)


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"method must be one of .* got 'vally' \(did you mean 'valley'\?\)"):
        sweep().suggestion("vally")


@pytest.mark.parametrize(
    ("lrs", "losses", "advice"),
    [
        ([0.1, 0.2], [1.0, 1.0], "make the test longer"),
        ([0.1 * 1.1**s for s in range(50)], [math.nan] * 50, "recorded only 0 finite losses"),
        ([0.1 * 1.1**s for s in range(50)], [1.0 + s for s in range(50)], "begin at a lower lr"),
        ([0.1] * 50, [1.0] * 50, "the lr did not change"),
    ],
)
def test_where_there_is_nothing_to_suggest_the_error_says_what_to_change(lrs, losses, advice):
    result = RangeTestResult(list(range(len(lrs))), lrs, losses, losses, "num_steps", "exponential")
    for ask in (result.suggestion, result.bounds, lambda: result.one_cycle(100), lambda: result.warmup_decay(100)):
        with pytest.raises(ValueError, match=advice):
            ask()
    assert advice in result.to_markdown()


# Files ------------------------------------------------------------------------------------------------------------


def test_a_saved_result_comes_back_with_nan_and_infinity(tmp_path):
    result = sweep()
    result.losses[-3:] = [math.inf, -math.inf, math.nan]
    path = tmp_path / "deep" / "range_test.json"
    result.save(path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON, no bare NaN
    loaded = RangeTestResult.load(path)
    assert str(asdict(loaded)) == str(asdict(result))  # as text, because NaN is not equal to itself
    assert loaded.stop_reason is StopReason.DIVERGED


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "",
        lambda text: json.dumps({**json.loads(text), "steps": [1]}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "losses"}),
        lambda text: json.dumps({**json.loads(text), "losses": ["x"] * 200}),
        lambda text: json.dumps({**json.loads(text), "mode": "quadratic"}),
        lambda text: json.dumps({**json.loads(text), "lrs": 3}),
        lambda text: json.dumps({**json.loads(text), "momentum": "beta"}),
        lambda text: json.dumps({**json.loads(text), "stop_reason": "bored"}),
    ],
)
def test_a_spoiled_file_is_refused_with_its_name(tmp_path, spoil):
    path = tmp_path / "range_test.json"
    sweep().save(path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ValueError, match=r"range_test\.json"):
        RangeTestResult.load(path)


@pytest.mark.parametrize("write", [RangeTestResult.save, RangeTestResult.to_csv])
def test_a_file_is_overwritten_only_when_that_is_asked_for(tmp_path, write):
    path = tmp_path / "record"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already; give another name, or overwrite=True"):
        write(sweep(), path)
    assert path.read_text() == "precious"
    write(sweep(), path, overwrite=True)
    assert path.read_text() != "precious"


def test_csv_has_one_line_per_step(tmp_path):
    result = sweep()
    result.to_csv(tmp_path / "deep" / "record.csv")
    with (tmp_path / "deep" / "record.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr"]) for row in rows] == result.lrs
    assert [int(row["step"]) for row in rows] == result.steps


# Several ----------------------------------------------------------------------------------------------------------


def test_combined_tests_are_their_mean_up_to_the_shortest():
    first, second = sweep(), sweep()
    second = shortened(replace(second, losses=[loss + 1.0 for loss in second.losses]), 150)
    both = RangeTestResult.combine([first, second])
    assert both.losses == pytest.approx([loss + 0.5 for loss in first.losses[:150]])
    assert both.steps == list(range(150))
    assert both.suggestion("steep") == pytest.approx(first.suggestion("steep"), rel=0.3)


def test_only_repetitions_of_one_test_combine():
    with pytest.raises(ValueError, match=r"results\[1\]: its learning rates differ"):
        RangeTestResult.combine([sweep(steps=200), sweep(steps=300)])
    with pytest.raises(ValueError, match="at least one"):
        RangeTestResult.combine([])


# Pictures ---------------------------------------------------------------------------------------------------------


def test_the_figure_marks_bounds_suggestions_and_divergence():
    result = sweep()
    [axes] = result.plot().axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith("bounds") for label in labels)
    assert any(label.startswith("suggested fixed lr") for label in labels)
    assert any(label.startswith("diverged at") for label in labels)
    assert {text.get_text() for text in axes.texts} == set(METHODS) - {"edge"}  # that one is the dashed line
    assert axes.get_xscale() == "log"
    assert sweep("linear").plot().axes[0].get_xscale() == "linear"


def test_a_result_without_suggestion_has_a_figure_too():
    result = RangeTestResult([0], [0.1], [math.nan], [math.nan], "non-finite loss", "linear")
    assert "no suggestion" in result.plot().axes[0].get_title()


def test_comparison_overlays_losses_and_learning_rates():
    left, right = RangeTestResult.compare({"slow": sweep(steps=300), "fast": sweep()}).axes
    for axes in (left, right):
        assert [line.get_label() for line in axes.get_lines()] == ["slow", "fast"]
        assert [len(line.get_xdata()) for line in axes.get_lines()] == [300, 200]


def test_a_notebook_shows_figure_and_table():
    shown = sweep()._repr_html_()
    assert shown.startswith("<img")
    assert "suggested lr" in shown


# Caveats ----------------------------------------------------------------------------------------------------------


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


def test_an_explosion_at_the_end_does_not_move_the_suggestions():
    calm, exploded = sweep(), sweep()
    exploded.losses[-5:] = [1e6] * 5
    assert exploded.bounds() == pytest.approx(calm.bounds(), rel=0.05)


def test_a_result_is_finished():
    with pytest.raises(FrozenInstanceError):
        sweep().stop_reason = "num_steps"
    with pytest.raises(ValueError, match=r"stop_reason must be one of .* \(did you mean 'diverged'\?\)"):
        replace(sweep(), stop_reason="diverge")


def test_a_printed_result_is_one_short_line_with_the_findings():
    text = repr(sweep())
    assert len(text) < 200
    assert "\n" not in text
    assert f"suggested lr {sweep().suggestion():.3g}" in text


def test_a_notebook_shows_the_figure_and_the_result_as_pictures():
    assert sweep().plot()._repr_png_().startswith(b"\x89PNG")
    assert RangeTestResult.compare({"one": sweep()})._repr_png_().startswith(b"\x89PNG")
    assert "data:image/png;base64," in sweep()._repr_html_()


@pytest.mark.parametrize("make", [RangeTestResult.one_cycle, RangeTestResult.warmup_decay])
@pytest.mark.parametrize("total", [50, 1000])
def test_a_configuration_without_a_number_fits_a_run_of_any_length(make, total):
    config = json.loads(json.dumps(make(sweep())))
    with_number = make(sweep(), total)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    schedule = SchedulerConfig.of(config).build(optimizer, RunLength(total_steps=total))
    twin = SchedulerConfig.of(with_number).build(torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9))
    assert schedule.hyperparameters == twin.hyperparameters
