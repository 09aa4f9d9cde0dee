"""Makes ``phases_golden.json``: the learning rates of other libraries that a PhasedLR has, too.

The quick tests (``test_phases_golden.py``) read the file and need none of them. To renew it, with timm 1.0.31, fastai
2.8.12, megatron-core 0.16.1 and pytorch_optimizer 4.1.0::

    python tests/integration/make_phases_golden.py

An entry of the file: the library with its version, the call, and the lr at each step. Of timm and fastai only the
modules with the schedules are run, so they may be installed without what they depend on. fastai's positions are float32
where torch's default is: here it is float64.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import distribution, version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

GOLDEN = Path(__file__).with_name("phases_golden.json")
LR = 0.4
STEPS = 120


def _optimizer() -> Any:
    from torch import zeros
    from torch.optim import SGD

    return SGD([zeros(1, requires_grad=True)], lr=LR)


def _timm(name: str, **arguments: Any) -> list[float]:
    folder = Path(str(distribution("timm").locate_file("timm")))
    for package, path in (("timm", folder), ("timm.scheduler", folder / "scheduler")):
        module = ModuleType(package)
        module.__path__ = [str(path)]
        sys.modules[package] = module
    module = importlib.import_module(
        {"CosineLRScheduler": "timm.scheduler.cosine_lr"}.get(name, "timm.scheduler.poly_lr")
    )
    optimizer = _optimizer()
    scheduler = getattr(module, name)(optimizer, t_in_epochs=False, warmup_prefix=True, **arguments)
    lrs = [LR if not arguments.get("warmup_t") else arguments["warmup_lr_init"]]
    for step in range(1, STEPS):
        scheduler.step_update(step)
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


def _fastai(make: str, *arguments: Any) -> list[float]:
    import math

    import torch

    torch.set_default_dtype(torch.float64)
    text = Path(str(distribution("fastai").locate_file("fastai/callback/schedule.py"))).read_text()
    source = text[text.index("class _Annealer") : text.index("@docs\nclass ParamScheduler")]
    known: dict[str, Any] = {
        "math": math,
        "torch": torch,
        "functools": __import__("functools"),
        "L": list,
        "tensor": torch.tensor,
        "store_attr": lambda _: None,
    }
    source = source.replace("store_attr('f,start,end')", "self.f, self.start, self.end = f, start, end")
    exec(source, known)
    schedule = eval(make, known)
    return [float(schedule(step / STEPS)) for step in range(STEPS)]


def _megatron(**arguments: Any) -> list[float]:
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    groups = SimpleNamespace(param_groups=[{}])
    weight_decay = {"start_wd": 0.0, "end_wd": 0.0, "wd_incr_steps": 1, "wd_incr_style": "constant"}
    scheduler = OptimizerParamScheduler(groups, max_lr=LR, **{"init_lr": 0.0, **weight_decay, **arguments})
    lrs = []
    for _ in range(STEPS):
        lrs.append(groups.param_groups[0]["lr"])
        scheduler.step(1)
    return lrs


def _pytorch_optimizer(name: str, **arguments: Any) -> list[float]:
    from pytorch_optimizer import lr_scheduler

    optimizer = _optimizer()
    scheduler = getattr(lr_scheduler.rex if name == "REXScheduler" else lr_scheduler.cosine_anealing, name)(
        optimizer, **arguments
    )
    # Before its first step, REXScheduler writes min_lr into the optimizer.
    lrs = [LR if name == "REXScheduler" else optimizer.param_groups[0]["lr"]]
    for _ in range(1, STEPS):
        scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


def main() -> None:
    """Write the file."""
    warm = {"lr_warmup_steps": 20, "lr_decay_steps": STEPS}
    wsd = {**warm, "min_lr": 0.01, "lr_decay_style": "WSD", "wsd_decay_steps": 40}
    cycles = {"first_cycle_steps": 30, "max_lr": LR, "min_lr": 0.01, "warmup_steps": 5, "gamma": 0.5}
    timm, fastai = f"timm {version('timm')}", f"fastai {version('fastai')}"
    megatron, optimizers = (
        f"megatron-core {version('megatron-core')}",
        f"pytorch_optimizer {version('pytorch_optimizer')}",
    )
    restarts = {"t_initial": 16, "lr_min": 1e-5, "cycle_mul": 2.0, "cycle_decay": 0.5, "cycle_limit": 3}
    found = {
        "timm cosine": (
            timm,
            _timm("CosineLRScheduler", t_initial=110, lr_min=1e-5, warmup_t=10, warmup_lr_init=1e-4),
        ),
        "timm cosine with cycles": (timm, _timm("CosineLRScheduler", **restarts, warmup_t=8, warmup_lr_init=1e-4)),
        "timm poly": (timm, _timm("PolyLRScheduler", t_initial=STEPS, lr_min=0.01, power=0.5)),
        "fastai fit_flat_cos": (fastai, _fastai(f"combined_cos(0.75, {LR}, {LR}, {LR} / 1e5)")),
        "fastai fit_one_cycle": (fastai, _fastai(f"combined_cos(0.25, {LR} / 25, {LR}, {LR} / 1e5)")),
        "fastai fit_sgdr": (
            fastai,
            _fastai(f"combine_scheds([1 / 15, 2 / 15, 4 / 15, 8 / 15], 4 * [SchedCos({LR}, 0)])"),
        ),
        "fastai SchedPoly": (fastai, _fastai(f"SchedPoly({LR}, 0.01, 3)")),
        "megatron inverse-square-root": (
            megatron,
            _megatron(**warm, min_lr=0.0, lr_decay_style="inverse-square-root"),
        ),
        "megatron cosine": (megatron, _megatron(**warm, min_lr=0.01, lr_decay_style="cosine")),
        "megatron exponential": (megatron, _megatron(**wsd, lr_wsd_decay_style="exponential")),
        "megatron minus_sqrt": (megatron, _megatron(**wsd, lr_wsd_decay_style="minus_sqrt")),
        "rex": (optimizers, _pytorch_optimizer("REXScheduler", total_steps=STEPS, max_lr=LR, min_lr=0.01)),
        "warmup restarts": (optimizers, _pytorch_optimizer("CosineAnnealingWarmupRestarts", **cycles)),
    }
    lines = [json.dumps({"name": name, "source": source, "lrs": lrs}) for name, (source, lrs) in found.items()]
    GOLDEN.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
