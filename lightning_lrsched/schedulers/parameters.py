"""Parameters of a schedule: declared once, in its constructor's signature and docstring, and read only from there.

A constructor annotates each parameter with a rule::

    warmup_num_steps: Annotated[int, Steps(auto=0.1)] = 1000

:func:`parameters_of` returns name, rule, default and help text of each. The constructor's checks, configuration files,
command-line flags, ``--help``, ``"auto"`` and the hints in error messages use these and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from lightning_lrsched.schedulers.checks import MAX_TEXT, did_you_mean, to_number
from lightning_lrsched.schedulers.durations import Duration, RunLength, is_auto, resolve_steps
from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError
from lightning_lrsched.schedulers.paths import flatten
from lightning_lrsched.schedulers.rules import (
    FROM_RANGE_TEST,
    AutoLr,
    Choice,
    Count,
    Finding,
    ListOf,
    Number,
    Rule,
    Steps,
    Switch,
    is_from_range_test,
)

MAX_NUMBER = 10**300

FINDINGS: dict[Finding, str] = {
    "low": "the low bound of a range test",
    "high": "the high bound of a range test",
    "suggestion": "what a range test suggests",
}

POSITION = "last_batch_iteration"
"""Where a schedule starts: every constructor has it, and it is not a hyperparameter."""


REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One parameter of a schedule.

    Args:
        name: its key in a configuration, and the constructor's argument.
        rule: which values it takes.
        default: its value where none is given; ``REQUIRED``: there is none.
        optional: whether None is a value too.
        per_group: whether it takes a list with one value for each param group.
        help: its description.
    """

    name: str
    rule: Rule
    default: Any = REQUIRED
    optional: bool = False
    per_group: bool = False
    help: str = ""

    @property
    def required(self) -> bool:
        """Whether a configuration must give it."""
        return self.default is REQUIRED

    def check(self, value: Any) -> Any:
        """Return ``value`` as the schedule uses it.

        Raises:
            TypeError: if it has the wrong type.
            ValueError: if it is out of range.
        """
        if value is None and self.optional:
            return None
        if self.per_group and isinstance(value, (list, tuple)):
            if not value:
                raise ParameterValueError(
                    self.name, f"must be one number or a list with one for each param group, got {value!r}"
                )
            rule = replace(self.rule, ratio=False) if isinstance(self.rule, Number) else self.rule
            return [rule.check(f"{self.name}[{index}]", item) for index, item in enumerate(value)]
        return self.rule.check(self.name, value)

    def waits_for(self, value: Any) -> str | None:
        """Return what must be known before ``value`` is a number; None: it is one already, or wrong.

        That is ``"run"``, ``"optimizer"`` or ``"range test"``.
        """
        if isinstance(self.rule, Number) and self.rule.finding is not None and is_from_range_test(value):
            return "range test"
        if isinstance(self.rule, Steps) and Duration.of(value, self.rule.auto) is not None:
            return "run"
        return "optimizer" if isinstance(self.rule.auto, AutoLr) and is_auto(value) else None

    def read(self, value: Any, key: str | None = None) -> Any:
        """Return ``value`` from a configuration, with numbers in place of strings that spell numbers.

        Raises:
            TypeError: if it is a mapping.
            ValueError: if it is "auto" where the word has no meaning, or too long to be shown.
        """
        key = self.name if key is None else key
        if isinstance(value, (list, tuple)):
            return tuple(self.read(item, f"{key}[{index}]") for index, item in enumerate(value))
        if isinstance(value, Mapping) and isinstance(self.rule, Number) and self.rule.ratio:
            return {name: self.read(item, f"{key}.{name}") for name, item in value.items()}
        if isinstance(value, Mapping):
            raise ParameterTypeError(key, "must be a single value or a list of numbers, got a mapping")
        if self.waits_for(value):
            return value
        if isinstance(value, str):
            value = self._read_text(key, value)
        if isinstance(self.rule, Steps) and isinstance(value, float) and value == 1.0:
            raise ParameterValueError(key, "must not be 1.0: write 1 for one step, or a fraction of the run below 1")
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise ParameterValueError(key, "must be a number of reasonable size, got one with more than 300 digits")
        # JSON may spell a count as 2e3 or 2000.0; torch passes counts to range().
        whole = isinstance(self.rule, (Count, Steps)) and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value

    def _read_text(self, key: str, text: str) -> Any:
        if len(text) > MAX_TEXT:
            raise ParameterValueError(key, f"must be a number, got a text of {len(text)} characters")
        if isinstance(self.rule, (Choice, Switch)) or isinstance(self.default, str):
            return text
        if isinstance(self.rule, Steps) and text.strip().endswith("%") and (percent := to_number(text.strip()[:-1])):
            raise ParameterValueError(key, f"must not be a percentage, got {text!r}: write {percent / 100:g}")
        spelled = to_number(text)
        return text if spelled is None else spelled

    def resolve(self, value: Any, run: RunLength) -> Any:
        """Return a length as a number of optimizer steps, any other value unchanged.

        Raises:
            ValueError: if the run's length is not known.
        """
        return self.resolve_after(0.0, value, run)[0]

    def resolve_after(
        self, end: float, value: Any, run: RunLength, *, leave_unknown: bool = False
    ) -> tuple[Any, float]:
        """Return a length as a number of optimizer steps, any other value unchanged; and where it ends, unrounded.

        Args:
            end: where the length before it ends, unrounded.
            value: as it is written in a configuration.
            run: how long the run is.
            leave_unknown: leave the value as it is where the run's length is not known.

        Raises:
            ValueError: if the run's length is not known, unless ``leave_unknown``.
        """
        if not isinstance(self.rule, Steps):
            return value, end
        begin = end if self.rule.follows else 0.0
        duration = Duration.of(value, self.rule.auto)
        if duration is None or (leave_unknown and not duration.is_known(run)):
            return value, begin  # a whole number moves no fraction
        return resolve_steps(self.name, value, run, self.rule.auto, begin), begin + duration.exact(run)

    def describe(self) -> str:
        """Return help text, meaning of ``"auto"`` and default as one line."""
        auto = ""
        if isinstance(self.rule, Steps) and self.rule.auto is not None:
            fraction = "the whole run" if self.rule.auto == 1.0 else f"{self.rule.auto:g} of the run"
            auto = f' "auto": {fraction}.'
        elif isinstance(self.rule.auto, AutoLr):
            auto = f' "auto": {self.rule.auto}.'
        if isinstance(self.rule, Number) and self.rule.finding is not None:
            auto += f' "{FROM_RANGE_TEST}": {FINDINGS[self.rule.finding]}.'
        default = "required" if self.required else str(self.default).lower()
        return f"{self.help}{auto} (default: {default})"


