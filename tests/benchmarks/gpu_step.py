"""On a GPU: what a scheduler step costs the host, what it launches, and whether anything waits for the device.

python tests/benchmarks/gpu_step.py [--out build/benchmarks]
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from scheduler_step import configurations
from side_by_side import arguments, medians, show
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from lightning_lrsched.optim.schedulers import OneCycle

CALLS = 50


def make_optimizer(groups: int, *, tensor: bool) -> AdamW:
    def group() -> dict[str, Any]:
        params = [torch.zeros(1, device="cuda", requires_grad=True)]
        if not tensor:
            return {"params": params, "lr": 0.01}
        lr, *betas = (torch.tensor(value, device="cuda") for value in (0.01, 0.9, 0.999))
        return {"params": params, "lr": lr, "betas": tuple(betas)}

    return AdamW([group() for _ in range(groups)], capturable=tensor)


def launched(step: Any) -> tuple[int, int]:
    """Return how many device operations one step launches, and how often it waits."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    step()
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
    waits = 0
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step()
        waits = sum("synchroniz" in str(warning.message) for warning in caught)
    torch.cuda.set_sync_debug_mode("default")
    return kernels, waits


def main() -> None:
    options = arguments(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("gpu_step: skipped, there is no CUDA device")
        return
    warnings.simplefilter("ignore")
    rows = []
    for tensor in (False, True):
        for groups in (1, 10, 100, 1000):
            ours = OneCycle(make_optimizer(groups, tensor=tensor), **configurations(10_000)["OneCycle"])
            torchs = OneCycleLR(make_optimizer(groups, tensor=tensor), 0.01, total_steps=10_000)
            torchs.optimizer._opt_called = True
            steps = {"ours": ours.step, "torch OneCycleLR": torchs.step}
            times = medians(steps, rounds=20, calls=CALLS if groups < 1000 else 5)
            for name, step in steps.items():
                kernels, waits = launched(step)
                rows.append(
                    {
                        "lr": "tensor" if tensor else "float",
                        "groups": groups,
                        "scheduler": name,
                        "host us": times[name],
                        "device operations": kernels,
                        "waits": waits,
                    }
                )
    show("gpu_step", rows, options.out)


if __name__ == "__main__":
    main()
