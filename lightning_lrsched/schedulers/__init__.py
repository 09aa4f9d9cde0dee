"""The schedules: learning rate and momentum as functions of the optimizer step."""

from __future__ import annotations

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.lr_range_test import LRRangeTest
from lightning_lrsched.schedulers.one_cycle import OneCycle
from lightning_lrsched.schedulers.phased import PhasedLR
from lightning_lrsched.schedulers.stable_decay import WarmupStableDecayLR
from lightning_lrsched.schedulers.warmup import WarmupCosineLR, WarmupDecayLR, WarmupLR

LR_RANGE_TEST = "LRRangeTest"
ONE_CYCLE = "OneCycle"
WARMUP_LR = "WarmupLR"
WARMUP_DECAY_LR = "WarmupDecayLR"
WARMUP_COSINE_LR = "WarmupCosineLR"
WARMUP_STABLE_DECAY_LR = "WarmupStableDecayLR"
PHASED_LR = "PhasedLR"

SCHEDULERS: dict[str, type[ClosedFormLR]] = {
    LR_RANGE_TEST: LRRangeTest,
    ONE_CYCLE: OneCycle,
    WARMUP_LR: WarmupLR,
    WARMUP_DECAY_LR: WarmupDecayLR,
    WARMUP_COSINE_LR: WarmupCosineLR,
    WARMUP_STABLE_DECAY_LR: WarmupStableDecayLR,
    PHASED_LR: PhasedLR,
}
"""Type name -> class; the first five are DeepSpeed's."""

VALID_LR_SCHEDULES = list(SCHEDULERS)

__all__ = [
    "LR_RANGE_TEST",
    "ONE_CYCLE",
    "PHASED_LR",
    "SCHEDULERS",
    "VALID_LR_SCHEDULES",
    "WARMUP_COSINE_LR",
    "WARMUP_DECAY_LR",
    "WARMUP_LR",
    "WARMUP_STABLE_DECAY_LR",
    "ClosedFormLR",
    "LRRangeTest",
    "OneCycle",
    "PhasedLR",
    "WarmupCosineLR",
    "WarmupDecayLR",
    "WarmupLR",
    "WarmupStableDecayLR",
]
