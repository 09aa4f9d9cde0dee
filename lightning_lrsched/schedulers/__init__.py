"""The five schedules: learning rate and momentum as functions of the optimizer step."""

from __future__ import annotations

from lightning_lrsched.schedulers.base import ClosedFormLR
from lightning_lrsched.schedulers.lr_range_test import LRRangeTest
from lightning_lrsched.schedulers.one_cycle import OneCycle
from lightning_lrsched.schedulers.warmup import WarmupCosineLR, WarmupDecayLR, WarmupLR

LR_RANGE_TEST = "LRRangeTest"
ONE_CYCLE = "OneCycle"
WARMUP_LR = "WarmupLR"
WARMUP_DECAY_LR = "WarmupDecayLR"
WARMUP_COSINE_LR = "WarmupCosineLR"

SCHEDULERS: dict[str, type[ClosedFormLR]] = {
    LR_RANGE_TEST: LRRangeTest,
    ONE_CYCLE: OneCycle,
    WARMUP_LR: WarmupLR,
    WARMUP_DECAY_LR: WarmupDecayLR,
    WARMUP_COSINE_LR: WarmupCosineLR,
}
"""DeepSpeed's type name -> class."""

VALID_LR_SCHEDULES = list(SCHEDULERS)

__all__ = [
    "LR_RANGE_TEST",
    "ONE_CYCLE",
    "SCHEDULERS",
    "VALID_LR_SCHEDULES",
    "WARMUP_COSINE_LR",
    "WARMUP_DECAY_LR",
    "WARMUP_LR",
    "ClosedFormLR",
    "LRRangeTest",
    "OneCycle",
    "WarmupCosineLR",
    "WarmupDecayLR",
    "WarmupLR",
]
