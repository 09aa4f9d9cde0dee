"""What was probably meant by a type or a key that does not exist."""

from __future__ import annotations

from difflib import get_close_matches

from lightning_lrsched.config.deepspeed import HUGGING_FACE
from lightning_lrsched.config.hugging_face import REFUSED, TYPES
from lightning_lrsched.optim.schedulers import SCHEDULES
from lightning_lrsched.optim.torch_schedulers import NOT_FROM_A_FILE, torch_schedules
from lightning_lrsched.schedules.errors import ParameterTypeError, ParameterValueError, did_you_mean, short
from lightning_lrsched.schedules.fields import REQUIRED
from lightning_lrsched.schedules.schedule import Schedule

FORM = '{"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}'

OTHER_TYPES = {
    "linear": "WarmupDecayLR",
    "cosine": "WarmupCosineLR",
    "cosine_with_min_lr": "WarmupCosineLR",
    "constant_with_warmup": "WarmupLR",
    "warmup_stable_decay": "WarmupStableDecayLR",
    "wsd": "WarmupStableDecayLR",
    "1cycle": "OneCycle",
    "lr_rangetest": "LRRangeTest",
    "polynomial": "PhasedLR",
    "inverse_sqrt": "PhasedLR",
    "cosine_with_restarts": "PhasedLR",
    "cosine_warmup_with_min_lr": "PhasedLR",
    "constant": "PhasedLR",
}
"""Names used elsewhere (Hugging Face's ``lr_scheduler_type``, for one), in lower case -> the type that means it."""

MEANT = {
    ("WarmupCosineLR", "warmup_min_lr"): "it multiplies the optimizer's own lr: give warmup_min_ratio (did you mean"
    " 'warmup_min_ratio'?), the fraction of that lr at which it starts",
    ("WarmupCosineLR", "warmup_max_lr"): "it rises to the optimizer's own lr: set lr in the optimizer instead, or use"
    " WarmupDecayLR",
    ("WarmupCosineLR", "cos_min_lr"): "it multiplies the optimizer's own lr (did you mean 'cos_min_ratio'?)",
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
    "warmup_ratio": "warmup_num_steps",
    "warmup_fraction": "warmup_num_steps",
    "lr_min": "lr_range_test_min_lr",
    "min_lr": "lr_range_test_min_lr",
}
"""Names used elsewhere -> the name here, if the schedule has such a parameter."""

SHARES = ("warmup_ratio", "warmup_fraction")
"""Names of lengths that are fractions of the run."""


def form_of(type_name: str) -> str:
    """Return how a configuration of this type begins: with the keys that it needs.

    >>> form_of("OneCycle")
    '{"type": "OneCycle", "params": {"cycle_min_lr": ..., "cycle_max_lr": ...}}'
    """
    fields = {**SCHEDULES, **torch_schedules()}[type_name].fields
    needed = [f'"{key}": ...' for key, field in fields.items() if field.default is REQUIRED]
    return f'{{"type": "{type_name}", "params": {{{", ".join(needed) or "..."}}}}}'


def nearest_types(name: str) -> str:
    """Return the types of schedules that a name may mean, as the end of a sentence; empty: none.

    >>> nearest_types("cosine")
    " (did you mean 'WarmupCosineLR' or 'CosineAnnealingLR'?)"
    """
    found: list[str] = []
    meant = OTHER_TYPES.get(name.lower(), "")
    for known in (SCHEDULES, torch_schedules()):
        near = get_close_matches(name.lower(), [each.lower() for each in known], n=1)
        holding = [each for each in known if len(name) > 3 and name.lower() in each.lower()]
        similar = [each for each in known if each.lower() in near]
        found += ([meant] if meant in known else holding or similar)[:1]
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""


def schedule_of(type_name: object) -> type[Schedule]:
    """Return the schedule of this name.

    Raises:
        TypeError: if the name is not a string.
        ValueError: if there is no such schedule; the message says what was probably meant.
    """
    if not isinstance(type_name, str):
        raise ParameterTypeError("scheduler.type", f"must be {_allowed()}, got {short(type_name)}")
    if type_name in SCHEDULES:
        return SCHEDULES[type_name]
    if type_name in torch_schedules():
        return torch_schedules()[type_name]
    if type_name in NOT_FROM_A_FILE:
        raise ParameterValueError(
            "scheduler.type", f": {type_name} cannot come from a configuration: {NOT_FROM_A_FILE[type_name]}"
        )
    if type_name.lower() in REFUSED:
        raise ParameterValueError("scheduler.type", f'="{type_name}": {REFUSED[type_name.lower()]}')
    last = type_name.rpartition(".")[2]  # of a class path
    meant = last if last in {**SCHEDULES, **torch_schedules()} else OTHER_TYPES.get(type_name.lower())
    hint = f" (did you mean {meant!r}?)" if meant else ""
    if type_name.lower() in TYPES:
        hint = (
            f' (did you mean {meant!r}? With Hugging Face\'s values: {{"{HUGGING_FACE}": "{type_name.lower()}", ...}})'
        )
    hint = hint or did_you_mean(last[:60], SCHEDULES) or did_you_mean(last[:60], torch_schedules())
    raise ParameterValueError("scheduler.type", f"must be {_allowed()}, got {short(type_name)}{hint}")


def _allowed() -> str:
    return f"one of {', '.join(SCHEDULES)}, or a class of torch.optim.lr_scheduler"


def explain(key: object, type_name: str, allowed: list[str]) -> str:
    """Return the second half of an error message about ``key``, which the schedule ``type_name`` does not have."""
    shown = str(key)[:60]
    if (type_name, shown) in MEANT:
        return f"{type_name} has no such parameter; {MEANT[type_name, shown]}"
    other = OTHER_NAMES.get(shown)
    hint = did_you_mean(other if other in allowed else shown, allowed)
    if other in allowed and shown in SHARES:
        hint = f" (did you mean {other!r}? It takes a fraction of the run, too: 0.1)"
    owners = [name for name, cls in {**SCHEDULES, **torch_schedules()}.items() if shown in cls.fields]
    if owners and other not in allowed:
        hint += f"; it is one of {', '.join(owners[:3])}"
    return f"{type_name} has no such parameter{hint}; it takes {', '.join(allowed)}"
