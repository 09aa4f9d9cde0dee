"""Fields: what the parameters of a schedule are, declared once, and read into values once.

A schedule is a frozen dataclass whose annotations carry a rule::

    warmup_num_steps: Annotated[int, Steps(auto=0.1)] = 1000

:meth:`Fields.fields` returns name, rule, default and help text of each. :meth:`Fields.parse` turns what a user wrote
into numbers, or into words that become numbers when more is known: an :class:`Own` or :class:`OfOther` learning rate
when there is an optimizer, a :class:`FromRangeTest` after a range test, and lengths
(:mod:`lightning_lrsched.schedules.length`) when the run is known. Configuration files, command-line flags, ``--help``,
the public classes and the hints in error messages read the fields and nothing else.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from typing_extensions import dataclass_transform

from lightning_lrsched.schedules.errors import (
    ParameterTypeError,
    ParameterValueError,
    choice,
    count,
    did_you_mean,
    number,
    short,
    switch,
    to_number,
)
from lightning_lrsched.schedules.length import Epochs, Fraction, is_word, parse_length

# Words: values that become numbers later ------------------------------------------------------------------------------

Params = dict[str, Any]
"""Values by name, as they stand in a configuration."""

AUTO = "auto"
FROM_RANGE_TEST = "lr_range_test"
"""The word for a learning rate that an LR range test at the start of the fit finds."""

REST = "rest"
"""The word for the length, or the number of repeats, that fills the run."""

RATIO = "ratio"
"""The key of a value that is a multiple of each param group's own: ``{"ratio": 0.1}``."""

Finding = Literal["low", "high", "suggestion"]
"""What a range test finds: the two bounds for 1Cycle, and a good fixed lr."""

FINDINGS: dict[Finding, str] = {
    "low": "the low bound of a range test",
    "high": "the high bound of a range test",
    "suggestion": "what a range test suggests",
}


@dataclass(frozen=True)
class Own:
    """A multiple of each param group's own value; ``written`` is what the user wrote: ``"auto"``, None, a ratio."""

    ratio: float
    written: object = dataclasses.field(default=AUTO, compare=False)

    waits_for = "optimizer"

    def __str__(self) -> str:
        if self.ratio == 0.0:
            return "0"
        return "each param group's own lr" if self.ratio == 1.0 else f"{self.ratio:g} of each param group's own lr"


@dataclass(frozen=True)
class OfOther:
    """A multiple of another field's value."""

    ratio: float
    name: str
    written: object = AUTO

    waits_for = "optimizer"

    def __str__(self) -> str:
        return f"{self.ratio:g} of {self.name}"


@dataclass(frozen=True)
class FromRangeTest:
    """A learning rate that a range test finds."""

    finding: Finding
    written: object = FROM_RANGE_TEST

    waits_for = "range test"


Word = Own | OfOther | FromRangeTest | Fraction | Epochs
OWN_LR = Own(1.0)
ZERO = Own(0.0)


def written(value: object) -> Any:
    """Return a value as it stands in a configuration: words as the user wrote them, tuples as lists.

    >>> written((1.0, 2.0)), written(Own(1.0)), written(Own(0.1, {"ratio": 0.1}))
    ([1.0, 2.0], 'auto', {'ratio': 0.1})
    """
    if isinstance(value, Word):
        return value.written
    if isinstance(value, Fields):
        return value.params()
    return list(map(written, value)) if isinstance(value, tuple) else value


