"""A DeepSpeed configuration: its scheduler and optimizer sections, and what it asks of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.schedules.cool_down import COOL_DOWN
from lightning_lrsched.schedules.errors import (
    ParameterTypeError,
    ParameterValueError,
    count,
    key_path,
    number,
    to_number,
)
from lightning_lrsched.schedules.fields import Params
from lightning_lrsched.schedules.length import is_word

SECTION_KEYS = {
    "scheduler": ("type", "params", "unit", COOL_DOWN),
    "optimizer": ("type", "params", "groups", "layer_decay"),
}
HUGGING_FACE = "lr_scheduler_type"
"""The key of a section, or of a whole file, that has the schedule as Hugging Face's ``TrainingArguments`` have it."""

IGNORED_SECTION_KEYS = ("legacy_fusion",)  # of DeepSpeed's fused optimizers

MISSPELLED = {
    **dict.fromkeys(("lr_scheduler", "lr_schedule", "schedulers", "schedule", "schedular", "sheduler"), "scheduler"),
    **dict.fromkeys(("optimizers", "optim", "optimiser"), "optimizer"),
}
"""Top-level keys that DeepSpeed silently ignores -> the section that was meant."""


LIKENESS = 0.87
"""How alike two keys are if one is a misspelling of the other (difflib's ratio); of DeepSpeed's own keys, none are."""

OF_LIGHTNING_CLI = (
    ": class_path and init_args are LightningCLI's form, which only LightningCLI reads; here a section 'scheduler' has"
    " type and params"
)


@dataclass(frozen=True)
class Sections:
    """The two sections of a configuration, as they stand there, the key path that leads to them, and all its keys."""

    scheduler: Any = None
    optimizer: Any = None
    prefix: str = ""
    keys: tuple[object, ...] = ()

    @classmethod
    def find(cls, config: Mapping[str, object]) -> Sections:
        """Look for the sections in a whole DeepSpeed configuration, also one level down under ``deepspeed:``.

        A mapping with a ``type`` or ``lr_scheduler_type`` is a scheduler section itself. Other keys are ignored.

        Raises:
            TypeError: if ``config`` is not a mapping.
            ValueError: if a key looks like a misspelled section.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"a scheduler configuration must be a mapping, got {type(config).__name__}")
        if {"type", "params"} & set(config) or (HUGGING_FACE in config and "scheduler" not in config):
            return cls(scheduler=config)
        found, prefix = settings_of(config)
        for key, section in found.items():
            spelled = str(key).lower().replace("-", "_")
            near = _near(spelled, ("scheduler", "optimizer")) if isinstance(section, Mapping) else None
            meant = MISSPELLED.get(spelled, near or key)
            if isinstance(section, Mapping) and "class_path" in section and meant in ("scheduler", "optimizer"):
                raise ParameterValueError(f"{prefix}{key}", OF_LIGHTNING_CLI)
            if spelled in (COOL_DOWN, "cooldown"):
                raise ParameterValueError(
                    f"{prefix}{key}", f": it belongs into the scheduler section: scheduler.{COOL_DOWN}"
                )
            if meant != key:
                raise ParameterValueError(
                    f"{prefix}{key}", f": DeepSpeed ignores this section (did you mean {meant!r}?)"
                )
        return cls(found.get("scheduler"), found.get("optimizer"), prefix, tuple(config))


def _near(key: str, allowed: Iterable[str]) -> str | None:
    """Return which of the allowed keys one is a misspelling of, or is; None: of none."""
    near = get_close_matches(key, allowed, n=1, cutoff=LIKENESS)
    return near[0] if near else None


def settings_of(config: Mapping[str, object]) -> tuple[Mapping[str, object], str]:
    """Return DeepSpeed's settings in a configuration, and their key path: some files have them under ``deepspeed``."""
    nested = config.get("deepspeed")
    is_nested = isinstance(nested, Mapping) and not {"scheduler", "optimizer"} & set(config)
    return (nested, "deepspeed.") if is_nested else (config, "")  # type: ignore[return-value]


