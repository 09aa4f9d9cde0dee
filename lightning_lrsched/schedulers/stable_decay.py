"""WarmupStableDecayLR: the lr rises, stays for most of the run, and falls in its last part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch.optim import Optimizer

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.curves import fall, warmup
from lightning_lrsched.schedulers.group_values import Curve
from lightning_lrsched.schedulers.rules import ZERO, Number, Shape, Steps
from lightning_lrsched.schedulers.schedule import Circumstances
from lightning_lrsched.schedulers.warmup import (
    DEFAULT_WARMUP_MAX_LR,
    EndsAtTotal,
    MaxLr,
    MinLr,
    TotalSteps,
    WarmupLR,
    WarmupSteps,
    WarmupType,
    effective_steps,
)

DECAY_FRACTION = 0.2
"""Length of the decay where none is given, as a fraction of the whole: it trains as well as a cosine over the whole."""

LENGTHS = ("total_num_steps", "warmup_num_steps", "decay_num_steps")


class WarmupStableDecayLR(EndsAtTotal, WarmupLR):
    """Raises the learning rate as WarmupLR does, keeps it there, and lowers it in the last part of the training.

    With ``N`` and ``w(s)`` as in :class:`WarmupLR`, ``T = total_num_steps``, ``D = decay_num_steps`` and, from step
    ``T - D`` on, ``p(s) = min(1, (s - (T - D)) / D)``::

        lr(s) = min_lr + (max_lr - min_lr) * w(s)                          for s < T - D
        lr(s) = decay_min_lr + (max_lr - decay_min_lr) * f(p(s))           for s >= T - D

        f(p)  = 1 - p                   linear
        f(p)  = (1 + cos(pi * p)) / 2   cosine
        f(p)  = 1 - sqrt(p)             1-sqrt
        f(p)  = 2 * 0.5**p - 1          exponential

    Until ``T - D`` the lr does not depend on ``T`` and ``D``: from any checkpoint of the stable part, a training with
    another ``total_num_steps`` or ``decay_num_steps`` goes on as if it had been planned so.

    Where the warmup ends only after ``T - D``, the decay is shorter: it begins when the warmup has ended.

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        total_num_steps: length of warmup, stable part and decay together [optimizer steps].
        warmup_min_lr: lr at the start; one float, or one per param group.
        warmup_max_lr: lr of the stable part; one float, one per param group, or None: each group's own lr.
        warmup_num_steps: length of the warmup [optimizer steps]; 0: no warmup.
        warmup_type: ``"log"`` or ``"linear"``.
        decay_num_steps: length of the decay [optimizer steps]; 0: no decay; None: a fifth of ``total_num_steps``.
        decay_type: ``"linear"``, ``"cosine"``, ``"1-sqrt"`` or ``"exponential"``.
        decay_min_lr: lr at the end, and after it; one float, or one per param group.
        last_batch_iteration: number of finished optimizer steps minus one; -1 starts from the beginning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a low end lies above the high end, or a list is not as long as the
            optimizer's param groups.

    Source:
        A. Haegele et al., "Scaling laws and compute-optimal training beyond fixed training durations" (arXiv
        2405.18392); the shapes are those of Hugging Face's ``get_wsd_schedule`` and of Megatron-Core's
        ``OptimizerParamScheduler``. DeepSpeed has no such type.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WarmupStableDecayLR(optimizer, 10, 0.0, None, 2, "linear", decay_num_steps=4)
        >>> [schedule.lr_at(step)[0] for step in range(12)]
        [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    in_deepspeed = False
    low_and_high = (("warmup_min_lr", "warmup_max_lr"), ("decay_min_lr", "warmup_max_lr"))

    def __init__(
        self,
        optimizer: Optimizer,
        total_num_steps: TotalSteps,
        warmup_min_lr: MinLr = 0.0,
        warmup_max_lr: MaxLr = DEFAULT_WARMUP_MAX_LR,
        warmup_num_steps: WarmupSteps = 1000,
        warmup_type: WarmupType = "log",
        decay_num_steps: Annotated[int | None, Steps(auto=DECAY_FRACTION)] = None,
        decay_type: Shape = "linear",
        decay_min_lr: Annotated[float | list[float], Number(at_least=0, auto=ZERO)] = 0.0,
        last_batch_iteration: int = -1,
    ) -> None:
        # Not WarmupLR's own constructor: it has fewer parameters.
        ClosedFormLR.__init__(self, optimizer, last_batch_iteration, WarmupStableDecayLR, locals())

    @classmethod
    def complete(cls, parameters: dict[str, Any]) -> None:
        """Give the decay its length where none is given."""
        if parameters["decay_num_steps"] is None:
            parameters["decay_num_steps"] = max(1, round(DECAY_FRACTION * parameters["total_num_steps"]))

    @classmethod
    def remarks(cls, about: Circumstances) -> list[str]:
        """Return also a sentence about a decay for which the warmup leaves no room."""
        remarks = super().remarks(about)
        total, warmup_steps, decay_steps = (about.parameters[key] for key in LENGTHS)
        # Some may still depend on the run; of a warmup that is longer than the whole, there is a sentence already.
        if all(isinstance(n, int) for n in (total, warmup_steps, decay_steps)):
            left = total - warmup_steps
            if 0 <= left < decay_steps:
                remarks.append(
                    f"{cls.__name__}: total_num_steps={total} leaves {left} steps after warmup_num_steps={warmup_steps}"
                    f" for the decay of decay_num_steps={decay_steps}: it is that much shorter"
                )
        return remarks

    @classmethod
    def ends_low(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether there is a decay."""
        return bool(parameters["decay_num_steps"])

    @classmethod
    def turns(cls, parameters: Mapping[str, Any]) -> list[int]:
        """Return the ends of the warmup, of the stable part and of the decay."""
        total, warmup_steps, decay_steps = (parameters[key] for key in LENGTHS)
        return [warmup_steps, max(warmup_steps, total - decay_steps), total] if decay_steps else [warmup_steps]

    @staticmethod
    def curve(p: Any) -> Curve:
        """Return (lr, None) as a function of the position."""
        min_lr, max_lr = p.warmup_min_lr, p.base_lr if p.warmup_max_lr is None else p.warmup_max_lr
        n, shape, total, decay_shape = (
            effective_steps(p.warmup_num_steps),
            p.warmup_type,
            p.total_num_steps,
            p.decay_type,
        )
        end_lr, decay_steps = p.decay_min_lr, p.decay_num_steps
        start = max(total - decay_steps, n)

        def values(s: int) -> tuple[Any, None]:
            if s < start or not decay_steps:
                low, f = min_lr, warmup(s, n, shape)
            else:
                low, f = end_lr, fall(s - start, total - start, decay_shape)
            return low * (1.0 - f) + max_lr * f, None

        return values
