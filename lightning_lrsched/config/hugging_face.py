"""Hugging Face's learning-rate schedules, by their names and arguments, as configurations of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from lightning_lrsched.config.deepspeed import HUGGING_FACE
from lightning_lrsched.schedules.cool_down import COOL_DOWN
from lightning_lrsched.schedules.errors import (
    ParameterTypeError,
    ParameterValueError,
    choice,
    count,
    did_you_mean,
    number,
    short,
    to_number,
)
from lightning_lrsched.schedules.fields import AUTO, RATIO, REST, Params
from lightning_lrsched.schedules.phases import MAX_REPEATS

TYPE, WARMUP_STEPS, WARMUP_RATIO, KWARGS = HUGGING_FACE, "warmup_steps", "warmup_ratio", "lr_scheduler_kwargs"
OWN_KEYS = ("unit", COOL_DOWN)

Length = int | str

REFUSED = {
    "reduce_lr_on_plateau": "it follows a metric, and a schedule here is a function of the position; return torch's"
    " ReduceLROnPlateau from configure_optimizers",
    "greedy": "it follows a metric, and a schedule here is a function of the position",
}

RISES: dict[str, Params] = {
    "linear": {},
    "cosine": {"shape": "cosine"},
    "1-sqrt": {"shape": "polynomial", "power": 0.5},
}
"""Hugging Face's ``warmup_type`` -> keys of a phase."""

FALLS: dict[str, Params] = {"linear": {}, "cosine": {"shape": "cosine"}, "1-sqrt": {"shape": "1-sqrt"}}
"""Hugging Face's ``decay_type`` -> keys of a phase."""


def from_hugging_face(arguments: Mapping[str, Any]) -> Params:
    """Return the configuration of ours that has the values of Hugging Face's Trainer at every step of the run.

    Args:
        arguments: ``lr_scheduler_type``, ``warmup_steps`` (below 1: a fraction of the run), ``warmup_ratio`` and
            ``lr_scheduler_kwargs``, as in ``TrainingArguments``; ``unit`` and ``cool_down`` are taken over. Its other
            arguments may be there too and are ignored. The peak is each param group's own lr.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if there is no such type or argument, or the type follows a metric.

    Source:
        transformers 5.24.0, ``transformers.optimization.get_scheduler`` and ``TrainingArguments.get_warmup_steps``.

    Example:
        >>> from_hugging_face({"lr_scheduler_type": "linear", "warmup_steps": 10})["params"]["phases"]
        [{'steps': 10, 'lr': 'auto'}, {'steps': 'rest', 'lr': 0.0}]
    """
    make, allowed = TYPES[_type(arguments)]
    params = make(_kwargs(arguments, allowed), _warmup(arguments))
    beside = {key: arguments[key] for key in OWN_KEYS if key in arguments}
    return {"type": "PhasedLR", "params": params, **beside}


# What stands in the section -------------------------------------------------------------------------------------------


def _type(arguments: Mapping[str, Any]) -> str:
    known, in_kwargs = (
        (TYPE, WARMUP_STEPS, WARMUP_RATIO, KWARGS, *OWN_KEYS),
        {k for _, ks in TYPES.values() for k in ks},
    )
    for key in map(str, arguments):
        if key in in_kwargs:
            raise ParameterValueError(key, f": it belongs into {KWARGS}")
        if key not in known and get_close_matches(key, known, cutoff=0.8):
            raise ParameterValueError(key[:60], f": there is no such argument{did_you_mean(key, known)}")
    name = arguments[TYPE]
    if isinstance(name, str) and name in REFUSED:
        raise ParameterValueError(TYPE, f'="{name}": {REFUSED[name]}')
    name = choice(TYPE, name, tuple(TYPES))
    if name == "constant" and _warmup(arguments):
        raise ParameterValueError(TYPE, '="constant" has no warmup (did you mean "constant_with_warmup"?)')
    return name


def _kwargs(arguments: Mapping[str, Any], allowed: tuple[str, ...]) -> Params:
    given = arguments.get(KWARGS)
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ParameterTypeError(KWARGS, f"must be a mapping, got {short(given)}")
    for key in given:
        if key not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            problem = f': "{arguments[TYPE]}" has no such argument{did_you_mean(key, allowed)}; {takes}'
            raise ParameterValueError(f"{KWARGS}.{str(key)[:60]}", problem)
    return {key: value for key, value in given.items() if value is not None}


def _warmup(arguments: Mapping[str, Any]) -> Length:
    """Return the length of the warmup as a phase has it; a fraction is rounded up, as Hugging Face does."""
    steps = _number(arguments, WARMUP_STEPS, 0.0, path="", at_least=0)
    share = steps or _number(arguments, WARMUP_RATIO, 0.0, path="", at_least=0, at_most=1)
    if steps >= 1:
        return int(steps)
    return "100%" if share == 1.0 else f"ceil({share!r})" if share else 0


def _number(
    given: Params | Mapping[str, Any], key: str, default: float, path: str = f"{KWARGS}.", **limits: float
) -> float:
    value = given.get(key)
    spelled = to_number(value) if isinstance(value, str) else None
    return default if value is None else number(f"{path}{key}", value if spelled is None else spelled, **limits)


