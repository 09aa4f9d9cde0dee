"""When should an LR range test stop? Rules for divergence, tried on complete sweeps of real and of made-up losses.

    python tests/benchmarks/stop_rule.py [--choose 0:10] [--report 10:20] [--cache build/benchmarks/sweeps.npz]

Real sweeps run to their end without any rule, and are kept in a file: rules are then tried on it in seconds.

*Zero-phase curve* of a sweep: losses cut off at ten times the fall above the start, running median of 5, Gaussian
smoothing with a standard deviation of 2 % of the sweep's length. *Minimum*: where that curve is lowest. *Fall*: from
the mean of its first 5 % to there. A sweep *diverges* when, behind the minimum, the curve climbs back by more than half
its fall, or a loss is not finite; the first such step is the *divergence point*. A rule stops *early* when it stops
before the minimum, *harmfully early* when moreover the curve there was still more than a tenth of the fall above its
minimum: then a suggestion would rest on the wrong part of the curve.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tasks import lr_grid, make_task, sweep, train

from lightning_lrsched.range_test.loss_watch import (
    CONFIRMING_STEPS,
    DIVERGENCE_FACTOR,
    NOISE_FACTOR,
    SETTLING_STEPS,
    VALIDATION_RISE,
    Divergence,
    SmoothedLoss,
)

Array = NDArray[np.float64]
NEVER = 10**6

# Sweeps ---------------------------------------------------------------------------------------------------------------

SWEPT = (
    *("digits_cnn_sgd", "digits_mlp_adam", "digits_mlp_sgd", "digits_batchnorm_sgd", "digits_autoencoder_adam"),
    *("friedman_adamw", "diabetes_sgd", "noisy_cancer_sgd", "char_transformer_adamw"),
)
"""The tasks on which the constants of the rule were chosen."""

LENGTHS = {"exponential": (100, 200, 300), "linear": (115, 200, 300)}


def sweep_lrs(task: str, mode: str, steps: int) -> Array:
    """Exponential: 1e-6 .. 100. Linear: to the largest lr of the task's grid, the longest to three times that."""
    if mode == "exponential":
        return np.geomspace(1e-6, 100.0, steps)
    top = lr_grid(task)[-1] * (3 if steps == max(LENGTHS["linear"]) else 1)
    return np.linspace(top / 1000, top, steps)


def collect(cache: Path, seeds: list[int]) -> dict[str, Array]:
    """Return "task/mode/steps/seed" -> losses; run what the cache does not have."""
    kept = dict(np.load(cache)) if cache.exists() else {}
    for seed in seeds:
        missing = False
        for task in SWEPT:
            for mode, lengths in LENGTHS.items():
                for steps in lengths:
                    key = f"{task}/{mode}/{steps}/{seed}"
                    if key not in kept:
                        missing = True
                        kept[key] = np.array(sweep(make_task(task, seed), list(sweep_lrs(task, mode, steps))))
        if missing:
            cache.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(cache, **kept)
    return kept


