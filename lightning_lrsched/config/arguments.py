"""Command-line flags for every parameter of every schedule, under DeepSpeed's names.

The functions have DeepSpeed's names and return values. Two of them return a pair, because callers of DeepSpeed's
unpack one: :func:`~lightning_lrsched.get_config_from_args` returns ``(None, message)`` when no ``--lr_schedule`` was
typed (the caller then trains without one), and :func:`~lightning_lrsched.get_lr_from_config` returns
``(None, message)`` for a schedule whose configuration holds no learning rate. Mistakes raise ValueError or TypeError
instead.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.schedulers import (
    LR_RANGE_TEST,
    ONE_CYCLE,
    SCHEDULERS,
    VALID_LR_SCHEDULES,
    WARMUP_COSINE_LR,
    WARMUP_DECAY_LR,
    WARMUP_LR,
)
from lightning_lrsched.schedulers.checks import to_number
from lightning_lrsched.schedulers.durations import EPOCHS, STEPS, UNITS, is_auto
from lightning_lrsched.schedulers.parameters import Parameter, with_keys
from lightning_lrsched.schedulers.paths import flatten
from lightning_lrsched.schedulers.rules import OWN_LR, Choice, ListOf, Switch, is_from_range_test

LR_SCHEDULE = "lr_schedule"
LR_SCHEDULE_UNIT = "lr_schedule_unit"


def add_tuning_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add ``--lr_schedule`` and one flag for each parameter of each schedule, and return the parser.

    ``--lr_schedule_unit`` says what lengths count: ``step``, ``sample`` or ``token``.
    A flag that was not typed is None in the parsed arguments: only what was typed overrides a configuration. Lengths
    take optimizer steps, a fraction of the run, epochs (``2ep``) or ``auto``; learning rates several values, one per
    param group; switches ``--cycle_momentum``, ``--cycle_momentum false``; ``--phases`` a list in JSON.

    Args:
        parser: any argparse parser.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.add_tuning_arguments``.

    Example:
        >>> parser = add_tuning_arguments(argparse.ArgumentParser())
        >>> args = parser.parse_args(["--lr_schedule", "WarmupLR", "--warmup_num_steps", "2ep"])
        >>> args.warmup_num_steps, args.warmup_max_lr
        ('2ep', None)
    """
    group = parser.add_argument_group(
        "learning rate schedule", "a flag that is not given leaves the configuration unchanged"
    )
    group.add_argument(f"--{LR_SCHEDULE}", choices=VALID_LR_SCHEDULES, default=None, help="type of the schedule")
    text = "what lengths and position count, on all devices; otherwise optimizer steps"
    group.add_argument(f"--{LR_SCHEDULE_UNIT}", choices=UNITS, default=None, help=text)
    for name, parameter in _all_parameters().items():
        group.add_argument(f"--{name}", default=None, help=_help(name), **_kind(parameter))
    return parser


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Parse ``sys.argv``; return the arguments of the schedule, and the remaining words.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.parse_arguments``.
    """
    return add_tuning_arguments(argparse.ArgumentParser()).parse_known_args()


def override_params(args: argparse.Namespace, params: dict[str, Any]) -> None:
    """Write every parameter that was typed into ``params``, whichever schedule it belongs to.

    Args:
        args: what a parser with :func:`add_tuning_arguments` returned.
        params: hyperparameters by name, changed in place.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.override_params``.

    Example:
        >>> params = {"warmup_num_steps": 10, "warmup_type": "linear"}
        >>> override_params(argparse.Namespace(warmup_num_steps=20), params)
        >>> params
        {'warmup_num_steps': 20, 'warmup_type': 'linear'}
    """
    for schedule in SCHEDULERS:
        _override(schedule, args, params)


def override_lr_range_test_params(args: argparse.Namespace, params: dict[str, Any]) -> None:
    """Write the typed parameters of LRRangeTest into ``params``, in place."""
    _override(LR_RANGE_TEST, args, params)


def override_1cycle_params(args: argparse.Namespace, params: dict[str, Any]) -> None:
    """Write the typed parameters of OneCycle into ``params``, in place."""
    _override(ONE_CYCLE, args, params)


def override_warmupLR_params(args: argparse.Namespace, params: dict[str, Any]) -> None:  # noqa: N802 - DeepSpeed's name
    """Write the typed parameters of WarmupLR into ``params``, in place."""
    _override(WARMUP_LR, args, params)


def override_warmupDecayLR_params(args: argparse.Namespace, params: dict[str, Any]) -> None:  # noqa: N802 - as its siblings
    """Write the typed parameters of WarmupDecayLR into ``params``, in place."""
    _override(WARMUP_DECAY_LR, args, params)


def override_warmupCosineLR_params(args: argparse.Namespace, params: dict[str, Any]) -> None:  # noqa: N802 - DeepSpeed's name
    """Write the typed parameters of WarmupCosineLR into ``params``, in place."""
    _override(WARMUP_COSINE_LR, args, params)


def get_config_from_args(args: argparse.Namespace) -> tuple[dict[str, Any], None] | tuple[None, str]:
    """Return ``(config, None)`` with the schedule that was typed; ``(None, message)`` if none was.

    Args:
        args: what a parser with :func:`add_tuning_arguments` returned.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if the schedule is unknown, or a value is missing or out of range.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.get_config_from_args``.

    Example:
        >>> parser = add_tuning_arguments(argparse.ArgumentParser())
        >>> get_config_from_args(parser.parse_args(["--lr_schedule", "WarmupLR", "--warmup_max_lr", "0.1"]))
        ({'type': 'WarmupLR', 'params': {'warmup_max_lr': 0.1}}, None)
        >>> get_config_from_args(parser.parse_args([]))
        (None, 'no --lr_schedule on the command line')
    """
    name = getattr(args, LR_SCHEDULE, None)
    if name is None:
        return None, f"no --{LR_SCHEDULE} on the command line"
    params: dict[str, Any] = {}
    if name in SCHEDULERS:
        _override(name, args, params)
    return SchedulerConfig(name, params, getattr(args, LR_SCHEDULE_UNIT, None) or STEPS).to_dict(), None


def get_lr_from_config(config: Mapping[str, Any]) -> tuple[Any, str]:
    """Return ``(lr, "")``: the learning rate that a ``{"type", "params"}`` configuration starts or peaks at.

    That is the start of a range test, the top of a cycle or warmup (the default, if the configuration does not give
    it; of several phases, the highest). For a schedule that only multiplies the optimizer's own lr:
    ``(None, message)``.

    Args:
        config: a ``{"type", "params"}`` section.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if the schedule or a key is unknown, or a value is missing or out of range.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.get_lr_from_config``.

    Example:
        >>> get_lr_from_config({"type": "OneCycle", "params": {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0}})
        (1.0, '')
    """
    checked = SchedulerConfig.from_dict(config)
    parameters, _ = checked.by_path() if checked.is_own else ({}, {})
    given = flatten(checked.to_dict()["params"])
    top = [p for p in parameters.values() if p.rule.auto == OWN_LR] or [p for p in parameters.values() if p.per_group]
    lrs = [given[p.name] for p in top if p.name in given] or [p.default for p in top[:1]]
    if any(is_from_range_test(lr) for lr in lrs):
        return None, f"an LR range test will find the learning rate of {checked.type}; the configuration has none"
    if not lrs or any(lr is None or is_auto(lr) or isinstance(lr, dict) for lr in lrs):
        return None, f"{checked.type} uses the optimizer's own learning rate; the configuration has none"
    return max(lrs, key=lambda lr: max(lr) if isinstance(lr, list) else lr), ""


def describe_schedules() -> str:
    """Return a plain-text list of every schedule with its parameters, their meaning and default."""
    lines = []
    for name, schedule in SCHEDULERS.items():
        lines.append(f"{name}: {(inspect.getdoc(schedule) or '').partition(chr(10))[0]}")
        lines += [f"  {key}: {parameter.describe()}" for key, parameter in with_keys(schedule.parameters()).items()]
    return "\n".join(lines)


def _all_parameters() -> dict[str, Parameter]:
    return {name: p for schedule in SCHEDULERS.values() for name, p in schedule.parameters().items()}


def _override(schedule: str, args: argparse.Namespace, params: dict[str, Any]) -> None:
    for name in SCHEDULERS[schedule].parameters():
        typed = getattr(args, name, None)
        if typed is not None:
            params[name] = typed


def _help(name: str) -> str:
    owners = [schedule for schedule, cls in SCHEDULERS.items() if name in cls.parameters()]
    text = f"{', '.join(owners)}: {SCHEDULERS[owners[0]].parameters()[name].describe()}"
    return text.replace("%", "%%")


def _kind(parameter: Parameter) -> dict[str, Any]:
    """Return argparse's settings for one flag."""
    rule = parameter.rule
    if isinstance(rule, Choice):
        return {"choices": rule.allowed}
    if isinstance(rule, ListOf):
        return {"type": _json, "metavar": rule.metavar}
    if isinstance(rule, Switch):
        return {"nargs": "?", "const": True, "type": _flag, "metavar": rule.metavar}
    several = {"nargs": "+", "action": _OneOrSeveral} if parameter.per_group else {}
    return {"type": _number if rule.auto is None else _number_or_word, "metavar": rule.metavar, **several}


class _OneOrSeveral(argparse.Action):
    """One value for all param groups stays one value; several become a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        several: Sequence[Any] = values
        setattr(namespace, self.dest, several[0] if len(several) == 1 else list(several))


def _flag(text: str) -> bool:
    spelled = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if spelled is None:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return spelled


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON, got {text!r} ({error})") from None


def _number(text: str) -> int | float:
    number = to_number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return number


def _number_or_word(text: str) -> Any:
    if is_auto(text) or is_from_range_test(text) or EPOCHS.fullmatch(text):
        return text
    if text.startswith("{"):
        return _json(text)
    number = to_number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"must be a number, epochs such as 2ep, or auto; got {text!r}")
    return number
