"""How often a compiled optimizer step is compiled again, and what importing the package costs.

python tests/benchmarks/compile_and_import.py [--out build/benchmarks] [--repeats 7]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

import torch
from side_by_side import arguments, show
from torch.optim import SGD, AdamW, Optimizer

from lightning_lrsched.optim.schedulers import OneCycle

STEPS = 30


def adamw(parameters: Any, *, tensors: bool) -> Optimizer:
    if not tensors:
        return AdamW(parameters, lr=0.1)
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    return AdamW(parameters, lr=torch.tensor(0.1), betas=betas, capturable=True)


def sgd(parameters: Any, *, tensors: bool) -> Optimizer:
    return SGD(parameters, lr=torch.tensor(0.1) if tensors else 0.1, momentum=0.9, foreach=False)


def recompilations(make: Any, *, tensors: bool) -> dict[str, Any]:
    """Count the compilations of the optimizer's step in its first two steps, and in the rest."""
    torch._dynamo.reset()
    parameters = [torch.randn(4, 4, requires_grad=True) for _ in range(2)]
    optimizer = make(parameters, tensors=tensors)
    schedule = OneCycle(optimizer, 0.01, 0.1, cycle_first_step_size=STEPS // 2, cycle_min_mom=0.5)
    schedule.follow_optimizer()
    step = torch.compile(optimizer.step)
    compiled = []
    for _ in range(STEPS):
        before = torch._dynamo.utils.counters["frames"]["total"]
        for p in parameters:
            p.grad = torch.ones_like(p)
        step()
        compiled.append(torch._dynamo.utils.counters["frames"]["total"] - before)
    kind = "tensors" if tensors else "floats"
    # In its second step SGD has got its momentum buffers, and torch compiles it for these.
    return {
        "optimizer": f"{make.__name__}, {kind}",
        "frames compiled, steps 1 and 2": sum(compiled[:2]),
        "compiled again, later": sum(compiled[2:]),
    }


def import_times(repeats: int) -> list[dict[str, Any]]:
    """Time imports, each in a new process, after torch."""
    statements = {
        "import lightning_lrsched": "import lightning_lrsched",
        "all five schedules": "from lightning_lrsched import OneCycle",
        "SchedulerConfig": "from lightning_lrsched import SchedulerConfig",
        "the callbacks (import Lightning)": "from lightning_lrsched import LRSchedulerCallback",
    }
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(repeats):
        for name, statement in statements.items():
            code = f"import torch, time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            out = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
            )
            times[name].append(float(out.stdout.split()[-1]) * 1e3)
    return [{"import, after torch": name, "ms": statistics.median(values)} for name, values in times.items()]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rows = [
        recompilations(adamw, tensors=True),
        recompilations(sgd, tensors=True),
        recompilations(adamw, tensors=False),
        recompilations(sgd, tensors=False),
    ]
    show("recompilations", rows, options.out)
    show("import_time", import_times(options.repeats), options.out)


if __name__ == "__main__":
    main()
