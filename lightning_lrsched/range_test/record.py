"""RangeTestResult: the record of an LR range test, with training configurations made from it, and its files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_lrsched.config.files import write_text
from lightning_lrsched.range_test import report, suggest
from lightning_lrsched.range_test.loss_watch import StopReason
from lightning_lrsched.range_test.suggest import Curve
from lightning_lrsched.schedules.errors import choice, count
from lightning_lrsched.schedules.fields import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_STEPS = 10
"""[optimizer steps] Shorter trainings have no room for the phases of a schedule."""

Findings = dict[Finding, float | list[float]]
"""The two bounds of 1Cycle and a good fixed lr: one for all param groups, or one for each."""

COLUMNS = ("lrs", "losses", "smoothed_losses")


@dataclass(frozen=True, repr=False)
class RangeTestResult:
    """The record of an LR range test, one entry per optimizer step, and the suggestions that follow from it.

    Args:
        steps: optimizer steps finished before each recorded one.
        lrs: learning rate of each step; with several param groups, the largest of theirs.
        losses: loss of each step.
        smoothed_losses: its running average.
        stop_reason: why the test ended: ``"diverged"``, ``"non-finite loss"``, ``"skipped steps"`` (a gradient scaler
            found no finite gradients any more), ``"max_lr"``, ``"num_steps"``, ``"trainer"`` (the Trainer's limits),
            ``"interrupted"`` (an exception, Ctrl+C, or a loop of one's own that was left early).
        mode: how the lr grew, ``"linear"`` or ``"exponential"``.
        group_ratios: each param group's lr as a fraction of the largest.
        momentum: where the optimizer keeps its momentum: ``"momentum"`` (SGD, RMSprop), ``"betas"`` (the Adam family),
            or None: it has none.
        coarse: the record of the coarse sweep that found the range of this one, its steps counted from 0, too; None:
            there was one sweep.
        prior: the peak of 1Cycle that is likely for this kind of optimizer; a noisy record draws the suggestions to it.
            None: they follow the record alone.
        update_growth: the power of the lr with which the size of the optimizer's updates grew: about 1, but 0 where
            they did not follow the lr at all; None: not measured.

    Example:
        >>> lrs = [1e-4 * 1.1**step for step in range(100)]
        >>> losses = [1.0 - min(lr, 0.1) * 8 + max(0.0, lr - 0.2) for lr in lrs]
        >>> result = RangeTestResult(list(range(100)), lrs, losses, losses, "num_steps", "exponential")
        >>> low, high = result.bounds()
        >>> low < result.suggestion() < 1.0
        True
        >>> result.one_cycle(total_num_steps=1000)["type"]
        'OneCycle'
    """

    steps: list[int]
    lrs: list[float]
    losses: list[float]
    smoothed_losses: list[float]
    stop_reason: str
    mode: str
    group_ratios: list[float] = field(default_factory=lambda: [1.0])
    momentum: str | None = "momentum"
    coarse: RangeTestResult | None = None
    prior: float | None = None
    update_growth: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_reason", stop_reason(self.stop_reason))

    def __repr__(self) -> str:
        return f"RangeTestResult({report.summarize(self)})"

    # What is read off it ----------------------------------------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """Optimizer steps up to the last recorded one, without those of the coarse sweep."""
        return self.steps[-1] + 1 if self.steps else 0

    def curve(self) -> Curve:
        """Return the smoothed loss from which the suggestions are read.

        After two sweeps it is that of the fine one; where that is too short or began too high to show a fall, that of
        the coarse one.

        Raises:
            ValueError: if the loss never fell; the message says what to change.
        """
        if isinstance(self._read, ValueError):
            raise self._read.with_traceback(None)
        return self._read

    @cached_property
    def _read(self) -> Curve | ValueError:
        sweeps = [self] if self.coarse is None else [self, self.coarse]
        lowest = min((sweep.lrs[0] for sweep in sweeps if sweep.lrs), default=None)
        found = [_curve_of(sweep, self.prior, lowest) for sweep in sweeps]
        return next((curve for curve in found if isinstance(curve, Curve) and not curve.is_flat), found[0])

    def fell_at(self) -> float | None:
        """Return the lr at which half of the loss's fall was done; None where it hardly fell."""
        try:
            curve = self.curve()
        except ValueError:
            return None
        if curve.is_flat or curve.fall < curve.noise:
            return None
        return float(curve.lrs[int(np.argmax(curve.losses <= curve.start - curve.fall / 2))])

    def suggestion(self, method: str = "edge") -> float:
        """Return a good fixed learning rate.

        Args:
            method: ``"edge"``, a fraction of the lr that begins to harm, which was best on tasks of many kinds; or a
                rule of thumb from other finders: ``"valley"``, ``"steep"``, ``"minimum"``, ``"slide"``.

        Raises:
            ValueError: if the method is unknown, or the record does not show one; the message says what to change.
        """
        return suggest.suggest(self.curve(), choice("method", method, list(suggest.METHODS)))

    def bounds(self) -> tuple[float, float]:
        """Return (low, high): an lr at which the loss clearly falls, and a safe fraction of the one where it turns.

        Raises:
            ValueError: if the record does not show them; the message says what to change.
        """
        return suggest.bounds(self.curve())

    def caveats(self) -> list[str]:
        """Return, as sentences, what makes the suggestions less certain; empty where nothing does.

        Raises:
            ValueError: if the record shows no suggestions at all.
        """
        own = [suggest.OWN_SCHEDULE] if report.has_own_schedule(self) else []
        return [*own, *suggest.caveats(self.curve())]

    def learning_rates(self) -> Findings:
        """Return the two bounds (``"low"``, ``"high"``) and the ``"suggestion"``, each with one lr per param group.

        One float where all groups have the same.

        Raises:
            ValueError: if the record does not show them; the message says what to change.
        """
        (low, high), suggestion = self.bounds(), self.suggestion()
        found: dict[Finding, float] = {"low": low, "high": high, "suggestion": suggestion}
        return {name: for_groups(lr, self.group_ratios) for name, lr in found.items()}

    def hyperparameters(self) -> dict[str, Any]:
        """Return what a logger keeps of it: suggestion and bounds where there are any, length and end."""
        found: dict[str, Any] = {}
        with suppress(ValueError):
            low, high = self.bounds()
            found = {"suggestion": self.suggestion(), "low": low, "high": high}
        coarse = {} if self.coarse is None else {"coarse_steps": len(self.coarse.steps)}
        return {**found, "steps": len(self.steps), "stop_reason": str(self.stop_reason), **coarse}

    # Configurations ---------------------------------------------------------------------------------------------------

    def one_cycle(self, total_num_steps: int | None = None, *, cycle_momentum: bool | None = None) -> dict[str, Any]:
        """Return a ready OneCycle configuration.

        The lr goes from the low bound to the high one in the first 30 % of the steps, back in the next 60 %, and falls
        to a hundredth of the low bound in the last 10 %. With several param groups their ratios are kept.

        Args:
            total_num_steps: length of the training [optimizer steps], at least 10; None: the length of the run that
                it is used in. The lengths are then fractions of the run (0.3, 0.6, 0.1), which this package reads and
                DeepSpeed does not.
            cycle_momentum: cycle momentum between 0.95 and 0.85 too; None: only that of SGD and RMSprop. Cycling the
                first beta of the Adam family gave slightly worse results than leaving it alone.

        Raises:
            ValueError: if the record shows no bounds; the message says what to change.
        """
        cycles = self.momentum == "momentum" if cycle_momentum is None else cycle_momentum
        low, high = (for_groups(lr, self.group_ratios) for lr in self.bounds())
        return one_cycle(low, high, total_num_steps, cycles)

    def warmup_decay(self, total_num_steps: int | None = None) -> dict[str, Any]:
        """Return a ready WarmupDecayLR configuration: to :meth:`suggestion` in a tenth of the steps, then down to 0.

        Args:
            total_num_steps: length of the training [optimizer steps], at least 10; None: the length of the run that
                it is used in (``"auto"`` and 0.1, which this package reads and DeepSpeed does not).

        Raises:
            ValueError: if the record shows no suggestion; the message says what to change.
        """
        total = None if total_num_steps is None else _total(total_num_steps)
        params = {
            "total_num_steps": "auto" if total is None else total,
            "warmup_min_lr": for_groups(0.0, self.group_ratios),
            "warmup_max_lr": for_groups(self.suggestion(), self.group_ratios),
            "warmup_num_steps": 0.1 if total is None else round(0.1 * total),
            "warmup_type": "linear",
        }
        return {"type": "WarmupDecayLR", "params": params}

    # Several tests ----------------------------------------------------------------------------------------------------

    @classmethod
    def combine(cls, results: Sequence[RangeTestResult]) -> RangeTestResult:
        """Return the mean of several tests that differ only in their seed, up to where the first of them ended.

        Where coarse sweeps have led to different ranges, it begins where the last of them begins; learning rates that
        are averaged then differ by half a step of the growth at most.

        Raises:
            ValueError: if there are none, or their learning rates differ otherwise.
        """
        if not results:
            raise ValueError("results: at least one is needed")
        aligned = _aligned(results)
        shortest = min(aligned, key=lambda result: len(result.steps))
        length = len(shortest.steps)
        for number, result in enumerate(aligned):
            if result.steps[:length] != shortest.steps or not _has_the_lrs_of(result, shortest):
                raise ValueError(f"results[{number}]: its learning rates differ; only repetitions of one test combine")
        means: dict[str, Any] = {
            name: [fmean(losses) for losses in zip(*(getattr(r, name)[:length] for r in aligned), strict=True)]
            for name in ("losses", "smoothed_losses")
        }
        coarse = [result.coarse for result in aligned if result.coarse is not None]
        return replace(shortest, **means, coarse=cls.combine(coarse) if len(coarse) == len(aligned) else None)

    @staticmethod
    def compare(results: Mapping[str, RangeTestResult]) -> Figure:
        """Return a figure that overlays several tests (a slow and a fast one): loss, and lr, against the steps."""
        return report.draw_comparison(results)

    # To look at -------------------------------------------------------------------------------------------------------

    def plot(self) -> Figure:
        """Return a matplotlib figure: loss against lr, with the bounds and the suggestion marked."""
        return report.draw(self)

    def to_markdown(self, total_num_steps: int = report.EXAMPLE_STEPS) -> str:
        """Return the findings as a Markdown table, and a 1Cycle configuration for ``total_num_steps`` steps."""
        return report.describe(self, self.one_cycle, max(total_num_steps, MIN_STEPS))

    def _repr_html_(self) -> str:
        """Show the numbers in a notebook."""
        try:
            self.bounds()
        except ValueError as reason:
            return report.as_html("LR range test", [("no suggestion", str(reason)), *report.findings(self)])
        return report.as_html("LR range test", report.findings(self))

    # Files ------------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the record as lists, numbers and strings; what is not finite as a string, because JSON lacks it."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        content |= {key: [_plain(item) for item in value] for key, value in content.items() if isinstance(value, list)}
        coarse = None if self.coarse is None else self.coarse.to_dict()
        return {**content, "stop_reason": str(self.stop_reason), "coarse": coarse}

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the record as JSON; missing folders are made.

        Raises:
            FileExistsError: if there is such a file already, unless ``overwrite``.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists already; give another name, or overwrite=True")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.to_json())

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @classmethod
    def load(cls, path: str | Path) -> RangeTestResult:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: if the file is not a complete record.
        """
        path = Path(path)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not a range test record: {error!r}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Any) -> RangeTestResult:
        """Read what :meth:`to_dict` returned.

        Raises:
            ValueError: if it is not a complete record.
        """
        try:
            # Records that were saved before there were coarse sweeps have no such key; those before priors no prior.
            coarse, prior, momentum = content.get("coarse"), content.get("prior"), content["momentum"]
            growth = content.get("update_growth")
            columns: dict[str, Any] = {key: [float(item) for item in content[key]] for key in COLUMNS}
            result = cls(
                [int(item) for item in content["steps"]],
                **columns,
                stop_reason=stop_reason(content["stop_reason"]),
                mode=choice("mode", content["mode"], ("linear", "exponential")),
                group_ratios=[float(item) for item in content["group_ratios"]],
                momentum=None if momentum is None else choice("momentum", momentum, ("momentum", "betas")),
                coarse=None if coarse is None else cls.from_dict(coarse),
                prior=None if prior is None else float(prior),
                update_growth=None if growth is None else float(growth),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            names = ", ".join(f.name for f in fields(cls))
            raise ValueError(f"not a range test record (a JSON object with {names}): {error!r}") from None
        if {len(getattr(result, name)) for name in COLUMNS} != {len(result.steps)}:
            raise ValueError("steps, lrs, losses and smoothed_losses must be equally long")
        return result


def _plain(item: float) -> float | str:
    return item if math.isfinite(item) else str(item)


def one_cycle(low: Any, high: Any, total_num_steps: int | None, cycle_momentum: bool) -> dict[str, Any]:
    """Return a OneCycle configuration; lengths are fractions of the run where ``total_num_steps`` is None.

    ``low`` and ``high`` are numbers, or ``"lr_range_test"`` for those that a test is still to find.
    """
    first, second, decay = 0.3, 0.6, 0.1
    if total_num_steps is not None:
        total = _total(total_num_steps)
        first, decay = round(0.3 * total), round(0.1 * total)
        second = total - first - decay
    params: dict[str, Any] = {
        "cycle_min_lr": low,
        "cycle_max_lr": high,
        "cycle_first_step_size": first,
        "cycle_second_step_size": second,
        "decay_step_size": decay,
        "decay_lr_rate": 99.0,
        "cycle_momentum": cycle_momentum,
    }
    if cycle_momentum:
        params.update(cycle_min_mom=0.85, cycle_max_mom=0.95)
    return {"type": "OneCycle", "params": params}


def _total(total_num_steps: int) -> int:
    return count("total_num_steps", total_num_steps, at_least=MIN_STEPS)


def for_groups(lr: float, ratios: Sequence[float]) -> float | list[float]:
    """Return one lr, or one for each param group where their ratios differ."""
    return lr if len(set(ratios)) == 1 else [lr * ratio for ratio in ratios]


# Repetitions of a test ------------------------------------------------------------------------------------------------


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
    return replace(result, steps=steps, **{name: getattr(result, name)[first:] for name in COLUMNS})


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


# Reading --------------------------------------------------------------------------------------------------------------


def _curve_of(sweep: RangeTestResult, prior: float | None, lowest: float | None) -> Curve | ValueError:
    """Return the curve of one sweep, or why it has none."""
    try:
        return Curve(sweep.steps, sweep.lrs, sweep.losses, sweep.mode, sweep.stop_reason, prior, lowest)
    except ValueError as reason:
        return reason


def stop_reason(value: str) -> StopReason:
    """Return the reason with this text.

    Raises:
        ValueError: if there is none; the message has the nearest one.
    """
    return StopReason(choice("stop_reason", value, [reason.value for reason in StopReason]))