# Rules: what a value may be -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A finite number within limits.

    Args:
        at_least: smallest number.
        above: the number is greater than this one.
        below: the number is smaller than this one.
        at_most: largest number.
        auto: what ``"auto"`` means; None: the word is not allowed.
        finding: what ``"lr_range_test"`` means; None: the word is not allowed.
        ratio: whether it may be ``{"ratio": 0.1}``, a multiple of each group's own value.
        optional: whether None is a value.
        none_is_auto: whether None means the same as ``"auto"``, also for a param group that is added later.
        per_group: whether a list may give one number for each param group.
        of: the hyperparameter of which ``auto`` and a ratio are multiples.
    """

    at_least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    auto: Own | OfOther | None = None
    finding: Finding | None = None
    ratio: bool = False
    optional: bool = False
    none_is_auto: bool = False
    per_group: bool = False
    of: str = "lr"

    def parse(self, key: str, value: object) -> object:
        """Return ``value`` as a float, a tuple with one for each group, or a word; or raise ParameterError."""
        if value is None and self.optional:
            return replace(self.auto, written=None) if isinstance(self.auto, Own) and self.none_is_auto else None
        if isinstance(value, str):
            return self._text(key, value)
        if isinstance(value, Mapping):
            return self._mapping(key, value)
        listed = _listed(value) if self.per_group else None
        if listed is None:
            return self._number(key, value)
        if not listed:
            raise ParameterValueError(key, f"must be one number or a list with one for each param group, got {value!r}")
        return tuple(
            self._number(f"{key}[{index}]", _spelled(f"{key}[{index}]", item)) for index, item in enumerate(listed)
        )

    def _text(self, key: str, text: str) -> object:
        word = text.strip().lower()
        if word == AUTO and self.auto is not None:
            return self.auto
        if word == FROM_RANGE_TEST and self.finding is not None:
            return FromRangeTest(self.finding)
        try:
            return self._number(key, _spelled(key, text))
        except ParameterTypeError as error:
            words = [AUTO] * (self.auto is not None) + [FROM_RANGE_TEST] * (self.finding is not None)
            raise ParameterTypeError(key, f"{error.problem}{did_you_mean(text[:60], words)}") from None

    def _mapping(self, key: str, value: Mapping[object, object]) -> Own:
        if not self.ratio:
            raise ParameterTypeError(key, "must be a single value or a list of numbers, got a mapping")
        if set(value) != {RATIO}:
            raise ParameterValueError(key, f'must be a number or {{"{RATIO}": <number>}}, got {dict(value)!r}')
        ratio = number(f"{key}.{RATIO}", _spelled(key, value[RATIO]), at_least=0)
        return Own(ratio, {RATIO: ratio})

    def _number(self, key: str, value: object) -> float:
        return number(key, value, at_least=self.at_least, above=self.above, below=self.below, at_most=self.at_most)


@dataclass(frozen=True)
class Count:
    """A whole number."""

    at_least: int = 0
    optional: bool = False
    rest: bool = False

    def parse(self, key: str, value: object) -> int | str | None:
        """Return ``value`` as an int, or raise ParameterError."""
        if value is None and self.optional:
            return None
        if self.rest and is_word(value, REST):
            return REST
        or_else = _or_rest(value) if self.rest else ""
        return count(key, _spelled(key, value), at_least=self.at_least, or_else=or_else)


@dataclass(frozen=True)
class Steps:
    """A length in optimizer steps (or the unit of the schedule).

    Args:
        at_least: smallest number.
        auto: the fraction of the run that ``"auto"`` means; None: the word is not allowed.
        follows: whether the length begins where that of the field before it ends.
        optional: whether None is a value.
        rest: whether it may be ``"rest"``: what the other lengths leave.
        aside: whether the length is no part of the schedule's course.
    """

    at_least: int = 0
    auto: float | None = None
    follows: bool = False
    optional: bool = False
    rest: bool = False
    aside: bool = False

    def parse(self, key: str, value: object) -> int | str | Fraction | Epochs | None:
        """Return ``value`` as an int or a length that the run decides, or raise ParameterError."""
        if value is None and self.optional:
            return None
        if self.rest and is_word(value, REST):
            return REST
        if self.auto is None:
            _spelled(key, value)
        or_else = _or_rest(value) if self.rest else ""
        return parse_length(key, value, at_least=self.at_least, auto=self.auto, or_else=or_else)


def _or_rest(value: object) -> str:
    return f', or "{REST}"{did_you_mean(value, [REST]) if isinstance(value, str) else ""}'


@dataclass(frozen=True)
class Switch:
    """True or false."""

    def parse(self, key: str, value: object) -> bool:
        """Return ``value``, or raise ParameterError."""
        return switch(key, value)


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    allowed: tuple[str, ...]

    def parse(self, key: str, value: object) -> str:
        """Return ``value``, or raise ParameterError."""
        return choice(key, value, self.allowed)


GROUP_KEYS = {"phases", "repeat"}
"""An entry with one of these keys is a group of entries."""


@dataclass(frozen=True)
class ListOf:
    """A list of mappings, each with the fields of ``entry``, or of ``group``: several entries."""

    entry: type[Fields]
    group: type[Fields] | None = None

    def parse(self, key: str, value: object) -> tuple[Fields, ...]:
        """Return a tuple with an ``entry`` for each mapping, or raise ParameterError."""
        allowed = f"must be a list with a mapping for each {self.entry.__name__.lower()}"
        listed = _listed(value)
        if listed is None:
            raise ParameterTypeError(key, f"{allowed}, got {short(value)}")
        if not listed:
            raise ParameterValueError(key, f"{allowed}, at least one; got {value!r}")
        return tuple(self._entry(f"{key}[{index}]", item) for index, item in enumerate(listed))

    def _entry(self, path: str, value: object) -> Fields:
        if not isinstance(value, Mapping):
            raise ParameterTypeError(path, f"must be a mapping, got {short(value)}")
        kind = self.group if self.group is not None and GROUP_KEYS & set(value) else self.entry
        known, others = list(kind.named_fields()), kind.others_rule()
        for key in value:
            if key not in known and (others is None or others.nearest(key, known)):
                problem = f"a {kind.__name__.lower()} has no such key{did_you_mean(key, known)}"
                raise ParameterValueError(f"{path}.{str(key)[:60]}", f": {problem}; it takes {', '.join(known)}")
        return kind.parse(value, f"{path}.")


Named = tuple[str, Any]
"""A name that no field declares, and its value."""


@dataclass(frozen=True)
class Others:
    """All keys that are no field: hyperparameters that any optimizer may have, each a number.

    Args:
        known: name -> rule, of the usual ones.
    """

    known: Mapping[str, Number]

    def rule(self, name: str) -> Number:
        """Return which values a hyperparameter takes; of an optimizer's own ones, any number."""
        return self.known.get(name) or Number(ratio=True, optional=True, per_group=True, of=name)

    def parse(self, key: str, value: object) -> tuple[Named, ...]:
        """Return name and value of each, or raise ParameterError; ``key`` is the path that leads to them."""
        assert isinstance(value, Mapping)
        return tuple((name, self.rule(name).parse(f"{key}{name}", one)) for name, one in value.items())

    def nearest(self, name: object, fields: Iterable[str]) -> str:
        """Return a hint where ``name`` is a misspelling, or no name; empty where it may be a hyperparameter."""
        if name in self.known:
            return ""
        return did_you_mean(name, [*fields, *self.known]) or ("" if str(name).isidentifier() else " (no name)")


