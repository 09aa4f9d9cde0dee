"""What is read off the losses of a range test: suggested lrs, what is known before it, and reasons for doubt.

The constants were measured with ``tests/benchmarks/range_test_quality.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from lightning_lrsched.optim.hyperparameters import LR, check_lrs
from lightning_lrsched.range_test.loss_watch import SmoothedLoss

Array = NDArray[np.float64]

MIN_LOSSES = 10
SMOOTHING = 0.9
"""Per optimizer step; not the callback's ``smoothing``: the other constants were measured with this one."""

GRID_POINTS = 200

EDGE_CLIMB = 0.1
"""Fraction of its fall that the loss has climbed back at the edge of divergence ..."""

NOISE_CLIMB = 0.7
"""... and at least this multiple of the noise of a single loss. By chance, the smoothed loss climbs by 0.3 of it in
four of five sweeps, by 0.7 of it in one of eight."""

EDGE_LAG = 6
"""Optimizer steps between the lr that begins to harm and the loss that shows it."""

MAX_LAG_FACTOR = 3.0
"""Largest factor in lr that the lag may amount to: in a coarse sweep, 6 steps can be two decades."""

PEAK_OF_EDGE = {"exponential": 0.5, "linear": 0.25}
"""1Cycle's highest lr as a fraction of the edge. A linear sweep stays longer near its edge, which is higher."""

MAX_DOUBT = 0.8
"""Weight of the prior, in log lr, where noise hides the fall; where the loss never turned, it is 1."""

MAX_OVER_PRIOR = 10.0
"""Nets that saturate, or have learnt their task before the lr is too high, explode much later than they should."""

LOW_OF_HIGH = 0.1
"""1Cycle's lowest lr as a fraction of its highest: a 25th and a hundredth were slightly worse."""

FIXED_OF_PEAK = 0.3
"""A fixed lr must serve from the first step to the last: lower than a peak that is passed through only briefly."""

HARDLY_FELL = 0.01
"""Fraction of the loss; a smaller fall is a plateau, where a test that stopped itself has stopped too early."""

SURE_LOSSES = 30

SURE_GROWTH = 0.25
"""Power of the lr with which the size of the updates grows, at least; it is 1 where nothing else changes."""

OWN_SCHEDULE = (
    "The updates did not grow with the lr: this optimizer has a schedule, or a search, of its own, and the suggestions"
    " mean nothing. Switch that off, or train without a schedule."
)

ADAM = 0.006
SGD = 0.15
"""At momentum 0.9. What counts is lr / (1 - momentum), the sum of all that one gradient moves."""

PRIORS = {
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam", "RMSprop"), ADAM),
    **dict.fromkeys(("FusedAdam", "DeepSpeedCPUAdam", "Adam8bit", "AdamW8bit", "PagedAdamW", "StableAdamW"), ADAM),
    "Lion": ADAM / 3,
    "Adafactor": 0.05,
    "Muon": 0.03,
}
"""A good peak of 1Cycle before any test, for each family of optimizers: by class, also of a parent."""

ANY_WIDTH = ("Adafactor", "Muon")
"""Their steps are set by the size of a whole matrix, not by each weight's, so their prior is that of all widths."""

WIDE = 64.0
"""The priors come from nets up to this width; beyond, the prior falls by 1 / width.

Each of n inputs moves an output by as much as one lr, so the lr that moves it by as much falls by 1 / n (Yang et al.,
Tensor Programs V, https://arxiv.org/abs/2203.03466)."""

NO_FALL = (
    "the loss never fell below its starting value during the range test: begin at a lower lr (lr_range_test_min_lr), or"
    " let the lr grow more slowly (num_steps, lr_range_test_step_size)"
)


CONSTANT = (
    "the loss was the same in every step of the range test, at whatever lr: no step changes it. Look for the cause in"
    " the module: is the loss computed from its output, are its parameters in the optimizer, do they require gradients?"
)


