"""The public schedulers: one class for each schedule, with its parameters as typed arguments.

Names and order of the arguments are those of the schedule's fields, the defaults are taken from there, and so is the
documentation: a class adds nothing but the optimizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from torch.optim import Optimizer

from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.schedules.curves import Shape
from lightning_lrsched.schedules.errors import names_arguments
from lightning_lrsched.schedules.growth import LinearGrowth
from lightning_lrsched.schedules.length import STEPS, Horizon, Unit
from lightning_lrsched.schedules.one_cycle import Cycle
from lightning_lrsched.schedules.phases import Phases
from lightning_lrsched.schedules.schedule import Schedule
from lightning_lrsched.schedules.warmup import Warmup, WarmupCosine, WarmupDecay, WarmupStableDecay, WarmupType

Lr = float | list[float]

POSITION = "last_batch_iteration"
"""Where a schedule starts: every class has it, and it is not a hyperparameter."""

OPTIMIZER_HELP = "    optimizer: the optimizer whose hyperparameters are scheduled.\n"
POSITION_HELP = f"    {POSITION}: number of finished optimizer steps minus one; -1 starts from the beginning.\n"
RAISES = """Raises:
    TypeError: if a value has the wrong type.
    ValueError: if a value is out of range, a low end lies above its high end, or a list is not as long as the
        optimizer's param groups.

"""

Self = TypeVar("Self", bound="PublicScheduler")


class PublicScheduler(ScheduledLR):
    """Base of the public classes."""

    kind: ClassVar[type[Schedule]]
    """The schedule that the class puts on an optimizer."""

    def __init_subclass__(cls) -> None:
        # Written once, beside the fields; the example needs the optimizer and stays here.
        text, example = inspect.getdoc(cls.kind) or "", (inspect.getdoc(cls) or "").partition("\n\n")[2]
        text = text.replace("Args:\n", f"Args:\n{OPTIMIZER_HELP}").replace(
            "\nSource:", f"{POSITION_HELP}\n{RAISES}Source:"
        )
        cls.__doc__ = f"{text}\n\n{example}"
        for name in cls.kind.fields:
            setattr(cls, name, _attribute(name))
        names_arguments(cls)

    def _begin(self, optimizer: Optimizer, arguments: Mapping[str, Any]) -> None:
        # By identity: a user who writes out the default has chosen it; one who writes nothing may not know it.
        given = {n: arguments[n] for n, field in self.kind.fields.items() if arguments[n] is not field.default}
        schedule = self.kind.parse(given)
        schedule.check_together()
        ScheduledLR.__init__(self, optimizer, schedule.resolve(Horizon()).completed(), arguments[POSITION])

    @classmethod
    def of(
        cls: type[Self], optimizer: Optimizer, schedule: Schedule, last_batch_iteration: int = -1, unit: Unit = STEPS
    ) -> Self:
        """Return one with a schedule that was read from a configuration."""
        made = cls.__new__(cls)
        ScheduledLR.__init__(made, optimizer, schedule, last_batch_iteration, unit)
        return made


def _attribute(name: str) -> property:
    """Return a property for a parameter: each is an attribute, as in DeepSpeed."""

    def value(self: PublicScheduler) -> Any:
        return self.hyperparameters[name]

    return property(value)


class LRRangeTest(PublicScheduler):
    """:class:`LinearGrowth` on an optimizer; its documentation is that of this class, too.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = LRRangeTest(optimizer, lr_range_test_min_lr=0.5, lr_range_test_step_size=2)
        >>> [schedule.lr_at(step)[0] for step in range(5)]
        [0.5, 0.75, 1.0, 1.25, 1.5]
    """

    kind = LinearGrowth
    schedule: LinearGrowth

    def __init__(
        self,
        optimizer: Optimizer,
        lr_range_test_min_lr: Lr = LinearGrowth.lr_range_test_min_lr,
        lr_range_test_step_size: int = LinearGrowth.lr_range_test_step_size,
        lr_range_test_step_rate: float = LinearGrowth.lr_range_test_step_rate,
        lr_range_test_staircase: bool = LinearGrowth.lr_range_test_staircase,
        last_batch_iteration: int = -1,
    ) -> None:
        self._begin(optimizer, locals())


class OneCycle(PublicScheduler):
    """:class:`Cycle` on an optimizer; its documentation is that of this class, too.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
        >>> schedule = OneCycle(optimizer, 0.0, 1.0, cycle_first_step_size=4)
        >>> [schedule.lr_at(step)[0] for step in (0, 1, 2, 4, 6, 8, 9)]
        [0.0, 0.25, 0.5, 1.0, 0.5, 0.0, 0.0]
        >>> [round(schedule.momentum_at(step)[0], 9) for step in (0, 2, 4, 8)]
        [0.9, 0.85, 0.8, 0.9]
    """

    kind = Cycle
    schedule: Cycle

    def __init__(
        self,
        optimizer: Optimizer,
        cycle_min_lr: Lr,
        cycle_max_lr: Lr,
        decay_lr_rate: float = Cycle.decay_lr_rate,
        cycle_first_step_size: int = Cycle.cycle_first_step_size,
        cycle_second_step_size: int | None = Cycle.cycle_second_step_size,
        cycle_first_stair_count: int = Cycle.cycle_first_stair_count,
        cycle_second_stair_count: int | None = Cycle.cycle_second_stair_count,
        decay_step_size: int = Cycle.decay_step_size,
        cycle_momentum: bool = Cycle.cycle_momentum,
        cycle_min_mom: Lr = Cycle.cycle_min_mom,
        cycle_max_mom: Lr = Cycle.cycle_max_mom,
        decay_mom_rate: float = Cycle.decay_mom_rate,
        last_batch_iteration: int = -1,
    ) -> None:
        self._begin(optimizer, locals())


class WarmupLR(PublicScheduler):
    """:class:`Warmup` on an optimizer; its documentation is that of this class, too.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = WarmupLR(optimizer, warmup_max_lr=1.0, warmup_num_steps=4, warmup_type="linear")
        >>> [schedule.lr_at(step)[0] for step in range(7)]
        [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    kind = Warmup
    schedule: Warmup

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_min_lr: Lr = Warmup.warmup_min_lr,
        warmup_max_lr: Lr | None = Warmup.warmup_max_lr,
        warmup_num_steps: int = Warmup.warmup_num_steps,
        warmup_type: WarmupType = Warmup.warmup_type,
        last_batch_iteration: int = -1,
    ) -> None:
        self._begin(optimizer, locals())