@dataclass(frozen=True)
class Several:
    """A list of values with the same rule."""

    rule: Steps

    def parse(self, key: str, value: object) -> tuple[object, ...]:
        """Return a tuple of values, or raise ParameterError."""
        listed = _listed(value)
        if listed is None:
            raise ParameterTypeError(key, f"must be a list, got {short(value)}")
        return tuple(self.rule.parse(f"{key}[{index}]", item) for index, item in enumerate(listed))


@dataclass(frozen=True)
class AnyValue:
    """Anything: a parameter of a class that checks its values itself; text that spells a number becomes one."""

    def parse(self, key: str, value: object) -> object:
        """Return ``value``."""
        listed = _listed(value)
        return _spelled(key, value) if listed is None else tuple(_spelled(key, item) for item in listed)


Rule = Number | Count | Steps | Switch | Choice | ListOf | Several | Others | AnyValue


def _listed(value: object) -> list[object] | None:
    """Return the items of a list of any kind (OmegaConf's, an array); None if it is none."""
    if isinstance(value, np.ndarray):
        return list(value.tolist()) if value.ndim else None
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else None


def _spelled(key: str, value: object) -> object:
    """Return the number that a text spells; anything else unchanged.

    Raises:
        ValueError: if it is a word that has no meaning for this key.
    """
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in (AUTO, FROM_RANGE_TEST):
        raise ParameterValueError(key, f': "{word}" has no meaning here; write a value')
    spelled = to_number(value)
    return value if spelled is None else spelled


