"""RangeTestResult: configurations that train, files that come back, errors that say what to change."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test import suggest
from lightning_lrsched.range_test.loss_watch import StopReason
from lightning_lrsched.range_test.suggest import METHODS
from tests.kit.records import shortened, sweep


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_every_method_finds_a_usable_lr_and_bounds_enclose_it(method, mode):
    result = sweep(mode)
    low, high = result.bounds()
    assert low < high
    assert 1e-4 < result.suggestion(method) < 1.0


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"method must be one of .* got 'vally' \(did you mean 'valley'\?\)"):
        sweep().suggestion("vally")


@pytest.mark.parametrize(
    ("lrs", "losses", "advice"),
    [
        ([0.1, 0.2], [1.0, 1.0], "make the test longer"),
        ([0.1 * 1.1**s for s in range(50)], [math.nan] * 50, "recorded only 0 finite losses"),
        ([0.1 * 1.1**s for s in range(50)], [1.0 + s for s in range(50)], "begin at a lower lr"),
        ([0.1 * 1.1**s for s in range(50)], [1.0] * 50, "the same in every step"),
        ([0.1] * 50, [1.0 - 0.01 * s for s in range(50)], "the lr did not change"),
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


def test_a_file_is_overwritten_only_when_that_is_asked_for(tmp_path):
    path = tmp_path / "record"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already; give another name, or overwrite=True"):
        sweep().save(path)
    assert path.read_text() == "precious"
    sweep().save(path, overwrite=True)
    assert path.read_text() != "precious"


def test_a_record_that_cannot_be_written_leaves_the_earlier_one_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    sweep().save(path)

    def full(self, text, **options):
        self.write_bytes(text[:10].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        sweep("linear").save(path, overwrite=True)
    assert RangeTestResult.load(path) == sweep()
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]


def two_sweeps(last: float = 0.05, offset: float = 0.0) -> RangeTestResult:
    """A fine sweep around the lr at which a coarse one ended."""
    coarse = shortened(sweep(steps=100), 90)
    lrs = [last / 100 * 300 ** (step / 199) for step in range(200)]
    losses = [2.0 / (1 + lr) + offset for lr in lrs]
    return RangeTestResult(list(range(200)), lrs, losses, losses, "num_steps", "exponential", coarse=coarse)


def test_the_record_of_a_coarse_sweep_is_saved_too_and_an_older_file_has_none(tmp_path):
    result = two_sweeps()
    result.coarse.losses[-1] = math.inf
    path = tmp_path / "range_test.json"
    result.save(path)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    assert RangeTestResult.load(path) == result
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != "coarse"}
    assert RangeTestResult.from_dict(older) == replace(result, coarse=None)
    path.write_text(json.dumps({**older, "coarse": {"steps": [1]}}))
    with pytest.raises(ValueError, match=r"range_test\.json"):
        RangeTestResult.load(path)


# Two sweeps -------------------------------------------------------------------------------------------------------


def fine_over(first: float, last: float, steps: int = 200) -> RangeTestResult:
    """A fine sweep over a loss that falls at lr 0.05 and turns at 1, after a coarse sweep over the same."""
    coarse = sweep(steps=100)
    lrs = [first * (last / first) ** (step / (steps - 1)) for step in range(steps)]
    losses = [2.3 - 2.0 / (1 + (0.05 / lr) ** 2) + 0.5 * lr**2 for lr in lrs]
    return RangeTestResult(list(range(steps)), lrs, losses, losses, "diverged", "exponential", coarse=coarse)


def test_suggestions_come_from_the_fine_sweep():
    result = fine_over(0.01, 3.0)
    assert result.bounds() == replace(result, coarse=None).bounds()
    assert result.suggestion() == replace(result, coarse=None).suggestion()


def test_where_the_fine_sweep_begins_too_high_the_coarse_one_is_read():
    result = fine_over(0.5, 3.0)
    with pytest.raises(ValueError, match=r"never fell below its starting value|below every lr that was tested"):
        replace(result, coarse=None).suggestion()
    assert result.suggestion() == pytest.approx(fine_over(0.01, 3.0).suggestion(), rel=0.5)
    assert result.curve().lrs[0] == result.coarse.lrs[0]
    assert (result.curve().steps[1:] - result.curve().steps[:-1] == 1).all()


def test_where_the_fine_sweep_is_too_short_the_coarse_one_is_read():
    result = replace(fine_over(0.001, 0.3), stop_reason="num_steps")
    interrupted = replace(shortened(result, 5), stop_reason="interrupted")
    assert interrupted.suggestion() == result.coarse.suggestion()
    assert replace(shortened(result, 0), stop_reason="skipped steps").suggestion() == result.coarse.suggestion()


def test_where_neither_shows_a_suggestion_the_error_is_that_of_the_fine_sweep():
    flat = RangeTestResult(list(range(50)), [0.1 * 1.1**s for s in range(50)], [1.0] * 50, [1.0] * 50, "num_steps",
                           "exponential")  # fmt: skip
    with pytest.raises(ValueError, match="recorded only 5 finite losses"):
        replace(shortened(flat, 5), coarse=flat).suggestion()


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
    with pytest.raises(ValueError, match=r"results\[1\]: its learning rates differ"):
        RangeTestResult.combine([sweep(), two_sweeps()])
    with pytest.raises(ValueError, match="at least one"):
        RangeTestResult.combine([])


def test_fine_sweeps_over_different_ranges_combine_where_both_have_been():
    first, second = two_sweeps(0.05), two_sweeps(0.07, offset=1.0)
    both = RangeTestResult.combine([first, second])
    # The second begins 12 steps of 2.9 % higher than the first.
    assert both.steps == list(range(188))
    assert both.lrs[0] == pytest.approx(second.lrs[0], rel=0.015)
    assert both.losses == pytest.approx([2.0 / (1 + lr) + 0.5 for lr in both.lrs], rel=1e-3)
    assert both.coarse == RangeTestResult.combine([first.coarse, second.coarse]) == first.coarse


# The record -------------------------------------------------------------------------------------------------------


def test_an_explosion_at_the_end_does_not_move_the_suggestions():
    calm, exploded = sweep(), sweep()
    exploded.losses[-5:] = [1e6] * 5
    assert exploded.bounds() == pytest.approx(calm.bounds(), rel=0.05)


def test_a_result_reads_its_curve_once(monkeypatch):
    made = []
    smooth, result = suggest.zero_phase, sweep()
    monkeypatch.setattr(suggest, "zero_phase", lambda *args: made.append(1) or smooth(*args))
    for look in (result.bounds, result.caveats, result.to_markdown, result.plot, result.one_cycle, result.__repr__):
        look()
    assert len(made) == 1


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