def lr_of(section: object) -> float | None:
    """Return the lr that an ``optimizer`` section gives, whatever else is in it; None for ``"auto"``, or if none.

    >>> lr_of({"type": "AdamW", "params": {"lr": "2e-3"}}), lr_of({"params": {"lr": "auto"}}), lr_of(None)
    (0.002, None, None)
    """
    params = section.get("params") if isinstance(section, Mapping) else None
    lr = params.get("lr") if isinstance(params, Mapping) else None
    lr = to_number(lr) if isinstance(lr, str) else lr
    return float(lr) if isinstance(lr, (int, float)) and not isinstance(lr, bool) else None


def type_and_params(name: str, section: object) -> tuple[Any, Mapping[str, object]]:
    """Return type and hyperparameters of a section ``{"type": ..., "params": {...}}``.

    Args:
        name: what the section is called, for messages: ``"scheduler"`` or ``"optimizer"``.
        section: the section.

    Raises:
        TypeError: if the section or its params are not a mapping.
        ValueError: if it has no type, or has keys that belong in ``params``.
    """
    if not isinstance(section, Mapping):
        raise ParameterTypeError(name, f"must be a mapping with the keys type and params, got {type(section).__name__}")
    if "type" not in section:
        keys = ", ".join(map(repr, section)) or "none"
        raise ParameterValueError(f"{name}.type", f"is missing; the section has the keys {keys}")
    keys_of_section = SECTION_KEYS[name.rpartition(".")[2]]  # the name may be a path in a larger file
    for key in section:
        if key not in (*keys_of_section, *IGNORED_SECTION_KEYS):
            *others, last = keys_of_section
            near = get_close_matches(str(key), keys_of_section, cutoff=0.7)
            meant = near[0] if near else f"params.{key}"
            raise ParameterValueError(
                f"{name}.{key}",
                f": this section has only the keys {', '.join(others)} and {last}; did you mean {name}.{meant}?",
            )
    params = section.get("params")
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        raise ParameterTypeError(f"{name}.params", f"must be a mapping of keys to values, got {type(params).__name__}")
    return section["type"], params


# The Trainer's part ---------------------------------------------------------------------------------------------------

TRAIN, MICRO, ACCUMULATION = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
CLIPPING, PRINTS = "gradient_clipping", "steps_per_print"

SHORTENED = {
    **dict.fromkeys(("gradient_clip", "grad_clipping"), CLIPPING),
    **dict.fromkeys(("gradient_accum_steps", "grad_accum_steps", "gradient_accumulation"), ACCUMULATION),
    "train_micro_batch_size": MICRO,
}
"""Keys that DeepSpeed ignores -> the key that was meant."""

PRECISION = {"bf16": "bf16-mixed", "bfloat16": "bf16-mixed", "fp16": "16-mixed", "amp": "16-mixed"}
"""DeepSpeed's section -> the Trainer's precision; bfloat16 is its older name."""


def trainer_arguments(config: Mapping[str, object] | str | Path, *, world_size: int | None = None) -> Params:
    """Return what a whole DeepSpeed configuration asks of the Trainer, as arguments for ``Trainer(**...)``.

    ============================================ ===========================
    DeepSpeed                                    Trainer
    ============================================ ===========================
    ``gradient_accumulation_steps``              ``accumulate_grad_batches``
    ``gradient_clipping`` (not 0)                ``gradient_clip_val``
    ``bf16``, ``fp16`` or ``amp``, if enabled    ``precision``
    ``steps_per_print``                          ``log_every_n_steps``
    ============================================ ===========================

    If the accumulation is not given, it is computed from the batch sizes and the number of devices where possible.
    Values that are ``"auto"`` are left out.

    Args:
        config: a dictionary, or the path of a JSON or YAML file.
        world_size: number of devices; None: not known.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a key is misspelt, both bf16 and fp16 are enabled, or the batch sizes
            contradict each other.

    Source:
        DeepSpeed 0.19.8, https://www.deepspeed.ai/docs/config-json/ (batch size, gradient clipping, precision).

    Example:
        >>> trainer_arguments({"gradient_accumulation_steps": 4, "gradient_clipping": 1.0, "bf16": {"enabled": True}})
        {'accumulate_grad_batches': 4, 'gradient_clip_val': 1.0, 'precision': 'bf16-mixed'}
        >>> trainer_arguments({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8}, world_size=2)
        {'accumulate_grad_batches': 4}
    """
    if isinstance(config, (str, Path)):
        with key_path(f"{config}: "):
            return _arguments(read_mapping(config), world_size)
    return _arguments(config, world_size)


