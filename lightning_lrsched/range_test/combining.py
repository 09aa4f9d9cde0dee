"""Several records as one: repetitions of a test, and a coarse sweep with the fine one after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from lightning_lrsched.range_test.suggestions import Curve

if TYPE_CHECKING:
    from lightning_lrsched.range_test.result import RangeTestResult


def combine(results: Sequence[RangeTestResult]) -> RangeTestResult:
    """Return the mean, over the learning rates that all of them have tested."""
    if not results:
        raise ValueError("results: at least one is needed")
    aligned = _aligned(results)
    shortest = min(aligned, key=lambda result: len(result.steps))
    length = len(shortest.steps)
    for number, result in enumerate(aligned):
        if result.steps[:length] != shortest.steps or not _has_the_lrs_of(result, shortest):
            raise ValueError(f"results[{number}]: its learning rates differ; only repetitions of one test combine")
    coarse = [result.coarse for result in aligned if result.coarse is not None]
    return replace(
        shortest,
        losses=[fmean(losses) for losses in zip(*(r.losses[:length] for r in aligned), strict=True)],
        smoothed_losses=[fmean(losses) for losses in zip(*(r.smoothed_losses[:length] for r in aligned), strict=True)],
        coarse=combine(coarse) if len(coarse) == len(aligned) else None,
    )


def _aligned(results: Sequence[RangeTestResult]) -> list[RangeTestResult]:
    """Return fine sweeps without the steps below the highest of their first learning rates; others as they are."""
    if any(result.coarse is None or not result.lrs for result in results):
        return list(results)
    begin = max(result.lrs[0] for result in results)
    return [_from(result, round(math.log(begin / result.lrs[0]) / _growth(result))) for result in results]


def _from(result: RangeTestResult, begin: int) -> RangeTestResult:
    """Return the record without its first ``begin`` steps, and with its steps counted from there."""
    first = sum(step < begin for step in result.steps)
    steps = [step - begin for step in result.steps[first:]]
    columns = ("lrs", "losses", "smoothed_losses")
    return replace(result, steps=steps, **{name: getattr(result, name)[first:] for name in columns})


def _growth(result: RangeTestResult) -> float:
    """Return by how much the logarithm of the lr grows in a step."""
    return math.log(result.lrs[-1] / result.lrs[0]) / max(1, result.steps[-1] - result.steps[0]) or 1.0


def _has_the_lrs_of(result: RangeTestResult, shortest: RangeTestResult) -> bool:
    """Return whether the learning rates are the same, those of fine sweeps to half a step."""
    pairs = list(zip(result.lrs, shortest.lrs, strict=False))
    if result.group_ratios != shortest.group_ratios or result.coarse is None or shortest.coarse is None:
        return result.group_ratios == shortest.group_ratios and all(own == other for own, other in pairs)
    half = _growth(shortest) / 2 if pairs else 0.0
    return all(abs(math.log(own / other)) <= half * 1.001 for own, other in pairs)


def curve_of(result: RangeTestResult) -> Curve:
    """Return the curve of the fine sweep; of the coarse one where the fine one is too short or shows no fall."""
    sweeps = [result] if result.coarse is None else [result, result.coarse]
    lowest = min((sweep.lrs[0] for sweep in sweeps if sweep.lrs), default=None)
    curves = []
    for sweep in sweeps:
        with suppress(ValueError):
            curves.append(_curve(sweep, result.prior, lowest))
    return next((curve for curve in curves if not curve.is_flat), None) or _curve(result, result.prior, lowest)


def _curve(sweep: RangeTestResult, prior: float | None, lowest: float | None) -> Curve:
    return Curve(sweep.steps, sweep.lrs, sweep.losses, sweep.mode, sweep.stop_reason, prior, lowest)
