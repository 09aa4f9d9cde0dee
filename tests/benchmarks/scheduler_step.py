"""What one scheduler step costs: ours, DeepSpeed's and torch's, with float and with tensor lr, 1 to 1000 groups.

    python tests/benchmarks/scheduler_step.py [--out build/benchmarks] [--rounds 40] [--groups 1 10 100 1000]

Times are medians [us] of interleaved rounds; "x" columns are ratios of two medians of the same run. A run goes once
through the whole of every schedule, so that warmup, cycle and decay all have their share.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import arguments, medians, show
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LinearLR, OneCycleLR

from lightning_lrsched.optim.schedulers import SCHEDULERS

CALLS = {1: 2000, 10: 500, 100: 60, 1000: 8}


def configurations(steps: int) -> dict[str, dict[str, Any]]:
    return {
        "OneCycle": {
            "cycle_min_lr": 0.001,
            "cycle_max_lr": 0.01,
            "cycle_first_step_size": 2 * steps // 5,
            "decay_step_size": 100,
            "decay_lr_rate": 0.1,
        },
        "LRRangeTest": {"lr_range_test_min_lr": 0.001, "lr_range_test_step_size": 100},
        "WarmupLR": {"warmup_max_lr": 0.01, "warmup_num_steps": 4 * steps // 5},
        "WarmupDecayLR": {"total_num_steps": steps, "warmup_max_lr": 0.01, "warmup_num_steps": steps // 2},
        "WarmupCosineLR": {"total_num_steps": steps, "warmup_num_steps": steps // 2},
        "WarmupStableDecayLR": {"total_num_steps": steps, "warmup_max_lr": 0.01, "warmup_num_steps": steps // 2},
        "PhasedLR": {"phases": [{"steps": steps // 2, "lr": 0.01}, {"steps": steps // 2, "lr": 0.0}]},
    }


def make_optimizer(groups: int, *, tensor: bool) -> Optimizer:
    def group() -> dict[str, Any]:
        if not tensor:
            return {"params": [torch.zeros(1)], "lr": 0.01}
        betas = (torch.tensor(0.9), torch.tensor(0.999))
        return {"params": [torch.zeros(1)], "lr": torch.tensor(0.01), "betas": betas}

    return AdamW([group() for _ in range(groups)], capturable=tensor, foreach=False if tensor else None)


def candidates(groups: int, steps: int, *, tensor: bool) -> dict[str, Callable[[], object]]:
    from deepspeed.runtime import lr_schedules as deepspeed

    def step_of(make: Callable[[Optimizer], Any]) -> Callable[[], object]:
        scheduler = make(make_optimizer(groups, tensor=tensor))
        scheduler.optimizer._opt_called = True  # torch's own else warn that no optimizer has stepped
        return scheduler.step

    made: dict[str, Callable[[], object]] = {}
    for name, params in configurations(steps).items():
        made[name] = step_of(lambda o, n=name, p=params: SCHEDULERS[n](o, **p))
        if not SCHEDULERS[name].kind.in_deepspeed:
            continue
        # DeepSpeed puts floats in the place of tensor betas: from then on its momentum costs what float momentum costs.
        made[f"DeepSpeed {name}"] = step_of(lambda o, n=name, p=params: getattr(deepspeed, n)(o, **p))
    made["torch OneCycleLR"] = step_of(lambda o: OneCycleLR(o, 0.01, total_steps=steps + 2))
    made["torch CyclicLR"] = step_of(lambda o: CyclicLR(o, 0.001, 0.01, step_size_up=steps // 2))
    made["torch LinearLR"] = step_of(lambda o: LinearLR(o, total_iters=steps))
    return made


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--groups", type=int, nargs="+", default=list(CALLS))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for tensor in (False, True):
        for groups in options.groups:
            calls = CALLS.get(groups, 10)
            steps = options.rounds * calls
            times = medians(candidates(groups, steps, tensor=tensor), rounds=options.rounds, calls=calls)
            for name, time in times.items():
                row = {"lr": "tensor" if tensor else "float", "groups": groups, "scheduler": name, "us": time}
                if name in SCHEDULERS:
                    deepspeeds = times.get(f"DeepSpeed {name}")
                    row["x DeepSpeed's"] = None if deepspeeds is None else time / deepspeeds
                    row["x torch OneCycleLR"] = time / times["torch OneCycleLR"]
                rows.append(row)
    show("scheduler_step", rows, options.out)


if __name__ == "__main__":
    main()
