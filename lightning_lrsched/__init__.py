"""DeepSpeed's learning-rate and momentum schedules, and its LR range test, for PyTorch Lightning.

Every public name is loaded when it is first used: importing this package imports neither torch nor Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_lrsched.arguments import add_tuning_arguments as add_tuning_arguments
    from lightning_lrsched.arguments import get_config_from_args as get_config_from_args
    from lightning_lrsched.arguments import get_lr_from_config as get_lr_from_config
    from lightning_lrsched.arguments import override_params as override_params
    from lightning_lrsched.config.deepspeed import trainer_arguments as trainer_arguments
    from lightning_lrsched.config.scheduler_config import SchedulerConfig as SchedulerConfig
    from lightning_lrsched.optim.schedulers import LR_RANGE_TEST as LR_RANGE_TEST
    from lightning_lrsched.optim.schedulers import ONE_CYCLE as ONE_CYCLE
    from lightning_lrsched.optim.schedulers import PHASED_LR as PHASED_LR
    from lightning_lrsched.optim.schedulers import VALID_LR_SCHEDULES as VALID_LR_SCHEDULES
    from lightning_lrsched.optim.schedulers import WARMUP_COSINE_LR as WARMUP_COSINE_LR
    from lightning_lrsched.optim.schedulers import WARMUP_DECAY_LR as WARMUP_DECAY_LR
    from lightning_lrsched.optim.schedulers import WARMUP_LR as WARMUP_LR
    from lightning_lrsched.optim.schedulers import WARMUP_STABLE_DECAY_LR as WARMUP_STABLE_DECAY_LR
    from lightning_lrsched.optim.schedulers import LRRangeTest as LRRangeTest
    from lightning_lrsched.optim.schedulers import OneCycle as OneCycle
    from lightning_lrsched.optim.schedulers import PhasedLR as PhasedLR
    from lightning_lrsched.optim.schedulers import WarmupCosineLR as WarmupCosineLR
    from lightning_lrsched.optim.schedulers import WarmupDecayLR as WarmupDecayLR
    from lightning_lrsched.optim.schedulers import WarmupLR as WarmupLR
    from lightning_lrsched.optim.schedulers import WarmupStableDecayLR as WarmupStableDecayLR
    from lightning_lrsched.range_test.loop import RangeTest as RangeTest
    from lightning_lrsched.range_test.probe import ProbeResult as ProbeResult
    from lightning_lrsched.range_test.record import RangeTestResult as RangeTestResult
    from lightning_lrsched.trainer.configure_optimizers import configure_optimizers as configure_optimizers
    from lightning_lrsched.trainer.range_test_callback import LRRangeTestCallback as LRRangeTestCallback
    from lightning_lrsched.trainer.scheduler_callback import LRSchedulerCallback as LRSchedulerCallback

_MODULES = {
    "trainer.range_test_callback": ["LRRangeTestCallback"],
    "trainer.scheduler_callback": ["LRSchedulerCallback"],
    "arguments": ["add_tuning_arguments", "override_params", "get_config_from_args", "get_lr_from_config"],
    "trainer.configure_optimizers": ["configure_optimizers"],
    "config.scheduler_config": ["SchedulerConfig"],
    "config.deepspeed": ["trainer_arguments"],
    "range_test.loop": ["RangeTest"],
    "range_test.probe": ["ProbeResult"],
    "range_test.record": ["RangeTestResult"],
    "optim.schedulers": [
        *["LRRangeTest", "OneCycle", "WarmupLR", "WarmupDecayLR", "WarmupCosineLR"],
        *["WarmupStableDecayLR", "PhasedLR"],
        *["LR_RANGE_TEST", "ONE_CYCLE", "WARMUP_LR", "WARMUP_DECAY_LR", "WARMUP_COSINE_LR", "VALID_LR_SCHEDULES"],
        *["WARMUP_STABLE_DECAY_LR", "PHASED_LR"],
    ],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