class WarmupDecayLR(PublicScheduler):
    """:class:`WarmupDecay` on an optimizer; its documentation is that of this class, too.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = WarmupDecayLR(optimizer, 6, warmup_max_lr=1.0, warmup_num_steps=2, warmup_type="linear")
        >>> [schedule.lr_at(step)[0] for step in range(9)]
        [0.0, 0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    kind = WarmupDecay
    schedule: WarmupDecay

    def __init__(
        self,
        optimizer: Optimizer,
        total_num_steps: int,
        warmup_min_lr: Lr = WarmupDecay.warmup_min_lr,
        warmup_max_lr: Lr | None = WarmupDecay.warmup_max_lr,
        warmup_num_steps: int = WarmupDecay.warmup_num_steps,
        warmup_type: WarmupType = WarmupDecay.warmup_type,
        last_batch_iteration: int = -1,
    ) -> None:
        self._begin(optimizer, locals())


class WarmupCosineLR(PublicScheduler):
    """:class:`WarmupCosine` on an optimizer; its documentation is that of this class, too.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WarmupCosineLR(optimizer, 6, warmup_num_steps=2, warmup_type="linear", cos_min_ratio=0.0)
        >>> [round(schedule.lr_at(step)[0], 6) for step in range(8)]
        [0.0, 0.0, 0.5, 0.853553, 0.5, 0.146447, 0.0, 0.0]
    """

    kind = WarmupCosine
    schedule: WarmupCosine

    def __init__(
        self,
        optimizer: Optimizer,
        total_num_steps: int,
        warmup_min_ratio: float = WarmupCosine.warmup_min_ratio,
        warmup_num_steps: int = WarmupCosine.warmup_num_steps,
        cos_min_ratio: float = WarmupCosine.cos_min_ratio,
        warmup_type: WarmupType = WarmupCosine.warmup_type,
        last_batch_iteration: int = -1,
    ) -> None:
        self._begin(optimizer, locals())


class WarmupStableDecayLR(PublicScheduler):
    """:class:`WarmupStableDecay` on an optimizer; its documentation is that of this class, too.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WarmupStableDecayLR(optimizer, 10, 0.0, None, 2, "linear", decay_num_steps=4)
        >>> [schedule.lr_at(step)[0] for step in range(12)]
        [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    kind = WarmupStableDecay
    schedule: WarmupStableDecay

    def __init__(
        self,
        optimizer: Optimizer,
        total_num_steps: int,
        warmup_min_lr: Lr = WarmupStableDecay.warmup_min_lr,
        warmup_max_lr: Lr | None = WarmupStableDecay.warmup_max_lr,
        warmup_num_steps: int = WarmupStableDecay.warmup_num_steps,
        warmup_type: WarmupType = WarmupStableDecay.warmup_type,
        decay_num_steps: int | None = WarmupStableDecay.decay_num_steps,
        decay_type: Shape = WarmupStableDecay.decay_type,
        decay_min_lr: Lr = WarmupStableDecay.decay_min_lr,
        last_batch_iteration: int = -1,
    ) -> None:
        self._begin(optimizer, locals())


class PhasedLR(PublicScheduler):
    """:class:`Phases` on an optimizer; its documentation is that of this class, too.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> warmup, hold, decay = {"steps": 2, "lr": 1.0}, {"steps": 3}, {"steps": 4, "lr": 0.0, "shape": "1-sqrt"}
        >>> schedule = PhasedLR(optimizer, [warmup, hold, decay])
        >>> [round(schedule.lr_at(step)[0], 3) for step in range(11)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0, 0.0]
    """

    kind = Phases
    schedule: Phases

    def __init__(
        self,
        optimizer: Optimizer,
        phases: Sequence[Mapping[str, Any]],
        start_lr: Lr | dict[str, float] = Phases.start_lr,
        start_momentum: Lr | None = Phases.start_momentum,
        total_num_steps: int | None = Phases.total_num_steps,
        last_batch_iteration: int = -1,
    ) -> None:
        self._begin(optimizer, locals())


SCHEDULERS = {scheduler.__name__: scheduler for scheduler in PublicScheduler.__subclasses__()}
"""Type name -> class, all of the above; the first five are DeepSpeed's."""

SCHEDULES: dict[str, type[Schedule]] = {name: scheduler.kind for name, scheduler in SCHEDULERS.items()}
"""Type name -> schedule."""

VALID_LR_SCHEDULES = list(SCHEDULERS)
LR_RANGE_TEST = "LRRangeTest"
ONE_CYCLE = "OneCycle"
WARMUP_LR = "WarmupLR"
WARMUP_DECAY_LR = "WarmupDecayLR"
WARMUP_COSINE_LR = "WarmupCosineLR"
WARMUP_STABLE_DECAY_LR = "WarmupStableDecayLR"
PHASED_LR = "PhasedLR"
