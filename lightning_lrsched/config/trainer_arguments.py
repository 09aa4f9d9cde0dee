"""trainer_arguments: the settings of a DeepSpeed configuration that are arguments of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_lrsched.config.deepspeed import settings_of
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.schedulers.checks import count, number, to_number
from lightning_lrsched.schedulers.durations import is_auto
from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError, key_path

TRAIN, MICRO, ACCUMULATION = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"

PRECISION = {"bf16": "bf16-mixed", "bfloat16": "bf16-mixed", "fp16": "16-mixed", "amp": "16-mixed"}
"""DeepSpeed's section -> the Trainer's precision; bfloat16 is its older name."""


def trainer_arguments(config: Mapping[str, Any] | str | Path, *, world_size: int | None = None) -> dict[str, Any]:
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
        ValueError: if a value is out of range, both bf16 and fp16 are enabled, or the batch sizes contradict each
            other.

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


def _arguments(config: Mapping[str, Any], world_size: int | None) -> dict[str, Any]:
    settings, prefix = settings_of(config)
    with key_path(prefix):
        clipping = _number(settings, "gradient_clipping")
        found = {
            "accumulate_grad_batches": _accumulation(settings, world_size),
            "gradient_clip_val": clipping or None,
            "precision": _precision(settings),
            "log_every_n_steps": _count(settings, "steps_per_print"),
        }
    return {key: value for key, value in found.items() if value is not None}


def _accumulation(settings: Mapping[str, Any], world_size: int | None) -> int | None:
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


def _precision(settings: Mapping[str, Any]) -> str | None:
    enabled = [key for key in PRECISION if _is_enabled(settings, key)]
    if len({PRECISION[key] for key in enabled}) > 1:
        raise ParameterValueError(enabled[0], f"and {enabled[-1]} are both enabled; keep one of them")
    return PRECISION[enabled[0]] if enabled else None


def _is_enabled(settings: Mapping[str, Any], key: str) -> bool:
    section = settings.get(key, False)
    enabled = section.get("enabled", False) if isinstance(section, Mapping) else section
    enabled = {"true": True, "false": False}.get(enabled.lower(), enabled) if isinstance(enabled, str) else enabled
    if is_auto(enabled) or enabled is None:
        return False
    if not isinstance(enabled, bool):
        raise ParameterTypeError(f"{key}.enabled", f"must be true or false, got {enabled!r}")
    return enabled


def _value(settings: Mapping[str, Any], key: str) -> Any:
    value = settings.get(key)
    spelled = to_number(value) if isinstance(value, str) else None
    return None if is_auto(value) else value if spelled is None else spelled


def _count(settings: Mapping[str, Any], key: str) -> int | None:
    value = _value(settings, key)
    return None if value is None else count(key, value, at_least=1)


def _number(settings: Mapping[str, Any], key: str) -> float | None:
    value = _value(settings, key)
    return None if value is None else number(key, value, at_least=0)