def _arguments(config: Mapping[str, object], world_size: int | None) -> Params:
    settings, prefix = settings_of(config)
    with key_path(prefix):
        _check_keys(settings)
        clipping = _value(settings, CLIPPING)
        if clipping is not None:
            clipping = number(CLIPPING, clipping, at_least=0) or None
        found = {
            "accumulate_grad_batches": _accumulation(settings, world_size),
            "gradient_clip_val": clipping,
            "precision": _precision(settings),
            "log_every_n_steps": _count(settings, PRINTS),
        }
    return {key: value for key, value in found.items() if value is not None}


def _check_keys(settings: Mapping[str, object]) -> None:
    """Raise ValueError where a key is a misspelling of one that is read here: DeepSpeed would ignore it silently."""
    missing = [key for key in (TRAIN, MICRO, ACCUMULATION, CLIPPING, PRINTS) if key not in settings]
    for key in map(str, settings):
        spelled = key.lower().replace("-", "_")
        precision = spelled.replace("_", "")
        near = precision if precision in PRECISION and precision not in settings else _near(spelled, missing)
        meant = SHORTENED.get(spelled, near)
        if meant is not None and meant not in settings:
            raise ParameterValueError(key, f": DeepSpeed ignores this key (did you mean {meant!r}?)")


def _accumulation(settings: Mapping[str, object], world_size: int | None) -> int | None:
    """Return the accumulated batches; check that train = micro x accumulation x devices, as far as these are known."""
    train, micro, given = (_count(settings, key) for key in (TRAIN, MICRO, ACCUMULATION))
    if train is None or micro is None or (given is None and world_size is None):
        return given
    at_once = micro * (given or 1) * (world_size or 1)
    if train % at_once or (given and world_size and train != at_once):
        devices = "" if world_size is None else f" x {world_size} devices"
        raise ParameterValueError(
            TRAIN, f"must be {MICRO} x {ACCUMULATION} x devices, got {train} and {micro} x {given or '?'}{devices}"
        )
    return given or train // at_once


def _precision(settings: Mapping[str, object]) -> str | None:
    enabled = [key for key in PRECISION if _is_enabled(settings, key)]
    if len({PRECISION[key] for key in enabled}) > 1:
        raise ParameterValueError(enabled[0], f"and {enabled[-1]} are both enabled; keep one of them")
    return PRECISION[enabled[0]] if enabled else None


def _is_enabled(settings: Mapping[str, object], key: str) -> bool:
    section = settings.get(key, False)
    enabled = section.get("enabled", False) if isinstance(section, Mapping) else section
    enabled = {"true": True, "false": False}.get(enabled.lower(), enabled) if isinstance(enabled, str) else enabled
    if is_word(enabled, "auto") or enabled is None:
        return False
    if not isinstance(enabled, bool):
        raise ParameterTypeError(f"{key}.enabled", f"must be true or false, got {enabled!r}")
    return enabled


def _value(settings: Mapping[str, object], key: str) -> object:
    value = settings.get(key)
    spelled = to_number(value) if isinstance(value, str) else None
    return None if is_word(value, "auto") else value if spelled is None else spelled


def _count(settings: Mapping[str, object], key: str) -> int | None:
    value = _value(settings, key)
    return None if value is None else count(key, value, at_least=1)