# Fields ---------------------------------------------------------------------------------------------------------------

REQUIRED = object()
"""The default of a field that must be given."""


@dataclass(frozen=True)
class Field:
    """One parameter of a schedule.

    Args:
        name: its key in a configuration, and the argument of the public class.
        rule: which values it takes.
        default: its value where none is given; ``REQUIRED``: there is none.
        help: its description.
    """

    name: str
    rule: Rule
    default: Any = REQUIRED
    help: str = ""

    @property
    def auto(self) -> Any:
        """What ``"auto"`` means; None: the word is not allowed."""
        return getattr(self.rule, "auto", None)

    @property
    def finding(self) -> Finding | None:
        """What ``"lr_range_test"`` means; None: the word is not allowed."""
        return self.rule.finding if isinstance(self.rule, Number) else None

    def describe(self) -> str:
        """Return help text, meaning of the words and default as one line."""
        words = ""
        if isinstance(self.rule, Steps) and self.rule.auto is not None:
            words = ' "auto": the whole run.' if self.rule.auto == 1.0 else f' "auto": {self.rule.auto:g} of the run.'
        elif self.auto is not None:
            words = f' "auto": {self.auto}.'
        if self.finding is not None:
            words += f' "{FROM_RANGE_TEST}": {FINDINGS[self.finding]}.'
        default = "required" if self.default is REQUIRED else str(self.default).lower()
        return f"{self.help}{words} (default: {default})"


Self = TypeVar("Self", bound="Fields")
Leaf = tuple[str, Field, Any]
"""(path, field, value): one value of a schedule; in a list of mappings, ``phases[0].steps``."""


class Fields:
    """Base of frozen dataclasses whose values are parsed from what a user wrote, and resolved when more is known."""

    fields: ClassVar[Mapping[str, Field]] = {}
    """The fields by name, in their order; set by :func:`declared`."""

    _leaves: ClassVar[list[Leaf]]

    given: ClassVar[frozenset[str]] = frozenset()
    """The fields that the user gave; the others have their defaults. An instance has its own."""

    others_of: ClassVar[str] = ""
    """The field that takes all keys that are no field, or an empty text."""

    @classmethod
    def others_rule(cls) -> Others | None:
        """Return the rule for keys that are no field; None: there are no such keys."""
        rule = cls.fields[cls.others_of].rule if cls.others_of else None
        return rule if isinstance(rule, Others) else None

    @classmethod
    def named_fields(cls) -> Mapping[str, Field]:
        """Return the fields that have a key of their own."""
        return {name: field for name, field in cls.fields.items() if name != cls.others_of}

    @classmethod
    def parse(cls: type[Self], given: Mapping[str, object], path: str = "") -> Self:
        """Return the values that ``given`` means, each parsed once; keys that are no field are ignored.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is missing or out of range; the error begins with ``path`` and the key.
        """
        values: dict[str, object] = {}
        for name, known in cls.fields.items():
            if isinstance(known.rule, Others):
                values[name] = known.rule.parse(path, {k: v for k, v in given.items() if k not in cls.fields})
            elif name in given:
                values[name] = known.rule.parse(f"{path}{name}", given[name])
            elif known.default is REQUIRED:
                raise ParameterValueError(f"{path}{name}", "is missing")
            elif known.default is None:
                values[name] = known.rule.parse(name, None)
        parsed = cls(**values)
        object.__setattr__(parsed, "given", values.keys() & given.keys())
        return parsed

    def leaves(self, path: str = "") -> list[Leaf]:
        """Return all values with their paths, those of a list of mappings one by one."""
        if not path and "_leaves" in vars(self):
            return self._leaves
        found: list[Leaf] = []
        for name, field in self.fields.items():
            value = getattr(self, name)
            if isinstance(field.rule, ListOf):
                for index, entry in enumerate(value):
                    found += entry.leaves(f"{path}{name}[{index}].")
            elif isinstance(field.rule, Several):
                item = Field(name, field.rule.rule)
                found += [(f"{path}{name}[{index}]", item, entry) for index, entry in enumerate(value)]
            elif isinstance(field.rule, Others):
                found += [(f"{path}{key}", Field(key, field.rule.rule(key)), one) for key, one in value]
            else:
                found.append((f"{path}{name}", field, value))
        if not path:
            object.__setattr__(self, "_leaves", found)  # values do not change, and are asked for again and again
        return found

    def with_leaves(self: Self, values: Mapping[str, object], path: str = "") -> Self:
        """Return the same with other values under some paths."""
        if not values:
            return self
        changed: dict[str, object] = {}
        for name, field in self.fields.items():
            where, value = f"{path}{name}", getattr(self, name)
            if isinstance(field.rule, ListOf):
                changed[name] = tuple(entry.with_leaves(values, f"{where}[{i}].") for i, entry in enumerate(value))
            elif isinstance(field.rule, Several):
                changed[name] = tuple(values.get(f"{where}[{i}]", entry) for i, entry in enumerate(value))
            elif isinstance(field.rule, Others):
                changed[name] = tuple((key, values.get(f"{path}{key}", one)) for key, one in value)
            else:
                changed[name] = values.get(where, value)
        copied = replace(self, **changed)  # type: ignore[type-var]  # the subclasses are dataclasses
        object.__setattr__(copied, "given", self.given)
        return copied

    def with_auto(self: Self, name: str) -> Self:
        """Return the same as if the user had given ``"auto"`` for a field."""
        made = self.with_leaves({name: self.fields[name].rule.parse(name, AUTO)})
        object.__setattr__(made, "given", self.given | {name})
        return made

    def params(self) -> Params:
        """Return the values by name, as they stand in a configuration."""
        return {name: written(getattr(self, name)) for name in self.named_fields()} | self._others()

    def given_params(self) -> Params:
        """Return the values that the user gave, by name, as they stand in a configuration."""
        params: Params = {}
        for name in [name for name in self.fields if name in self.given]:
            value = getattr(self, name)
            listed = isinstance(self.fields[name].rule, ListOf)
            params[name] = [entry.given_params() for entry in value] if listed else written(value)
        return params | self._others()

    def _others(self) -> Params:
        """Return the values that no field declares, by name."""
        return {key: written(one) for key, one in (getattr(self, self.others_of) if self.others_of else ())}


