"""The params of a scheduler section: which ones a type has, and their values read, checked and resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_lrsched.config.deepspeed import short
from lightning_lrsched.config.torch_schedulers import NOT_FROM_A_FILE, torch_parameters, torch_schedulers
from lightning_lrsched.schedulers import SCHEDULERS, ClosedFormLR
from lightning_lrsched.schedulers.checks import did_you_mean
from lightning_lrsched.schedulers.durations import is_auto
from lightning_lrsched.schedulers.errors import ParameterError, ParameterTypeError, ParameterValueError, key_path
from lightning_lrsched.schedulers.parameters import POSITION, REQUIRED, Parameter, with_keys
from lightning_lrsched.schedulers.paths import nest
from lightning_lrsched.schedulers.rules import (
    FROM_RANGE_TEST,
    AnyValue,
    AutoLr,
    Count,
    Finding,
    Number,
    Steps,
    is_from_range_test,
)

PARAMS = "scheduler.params."


def parameters_for(type_name: Any) -> Mapping[str, Parameter]:
    """Return the parameters that a configuration of this type may give, by name.

    Raises:
        TypeError: if the type is not a string.
        ValueError: if there is no such schedule.
    """
    if isinstance(type_name, str):
        if type_name in SCHEDULERS:
            # DeepSpeed's files often give the position.
            return {**SCHEDULERS[type_name].parameters(), POSITION: Parameter(POSITION, Count(at_least=-1), -1)}
        if type_name in torch_schedulers():
            return torch_parameters(torch_schedulers()[type_name])
        if type_name in NOT_FROM_A_FILE:
            raise ParameterValueError(
                "scheduler.type", f": {type_name} cannot come from a configuration: {NOT_FROM_A_FILE[type_name]}"
            )
    hint = did_you_mean(short(type_name), list(SCHEDULERS)) or did_you_mean(short(type_name), list(torch_schedulers()))
    kind = ParameterValueError if isinstance(type_name, str) else ParameterTypeError
    raise kind(
        "scheduler.type",
        f"must be one of {', '.join(SCHEDULERS)}, or a class of torch.optim.lr_scheduler, got {short(type_name)}{hint}",
    )


def read_value(parameter: Parameter, value: Any) -> Any:
    """Return a value as the constructor takes it, or unchanged where it depends on the run or the optimizer."""
    checks_itself = isinstance(parameter.rule, AnyValue)
    if (is_auto(value) and not checks_itself) or is_from_range_test(value):
        if parameter.waits_for(value):
            return value
        every = [p for schedule in SCHEDULERS.values() for p in with_keys(schedule.parameters()).values()]
        meant = ", ".join(dict.fromkeys(p.name for p in every if p.waits_for(value)))
        raise ParameterValueError(parameter.name, f': "{value.strip().lower()}" is possible for {meant} only')
    try:
        value = parameter.read(value)
        if parameter.waits_for(value):
            return value
        checked = parameter.check(value)
    except ParameterError as error:
        if isinstance(parameter.rule, Steps):
            words = "" if parameter.rule.auto is None else ', or "auto"'
            problem = f'{error.problem}; a length may also be a fraction of the run (0.1), epochs ("2ep"){words}'
            raise type(error)(error.key, problem) from None
        raise
    return tuple(checked) if isinstance(checked, list) else checked


def check_together(
    schedule: type[ClosedFormLR], parameters: Mapping[str, Parameter], values: Mapping[str, Any]
) -> None:
    """Raise ValueError where values do not fit each other, as far as that can be known without an optimizer."""
    lengths = {key: len(value) for key, value in values.items() if isinstance(value, tuple)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise ParameterValueError(
            "scheduler.params",
            f": lists need one value for each param group, so all have the same length, got {listed}",
        )
    defaults = {key: None if p.default is REQUIRED else p.default for key, p in parameters.items()}
    with key_path(PARAMS):
        schedule.check_together(nest({**defaults, **values}))


def fill_in(
    parameters: Mapping[str, Parameter], params: Mapping[str, Any], findings: Mapping[Finding, Any] | None
) -> dict[str, Any]:
    """Return ``params`` with what a range test has found in place of ``"lr_range_test"``.

    Raises:
        ValueError: if there was no test; the message says who runs one.
    """
    filled = dict(params)
    for key, value in params.items():
        rule = parameters[key].rule
        if isinstance(rule, Number) and rule.finding is not None and is_from_range_test(value):
            if findings is None:
                raise ParameterValueError(
                    key,
                    f': "{FROM_RANGE_TEST}" needs LRSchedulerCallback, which runs the test before the first batch; here'
                    " write a number (LRRangeTestCallback finds one in a fit of its own)",
                )
            filled[key] = findings[rule.finding]
    return filled


def resolve_lrs(
    parameters: Mapping[str, Parameter], params: Mapping[str, Any], base_lrs: list[float]
) -> dict[str, Any]:
    """Return ``params`` with numbers in place of learning rates that are ``"auto"``."""
    resolved = dict(params)
    own: Any = base_lrs[0] if len(set(base_lrs)) == 1 else tuple(base_lrs)
    waiting = [(key, rule) for key in params if isinstance(rule := parameters[key].rule.auto, AutoLr)]
    for key, auto in sorted(waiting, key=lambda item: item[1].of is not None):  # first those that others refer to
        if is_auto(params[key]):
            base = own if auto.of is None else resolved[auto.of]
            if is_from_range_test(base):
                continue  # not known yet
            several = isinstance(base, tuple)
            resolved[key] = tuple(auto.fraction * lr for lr in base) if several else auto.fraction * base
    return resolved
