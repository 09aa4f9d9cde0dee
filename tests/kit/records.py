"""Records of range tests whose loss is a known function of the lr."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test.suggest import Curve

DECADES = 7
LOWEST = 1e-6


def exponential(steps: int, every: int = 1) -> tuple[list[int], list[float]]:
    """Steps and lrs of a sweep over seven decades, a loss after every so many steps."""
    recorded = list(range(every - 1, steps, every))
    return recorded, [LOWEST * 10 ** (DECADES * step / (steps - 1)) for step in recorded]


def falls_and_turns(lr: float, falls_at: float = 0.05, turns_at: float = 1.0) -> float:
    """A loss that falls from 2.3 to 0.3 around one lr and rises around another one."""
    return 2.3 - 2.0 / (1 + (falls_at / lr) ** 2) + 0.5 * (lr / turns_at) ** 2


def curve(steps: int = 200, every: int = 1, noise: float = 0.0, seed: int = 0, **shape: float) -> Curve:
    recorded, lrs = exponential(steps, every)
    jitter = random.Random(seed)
    losses = [falls_and_turns(lr, **shape) + jitter.gauss(0, noise) for lr in lrs]
    return Curve(recorded, lrs, losses, "exponential")


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


def jittery(lr: float, step: int, falls_at: float = 0.05, turns_at: float = 1.0) -> float:
    """The same loss with a jitter that is a formula too, so that every machine reads the same numbers off it."""
    return falls_and_turns(lr, falls_at, turns_at) + 0.02 * math.sin(5.0 * step)


def exact_records() -> dict[str, Curve]:
    """Records for tables of exact numbers."""

    def made(mode: str, steps: list[int], lrs: list[float], **shape: float) -> Curve:
        losses = [jittery(lr, step, **shape) for step, lr in zip(steps, lrs, strict=True)]
        return Curve(steps, lrs, losses, mode)

    steps, lrs = exponential(200)
    seldom = exponential(200, every=5)
    linear = [0.001 + 0.01 * step for step in steps]
    return {
        "exponential": made("exponential", steps, lrs),
        "exponential, no turn": made("exponential", steps[:160], lrs[:160]),
        "linear": made("linear", steps, linear, falls_at=0.3, turns_at=1.5),
        "linear, no turn": made("linear", steps[:100], linear[:100], falls_at=0.3, turns_at=9.0),
        "short": made("exponential", list(range(12)), [1e-4 * 2.5**step for step in range(12)]),
        "every fifth step": made("exponential", *seldom),
    }
