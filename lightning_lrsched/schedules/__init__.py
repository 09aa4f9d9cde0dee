"""The schedules: hyperparameters of an optimizer as functions of the position; no torch in here."""

from __future__ import annotations

from lightning_lrsched.schedules.growth import LinearGrowth
from lightning_lrsched.schedules.one_cycle import Cycle
from lightning_lrsched.schedules.phases import Phases
from lightning_lrsched.schedules.schedule import Schedule
from lightning_lrsched.schedules.warmup import Warmup, WarmupCosine, WarmupDecay, WarmupStableDecay

SCHEDULES: dict[str, type[Schedule]] = {
    schedule.type: schedule
    for schedule in (LinearGrowth, Cycle, Warmup, WarmupDecay, WarmupCosine, WarmupStableDecay, Phases)
}
"""Type name -> schedule; the first five are DeepSpeed's."""
