"""RangeTestResult: the record of an LR range test, its suggestions, and training configurations made from them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_lrsched.range_test import caveats, combining, configurations, plots, suggestions, tables
from lightning_lrsched.range_test.divergence import StopReason
from lightning_lrsched.schedulers.checks import choice
from lightning_lrsched.schedulers.rules import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        prior: the peak of 1Cycle that is likely for this kind of optimizer; the suggestions are drawn to it, the more
            the less the record says. None: they follow the record alone.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_reason", _stop_reason(self.stop_reason))

    def __repr__(self) -> str:
        return f"RangeTestResult({tables.summarize(self)})"

    @property
    def num_steps(self) -> int:
        """Optimizer steps up to the last recorded one, without those of the coarse sweep."""
        return self.steps[-1] + 1 if self.steps else 0

    def curve(self) -> suggestions.Curve:
        """Return the smoothed loss from which the suggestions are read.

        After two sweeps it is that of the fine one; where that is too short or began too high to show a fall, that of
        the coarse one.

        Raises:
            ValueError: if the loss never fell; the message says what to change.
        """
        return combining.curve_of(self)

    def suggestion(self, method: str = "edge") -> float:
        """Return a good fixed learning rate.

        Args:
            method: ``"edge"``, a fraction of the lr that begins to harm, which was best on tasks of many kinds; or a
                rule of thumb from other finders: ``"valley"``, ``"steep"``, ``"minimum"``, ``"slide"``.

        Raises:
            ValueError: if the method is unknown, or the record does not show one; the message says what to change.
        """
        return suggestions.suggest(self.curve(), choice("method", method, list(suggestions.METHODS)))

    def bounds(self) -> tuple[float, float]:
        """Return (low, high): an lr at which the loss clearly falls, and a safe fraction of the one where it turns.

        Raises:
            ValueError: if the record does not show them; the message says what to change.
        """
        return suggestions.bounds(self.curve())

    def learning_rates(self) -> dict[Finding, float | list[float]]:
        """Return the two bounds (``"low"``, ``"high"``) and the ``"suggestion"``, each with one lr per param group.

        One float where all groups have the same.

        Raises:
            ValueError: if the record does not show them; the message says what to change.
        """
        (low, high), suggestion = self.bounds(), self.suggestion()
        found: dict[Finding, float] = {"low": low, "high": high, "suggestion": suggestion}
        return {name: configurations.for_groups(lr, self.group_ratios) for name, lr in found.items()}

    def caveats(self) -> list[str]:
        """Return, as sentences, what makes the suggestions less certain; empty where nothing does.

        Raises:
            ValueError: if the record shows no suggestions at all.
        """
        return caveats.caveats(self.curve())

    def one_cycle(self, total_num_steps: int | None = None, *, cycle_momentum: bool | None = None) -> dict[str, Any]:
        """Return a ready OneCycle configuration.

        The lr goes from the low bound to the high one in the first 30 % of the steps, back in the next 60 %, and falls
        to a hundredth of the low bound in the last 10 %. With several param groups their ratios are kept.

        Args:
            total_num_steps: length of the training [optimizer steps], at least 10; None: as long as the run that
                it is used in. The lengths are then fractions of the run (0.3, 0.6, 0.1), which this package reads and
                DeepSpeed does not.
            cycle_momentum: cycle momentum between 0.95 and 0.85 too; None: only that of SGD and RMSprop. Cycling the
                first beta of the Adam family gave slightly worse results than leaving it alone.

        Raises:
            ValueError: if the record shows no bounds; the message says what to change.
        """
        if cycle_momentum is None:
            cycle_momentum = self.momentum == "momentum"
        return configurations.one_cycle(*self.bounds(), self.group_ratios, total_num_steps, cycle_momentum)

    def warmup_decay(self, total_num_steps: int | None = None) -> dict[str, Any]:
        """Return a ready WarmupDecayLR configuration: to :meth:`suggestion` in a tenth of the steps, then down to 0.

        Args:
            total_num_steps: length of the training [optimizer steps], at least 10; None: as long as the run that
                it is used in (``"auto"`` and 0.1, which this package reads and DeepSpeed does not).

        Raises:
            ValueError: if the record shows no suggestion; the message says what to change.
        """
        return configurations.warmup_decay(self.suggestion(), self.group_ratios, total_num_steps)

    @classmethod
    def combine(cls, results: Sequence[RangeTestResult]) -> RangeTestResult:
        """Return the mean of several tests that differ only in their seed, up to where the first of them ended.

        Where coarse sweeps have led to different ranges, it begins where the last of them begins; learning rates that
        are averaged then differ by half a step of the growth at most.

        Raises:
            ValueError: if there are none, or their learning rates differ otherwise.
        """
        return combining.combine(results)

    @staticmethod
    def compare(results: Mapping[str, RangeTestResult]) -> Figure:
        """Return a figure that overlays several tests (a slow and a fast one): loss, and lr, against the steps."""
        return plots.draw_comparison(results)

    def to_csv(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the record as CSV, one line per step, without a coarse sweep; missing folders are made.

        Raises:
            FileExistsError: if there is such a file already, unless ``overwrite``.
        """
        path = _new_file(path, overwrite)
        columns = ("steps", "lrs", "losses", "smoothed_losses")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "lr", "loss", "smoothed_loss"))
            writer.writerows(zip(*(getattr(self, column) for column in columns), strict=True))

    def to_markdown(self) -> str:
        """Return the findings as a Markdown table, with the ready configuration below it."""
        return tables.describe(self)

    def _repr_html_(self) -> str:
        """Show figure and numbers in a notebook."""
        return tables.as_html(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the record as JSON; missing folders are made.

        Raises:
            FileExistsError: if there is such a file already, unless ``overwrite``.
        """
        path = _new_file(path, overwrite)
        path.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return the record as lists, numbers and strings; what is not finite as a string, because JSON lacks it."""
        coarse = None if self.coarse is None else self.coarse.to_dict()
        return {
            key: [_plain(item) for item in value] if isinstance(value, list) else value
            for key, value in {**vars(self), "stop_reason": str(self.stop_reason), "coarse": coarse}.items()
        }

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
            lists: dict[str, Any] = {
                key: [float(item) for item in content[key]] for key in ("lrs", "losses", "smoothed_losses")
            }
            ratios = [float(item) for item in content["group_ratios"]]
            steps = [int(item) for item in content["steps"]]
            reason, mode = content["stop_reason"], choice("mode", content["mode"], ("linear", "exponential"))
            momentum = content["momentum"]
            _stop_reason(reason)
            if momentum is not None:
                choice("momentum", momentum, ("momentum", "betas"))
            # Records that were saved before there were coarse sweeps have no such key.
            coarse = None if content.get("coarse") is None else cls.from_dict(content["coarse"])
            prior = None if content.get("prior") is None else float(content["prior"])
        except (ValueError, KeyError, TypeError) as error:
            names = ", ".join(f.name for f in fields(cls))
            raise ValueError(f"not a range test record (a JSON object with {names}): {error!r}") from None
        if {len(values) for values in lists.values()} != {len(steps)}:
            raise ValueError("steps, lrs, losses and smoothed_losses must be equally long")
        how: dict[str, Any] = {"stop_reason": reason, "mode": mode, "group_ratios": ratios, "momentum": momentum}
        return cls(steps, **lists, **how, coarse=coarse, prior=prior)

    def plot(self) -> Figure:
        """Return a matplotlib figure: loss against lr, with the bounds and the suggestion marked."""
        return plots.draw(self)


def _stop_reason(value: str) -> StopReason:
    return StopReason(choice("stop_reason", value, [reason.value for reason in StopReason]))


def _new_file(path: str | Path, overwrite: bool) -> Path:
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; give another name, or overwrite=True")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _plain(item: float) -> float | str:
    return item if math.isfinite(item) else str(item)
