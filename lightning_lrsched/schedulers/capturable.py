"""make_capturable: turns float learning rates and momenta into tensors, for compiled or captured optimizer steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def make_capturable(optimizer: Optimizer, *, momentum: bool) -> None:
    """Turn the lr of every param group, and the first beta where momentum is scheduled, into tensors on its device.

    A compiled optimizer step is recompiled for every new float, and a captured CUDA graph repeats the old one forever;
    both read the current value of a tensor. The values stay the same, existing tensors are kept, and torch's
    ``capturable`` is switched on (except on a CPU, where torch refuses it).

    Args:
        optimizer: an optimizer of torch that has the option ``capturable``.
        momentum: whether momentum will change too. Then the optimizer must have ``betas``, and updates its
            parameters one by one (``foreach=False``): torch's other implementations read a tensor beta
            back from the device, or take it as a number.

    Raises:
        ValueError: if the optimizer cannot work with such tensors; in that case nothing is changed.

    Example:
        >>> optimizer = torch.optim.AdamW([torch.zeros(1)], lr=0.5)
        >>> make_capturable(optimizer, momentum=False)
        >>> optimizer.param_groups[0]["lr"]
        tensor(0.5000)
    """
    for group in optimizer.param_groups:
        _refuse(optimizer, group, momentum)
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = _tensor(group["lr"], device)
        if momentum:
            group["betas"] = (_tensor(group["betas"][0], device), *group["betas"][1:])
            group["foreach"] = False
        if device.type != "cpu":
            group["capturable"] = True
            _move_counters(optimizer, group)


def _refuse(optimizer: Optimizer, group: dict[str, Any], momentum: bool) -> None:
    name = type(optimizer).__name__
    if "capturable" not in group:
        raise ValueError(
            f"capturable: {name} has no such mode in torch {torch.__version__}; those of torch.optim that have it are"
            f" {', '.join(_with_capturable())}. To compile the step of an optimizer without it, give it a tensor lr"
            " yourself: a schedule writes it in place"
        )
    if len({parameter.device for parameter in group["params"]}) > 1:
        raise ValueError(
            "capturable: the parameters of one param group are on several devices; make one group per device"
        )
    if not momentum:
        return
    why = None
    if "betas" not in group:
        why = f"{name} reads a tensor momentum back from the device at every step"
    elif group.get("fused"):
        why = f"{name}(fused=True) takes its betas as numbers"
    elif group.get("foreach"):
        why = f"{name}(foreach=True) reads tensor betas back from the device at every step"
    if why:
        raise ValueError(
            f"capturable: {why}, so its momentum cannot be scheduled; schedule the lr alone (cycle_momentum: false),"
            " or use an optimizer with betas (Adam, AdamW, NAdam, ...) without fused and foreach"
        )


def _tensor(value: Any, device: torch.device) -> Tensor:
    # float32, as torch's own counters: float64 would be another dtype than the parameters', which some kernels refuse.
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float32, device=device)


def _move_counters(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Move the step counters to the device of the parameters, where ``capturable`` needs them."""
    for parameter in group["params"]:
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() == 0 and value.device != parameter.device:
                state[key] = value.to(parameter.device)


def _with_capturable() -> list[str]:
    """Return the names of torch's optimizers that have the option."""
    found = []
    for name, cls in vars(torch.optim).items():
        if isinstance(cls, type) and issubclass(cls, Optimizer):
            code = getattr(cls.__init__, "__wrapped__", cls.__init__).__code__
            if "capturable" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
                found.append(name)
    return sorted(found)
