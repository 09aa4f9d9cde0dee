"""Hints for keys that a schedule does not have: what was probably meant."""

from __future__ import annotations

from lightning_lrsched.config.torch_schedulers import torch_parameters, torch_schedulers
from lightning_lrsched.schedulers import SCHEDULERS, WARMUP_COSINE_LR
from lightning_lrsched.schedulers.checks import did_you_mean

MEANT = {
    (WARMUP_COSINE_LR, "warmup_min_lr"): "it multiplies the optimizer's own lr: give warmup_min_ratio (did you mean"
    " 'warmup_min_ratio'?), the fraction of that lr at which it starts",
    (WARMUP_COSINE_LR, "warmup_max_lr"): "it rises to the optimizer's own lr: set lr in the optimizer instead, or use"
    " WarmupDecayLR",
    (WARMUP_COSINE_LR, "cos_min_lr"): "it multiplies the optimizer's own lr (did you mean 'cos_min_ratio'?)",
}
"""(type, key) -> why it is no parameter, and what to write instead."""

OTHER_NAMES = {
    "post_cycle_decay_step_size": "decay_step_size",
    "post_cycle_decay_lr_rate": "decay_lr_rate",
    "post_cycle_decay_mom_rate": "decay_mom_rate",
    "total_steps": "total_num_steps",
    "num_training_steps": "total_num_steps",
    "max_steps": "total_num_steps",
    "warmup_steps": "warmup_num_steps",
    "num_warmup_steps": "warmup_num_steps",
    "lr_min": "lr_range_test_min_lr",
    "min_lr": "lr_range_test_min_lr",
}
"""Names used elsewhere -> the name here, if the schedule has such a parameter."""


def explain(key: object, type_name: str, allowed: list[str]) -> str:
    """Return the second half of an error message about ``key``, which the schedule ``type_name`` does not have."""
    shown = str(key)[:60]
    if (type_name, shown) in MEANT:
        return f"{type_name} has no such parameter; {MEANT[type_name, shown]}"
    hint = did_you_mean(OTHER_NAMES.get(shown) if OTHER_NAMES.get(shown) in allowed else shown, allowed)
    owners = [name for name, cls in SCHEDULERS.items() if shown in cls.parameters()]
    owners += [name for name, cls in torch_schedulers().items() if shown in torch_parameters(cls)]
    if owners and OTHER_NAMES.get(shown) not in allowed:
        hint += f"; it is one of {', '.join(owners[:3])}"
    return f"{type_name} has no such parameter{hint}; it takes {', '.join(allowed)}"
