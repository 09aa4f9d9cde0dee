"""Command-line flags for every parameter of every schedule, under DeepSpeed's names.

The functions have DeepSpeed's names and return values. Two of them return a pair, because callers of DeepSpeed's
unpack one: :func:`~lightning_lrsched.get_config_from_args` returns ``(None, message)`` when no ``--lr_schedule`` was
typed (the caller then trains without one), and :func:`~lightning_lrsched.get_lr_from_config` returns
``(None, message)`` for a schedule whose configuration holds no learning rate. Mistakes raise ValueError or TypeError
instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.optim.schedulers import SCHEDULES, VALID_LR_SCHEDULES
from lightning_lrsched.schedules.beside import BESIDE
from lightning_lrsched.schedules.errors import to_number
from lightning_lrsched.schedules.fields import (
    OWN_LR,
    Choice,
    Count,
    Field,
    FromRangeTest,
    ListOf,
    Number,
    Params,
    Steps,
    Switch,
    Word,
    written,
)
from lightning_lrsched.schedules.length import STEPS, UNITS

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
        >>> args.warmup_num_steps, args.warmup_type
        ('2ep', None)
    """
    group = parser.add_argument_group(
        "learning rate schedule", "a flag that is not given leaves the configuration unchanged"
    )
    group.add_argument(f"--{LR_SCHEDULE}", choices=VALID_LR_SCHEDULES, default=None, help="type of the schedule")
    text = "what lengths and position count, on all devices; otherwise optimizer steps"
    group.add_argument(f"--{LR_SCHEDULE_UNIT}", choices=UNITS, default=None, help=text)
    for name, (field, owners) in _flags().items():
        text = f"{', '.join(owners)}: {field.describe()}".replace("%", "%%")
        group.add_argument(f"--{name}", default=None, help=text, **_kind(field))
    return parser


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Parse ``sys.argv``; return the arguments of the schedule, and the remaining words.

    Source:
        DeepSpeed 0.19.8, ``deepspeed.runtime.lr_schedules.parse_arguments``.
    """
    return add_tuning_arguments(argparse.ArgumentParser()).parse_known_args()


def override_params(args: argparse.Namespace, params: Params) -> None:
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
    for schedule in SCHEDULES:
        _override(schedule, args, params)


def _override_of(schedule: str) -> Callable[[argparse.Namespace, Params], None]:
    def override(args: argparse.Namespace, params: Params) -> None:
        _override(schedule, args, params)

    override.__doc__ = f"Write the typed parameters of {schedule} into ``params``, in place."
    return override


override_lr_range_test_params = _override_of("LRRangeTest")
override_1cycle_params = _override_of("OneCycle")
override_warmupLR_params = _override_of("WarmupLR")  # noqa: N816 - DeepSpeed's names
override_warmupDecayLR_params = _override_of("WarmupDecayLR")  # noqa: N816
override_warmupCosineLR_params = _override_of("WarmupCosineLR")  # noqa: N816


def get_config_from_args(args: argparse.Namespace) -> tuple[Params, None] | tuple[None, str]:
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
        >>> get_config_from_args(parser.parse_args(["--lr_schedule", "WarmupLR", "--warmup_num_steps", "2ep"]))
        ({'type': 'WarmupLR', 'params': {'warmup_num_steps': '2ep'}}, None)
        >>> get_config_from_args(parser.parse_args([]))
        (None, 'no --lr_schedule on the command line')
    """
    name = getattr(args, LR_SCHEDULE, None)
    if name is None:
        return None, f"no --{LR_SCHEDULE} on the command line"
    params: Params = {}
    if name in SCHEDULES:
        _override(name, args, params)
    return SchedulerConfig(name, params, getattr(args, LR_SCHEDULE_UNIT, None) or STEPS).to_dict(), None


def get_lr_from_config(config: Mapping[str, object]) -> tuple[Any, str]:
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
    of_schedule = SchedulerConfig(checked.type, {k: v for k, v in checked.params.items() if k != BESIDE}).schedule
    leaves = [leaf for leaf in of_schedule.leaves() if isinstance(leaf[1].rule, Number) and leaf[1].rule.per_group]
    top = [value for _, field, value in leaves if field.auto == OWN_LR] or [value for _, _, value in leaves[:1]]
    lrs = [value for value in top if value is not None]
    if any(isinstance(lr, FromRangeTest) for lr in lrs):
        return None, f"an LR range test will find the learning rate of {checked.type}; the configuration has none"
    if not lrs or any(isinstance(lr, Word) for lr in lrs):
        return None, f"{checked.type} uses the optimizer's own learning rate; the configuration has none"
    return written(max(lrs, key=lambda lr: max(lr) if isinstance(lr, tuple) else lr)), ""


def _override(schedule: str, args: argparse.Namespace, params: Params) -> None:
    for name in SCHEDULES[schedule].fields:
        typed = getattr(args, name, None)
        if typed is not None:
            params[name] = typed


def _flags() -> dict[str, tuple[Field, list[str]]]:
    """Return name -> field, and the schedules that have it."""
    found: dict[str, tuple[Field, list[str]]] = {}
    for schedule, cls in SCHEDULES.items():
        for name, field in cls.fields.items():
            found.setdefault(name, (field, []))[1].append(schedule)
    return found


def _kind(field: Field) -> Params:
    """Return argparse's settings for one flag."""
    rule = field.rule
    if isinstance(rule, Choice):
        return {"choices": rule.allowed}
    if isinstance(rule, ListOf):
        return {"type": _json, "metavar": "JSON"}
    if isinstance(rule, Switch):
        return {"nargs": "?", "const": True, "type": _flag, "metavar": "true|false"}
    several = {"nargs": "+", "action": _OneOrSeveral} if isinstance(rule, Number) and rule.per_group else {}
    takes_words = isinstance(rule, Steps) or field.auto is not None
    metavar = "STEPS" if isinstance(rule, Steps) else "N" if isinstance(rule, Count) else "X"
    return {"type": _value_of(field) if takes_words else _number, "metavar": metavar, **several}


class _OneOrSeveral(argparse.Action):
    """One value for all param groups stays one value; several become a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: object = None
    ) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else list(values))


def _flag(text: str) -> bool:
    spelled = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if spelled is None:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return spelled


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON, got {text!r} ({error})") from None


def _number(text: str) -> int | float:
    number = to_number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return number


def _value_of(field: Field) -> Callable[[str], object]:
    def value_of(text: str) -> object:
        """Return what a configuration would have: a number, or the word as it was typed."""
        value = _json(text) if text.startswith("{") else text
        try:
            return written(field.rule.parse(field.name, value))
        except (TypeError, ValueError) as error:
            if to_number(text) is not None:
                return to_number(text)  # out of range: the configuration says so, with the whole key
            raise argparse.ArgumentTypeError(f"must be a number, epochs such as 2ep, or auto; got {text!r}") from error

    return value_of