class Curve:
    """The loss of a range test, made smooth enough to read: losses cut off at their starting level, then averaged.

    The cut comes first: an explosion averaged with its neighbours would move the minimum by orders of magnitude. The
    average runs forwards and backwards, because one that only looks back lags behind the lr. Its weights
    decay per optimizer step, so it does not matter how often a loss was recorded.

    Attributes:
        steps: optimizer steps finished before each step with a finite loss.
        lrs: learning rate of each of these steps.
        losses: the loss, cut and smoothed, at each of these steps.
        minimum: index of the lowest of them.
        fall: how far the loss fell to its minimum.
        noise: standard deviation of a single loss.
        stopped_itself: whether the stop rule ended the test.
        prior: the peak that is likely for this kind of optimizer; None: the record alone counts.
        lowest: the lowest lr that was tested, also by a coarse sweep before.
        is_flat: whether the loss never fell; the prior is then all that is known.
    """

    def __init__(
        self,
        steps: Sequence[int],
        lrs: Sequence[float],
        losses: Sequence[float],
        mode: str,
        stop_reason: str = "",
        prior: float | None = None,
        lowest: float | None = None,
    ) -> None:
        """Keep the finite part of the record.

        Raises:
            ValueError: if it has too few losses, or no fall of the loss and no prior; the message says what to change.
        """
        self.mode, self.prior = mode, prior
        self.stopped_itself = stop_reason == "diverged"
        finite = [row for row in zip(steps, lrs, losses, strict=True) if math.isfinite(row[2])]
        if len(finite) < MIN_LOSSES:
            raise ValueError(self._too_few(len(finite), len(losses), stop_reason))
        self.steps, self.lrs, raw = (np.array(values, dtype=np.float64) for values in zip(*finite, strict=True))
        if self.lrs[0] == self.lrs[-1]:
            raise ValueError("the lr did not change during the range test: raise max_lr or lr_range_test_step_rate")
        self.lowest = float(self.lrs[0]) if lowest is None else lowest
        beginning = max(3, len(raw) // 20)
        self.losses = zero_phase(self.steps, np.minimum(raw, raw[:beginning].mean()))
        self.minimum = int(np.argmin(self.losses))
        self.start = float(self.losses[:beginning].mean())
        self.fall = self.start - float(self.losses[self.minimum])
        self.noise = float(np.sqrt(np.mean(np.diff(raw[: self.minimum + 1]) ** 2) / 2)) if self.minimum else 0.0
        self.is_flat = bool(self.lrs[self.minimum] == self.lrs[0] or self.fall <= 1e-9 * abs(self.start))
        if raw.min() == raw.max():
            raise ValueError(CONSTANT)
        if self.is_flat and prior is None:
            raise ValueError(NO_FALL)

    def _too_few(self, finite: int, recorded: int, stop_reason: str) -> str:
        if not recorded:
            return (
                "the range test recorded no loss: make the test longer (num_steps); with monitor, let the Trainer"
                " validate during the test (val_check_interval)"
            )
        found = f"the range test recorded only {finite} finite losses; at least {MIN_LOSSES} are needed"
        if not finite:
            return f"{found}: the very first loss was not finite, so look for the cause in the module or its data"
        if self.stopped_itself:
            return (
                f"{found}: the test stopped itself because the loss rose. Let it begin at a lower lr"
                " (lr_range_test_min_lr), record a loss more often (with monitor: Trainer(val_check_interval=...)), or"
                " switch the stop rule off (divergence_factor=float('inf'))"
            )
        if stop_reason in ("non-finite loss", "skipped steps"):
            return f"{found}: let it begin at a lower lr (lr_range_test_min_lr)"
        return (
            f"{found}: make the test longer (num_steps), or let it begin at a lower lr (lr_range_test_min_lr); with"
            " monitor, validate more often (Trainer(val_check_interval=...))"
        )

    def climb(self) -> int | None:
        """Return the index at which the loss has clearly turned upwards again, None where it has not."""
        if self.is_flat:
            return None
        rise = max(EDGE_CLIMB * self.fall, NOISE_CLIMB * self.noise)
        above = self.losses[self.minimum :] > self.losses[self.minimum] + rise
        return self.minimum + int(np.argmax(above)) if above.any() else None

    def edge(self) -> float:
        """Return the lr that begins to harm; where the loss never turned, near the last lr: a lower bound."""
        lag, _ = self.lag_and_spacing()
        return float(self.lrs[self._turn()]) / min(lag, MAX_LAG_FACTOR)

    def doubt(self) -> float:
        """Return the weight of the prior: the more, the less the loss fell in comparison with its noise."""
        if self.prior is None:
            return 0.0
        return 1.0 if self.climb() is None else MAX_DOUBT * min(1.0, self.noise / self.fall)

    def peak(self) -> float:
        """Return 1Cycle's highest lr: half the edge, lowered towards the prior; at most ten times the prior."""
        drawn = self.drawn()
        return drawn if self.prior is None else min(drawn, MAX_OVER_PRIOR * self.prior)

    def drawn(self) -> float:
        """Return half the edge, lowered towards the prior in log lr."""
        safe, doubt = PEAK_OF_EDGE[self.mode] * self.edge(), self.doubt()
        if self.prior is None:
            return safe
        return min(safe, math.exp((1.0 - doubt) * math.log(safe) + doubt * math.log(self.prior)))

    def lag_and_spacing(self) -> tuple[float, float]:
        """Return by which factors the lr grew before the loss turned: during the lag, and since the loss before."""
        index = self._turn()
        steps = np.array([self.steps[index] - EDGE_LAG, self.steps[max(0, index - 1)]])
        before = np.exp(np.interp(steps, self.steps, np.log(self.lrs)))
        lag, spacing = self.lrs[index] / before
        return float(lag), float(spacing)

    def _turn(self) -> int:
        climb = self.climb()
        return len(self.lrs) - 1 if climb is None else climb

    def on_log_grid(self) -> tuple[Array, Array]:
        """Return (log lr, loss) up to the minimum, on an even grid of log lr.

        A rule that looks for where the loss falls fastest, or longest, then means the same for both kinds of growth.
        """
        rising, where = np.unique(np.log(self.lrs[: self.minimum + 1]), return_index=True)
        grid = np.linspace(rising[0], rising[-1], GRID_POINTS)
        return grid, np.interp(grid, rising, self.losses[where])


def zero_phase(steps: Array, values: Array) -> Array:
    """Smooth with an exponential average, forwards and backwards, and take the mean of both."""

    def average(order: slice) -> Array:
        smoothed = SmoothedLoss(SMOOTHING)
        return np.array([smoothed.update(*pair) for pair in zip(steps[order], values[order], strict=True)])[order]

    return (average(slice(None)) + average(slice(None, None, -1))) / 2.0


def edge(curve: Curve) -> float:
    """The default: a fraction of 1Cycle's highest lr, which is half the lr that begins to harm, drawn to the prior."""
    return FIXED_OF_PEAK * curve.peak()


def minimum(curve: Curve) -> float:
    """A tenth of the lr at which the loss is lowest (fastai's ``minimum``)."""
    return float(curve.lrs[curve.minimum]) / 10.0


def steep(curve: Curve) -> float:
    """The lr at which the loss falls fastest per log lr (fastai's ``steep``; Lightning's finder takes it per lr)."""
    log_lr, loss = curve.on_log_grid()
    return math.exp(log_lr[int(np.argmin(np.gradient(loss, log_lr)))])


def valley(curve: Curve) -> float:
    """The middle of the longest stretch over which the loss keeps falling, once a twentieth of its fall is done.

    After fastai's ``valley``; the condition keeps the long flat beginning, where a smooth curve falls by almost
    nothing, from counting as the longest stretch.
    """
    log_lr, loss = curve.on_log_grid()
    begin = int(np.argmax(loss <= curve.start - curve.fall / 20))
    longest = (begin, begin)
    for index, (here, there) in enumerate(pairwise(loss[begin:]), start=begin + 1):
        if there > here:
            begin = index
        elif index - begin > longest[1] - longest[0]:
            longest = (begin, index)
    return math.exp(log_lr[sum(longest) // 2])


def slide(curve: Curve) -> float:
    """The highest lr at which the loss still falls at half its greatest speed per log lr (after fastai's ``slide``)."""
    log_lr, loss = curve.on_log_grid()
    slope = np.gradient(loss, log_lr)
    return math.exp(log_lr[int(np.flatnonzero(slope <= slope.min() / 2.0)[-1])])


METHODS: dict[str, Callable[[Curve], float]] = {
    "edge": edge,
    "valley": valley,
    "steep": steep,
    "minimum": minimum,
    "slide": slide,
}


def suggest(curve: Curve, method: str) -> float:
    """Return the lr that a method suggests.

    Raises:
        ValueError: if it lies below every lr that was tested.
    """
    if curve.is_flat and method != "edge":
        raise ValueError(NO_FALL)
    lr = METHODS[method](curve)
    if lr < curve.lowest * (1.0 - 1e-9):
        raise ValueError(_untested(lr, curve.lowest))
    return lr


def bounds(curve: Curve) -> tuple[float, float]:
    """The pair that 1Cycle needs: a tenth of the peak, and the peak.

    Both lie within the lrs that were tested.

    Raises:
        ValueError: if the highest does not lie above the lowest lr that was tested.
    """
    high = curve.peak()
    if high <= curve.lowest:
        raise ValueError(_untested(high, curve.lowest))
    return max(LOW_OF_HIGH * high, curve.lowest), high


def _untested(lr: float, lowest: float) -> str:
    return (
        f"the suggested lr would be {lr:.3g}, below every lr that was tested: begin at a lower lr than {lowest:.3g}"
        f" (lr_range_test_min_lr={lr / 100:.0e})"
    )


def largest_lr(optimizer: Optimizer) -> tuple[float, list[float]]:
    """Return the largest own lr of the param groups, and each group's as a fraction of it; 1 where all are 0."""
    check_lrs(optimizer)
    # Not the lr of this moment: a schedule of the module may have begun at 0.
    lrs = [float(group.get("initial_lr", group[LR])) for group in optimizer.param_groups]
    largest = max(lrs)
    return largest, [lr / largest for lr in lrs] if largest > 0 else [1.0] * len(lrs)


def prior_of(optimizer: Optimizer, width: float | None = None) -> float | None:
    """Return the peak that is likely for an optimizer of this kind; None: it has no prior.

    Args:
        optimizer: the optimizer.
        width: of the net (see :class:`~lightning_lrsched.range_test.probe.Weights`); None: it is not known.
    """
    names = [cls.__name__ for cls in type(optimizer).__mro__]
    if "SGD" in names:
        momentum = float(optimizer.param_groups[0]["momentum"])
        return SGD * (1.0 - momentum) / 0.1
    name = next((name for name in names if name in PRIORS), None)
    if name is None:
        return None
    return PRIORS[name] * (1.0 if width is None or name in ANY_WIDTH else min(1.0, WIDE / width))


def searches_lr(optimizer: Optimizer) -> bool:
    """Return whether the optimizer searches for the size of each update itself, as LBFGS may."""
    return any(group.get("line_search_fn") for group in optimizer.param_groups)


def ignores_lr(growth: float | None) -> bool:
    """Return whether updates do not grow with the lr; ``growth`` is the power with which they do, None: not known."""
    return growth is not None and growth < SURE_GROWTH


def caveats(curve: Curve) -> list[str]:
    """Return, as sentences with their remedies, what makes the suggestions from this record less certain."""
    if curve.is_flat:
        return [
            f"The loss never fell: the suggestions are the prior of the optimizer ({curve.prior:.3g}), or"
            " half the lr at which the test ended. Look for the cause in the module or its data, or begin at a lower lr"
            " (lr_range_test_min_lr)."
        ]
    return [*_about_the_prior(curve), *_about_the_turn(curve), *_about_the_losses(curve)]


def _about_the_prior(curve: Curve) -> Iterator[str]:
    if curve.peak() < curve.drawn():
        yield (
            f"The record alone shows a peak of {curve.drawn():.3g}; the suggestions are cut off at"
            f" {MAX_OVER_PRIOR:g} times the prior of this kind of optimizer ({curve.prior:.3g}). If you know"
            " a better number, give it (prior=...)."
        )


def _about_the_turn(curve: Curve) -> Iterator[str]:
    last, fell_hardly = curve.lrs[-1], curve.fall < HARDLY_FELL * abs(curve.start)
    if curve.stopped_itself and (curve.climb() is None or fell_hardly):
        yield (
            f"The test stopped itself at lr {last:.3g}, after a fall of the loss by only {curve.fall:.3g}:"
            f" {_follow(curve, 'the suggestions may be far too low')}. Let only a loss that is not finite stop it"
            " (divergence_factor=float('inf'))."
        )
    elif curve.climb() is None:
        yield (
            f"The loss had not turned upwards when the test ended at lr {last:.3g}:"
            f" {_follow(curve, 'the suggestions are lower bounds')}. Raise max_lr, or let the lr grow faster."
        )
    if curve.fall < curve.noise:
        yield (
            f"The loss fell by {curve.fall:.3g}, less than the noise of a single loss ({curve.noise:.3g}):"
            f" {_follow(curve, 'the suggestions are uncertain')}. Take larger batches, or combine several tests"
            " (RangeTestResult.combine)."
        )


def _follow(curve: Curve, without_prior: str) -> str:
    """Return what a record that says little means for the suggestions."""
    if curve.prior is None:
        return without_prior
    return f"the suggestions follow mostly the prior of the optimizer ({curve.prior:.3g})"


def _about_the_losses(curve: Curve) -> Iterator[str]:
    lag, spacing = curve.lag_and_spacing()
    if spacing > max(lag, MAX_LAG_FACTOR):
        yield (
            f"The lr grew by a factor of {spacing:.2g} from one recorded loss to the next: the suggestions are"
            " uncertain by this factor. Validate more often (Trainer(val_check_interval=...)), or raise num_steps."
        )
    elif lag > MAX_LAG_FACTOR:
        yield (
            f"The lr grew by a factor of {lag:.2g} in the {EDGE_LAG} optimizer steps that the loss needs to show it:"
            " the sweep is too coarse to say where the loss turned. Raise num_steps."
        )
    if len(curve.losses) < SURE_LOSSES:
        yield (
            f"The suggestions rest on only {len(curve.losses)} losses. Make the test longer (num_steps); with monitor,"
            " validate more often (Trainer(val_check_interval=...))."
        )
    elif curve.edge() < 10.0 * curve.lowest:
        yield (
            f"The loss turned less than a decade above the lowest lr, {curve.lowest:.3g}: the test is too short to show"
            " where it fell. Begin at a lower lr (lr_range_test_min_lr)."
        )