# Name -> phases -------------------------------------------------------------------------------------------------------


def _then(rise: Length, *phases: Params) -> Params:
    return {"phases": [{"steps": rise, "lr": AUTO}, *phases]}


def _linear(_: Params, rise: Length) -> Params:
    return _then(rise, {"steps": REST, "lr": 0.0})


def _constant(_: Params, rise: Length) -> Params:
    return _then(rise, {"steps": REST})


def _cosine(given: Params, rise: Length) -> Params:
    return _then(rise, *_waves(given, 0.0))


def _waves(given: Params, low: object) -> list[Params]:
    """Return a phase for each half of a wave."""
    halves = 2.0 * _number(given, "num_cycles", 0.5, above=0, at_most=MAX_REPEATS)
    if not halves.is_integer():
        raise ParameterValueError(f"{KWARGS}.num_cycles", f"must be a multiple of 0.5, got {given['num_cycles']!r}")
    return [{"steps": REST, "lr": AUTO if half % 2 else low, "shape": "cosine"} for half in range(int(halves))]


def _restarts(given: Params, rise: Length) -> Params:
    times = count(f"{KWARGS}.num_cycles", given.get("num_cycles", 1), at_least=1)
    cycle: list[Params] = [{"steps": 0, "lr": AUTO}, {"steps": REST, "lr": 0.0, "shape": "cosine"}]
    return _then(rise, {"repeat": times, "phases": cycle})


def _polynomial(given: Params, rise: Length) -> Params:
    power, end = _number(given, "power", 1.0, above=0), _number(given, "lr_end", 1e-7, at_least=0)
    return _then(rise, {"steps": REST, "lr": end, "shape": "polynomial", "power": power})


def _inverse_sqrt(given: Params, rise: Length) -> Params:
    scale = count(f"{KWARGS}.timescale", given["timescale"], at_least=1) if "timescale" in given else rise or 10_000
    return _then(rise, {"steps": REST, "lr": 0.0, "shape": "inverse_sqrt", "timescale": scale})


def _min_lr(given: Params, rise: Length) -> Params:
    return _then(rise, *_waves(given, _low(given)))


def _low(given: Params) -> object:
    if ("min_lr" in given) == ("min_lr_rate" in given):
        raise ParameterValueError(f"{KWARGS}.min_lr", "or min_lr_rate must be given, one of them")
    if "min_lr" in given:
        return _number(given, "min_lr", 0.0, at_least=0)
    return {RATIO: _number(given, "min_lr_rate", 0.0, at_least=0)}


def _early_min_lr(given: Params, rise: Length) -> Params:
    """Return a warmup that begins above 0, and everything one step earlier than in the others."""
    least = 2 if "warmup_lr_rate" in given else 1
    if isinstance(rise, str) or rise < least:
        problem = f'must be a number of steps, at least {least}, for "cosine_warmup_with_min_lr"'
        raise ParameterValueError(WARMUP_STEPS, problem)
    start = {RATIO: _number(given, "warmup_lr_rate", 1.0 / rise, at_least=0)}
    return {**_then(rise - 1, *_waves(given, _low(given)), {"steps": 1}), "start_lr": start}


def _stable(given: Params, rise: Length) -> Params:
    low = {RATIO: _number(given, "min_lr_ratio", 0.0, at_least=0)}
    if "num_decay_steps" not in given:
        raise ParameterValueError(f"{KWARGS}.num_decay_steps", 'is missing: "warmup_stable_decay" needs it')
    if _number(given, "num_cycles", 0.5) != 0.5:
        raise ParameterValueError(f"{KWARGS}.num_cycles", f"must be 0.5, got {given['num_cycles']!r}")
    up = RISES[choice(f"{KWARGS}.warmup_type", given.get("warmup_type", "linear"), tuple(RISES))]
    down = FALLS[choice(f"{KWARGS}.decay_type", given.get("decay_type", "cosine"), tuple(FALLS))]
    decay = count(f"{KWARGS}.num_decay_steps", given["num_decay_steps"])
    stable = count(f"{KWARGS}.num_stable_steps", given["num_stable_steps"]) if "num_stable_steps" in given else REST
    phases = [{"steps": rise, "lr": AUTO, **up}, {"steps": stable}, {"steps": decay, "lr": low, **down}]
    return {"phases": phases, "start_lr": low}


MIN_LR = ("min_lr", "min_lr_rate", "num_cycles")
STABLE = ("num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles")

TYPES: dict[str, tuple[Callable[[Params, Length], Params], tuple[str, ...]]] = {
    "linear": (_linear, ()),
    "cosine": (_cosine, ("num_cycles",)),
    "cosine_with_restarts": (_restarts, ("num_cycles",)),
    "polynomial": (_polynomial, ("lr_end", "power")),
    "constant": (_constant, ()),
    "constant_with_warmup": (_constant, ()),
    "inverse_sqrt": (_inverse_sqrt, ("timescale",)),
    "cosine_with_min_lr": (_min_lr, MIN_LR),
    "cosine_warmup_with_min_lr": (_early_min_lr, (*MIN_LR, "warmup_lr_rate")),
    "warmup_stable_decay": (_stable, STABLE),
}
"""Name -> its phases, and its arguments in ``lr_scheduler_kwargs``."""
