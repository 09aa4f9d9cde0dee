"""The optimizer that a DeepSpeed ``optimizer`` section asks for, made from torch's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.config.deepspeed import type_and_params
from lightning_lrsched.config.param_groups import LR_RATIO, GroupRules
from lightning_lrsched.optim.hyperparameters import numbers_of
from lightning_lrsched.optim.scheduled_lr import SCALE
from lightning_lrsched.schedules.errors import ParameterTypeError, ParameterValueError, did_you_mean, switch
from lightning_lrsched.schedules.fields import AnyValue, Switch
from lightning_lrsched.schedules.length import is_word

Options = dict[str, Any]
"""Arguments of an optimizer by name."""

NEAREST = {
    **dict.fromkeys(("onebitadam", "zerooneadam", "deepspeedcpuadam", "cpuadam", "fusedadam", "muadam"), "AdamW"),
    **dict.fromkeys(("lamb", "onebitlamb", "fusedlamb", "muadamw", "lion", "deepspeedcpulion"), "AdamW"),
    **dict.fromkeys(("adam8bit", "pagedadamw", "adamw_torch", "adamw8bit", "lars", "sm3"), "AdamW"),
    **dict.fromkeys(("musgd",), "SGD"),
    **dict.fromkeys(("deepspeedcpuadagrad",), "Adagrad"),
}
"""Optimizers that torch lacks, in lower case -> the nearest one that it has."""

CASELESS = {"adam": "Adam", "adamw": "AdamW", "adagrad": "Adagrad", "muon": "Muon"}
"""DeepSpeed's own names, which it reads in any case."""

UNUSED_IN_TORCH = ("set_grad_none", "fp32_optimizer_states")
"""Parameters of DeepSpeed's Adam that change its memory, not its numbers."""

AUTO_DEFAULTS: Options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
"""What "auto" means where the module has no value: the values that Hugging Face fills in."""

OTHER_AUTO_NAMES = {"lr": ("lr", "learning_rate")}


def build_optimizer(
    module: Module, section: object, params: Iterable[Any] | None = None, prefix: str = "", *, scheduled: bool = False
) -> Optimizer:
    """Return the torch optimizer that a ``{"type", "params"}`` section asks for.

    Args:
        module: whose parameters it optimizes, and where ``"auto"`` looks for ``lr`` and the like: an attribute of the
            module or of its ``hparams``.
        section: DeepSpeed's ``optimizer`` section.
        params: parameters or param groups; None: the module's own.
        prefix: key path to the section, for messages.
        scheduled: whether a schedule of this package sets the lr: then the ratios of ``groups`` and ``layer_decay``
            become ``lr_scale`` in the param groups, which holds for any schedule; else they multiply the groups' lr.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if torch has no such optimizer, it has no such parameter, or a pattern matches none of the module's.
    """
    rules = GroupRules.parse(f"{prefix}optimizer", section)
    if rules is None:
        return _make(module, section, prefix, lambda: _param_groups(module) if params is None else list(params))
    if params is not None or callable(getattr(module, "param_groups", None)):
        given = "the module's param_groups()" if params is None else "params"
        raise ParameterValueError(
            f"{prefix}optimizer.{'groups' if rules.rules else 'layer_decay'}", f": not together with {given}; keep one"
        )
    weight_decay = optimizer_numbers(module, section, prefix).get("weight_decay")
    groups = rules.groups(module, weight_decay)
    optimizer = _make(module, section, prefix, lambda: groups)
    for group in optimizer.param_groups:
        ratio = group.pop(LR_RATIO)
        if scheduled:
            group.update({} if ratio == 1.0 else {SCALE: ratio})
        else:
            group["lr"] = group["lr"] * ratio
    return optimizer