def by_path(
    parameters: Mapping[str, Parameter], given: Mapping[str, Any]
) -> tuple[Mapping[str, Parameter], Mapping[str, Any]]:
    """Return parameters and values with one of each for every key of a mapping in a list: ``phases[0].steps``.

    Raises:
        TypeError: if a list of mappings is something else.
        ValueError: if a mapping lacks a key, or has one that is unknown.
    """
    if not any(isinstance(parameter.rule, ListOf) for parameter in parameters.values()):
        return parameters, given
    found: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        if not (isinstance(parameter.rule, ListOf) and name in given):
            found[name] = parameter
            continue
        keys = parameters_of(parameter.rule.entry)
        for index, entry in enumerate(parameter.rule.check(name, given[name])):
            _check_keys(f"{name}[{index}]", entry, parameter.rule, keys)
            found |= _prefixed(f"{name}[{index}].", keys)
    values: dict[str, Any] = {}
    for name, value in given.items():
        values |= {name: value} if name in found else flatten({name: value})
    return found, values


def _check_keys(path: str, entry: Mapping[Any, Any], rule: ListOf, keys: Mapping[str, Parameter]) -> None:
    for key in entry:
        if key not in keys:
            hint, name = did_you_mean(key, list(keys)), rule.entry.__name__.lower()
            shown = str(key)[:60]
            raise ParameterValueError(
                f"{path}.{shown}", f": a {name} has no such key{hint}; it takes {', '.join(keys)}"
            )
    for key, parameter in keys.items():
        if parameter.required and key not in entry:
            raise ParameterValueError(f"{path}.{key}", "is missing")


def with_keys(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return the parameters, each list of mappings followed by the keys of its mappings: ``phases[].steps``."""
    found: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        found[name] = parameter
        if isinstance(parameter.rule, ListOf):
            found |= _prefixed(f"{name}[].", parameters_of(parameter.rule.entry))
    return found


def _prefixed(prefix: str, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    return {f"{prefix}{name}": replace(parameter, name=f"{prefix}{name}") for name, parameter in parameters.items()}


@cache
def parameters_of(schedule: Any) -> Mapping[str, Parameter]:
    """Return the hyperparameters of a schedule, as its constructor declares and its docstring describes them."""
    init = schedule.__init__
    hints = get_type_hints(init, include_extras=True)
    described = argument_help(schedule)
    return {
        name: _parameter(name, hints[name], argument.default, described.get(name, ""))
        for name, argument in inspect.signature(init).parameters.items()
        if name not in ("self", "optimizer", POSITION)
    }


def _parameter(name: str, hint: Any, default: Any, text: str) -> Parameter:
    rule = None
    if get_origin(hint) is Annotated:
        hint, rule = get_args(hint)[:2]
    members = get_args(hint) if get_origin(hint) is not Literal else ()
    if get_origin(hint) is Literal:
        rule = Choice(get_args(hint))
    elif hint is bool:
        rule = Switch()
    if rule is None:
        raise TypeError(f"{name}: annotate it with a rule, such as Annotated[..., Number(...)]")
    return Parameter(name, rule, default, type(None) in members, list[float] in members, text)


def argument_help(described: type) -> dict[str, str]:
    """Return name -> text of the ``Args`` section of a Google-style docstring; empty where docstrings are stripped."""
    lines = inspect.getdoc(described) or ""
    found: dict[str, str] = {}
    name = ""
    for line in lines.partition("\nArgs:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        if line.startswith("        "):
            found[name] += f" {line.strip()}"
        elif ":" in line:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return {key: text.replace("`", "") for key, text in found.items()}