def with_keys(known: Mapping[str, Field]) -> Iterator[tuple[str, Field]]:
    """Return name and field of each, a list of mappings followed by the keys of its mappings: ``phases[].steps``."""
    for name, field in known.items():
        yield name, field
        if isinstance(field.rule, ListOf):
            for entry in filter(None, (field.rule.entry, field.rule.group)):
                shown = {key: "<name>" if key == entry.others_of else key for key in entry.fields}
                yield from ((f"{name}[].{shown[key]}", inner) for key, inner in entry.fields.items())


Declared = TypeVar("Declared", bound=type[Fields])


@dataclass_transform(frozen_default=True)
def declared(cls: Declared) -> Declared:
    """Make a frozen dataclass of a class with annotated attributes, and read its fields.

    Raises:
        TypeError: if an attribute has no rule.
    """
    made: Any = cls if "__dataclass_fields__" in vars(cls) else dataclass(frozen=True)(cls)
    hints, described = get_type_hints(made, include_extras=True), argument_help(made)
    made.fields = {
        f.name: Field(
            f.name,
            _rule(f.name, hints[f.name]),
            REQUIRED if f.default is MISSING else f.default,
            described.get(f.name, ""),
        )
        for f in fields(made)
    }
    made.others_of = next((name for name, field in made.fields.items() if isinstance(field.rule, Others)), "")
    return made  # type: ignore[no-any-return]


def _rule(name: str, hint: object) -> Rule:
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]  # type: ignore[no-any-return]
    if get_origin(hint) is Literal:
        return Choice(get_args(hint))
    if hint is bool:
        return Switch()
    raise TypeError(f"{name}: annotate it with a rule, such as Annotated[..., Number(...)]")


def argument_help(described: type) -> dict[str, str]:
    """Return name -> text of the ``Args`` section of a Google-style docstring; empty where docstrings are stripped."""
    found: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(described) or "").partition("\nArgs:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        if line.startswith("        "):
            found[name] += f" {line.strip()}"
        elif ":" in line:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return {key: text.replace("`", "") for key, text in found.items()}