def group_lines(optimizer: Optimizer) -> list[str]:
    """Return a line for each param group: its name, number of parameters, lr and weight decay."""
    return [
        f"{group.get('name', f'group {number}')}: {_counted(sum(p.numel() for p in group['params']), 'number')} in"
        f" {_counted(len(group['params']), 'parameter')}, lr {float(group['lr']) * float(group.get(SCALE, 1.0)):.4g}"
        + (f", weight decay {group['weight_decay']:.4g}" if "weight_decay" in group else "")
        for number, group in enumerate(optimizer.param_groups)
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def check_optimizer(module: object, section: object, prefix: str = "") -> tuple[str, bool]:
    """Return the name of the torch optimizer that a section asks for, and whether it has a momentum to cycle.

    The optimizer's own constructor checks the values; no optimizer is made.

    Args:
        module: where ``"auto"`` looks for ``lr`` and the like; any object with attributes.
        section: DeepSpeed's ``optimizer`` section.
        prefix: key path to the section, for messages.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if torch has no such optimizer, or it has no such parameter.
    """
    GroupRules.parse(f"{prefix}optimizer", section)
    try:
        _make(module, section, prefix, _NoParameters)
    except _ValuesAreGood as found:
        return found.optimizer, found.has_momentum
    raise AssertionError("torch's constructors iterate over the parameters")


def optimizer_numbers(module: object, section: object, prefix: str = "") -> dict[str, float]:
    """Return the hyperparameters, by name, of the torch optimizer that a section asks for; no model is needed.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if torch has no such optimizer, or it has no such parameter.
    """
    matrix = torch.nn.Parameter(torch.zeros(2, 2))  # some optimizers take nothing else
    return numbers_of(_make(module, section, prefix, lambda: [matrix]).param_groups[0])


class _ValuesAreGood(Exception):  # noqa: N818 - not an error
    """A constructor has checked its values and asked for the parameters."""

    optimizer = ""
    has_momentum = False


class _NoParameters:
    """Stand in for a model's parameters: torch's constructors check their values before they iterate over them."""

    def __iter__(self) -> Iterator[Any]:
        raise _ValuesAreGood


def _make(module: object, section: object, prefix: str, parameters: Callable[[], Any]) -> Optimizer:
    where = f"{prefix}optimizer"
    type_name, given = type_and_params(where, section)
    name, options = _read_adam(f"{where}.params", _known_name(where, type_name), dict(given))
    optimizer_class: type[Optimizer] = getattr(torch.optim, name)
    options = _check_options(f"{where}.params", optimizer_class, options, module)
    of_model = parameters()
    try:
        return optimizer_class(of_model, **options)
    except _ValuesAreGood as found:
        found.optimizer, found.has_momentum = name, _has_momentum(optimizer_class, options)
        raise
    except Exception as error:  # noqa: BLE001 - anything may come from values that torch does not check
        kind = ParameterTypeError if isinstance(error, TypeError) else ParameterValueError
        raise kind(f"{where}.params", f": {name} refuses them: {error}") from None


def _has_momentum(optimizer_class: type[Optimizer], options: Mapping[str, object]) -> bool:
    parameters = inspect.signature(optimizer_class.__init__).parameters
    default = parameters["momentum"].default if "momentum" in parameters else 0.0
    return "betas" in parameters or bool(options.get("momentum", default))


def _known_name(where: str, name: object) -> str:
    known = [n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, Optimizer)]
    known.remove("Optimizer")
    if not isinstance(name, str):
        raise ParameterTypeError(f"{where}.type", f"must be the name of an optimizer, got {str(name)[:80]!r}")
    found = CASELESS.get(name.lower(), name)
    if found in known:
        return found
    short = name.rpartition(".")[2][:60]
    nearest = NEAREST.get(short.lower().replace("-", "").replace("_", ""))
    hint = f" (the nearest one is {nearest!r})" if nearest else did_you_mean(short, known)
    if not hint and "adam" in short.lower():
        hint = " (the nearest one is 'AdamW')"
    raise ParameterValueError(
        f"{where}.type",
        f": torch.optim has no {name[:80]!r}{hint}; an optimizer of another package can be made in your own code and"
        " passed instead of the module",
    )


def _read_adam(where: str, name: str, options: Options) -> tuple[str, Options]:
    """Read the parameters of DeepSpeed's Adam: by default it decouples the weight decay."""
    if name not in ("Adam", "AdamW"):
        return name, options
    decoupled = _pop_flag(where, options, "adam_w_mode", default=True)
    # DeepSpeed's own kernels have no weight decay by default; torch's AdamW has 0.01.
    if not _pop_flag(where, options, "torch_adam", default=False):
        options.setdefault("weight_decay", 0.0)
    if not _pop_flag(where, options, "bias_correction", default=True):
        raise ParameterValueError(
            f"{where}.bias_correction", f": torch's {name} always corrects the bias, false is not possible"
        )
    for key in UNUSED_IN_TORCH:
        options.pop(key, None)
    return ("AdamW" if decoupled or name == "AdamW" else "Adam"), options


def _pop_flag(where: str, options: Options, key: str, *, default: bool) -> bool:
    return switch(f"{where}.{key}", options.pop(key, default))


def _check_options(
    where: str, optimizer_class: type[Optimizer], options: Mapping[str, object], module: object
) -> Options:
    allowed = dict(inspect.signature(optimizer_class.__init__).parameters)
    for key in ("self", "params"):
        del allowed[key]
    checked: Options = {}
    for key, value in options.items():
        if key == "max_grad_norm":
            raise ParameterValueError(
                f"{where}.max_grad_norm",
                f": gradient clipping is not a parameter of an optimizer; set Trainer(gradient_clip_val={value!r})",
            )
        if key in ("muon_lr", "adam_lr"):
            raise ParameterValueError(
                f"{where}.{key}",
                f": DeepSpeed's {optimizer_class.__name__} makes two optimizers of one section. torch's Muon takes"
                " hidden matrices only: return Muon for them and AdamW for the rest from configure_optimizers, and give"
                " LRSchedulerCallback a list with one schedule for each",
            )
        if key not in allowed:
            raise ParameterValueError(
                f"{where}.{key}",
                f": {optimizer_class.__name__} has no such parameter{did_you_mean(key, list(allowed))};"
                f" it takes {', '.join(allowed)}",
            )
        found = _auto(where, key, module) if is_word(value, "auto") else value
        # Some may be None, too: fused, foreach. For torch any text is true.
        parameter = allowed[key]  # older torches annotate only some of them
        is_switch = ("bool" in str(parameter.annotation) or isinstance(parameter.default, bool)) and found is not None
        checked[key] = (Switch() if is_switch else AnyValue()).parse(f"{where}.{key}", found)
    return checked


def _auto(where: str, key: str, module: object) -> object:
    names = OTHER_AUTO_NAMES.get(key, (key,))
    for owner in (module, getattr(module, "hparams", None)):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, (Real, tuple, list)):
                return value
    if key in AUTO_DEFAULTS:
        return AUTO_DEFAULTS[key]
    looked = " or ".join(f"self.{name}, self.hparams.{name}" for name in names)
    raise ParameterValueError(f"{where}.{key}", f': "auto" takes it from the module, which has no number as {looked}')


def _param_groups(module: Module) -> list[Any]:
    own = getattr(module, "param_groups", None)
    if callable(own):
        return list(own())
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("the module has no trainable parameters")
    return trainable
