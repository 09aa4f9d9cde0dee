"""The shapes of all schedules, as functions of ``step``: the number of optimizer steps finished so far.

Nothing here knows torch, an optimizer or a learning rate. A *fraction* lies in [0, 1]; a *factor* has any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal


def linear_growth(step: int, step_size: int, step_rate: float, staircase: bool = False) -> float:
    """Factor: 1 at step 0, ``1 + step_rate`` at ``step_size``, unbounded; staircase holds it within each interval."""
    interval = step // step_size if staircase else step / step_size
    return 1.0 + step_rate * interval


def exponential_growth(step: int, num_steps: int, total_factor: float) -> float:
    """Factor: 1 at step 0, ``total_factor`` from ``num_steps`` on; equal ratios between steps."""
    return float(total_factor ** min(1.0, step / num_steps))


def cycle(step: int, first_size: int, second_size: int, first_stairs: int, second_stairs: int) -> float:
    """Fraction: 0 at step 0, 1 at ``first_size``, 0 at ``first_size + second_size``, no further; lines or stairs."""
    # Stairs are cut from the whole-number position: a float position can fall just short of a stair's edge.
    if step <= first_size:
        return (step * first_stairs // first_size) / first_stairs if first_stairs else step / first_size
    left = first_size + second_size - step
    return (left * second_stairs // second_size) / second_stairs if second_stairs else left / second_size


def reciprocal_decay(step: int, step_size: int, rate: float) -> float:
    """Factor: 1 at step 0, ``1 / (1 + rate)`` at ``step_size``, never 0."""
    return 1.0 / (1.0 + rate * step / step_size)


def warmup(step: int, warmup_steps: int, shape: str) -> float:
    """Fraction: 0 at steps 0 and 1, 1 from ``warmup_steps + 1`` (``"log"``: ``warmup_steps``) on; no steps: 1."""
    if step > warmup_steps or warmup_steps == 0:
        return 1.0
    if step <= 1:
        return 0.0
    if shape == "linear":
        return (step - 1) / warmup_steps
    return math.log(step) / math.log(warmup_steps)


def linear_decay(step: int, warmup_steps: int, total_steps: int) -> float:
    """Fraction: 1 at ``warmup_steps + 1``, 0 from ``total_steps + 1`` on; for steps after the warmup."""
    if step > total_steps:
        return 0.0
    return (total_steps - (step - 1)) / (total_steps - warmup_steps)


def cosine_decay(step: int, warmup_steps: int, total_steps: int) -> float:
    """Fraction: 1 at ``warmup_steps``, 0 from ``total_steps`` on; half a cosine wave between."""
    if step >= total_steps:
        return 0.0
    return (1.0 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2.0


Shape = Literal["linear", "cosine", "1-sqrt", "exponential", "rex"]
"""How a value goes to another one."""

AnyShape = Literal[Shape, "polynomial", "1-power", "inverse_sqrt", "power_law"]
"""The same, with those that have arguments."""

FALLS: dict[str, Callable[..., float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2.0,
    "1-sqrt": lambda progress: 1.0 - math.sqrt(progress),
    "exponential": lambda progress: 2.0 * 0.5**progress - 1.0,
    "rex": lambda progress: (1.0 - progress) / (1.0 - progress / 2.0),
    "polynomial": lambda progress, power: (1.0 - progress) ** power,
    "1-power": lambda progress, power: 1.0 - progress**power,
}
"""Name of a shape -> fraction as a function of the progress in [0, 1]: 1 at its start, 0 at its end."""

TAILS: dict[str, Callable[..., float]] = {
    "inverse_sqrt": lambda steps, timescale: (1.0 + steps / timescale) ** -0.5,
    "power_law": lambda steps, power, timescale: (1.0 + steps / timescale) ** -power,
    "exponential": lambda steps, gamma: gamma**steps,
}
"""Name of a shape -> fraction as a function of the steps since its start: 1 there, and never 0."""

NEEDS: dict[str, tuple[str, ...]] = {
    "polynomial": ("power",),
    "1-power": ("power",),
    "inverse_sqrt": ("timescale",),
    "power_law": ("power", "timescale"),
}
"""Name of a shape -> the arguments that it needs. "exponential" may have a gamma, and is then a tail."""


def falling(num_steps: float, shape: str, **arguments: float) -> Callable[[float], float]:
    """Return the fraction as a function of the steps since its start; if it is no tail, 0 from ``num_steps`` on."""
    if shape in TAILS and arguments:
        return partial(TAILS[shape], **arguments)
    of_progress = partial(FALLS[shape], **arguments)
    return lambda steps: 0.0 if steps >= num_steps else of_progress(steps / num_steps)
