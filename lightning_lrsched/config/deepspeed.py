"""The sections of a configuration that matter here: scheduler and optimizer, wherever a DeepSpeed file has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_lrsched.schedulers.checks import to_number
from lightning_lrsched.schedulers.errors import ParameterTypeError, ParameterValueError

SECTION_KEYS = {"scheduler": ("type", "params", "unit"), "optimizer": ("type", "params")}
IGNORED_SECTION_KEYS = ("legacy_fusion",)  # of DeepSpeed's fused optimizers

MISSPELLED = {
    **dict.fromkeys(("lr_scheduler", "lr_schedule", "schedulers", "schedule", "schedular", "sheduler"), "scheduler"),
    **dict.fromkeys(("optimizers", "optim", "optimiser"), "optimizer"),
}
"""Top-level keys that DeepSpeed silently ignores -> the section that was meant."""


@dataclass(frozen=True)
class Sections:
    """The two sections of a configuration, as they stand there, and the key path that leads to them."""

    scheduler: Any = None
    optimizer: Any = None
    prefix: str = ""

    @classmethod
    def find(cls, config: Mapping[str, Any]) -> Sections:
        """Look for the sections in a whole DeepSpeed configuration, also one level down under ``deepspeed:``.

        A mapping with a ``type`` is a scheduler section itself. Other keys are ignored.

        Raises:
            TypeError: if ``config`` is not a mapping.
            ValueError: if a key looks like a misspelled section.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"a scheduler configuration must be a mapping, got {type(config).__name__}")
        if "type" in config or "params" in config:
            return cls(scheduler=config)
        found, prefix = settings_of(config)
        for key in found:
            spelled = str(key).lower().replace("-", "_")
            meant = MISSPELLED.get(spelled, spelled if spelled in ("scheduler", "optimizer") else key)
            if meant != key:
                raise ParameterValueError(
                    f"{prefix}{key}", f": DeepSpeed ignores this section (did you mean {meant!r}?)"
                )
        return cls(found.get("scheduler"), found.get("optimizer"), prefix)


def settings_of(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return DeepSpeed's settings in a configuration, and their key path: some files have them under ``deepspeed``."""
    nested = config.get("deepspeed")
    is_nested = isinstance(nested, Mapping) and not {"scheduler", "optimizer"} & set(config)
    return (nested, "deepspeed.") if is_nested else (config, "")  # type: ignore[return-value]


def lr_of(section: Any) -> float | None:
    """Return the lr that an ``optimizer`` section gives, whatever else is in it; None for ``"auto"``, or if none.

    >>> lr_of({"type": "AdamW", "params": {"lr": "2e-3"}}), lr_of({"params": {"lr": "auto"}}), lr_of(None)
    (0.002, None, None)
    """
    params = section.get("params") if isinstance(section, Mapping) else None
    lr = params.get("lr") if isinstance(params, Mapping) else None
    lr = to_number(lr) if isinstance(lr, str) else lr
    return float(lr) if isinstance(lr, (int, float)) and not isinstance(lr, bool) else None


def type_and_params(name: str, section: Any) -> tuple[Any, Mapping[str, Any]]:
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
            raise ParameterValueError(
                f"{name}.{key}",
                f": this section has only the keys {', '.join(others)} and {last}; did you mean {name}.params.{key}?",
            )
    params = section.get("params")
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        raise ParameterTypeError(f"{name}.params", f"must be a mapping of keys to values, got {type(params).__name__}")
    return section["type"], params


def short(value: Any) -> str:
    """Return ``value``, shortened for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