def gaussian(values: Array, width: float) -> Array:
    reach = max(1, int(4 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weight = np.convolve(np.ones_like(values), kernel, mode="full")[reach:-reach]
    return np.convolve(values, kernel, mode="full")[reach:-reach] / weight


def zero_phase_curve(losses: Array) -> Array:
    """The true course of a sweep up to its first loss that is not finite; see the module's docstring."""
    broken = np.flatnonzero(~np.isfinite(losses))
    kept = losses[: broken[0]] if len(broken) else losses
    if len(kept) < 5:
        return kept
    padded = np.pad(kept, 2, mode="edge")
    steady = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    start = steady[: max(3, len(losses) // 20)].mean()
    fall = max(start - steady.min(), 1e-3 * abs(start))
    return gaussian(np.minimum(steady, start + 10 * fall), 0.02 * len(losses))


def truth(losses: Array) -> tuple[int, int, int]:
    """Return (minimum, first step near enough to it, divergence point or NEVER)."""
    curve = zero_phase_curve(losses)
    start = curve[: max(3, len(losses) // 20)].mean() if len(curve) else 0.0
    lowest = int(curve.argmin()) if len(curve) else 0
    fall = start - curve[lowest] if len(curve) else 0.0
    near = int(np.flatnonzero(curve <= curve[lowest] + 0.1 * max(fall, 0.0))[0]) if len(curve) else 0
    behind = np.flatnonzero(curve[lowest:] > curve[lowest] + 0.5 * max(fall, 1e-3 * abs(start)))
    point = lowest + int(behind[0]) if len(behind) else (len(curve) if len(curve) < len(losses) else NEVER)
    return lowest, near, point


# Rules: (sweeps, steps) -> step of the stop, or NEVER -----------------------------------------------------------------

Rule = Callable[[Array], NDArray[np.int64]]


def first_true(stops: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(stops.any(1), stops.argmax(1), NEVER)


def averages(losses: Array, smoothing: float) -> Array:
    total, weight, out = np.zeros(len(losses)), 0.0, np.empty_like(losses)
    for step in range(losses.shape[1]):
        total, weight = smoothing * total + (1 - smoothing) * losses[:, step], smoothing * weight + (1 - smoothing)
        out[:, step] = total / weight
    return out


def times_best(factor: float, smoothing: float = 0.98) -> Rule:
    """fastai's and Lightning's kind of rule."""

    def rule(losses: Array) -> NDArray[np.int64]:
        smoothed = averages(losses, smoothing)
        best = np.minimum.accumulate(smoothed, axis=1)
        return first_true((smoothed > factor * best) | ~np.isfinite(losses))

    return rule


def share_of_fall(share: float, smoothing: float = 0.9) -> Rule:
    """Stop when the average climbs above the best by a share of the fall from the first loss; knows no noise."""

    def rule(losses: Array) -> NDArray[np.int64]:
        smoothed = averages(losses, smoothing)
        best = np.minimum.accumulate(smoothed, axis=1)
        return first_true((smoothed > best + share * (losses[:, :1] - best)) | ~np.isfinite(losses))

    return rule


def loss_trend(
    smoothing: float = 0.9,
    divergence_factor: float = 0.5,
    noise_factor: float = 4.0,
    settling: int = 10,
    *,
    late_best: bool = False,
    in_a_row: int = 1,
) -> Rule:
    """The package's rule (``PACKAGE``), and what it grew from.

    ``late_best``: the best average counts only from the last settling step on (before, it is an average of few losses,
    and the best of those is mostly luck). ``in_a_row``: so many losses, one after the other, must each lie above the
    bar too: a single spike lifts the average above it for several steps, but not its neighbours.
    """

    def rule(losses: Array) -> NDArray[np.int64]:
        with np.errstate(invalid="ignore", over="ignore"):
            return first_true(stops(losses) | ~np.isfinite(losses))

    def stops(losses: Array) -> NDArray[np.bool_]:
        rows, steps = losses.shape
        average, weight = np.zeros(rows), 0.0
        first, jitter, noise, above = (np.zeros(rows) for _ in range(4))
        best = np.full(rows, np.inf)
        risen = np.zeros((rows, steps), dtype=bool)
        for step in range(steps):
            loss = losses[:, step]
            average, weight = smoothing * average + (1 - smoothing) * loss, smoothing * weight + (1 - smoothing)
            settled = step >= settling
            if not settled:
                first = first + (loss - first) / (step + 1)
            if step:
                jitter = jitter + (loss - losses[:, step - 1]) ** 2
            smoothed = average / weight
            better = (smoothed < best) & (not late_best or step >= settling - 1)
            noise = np.where(better | (not settled), np.sqrt(jitter / (2 * max(step, 1))), noise)
            best = np.where(better, smoothed, best)
            bar = best + np.maximum(divergence_factor * (first - best), noise_factor * noise)
            above = np.where((loss > bar) & settled, above + 1, 0)
            risen[:, step] = settled & (smoothed > bar) & (above >= in_a_row)
        return risen

    return rule


def package_rule(losses: Array, every: int = 1, min_rise: float = 0.0) -> int:
    """What the package itself decides about one sweep whose loss is recorded after every so many steps."""
    smoothed, divergence = SmoothedLoss(), Divergence(min_rise=min_rise)
    for step in range(every - 1, len(losses), every):
        loss = float(losses[step])
        if divergence.update(step, loss, smoothed.update(step, loss)):
            return step
    return NEVER


# Made-up sweeps -------------------------------------------------------------------------------------------------------


def made_up(seeds: list[int], steps: int = 300) -> dict[str, tuple[bool | None, Array]]:
    """Return name -> (must stop, losses); None: judged like a real sweep."""
    noise = np.stack([np.random.default_rng(seed).normal(size=steps) for seed in seeds])
    spikes = np.stack([np.random.default_rng(seed + 10**6).random(steps) < 0.03 for seed in seeds])
    t = np.linspace(0, 1, steps)
    fall = 2.3 - 1.8 / (1 + np.exp(-(t - 0.5) * 20))
    sweep_like = fall + np.exp(np.minimum((t - 0.85) * 60, 8.0)) * 0.3
    return {
        "noise around 1 (sd 0.1)": (False, 1 + 0.1 * noise),
        "noise around 0 (sd 1)": (False, noise),
        "noise around -1000 (sd 0.1)": (False, -1000 + 0.1 * noise),
        "noise with 5x spikes": (False, (1 + 0.1 * noise) * np.where(spikes, 5.0, 1.0)),
        "falling, noisy (sd 0.3)": (False, fall + 0.3 * noise),
        "falling slowly, very noisy (sd 0.5)": (False, 1 - 0.5 * t + 0.5 * noise),
        "falling with 5x spikes": (False, (fall + 0.1 * noise) * np.where(spikes, 5.0, 1.0)),
        "heavy tails (t, 2 degrees)": (
            False,
            fall + 0.1 * np.stack([np.random.default_rng(seed).standard_t(2, size=steps) for seed in seeds]),
        ),
        "rising only": (True, 2.3 + 3 * t + 0.05 * noise),
        "rising only, steep": (True, 2.3 * np.exp(6 * t) + 0.05 * noise),
        "rising after a flat start": (True, 2.3 + np.exp(np.minimum((t - 0.6) * 40, 9.0)) + 0.05 * noise),
        "sweep": (None, sweep_like + 0.05 * noise),
        "sweep + 1000": (None, sweep_like + 0.05 * noise + 1000),
        "sweep - 1000": (None, sweep_like + 0.05 * noise - 1000),
        "sweep, negative (falls from 0)": (None, sweep_like - 2.3 + 0.05 * noise),
        "sweep, tiny (x 1e-6)": (None, 1e-6 * (sweep_like + 0.05 * noise)),
        "sweep, noisy (sd 0.3)": (None, sweep_like + 0.3 * noise),
        "sweep with 5x spikes": (None, (sweep_like + 0.05 * noise) * np.where(spikes, 5.0, 1.0)),
    }


# Validation losses ----------------------------------------------------------------------------------------------------

INTERVALS = (1, 2, 5, 10)
"""[optimizer steps] between validations."""

VALIDATED_STEPS = 200
NOTICEABLE = 0.01
"""Share of the first loss: a smaller rise is nothing beside it."""


def collect_validated(cache: Path, seeds: list[int]) -> dict[str, Array]:
    """Return "task/fresh or trained/seed" -> validation loss after each step; run what the cache does not have."""
    kept = dict(np.load(cache)) if cache.exists() else {}
    lrs = np.geomspace(1e-6, 10.0, VALIDATED_STEPS).tolist()
    for seed, name, state in product(seeds, SWEPT, ("fresh", "trained")):
        key = f"{name}/{state}/{seed}"
        if key not in kept:
            task = make_task(name, seed)
            if state == "trained":
                train(task, lr_grid(name)[6])
            kept[key] = np.array(sweep(task, lrs, validate=True))
            cache.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(cache, **kept)
    return {key: losses for key, losses in kept.items() if int(key.rsplit("/", 1)[1]) in seeds}


def judge_validated(sweeps: dict[str, Array], every: int, min_rise: float) -> dict[str, float]:
    """Return shares [%] of the diverging sweeps that were stopped, and of all sweeps that were stopped early.

    Early: before the zero-phase curve was near its minimum, or before it had risen by a hundredth of the first loss. A
    sweep diverges when the curve climbs by half its fall, and by a tenth of the first loss at least.
    """
    stopped, diverging, early = 0, 0, 0
    for losses in sweeps.values():
        curve = zero_phase_curve(losses)
        start, (lowest, near, _) = curve[: max(3, len(losses) // 20)].mean(), truth(losses)
        rise = curve - np.minimum.accumulate(curve)
        diverges = len(curve) < len(losses) or bool(
            (rise[lowest:] > max(0.5 * (start - curve[lowest]), 0.1 * abs(start))).any()
        )
        stop = package_rule(losses, every, min_rise)
        diverging += diverges
        stopped += diverges and stop < NEVER
        early += stop < len(curve) and (stop < near or rise[stop] < NOTICEABLE * abs(start))
    return {"diverging": diverging, "stopped %": 100 * stopped / diverging, "early %": 100 * early / len(sweeps)}


def print_validated(sweeps: dict[str, Array], rises: tuple[float, ...]) -> None:
    for every, rise in product(INTERVALS, rises):
        found = judge_validated(sweeps, every, rise)
        print(
            f"validation every {every:>2} steps, rise of at least {rise:<5g} {len(sweeps)} sweeps,"
            f" {found['diverging']:.0f} diverge: stopped {found['stopped %']:5.1f} %, early {found['early %']:4.1f} %"
        )


# Judgement ------------------------------------------------------------------------------------------------------------


def judge_of(groups: dict[str, Array]) -> Callable[[Rule], dict[str, float]]:
    """Return what judges a rule: shares [%] over all sweeps, and the excess [steps], median and 90 % quantile."""
    truths = {name: [truth(row) for row in losses] for name, losses in groups.items()}

    def judge(rule: Rule) -> dict[str, float]:
        rows = [
            (stop, *known)
            for name, losses in groups.items()
            for stop, known in zip(rule(losses), truths[name], strict=True)
        ]
        stop, lowest, near, point = np.array(rows).T
        diverging = point < NEVER
        late = (stop - point)[diverging & (stop < NEVER) & (stop >= lowest)]
        excess = np.percentile(late, [50, 90]) if len(late) else (np.nan, np.nan)
        return {
            "sweeps": len(rows),
            "diverging": int(diverging.sum()),
            "stopped %": 100 * float(np.mean(stop[diverging] < NEVER)),
            "early %": 100 * float(np.mean(stop < lowest)),
            "harmful %": 100 * float(np.mean(stop < near)),
            "excess": float(excess[0]),
            "excess 90 %": float(excess[1]),
        }

    return judge


def grouped(kept: dict[str, Array], seeds: list[int]) -> dict[str, Array]:
    names = {key.rsplit("/", 1)[0] for key in kept}
    return {name: np.stack([kept[f"{name}/{seed}"] for seed in seeds]) for name in sorted(names)}


def false_stops(
    rule: Rule,
    sweeps: dict[str, tuple[bool | None, Array]],
    judges: dict[str, Callable[[Rule], dict[str, float]]],
) -> dict[str, float]:
    """Return, for each made-up sweep, the share [%] of wrong verdicts."""
    wrong = {}
    for name, (must_stop, losses) in sweeps.items():
        if must_stop is None:
            found = judges[name](rule)
            wrong[name] = 100 - found["stopped %"] + found["harmful %"]
        else:
            wrong[name] = 100 * float(np.mean((rule(losses) < NEVER) != must_stop))
    return wrong


PACKAGE: dict[str, Any] = {
    "divergence_factor": DIVERGENCE_FACTOR,
    "noise_factor": NOISE_FACTOR,
    "settling": SETTLING_STEPS,
    "late_best": True,
    "in_a_row": CONFIRMING_STEPS + 1,
}
"""Arguments with which ``loss_trend`` is the package's rule."""

CANDIDATES: dict[str, Rule] = {
    "4 x best, smoothing 0.98": times_best(4.0),
    "4 x best, smoothing 0.9": times_best(4.0, 0.9),
    "2 x best, smoothing 0.9": times_best(2.0, 0.9),
    "best + 0.25 x fall": share_of_fall(0.25),
    "best + 0.5 x fall": share_of_fall(0.5),
    "best + 0.75 x fall": share_of_fall(0.75),
    "best at once, 1 loss, 0.5 x fall, 4 x noise": loss_trend(),
    "the package's": loss_trend(**PACKAGE),
    "best once settled, 3 in a row, 0.5 x fall, 3 x noise": loss_trend(0.9, 0.5, 3.0, late_best=True, in_a_row=3),
}


def variants() -> dict[str, Rule]:
    """The neighbourhood of ours, to choose from."""
    rules = {}
    for smoothing, share, noise, in_a_row, late in product(
        (0.8, 0.9), (0.25, 0.5), (1.0, 2.0, 3.0, 4.0), (1, 3), (False, True)
    ):
        text = f"b={smoothing} {share} x fall, {noise:g} x noise, {in_a_row} in a row{', best once settled' * late}"
        rules[text] = loss_trend(smoothing, share, noise, late_best=late, in_a_row=in_a_row)
    return rules


def print_table(rules: dict[str, Rule], groups: dict[str, Array], seeds: list[int]) -> None:
    print(f"{'rule':<58}stopped   early harmful  excess (90 %)  wrong verdicts on made-up sweeps, mean and worst [%]")
    sweeps, judge = made_up(seeds), judge_of(groups)
    made_up_judges = {name: judge_of({name: losses}) for name, (must, losses) in sweeps.items() if must is None}
    for name, rule in rules.items():
        found = judge(rule)
        wrong = false_stops(rule, sweeps, made_up_judges)
        worst = max(wrong, key=wrong.__getitem__)
        print(
            f"{name:<58}{found['stopped %']:7.1f} {found['early %']:7.1f} {found['harmful %']:7.1f}"
            f" {found['excess']:7.0f} ({found['excess 90 %']:3.0f})     {np.mean(list(wrong.values())):5.1f}"
            f" {wrong[worst]:5.1f}{f'  {worst}' if wrong[worst] else ''}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", default="0:10", help="seeds on which the neighbourhood of the rule is tried")
    parser.add_argument("--report", default="10:20", help="seeds of the final figures")
    parser.add_argument("--cache", type=Path, default=Path("build/benchmarks/sweeps.npz"))
    parser.add_argument("--validation", action="store_true", help="only the rule for validation losses (monitor=)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    choose, report = (list(range(*map(int, text.split(":")))) for text in (args.choose, args.report))
    if args.validation:
        cache = args.cache.with_stem(f"{args.cache.stem}_validated")
        print("seeds to choose from")
        print_validated(collect_validated(cache, choose), (0.0, 0.01, 0.02, 0.05, 0.1, 0.2))
        print("\nreported seeds")
        print_validated(collect_validated(cache, report), (VALIDATION_RISE,))
        return
    kept = collect(args.cache, choose + report)
    chosen, reported = grouped(kept, choose), grouped(kept, report)

    disagree = [n for n, losses in reported.items() if loss_trend(**PACKAGE)(losses)[0] != package_rule(losses[0])]
    print(
        f"numpy's version of the package's rule and the package: {len(disagree)} of {len(reported)} verdicts differ\n"
    )
    print("seeds to choose from")
    print_table(variants(), chosen, list(range(100)))
    for mode in LENGTHS:
        part = {name: losses for name, losses in reported.items() if f"/{mode}/" in name}
        found = judge_of(part)(loss_trend(**PACKAGE))
        print(f"\nreported seeds, {mode}: {found['sweeps']} sweeps, {found['diverging']} of them diverge")
        print_table(CANDIDATES, part, list(range(1000, 1500)))


if __name__ == "__main__":
    main()
