"""How the learning rate of a range test grows and where it ends: its settings, and the Sweep that follows them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from torch.optim import Optimizer

from lightning_lrsched.optim.clock import warn
from lightning_lrsched.optim.hyperparameters import check_lrs, momentum_kind
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.range_test.loss_watch import DEFAULT_SMOOTHING, DIVERGENCE_FACTOR, LossWatch, StopReason, Watched
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.suggest import largest_lr, prior_of
from lightning_lrsched.schedules.errors import ParameterValueError, choice, names_arguments, number
from lightning_lrsched.schedules.fields import Word
from lightning_lrsched.schedules.growth import ExponentialGrowth, LinearGrowth
from lightning_lrsched.schedules.length import Epochs, Fraction, Horizon, parse_length, rounded

MODES = ("linear", "exponential")
LINEAR = LinearGrowth.fields
LINEAR_ONLY = ("lr_range_test_step_size", "lr_range_test_step_rate", "lr_range_test_staircase")
DEFAULT_MIN_LR = 1e-6
DEFAULT_MAX_LR = 10.0
DEFAULT_NUM_STEPS = 200
"""[optimizer steps] Length of a single sweep."""

COARSE_STEPS = 100
"""[optimizer steps] Length of the coarse sweep over all decades, which only finds the lr at which the loss explodes."""

FINE_STEPS = 200
"""[optimizer steps] Length of the fine sweep around that lr, from which the suggestions are read."""

SHARE_OF_RUN = 1 / 3
"""Both together take at most this share of the run that they are made for ..."""

SHORTEST = 90
"""[optimizer steps] ... but not less than this: in fewer steps, the loss shows nothing."""

FINE_BELOW = 100.0
"""The fine sweep begins at this fraction of the lr at which the loss exploded."""

FINE_ABOVE = 3.0
"""It ends at this multiple of the same lr: the coarse sweep may have ended too early."""

EXPLODES_ABOVE = 10.0
"""Where it never exploded, this multiple of the lr at which it fell is taken for that lr."""

MAX_LINEAR_STEPS = 100_000
"""A linear sweep to ``max_lr`` that takes longer was probably given no step size."""

Class = TypeVar("Class", bound=type)


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep grows and when it ends; lengths may still be fractions of the run, epochs or ``"auto"``.

    Without a range there are two sweeps, 300 steps at most. A coarse one of 100 steps, from lr 1e-6 to 10, finds the lr
    at which the loss explodes. Everything is put back, and a fine one of 200 steps follows, from a hundredth of that lr
    to three times as much, while the data go on; where the loss never exploded, from a tenth of the lr at which it fell
    to 30 times as much. The suggestions are read from the fine one. At the start of a training of fewer than 900 steps
    both are shorter: a third of the training together, but at least 90 steps. There is one sweep where ``mode``,
    ``max_lr``, ``num_steps`` or one of the first four arguments below is given, where the losses are validation losses,
    where the stop rule is off, and where the very first loss is not finite.

    Args:
        lr_range_test_min_lr: lr at step 0; one float, or one per param group. One float is the lr of the group with the
            largest lr: the ratios between the groups' own learning rates are kept.
        lr_range_test_step_size: length of one interval of linear growth [optimizer steps]; also a fraction of the run
            (0.01), epochs (``"2ep"``) or ``"auto"`` (a hundredth of the run).
        lr_range_test_step_rate: growth per interval, as a multiple of ``lr_range_test_min_lr``.
        lr_range_test_staircase: hold the lr within each interval.
        mode: ``"exponential"`` or ``"linear"``; None: linear when one of the three linear parameters above is given,
            else exponential.
        max_lr: stop beyond this lr (exponential growth: reach it with the last of ``num_steps``). In a single sweep
            with exponential growth, 10 unless given.
        num_steps: stop after this many optimizer steps; also a fraction of the run, epochs or ``"auto"`` (as long as
            the run). In a single sweep with exponential growth, 200 unless given.
        divergence_factor: fraction of the fall so far that the smoothed loss may climb back before the test stops;
            infinity or None: only a loss that is not finite stops it.
        smoothing: weight of the past in the smoothed loss, per optimizer step, in [0, 1). The smoothed loss is
            shown, and the stop rule uses it; suggestions smooth the losses themselves.
        prior: a peak of 1Cycle that is likely. The less the record says, the more it lowers the suggestions. ``"auto"``
            is the usual peak for this kind of optimizer, a number your own, None: the record alone.
        by_validation: whether the losses are validation losses.
        then_fine: whether this is a coarse sweep, and a fine one around the lr where it ends follows; None: if no mode,
            range or length is given, the losses are training losses, and the stop rule is on.
        fine_steps: length of that fine sweep [optimizer steps].

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    lr_range_test_min_lr: float | list[float] | None = None
    lr_range_test_step_size: int | float | str | None = None
    lr_range_test_step_rate: float | None = None
    lr_range_test_staircase: bool | None = None
    mode: str | None = None
    max_lr: float | None = None
    num_steps: int | float | str | None = None
    divergence_factor: float | None = DIVERGENCE_FACTOR
    smoothing: float = DEFAULT_SMOOTHING
    prior: float | str | None = "auto"
    by_validation: bool = False
    then_fine: bool | None = None
    fine_steps: int = FINE_STEPS

    @classmethod
    def of(cls, arguments: Mapping[str, Any], **more: Any) -> SweepSettings:
        """Return the settings among the arguments of a constructor, its ``locals()``."""
        return cls(**{each.name: arguments[each.name] for each in fields(cls) if each.name in arguments}, **more)

    def __post_init__(self) -> None:
        """Fill in what was not given; refuse what is impossible, before training starts."""
        factor = _check_factor(self.divergence_factor)
        given = [self.mode, self.lr_range_test_min_lr, self.max_lr, self.num_steps, *self.linear.values()]
        if self.then_fine is None:  # without a stop rule, a coarse sweep would find no range
            self._set(then_fine=given == [None] * 4 and not self.by_validation and factor < math.inf)
        mode = choice("mode", self.mode or ("linear" if self.linear else "exponential"), MODES)
        exponential = mode == "exponential"
        if exponential and self.linear:
            raise ValueError(
                f"{next(iter(self.linear))} belongs to mode='linear'; exponential growth takes max_lr, num_steps"
            )
        min_lr = self.lr_range_test_min_lr
        if min_lr is None:
            min_lr = DEFAULT_MIN_LR if exponential else LINEAR["lr_range_test_min_lr"].default
        self._set(
            mode=mode,
            lr_range_test_min_lr=LINEAR["lr_range_test_min_lr"].rule.parse("lr_range_test_min_lr", min_lr),
            **{
                key: value if isinstance(value, Word) else LINEAR[key].rule.parse(key, value)
                for key, value in self.linear.items()
            },
            smoothing=number("smoothing", self.smoothing, at_least=0, below=1),
            divergence_factor=factor,
            prior=_check_prior(self.prior),
        )
        max_lr = DEFAULT_MAX_LR if exponential and self.max_lr is None else self.max_lr
        if max_lr is not None:
            self._set(max_lr=number("max_lr", max_lr, above=0))
            if max_lr <= self.largest_min_lr:
                raise ParameterValueError(
                    "max_lr", f"must be greater than lr_range_test_min_lr={self.largest_min_lr:g}, got {max_lr:g}"
                )
        if self.num_steps is not None and not isinstance(self.num_steps, Word):
            self._set(num_steps=parse_length("num_steps", self.num_steps, at_least=1, auto=1.0))
        elif self.num_steps is None and exponential:
            self._set(num_steps=COARSE_STEPS if self.then_fine else DEFAULT_NUM_STEPS)
        self._check_length()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def linear(self) -> dict[str, Any]:
        """DeepSpeed's three parameters of linear growth, those that are given."""
        return {key: getattr(self, key) for key in LINEAR_ONLY if getattr(self, key) is not None}

    def within(self, run_steps: int | None) -> SweepSettings:
        """Return two sweeps that are short enough for the run that they are made for; others as they are."""
        if not self.then_fine or run_steps is None:
            return self
        both = min(COARSE_STEPS + FINE_STEPS, max(SHORTEST, int(SHARE_OF_RUN * run_steps)))
        return replace(self, num_steps=both // 3, fine_steps=both - both // 3, then_fine=True)

    def fine(self, coarse: RangeTestResult) -> SweepSettings:
        """Return those of the fine sweep: around the lr at which the loss exploded, or near where it fell."""
        lr = coarse.lrs[-1]
        fell_at = coarse.fell_at() if coarse.stop_reason == StopReason.NUM_STEPS else None
        lr = lr if fell_at is None else min(lr, EXPLODES_ABOVE * fell_at)
        low, high = lr / FINE_BELOW, lr * FINE_ABOVE
        return replace(self, lr_range_test_min_lr=low, max_lr=high, num_steps=self.fine_steps, then_fine=False)

    @property
    def max_steps(self) -> Any:
        """The number of optimizer steps at most, with those of a fine sweep that follows; None where not known."""
        return int(self.num_steps or 0) + self.fine_steps if self.then_fine else self.num_steps

    @property
    def linear_steps(self) -> int | None:
        """Optimizer steps in which linear growth reaches ``max_lr``; None if the test does not end there."""
        size, rate = self._size_and_rate()
        if self.mode != "linear" or self.max_lr is None or self.num_steps is not None or not isinstance(size, int):
            return None
        return math.ceil(size * (self.max_lr / self.largest_min_lr - 1.0) / float(rate)) + 1

    def _size_and_rate(self) -> tuple[Any, Any]:
        size, rate = self.lr_range_test_step_size, self.lr_range_test_step_rate
        return (
            LINEAR["lr_range_test_step_size"].default if size is None else size,
            LINEAR["lr_range_test_step_rate"].default if rate is None else rate,
        )

    def _check_length(self) -> None:
        """Refuse a linear test that would take far too long to reach ``max_lr``."""
        steps, (size, rate) = self.linear_steps, self._size_and_rate()
        if steps is not None and steps > MAX_LINEAR_STEPS:
            raise ValueError(
                f"a linear test from lr {self.largest_min_lr:g} to max_lr={self.max_lr:g} would take {steps:,}"
                f" optimizer steps, because the lr grows by lr_range_test_step_rate={rate:g} times its start in"
                f" lr_range_test_step_size={size} steps: give a smaller lr_range_test_step_size, a larger"
                f" lr_range_test_step_rate (with {rate * steps / DEFAULT_NUM_STEPS:.3g} it takes {DEFAULT_NUM_STEPS}"
                " steps), or num_steps"
            )

    @property
    def largest_min_lr(self) -> float:
        """The largest lr at step 0."""
        min_lr = self.lr_range_test_min_lr
        return max(min_lr) if isinstance(min_lr, (list, tuple)) else float(min_lr or 0.0)

    @property
    def needs_run(self) -> bool:
        """Whether a length depends on how long the run is."""
        return bool(self._lengths())

    def _lengths(self) -> dict[str, Fraction | Epochs]:
        lengths: dict[str, Any] = {name: getattr(self, name) for name in ("num_steps", "lr_range_test_step_size")}
        return {key: length for key, length in lengths.items() if isinstance(length, (Fraction, Epochs))}

    @property
    def has_an_end(self) -> bool:
        """Whether the test ends by itself, even if the loss never diverges."""
        return self.num_steps is not None or self.max_lr is not None

    def resolved(self, horizon: Horizon) -> SweepSettings:
        """Return the same with all lengths as numbers of optimizer steps."""
        numbers: dict[str, Any] = {key: rounded(horizon, length, key=key)[0] for key, length in self._lengths().items()}
        return replace(self, **numbers)


def documented(cls: Class) -> Class:
    """Fill the lines ``{sweeps}`` and ``{settings}`` of a docstring with the text that all range tests share."""
    if cls.__doc__ and SweepSettings.__doc__:
        text = inspect.cleandoc(SweepSettings.__doc__)
        sweeps = text[text.index("Without a range") : text.index("\n\nArgs:")]
        settings = text[text.index("    lr_range_test_min_lr:") : text.index("\n    by_validation:")]
        cls.__doc__ = inspect.cleandoc(cls.__doc__).replace("{sweeps}", sweeps).replace("    {settings}", settings)
    return names_arguments(cls)


def _check_prior(prior: Any) -> float | str | None:
    if isinstance(prior, str):
        return choice("prior", prior, ("auto",))
    return None if prior is None else number("prior", prior, above=0)


def _check_factor(factor: float | None) -> float:
    if factor is None or factor == math.inf:
        return math.inf
    return number("divergence_factor", factor, above=0)


# One sweep ------------------------------------------------------------------------------------------------------------

MAX_SKIPPED_STEPS = 20
"""In a row: a gradient scaler that begins at 65536 and halves its scale skips at most 16 while gradients are sound."""

LONG_TEST = 10_000
"""[optimizer steps] A linear test that takes longer to reach ``max_lr`` gets a warning."""


class Row(NamedTuple):
    """One recorded optimizer step."""

    step: int
    lr: float
    loss: float
    smoothed_loss: float


class Sweep:
    """One growth of the lr, from its first step to its record.

    Args:
        settings: with all lengths as numbers of optimizer steps.
        optimizer: the optimizer whose lr is swept. Restoring it afterwards is the caller's task.
        on_row: called with each recorded step when its loss has arrived.
        coarse: the record of a coarse sweep before this one; ``on_row`` gets its steps counted, too.

    Attributes:
        schedule: sets the lr; whoever makes a sweep has it follow the optimizer, or the engine that owns that.
        losses: what watches the losses.
        rows: the recorded steps.
        finished: optimizer steps that :meth:`advance` has seen.
        stalled: calls of :meth:`advance` in a row that saw no optimizer step.
        stop_reason: why the sweep must end now; None: it goes on.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> sweep = Sweep(SweepSettings(max_lr=100.0, num_steps=150), torch.optim.SGD([weight], lr=0.1))
        >>> sweep.schedule.follow_optimizer()
        >>> while sweep.stop_reason is None:
        ...     loss = weight**2
        ...     loss.backward()
        ...     sweep.schedule.optimizer.step()
        ...     sweep.schedule.optimizer.zero_grad()
        ...     sweep.add(loss)
        ...     _ = sweep.advance()
        >>> sweep.record().stop_reason.value
        'diverged'
    """

    def __init__(
        self,
        settings: SweepSettings,
        optimizer: Optimizer,
        on_row: Callable[[Row], object] | None = None,
        coarse: RangeTestResult | None = None,
    ) -> None:
        self._settings, self._on_row, self._coarse = settings, on_row, coarse
        assert settings.divergence_factor is not None
        self.losses = LossWatch(settings.smoothing, settings.divergence_factor, by_validation=settings.by_validation)
        self.rows: list[Row] = []
        self._momentum = momentum_kind(optimizer)
        self._prior = prior_of(optimizer) if isinstance(settings.prior, str) else settings.prior
        self.finished = self.stalled = 0
        self.stop_reason: StopReason | None = None
        self.schedule = make_schedule(settings, optimizer)

    def add(self, loss: Tensor) -> None:
        """Add the training loss of one micro-batch."""
        if not self._settings.by_validation:
            self.losses.add(loss)

    def advance(self) -> bool:
        """Check, after a batch, whether the optimizer has stepped; if so, the losses since then belong to that step."""
        finished = self.schedule.last_epoch
        if finished == self.finished:
            self.stalled += 1
            return False
        self.finished, self.stalled = finished, 0
        self._take(self.losses.end_step(finished - 1))
        if self.stop_reason is None:
            self.stop_reason = self._limit_reached()
        return True

    def skip(self) -> None:
        """Drop the losses since the last step: a gradient scaler has skipped it."""
        self._take(self.losses.end_step(None))
        if self.stop_reason is None and self.stalled >= MAX_SKIPPED_STEPS:
            self.stop_reason = StopReason.SKIPPED

    def add_validation_loss(self, loss: Tensor) -> None:
        """Record the validation loss after the last finished step."""
        self._take(self.losses.send(self.finished - 1, loss))

    def wait(self) -> None:
        """Take in the losses that are still on their way from the device."""
        self._take(self.losses.take(wait=True))

    def _take(self, losses: list[Watched]) -> None:
        before = 0 if self._coarse is None else self._coarse.num_steps
        for step, loss, smoothed in losses:
            self.rows.append(Row(step, self._lr(step), loss, smoothed))
            if self._on_row is not None:
                self._on_row(self.rows[-1]._replace(step=before + step))
        self.stop_reason = self.losses.verdict or self.stop_reason  # divergence takes precedence over a limit

    def _limit_reached(self) -> StopReason | None:
        num_steps, max_lr = self._settings.num_steps, self._settings.max_lr
        if num_steps is not None and self.finished >= int(num_steps):
            return StopReason.NUM_STEPS
        # Exponential growth reaches max_lr with its last step.
        if max_lr is not None and self._settings.mode == "linear" and self._lr(self.finished) > max_lr * (1 + 1e-9):
            return StopReason.MAX_LR
        return None

    def _lr(self, step: int) -> float:
        return max(self.schedule.lr_at(step))

    def record(self, reason: StopReason = StopReason.TRAINER) -> RangeTestResult:
        """Return what was recorded; ``reason`` is used where the sweep has none of its own."""
        lrs = self.schedule.lr_at(0)
        return RangeTestResult(
            steps=[row.step for row in self.rows],
            lrs=[row.lr for row in self.rows],
            losses=[row.loss for row in self.rows],
            smoothed_losses=[row.smoothed_loss for row in self.rows],
            stop_reason=self.stop_reason or reason,
            mode=str(self._settings.mode),
            group_ratios=[lr / max(lrs) for lr in lrs],
            momentum=self._momentum,
            coarse=self._coarse,
            prior=self._prior,
        )

    def warn_of_length(self, run_steps: int | None = None) -> None:
        """Warn of a sweep that takes very long, or that hardly changes the lr before it ends.

        Args:
            run_steps: how long the run is, where nothing else ends the sweep [optimizer steps]; None: not known.
        """
        steps, max_lr = self._settings.linear_steps, self._settings.max_lr
        if steps is not None and steps > LONG_TEST:
            warn(
                f"the LR range test will take {steps:,} optimizer steps to reach max_lr={max_lr:g}; a smaller"
                " lr_range_test_step_size or a larger lr_range_test_step_rate makes it shorter",
                stacklevel=2,
            )
        last_step = self._settings.num_steps or run_steps
        ends = [] if max_lr is None else [max_lr]
        ends += [] if last_step is None else [self._lr(int(last_step) - 1)]
        first, last = self._lr(0), min(ends, default=math.inf)
        if last < 10 * first:
            warn(
                f"the LR range test goes only from {first:g} to {last:g}, less than one decade: it can hardly show"
                " where the loss begins to fall and where it diverges; raise max_lr or the growth, or lower the min lr",
                stacklevel=2,
            )


def make_schedule(settings: SweepSettings, optimizer: Optimizer) -> ScheduledLR:
    """Make the schedule; one lr for several param groups keeps the ratios of their own learning rates."""
    check_lrs(optimizer)
    min_lr = {"lr_range_test_min_lr": settings.largest_min_lr}
    schedule: LinearGrowth | ExponentialGrowth
    if settings.mode == "linear":
        schedule = LinearGrowth.parse({**min_lr, **settings.linear})
    else:
        assert settings.max_lr is not None
        assert settings.num_steps is not None
        growth = {"factor": settings.max_lr / settings.largest_min_lr, "last_step": int(settings.num_steps) - 1}
        schedule = ExponentialGrowth.parse({**min_lr, **growth})
    # As it stands: a group whose own lr is 0 keeps it, though nobody may write that.
    min_lrs: Any = _min_lr(settings, optimizer)
    return ScheduledLR(optimizer, replace(schedule, lr_range_test_min_lr=min_lrs))


def _min_lr(settings: SweepSettings, optimizer: Optimizer) -> float | tuple[float, ...]:
    if isinstance(settings.lr_range_test_min_lr, tuple):
        return settings.lr_range_test_min_lr
    largest, ratios = largest_lr(optimizer)
    if len(ratios) == 1 or largest <= 0:
        return settings.largest_min_lr
    return tuple(settings.largest_min_lr * ratio for ratio in ratios)
