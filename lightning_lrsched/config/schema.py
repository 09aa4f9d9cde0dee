"""Which parameters a schedule's configuration may have: read from its constructor, and nowhere else."""

from __future__ import annotations

import inspect
from typing import Any

from lightning_lrsched.config.torch_schedulers import NOT_FROM_A_FILE, parameters_of, torch_schedulers
from lightning_lrsched.config.values import repair
from lightning_lrsched.schedulers import SCHEDULERS, durations
from lightning_lrsched.schedulers.checks import did_you_mean

POSITION = inspect.Parameter("last_batch_iteration", inspect.Parameter.KEYWORD_ONLY, default=-1, annotation="int")
"""DeepSpeed's files often have it; it is where the schedule starts, no hyperparameter."""


def parameters_for(type_name: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that a configuration of this type may give, by name.

    Raises:
        TypeError: if the type is no string.
        ValueError: if there is no such schedule.
    """
    if isinstance(type_name, str):
        if type_name in SCHEDULERS:
            return {**SCHEDULERS[type_name].parameters(), POSITION.name: POSITION}
        others = torch_schedulers()
        if type_name in others:
            return parameters_of(others[type_name])
        if type_name in NOT_FROM_A_FILE:
            raise ValueError(
                f"scheduler.type: {type_name} cannot come from a configuration: {NOT_FROM_A_FILE[type_name]}"
            )
    hint = did_you_mean(short(type_name), list(SCHEDULERS)) or did_you_mean(short(type_name), list(torch_schedulers()))
    kind = ValueError if isinstance(type_name, str) else TypeError
    raise kind(
        f"scheduler.type must be one of {', '.join(SCHEDULERS)}, or a class of torch.optim.lr_scheduler,"
        f" got {short(type_name)}{hint}"
    )


def read_value(key: str, value: Any, parameter: inspect.Parameter) -> Any:
    """Return ``value`` as the constructor wants it, or unchanged where the run decides it.

    Raises:
        TypeError: if it is a mapping.
        ValueError: if it is "auto" under a key that has no such value, or too long to be shown.
    """
    # A word such as "auto" or "2ep" stays; so does a fraction of the run.
    if durations.Duration.of(key, value) is not None or durations.is_auto_lr(key, value):
        return value
    if durations.is_auto(value):
        raise ValueError(
            f'{key}: "auto" is possible for {", ".join((*durations.AUTO_SHARES, *durations.AUTO_LRS))} only'
        )
    return repair(key, value, parameter)


def short(value: Any) -> str:
    """Return ``value`` as an error message can show it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
