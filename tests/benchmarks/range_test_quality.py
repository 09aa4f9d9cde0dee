"""Is what a range test suggests worth training with? Against a grid of fixed learning rates, Lightning and fastai.

    python tests/benchmarks/range_test_quality.py --seeds 100:110 [--tasks digits_mlp_sgd ...] [--cache FILE.json]

Every training starts from the same weights and sees the same batches; only lr and momentum differ. Trainings, sweeps
and Lightning's suggestions are kept in a file by what they were made from: after a change of rules only what the new
suggestions ask for is trained. Learning rates are rounded to three digits, so that equal suggestions are trained once.

*Metric*: a classifier's validation error rate [%]; elsewhere the validation loss, both at the end of training.
*Within 1 %*: error rate at most 1 percentage point above that of the grid's best; loss at most 1.01 times its. The
grid's best is the best of 12 trainings by the very metric that is reported: it has picked its luck, no method has.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tasks import TASKS, Task, TaskModule, lr_grid, make_task, sweep, train
from torch.optim import Optimizer

from lightning_lrsched import LRRangeTestCallback, RangeTestResult
from lightning_lrsched.range_test.divergence import Divergence
from lightning_lrsched.range_test.settings import DEFAULT_MAX_LR, DEFAULT_MIN_LR, DEFAULT_NUM_STEPS
from lightning_lrsched.range_test.smoothing import SmoothedLoss
from lightning_lrsched.range_test.suggestions import METHODS
from lightning_lrsched.schedulers import OneCycle
from lightning_lrsched.schedulers.param_groups import momentum_key

Values = dict[str, float]


class Cache:
    """A JSON file of results; what is not there is computed."""

    def __init__(self, path: Path) -> None:
        self.path, self.new = path, 0
        self.kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.kept:
            self.kept[key] = compute()
            self.new += 1
        return self.kept[key]

    def save(self) -> None:
        if self.new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.kept), encoding="utf-8")
            part.replace(self.path)
            self.new = 0


def rounded(lr: float) -> float:
    return float(f"{lr:.3g}")


# Ours -----------------------------------------------------------------------------------------------------------------


def range_test(cache: Cache, name: str, seed: int, mode: str) -> RangeTestResult:
    """The callback's defaults (or, linear, a sweep to the grid's largest lr); the complete sweep is kept."""
    if mode == "exponential":
        factor = DEFAULT_MAX_LR / DEFAULT_MIN_LR
        lrs = [DEFAULT_MIN_LR * factor ** (step / (DEFAULT_NUM_STEPS - 1)) for step in range(DEFAULT_NUM_STEPS)]
    else:
        lrs = np.linspace(lr_grid(name)[-1] / 1000, lr_grid(name)[-1], 200).tolist()
    key = f"{name}/{seed}/sweep {mode} {lrs[0]:g} .. {lrs[-1]:g}, {len(lrs)}"
    losses = cache.get(key, lambda: sweep(make_task(name, seed), lrs))
    [group] = make_task(name, seed).optimizer(1.0).param_groups
    return record(lrs, losses, mode, momentum_key(group))


def record(lrs: list[float], losses: list[float], mode: str, momentum: str | None) -> RangeTestResult:
    """What the callback makes of these losses: it stops where the losses have diverged."""
    average, divergence, smoothed, reason = SmoothedLoss(), Divergence(), [], "num_steps"
    for step, loss in enumerate(losses):
        smoothed.append(average.update(step, loss))
        if divergence.update(step, loss, smoothed[-1]):
            reason = "diverged" if math.isfinite(loss) else "non-finite loss"
            break
    number = len(smoothed)
    return RangeTestResult(
        list(range(number)), lrs[:number], losses[:number], smoothed, reason, mode, momentum=momentum
    )


def callback_agrees(name: str, seed: int, result: RangeTestResult) -> bool:
    """Whether the callback, in a Trainer, records what the plain loop does."""
    callback = LRRangeTestCallback(log=False)
    quiet_trainer(callbacks=[callback]).fit(TaskModule(make_task(name, seed)))
    theirs = callback.result
    return bool(
        theirs.stop_reason == result.stop_reason
        and np.allclose(theirs.lrs, result.lrs)
        and np.allclose(theirs.losses, result.losses, rtol=1e-3, equal_nan=True)
    )


def train_one_cycle(cache: Cache, name: str, seed: int, config: dict[str, Any], factor: float = 1.0) -> Values:
    """Train with a OneCycle configuration; ``factor`` moves its learning rates up or down."""
    params = dict(config["params"])
    for key in ("cycle_min_lr", "cycle_max_lr"):
        params[key] = rounded(params[key] * factor)

    def run() -> Values:
        return train(make_task(name, seed), params["cycle_max_lr"], lambda optimizer: OneCycle(optimizer, **params))

    return cache.get(f"{name}/{seed}/one cycle {json.dumps(params, sort_keys=True)}", run)


def train_fixed(cache: Cache, name: str, seed: int, lr: float) -> Values:
    lr = rounded(lr)
    return cache.get(f"{name}/{seed}/fixed {lr:g}", lambda: train(make_task(name, seed), lr))


# Lightning ------------------------------------------------------------------------------------------------------------


def quiet_trainer(**options: Any) -> Any:
    from lightning.pytorch import Trainer

    return Trainer(
        **options,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def lightning_suggestion(name: str, seed: int) -> float | None:
    from lightning.pytorch.tuner import Tuner

    finder = Tuner(quiet_trainer(max_steps=10**6)).lr_find(TaskModule(make_task(name, seed)), update_attr=False)
    return finder.suggestion()


# fastai: its finder and its rules, from their definitions (fastai 2, callback.schedule) ----------------------------


def fastai_suggestions(cache: Cache, name: str, seed: int) -> dict[str, float]:
    lrs = [1e-7 * 1e8 ** (step / 100) for step in range(101)]
    losses = cache.get(f"{name}/{seed}/sweep fastai", lambda: sweep(make_task(name, seed), lrs))
    smoothed, total, best = [], 0.0, math.inf
    for count, loss in enumerate(losses, start=1):
        total = 0.98 * total + 0.02 * loss
        smoothed.append(total / (1 - 0.98**count))
        best = min(best, smoothed[-1])
        if smoothed[-1] > 4 * best:
            break
    x, y = np.array(lrs[: len(smoothed)])[10:-5], np.array(smoothed)[10:-5]
    finite = np.cumprod(np.isfinite(y)).astype(bool)
    x, y = x[finite], y[finite]
    return {
        "valley": fastai_valley(x, y),
        "steep": float(x[np.argmin(np.diff(y) / np.diff(np.log(x)))]),
        "minimum": float(x[y.argmin()]) / 10,
        "slide": fastai_slide(x, y),
    }


def fastai_valley(lrs: np.ndarray, losses: np.ndarray) -> float:
    """Two thirds (in whole steps) into the longest falling subsequence."""
    length, start, end = [1] * len(losses), 0, 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and length[i] < length[j] + 1:
                length[i] = length[j] + 1
            if length[end] < length[i]:
                end = i
                start = end - length[end]
    third = (end - start) / 3
    return float(lrs[start + int(third) + int(third / 2)])


def fastai_slide(lrs: np.ndarray, losses: np.ndarray) -> float:
    """From the end backwards, an interval of 15 points, while the slopes at its ends differ by more than 0.005."""
    slope, right, left = np.gradient(losses), -1, -16
    found = lrs[max(left, -len(lrs))]
    while left >= -len(losses) and abs(slope[right] - slope[left]) > 0.005:
        found = lrs[left]
        right, left = right - 1, left - 1
    return float(found)


def train_fastai_cycle(cache: Cache, name: str, seed: int, top: float) -> Values:
    """fit_one_cycle: cosine from top / 25 up in 25 %, down to top / 1e5; momentum 0.95 -> 0.85 -> 0.95."""
    top = rounded(top)

    class Cosine:
        def __init__(self, optimizer: Optimizer, steps: int) -> None:
            self.optimizer, self.steps, self.step_count = optimizer, steps, -1
            self.step()

        def step(self) -> None:
            self.step_count += 1
            done = min(1.0, self.step_count / self.steps)
            if done < 0.25:
                part, lrs, momenta = done / 0.25, (top / 25, top), (0.95, 0.85)
            else:
                part, lrs, momenta = (done - 0.25) / 0.75, (top, top / 1e5), (0.85, 0.95)
            weight = (1 - math.cos(math.pi * part)) / 2
            momentum = momenta[0] + weight * (momenta[1] - momenta[0])
            for group in self.optimizer.param_groups:
                group["lr"] = lrs[0] + weight * (lrs[1] - lrs[0])
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum

    def run() -> Values:
        task = make_task(name, seed)
        return train(task, top, lambda optimizer: Cosine(optimizer, task.num_steps))

    return cache.get(f"{name}/{seed}/fastai cycle {top:g}", run)


# Comparison -----------------------------------------------------------------------------------------------------------


def measure(cache: Cache, name: str, seed: int, *, check_callback: bool) -> dict[str, Any]:
    """Return {"best lr", "methods": {method: {"lr", "metric"}}} of one task and seed."""
    task = make_task(name, seed)
    metric = "error" if task.classifies else "loss"
    grid = {lr: train_fixed(cache, name, seed, lr)[metric] for lr in lr_grid(name)}
    best_lr = min(grid, key=grid.__getitem__)
    methods: dict[str, dict[str, float]] = {"grid's best fixed lr": {"lr": best_lr, "metric": grid[best_lr]}}

    def add(method: str, lr: float | None, run: Callable[[float], Values]) -> None:
        found = run(lr) if lr is not None and math.isfinite(lr) and lr > 0 else {}
        methods[method] = {"lr": lr or math.nan, "metric": found.get(metric, math.inf)}

    def fixed(lr: float) -> Values:
        return train_fixed(cache, name, seed, lr)

    lightning = cache.get(f"{name}/{seed}/lightning", lambda: lightning_suggestion(name, seed))
    for mode in ("exponential", "linear"):
        result = range_test(cache, name, seed, mode)
        if check_callback and mode == "exponential" and not callback_agrees(name, seed, result):
            raise AssertionError(f"{name}: the callback's record is not that of the plain loop")
        add_ours(add, cache, task, result, lightning)
    add("Lightning lr_find, fixed", lightning, fixed)
    for rule, lr in fastai_suggestions(cache, name, seed).items():
        add(f"fastai {rule}, fixed", lr, fixed)
        if rule in ("valley", "minimum"):  # its default, and the one that comes nearest to the best
            add(f"fastai {rule}, fit_one_cycle", lr, lambda top: train_fastai_cycle(cache, name, seed, top))
    return {"best lr": best_lr, "methods": methods}


def add_ours(add: Callable[..., None], cache: Cache, task: Task, result: RangeTestResult, theirs: float | None) -> None:
    name, seed = task.name, task.seed
    suffix = "" if result.mode == "exponential" else ", linear sweep"
    try:
        config, suggested = result.one_cycle(task.num_steps), result.suggestion()
        high = config["params"]["cycle_max_lr"]
    except ValueError:
        config, suggested, high = None, None, None

    def cycle(lr: float) -> Values:
        return train_one_cycle(cache, name, seed, config, lr / high)

    add(f"ours one_cycle(){suffix}", high, cycle)
    for chosen in (True, False):

        def as_chosen(lr: float, chosen: bool = chosen) -> Values:
            config = result.one_cycle(task.num_steps, cycle_momentum=chosen)
            return train_one_cycle(cache, name, seed, config, lr / high)

        add(f"ours one_cycle(cycle_momentum={chosen}){suffix}", high, as_chosen)
    add(f"ours suggestion(), fixed{suffix}", suggested, lambda lr: train_fixed(cache, name, seed, lr))
    if suffix:
        return
    add("Lightning lr_find, our 1Cycle", theirs if config else None, cycle)
    for method in METHODS:
        lr = result.suggestion(method) if config else None
        add(f"ours {method}, fixed", lr, lambda lr: train_fixed(cache, name, seed, lr))


def within(task: str, metric: float, best: float) -> bool:
    return metric <= best + 1.0 + 1e-9 if make_task(task, 0).classifies else metric <= 1.01 * best


def summary(runs: dict[str, dict[int, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return task -> method -> figures."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for task, by_seed in runs.items():
        out[task] = {}
        for method in next(iter(by_seed.values()))["methods"]:
            found = [run["methods"][method] for run in by_seed.values()]
            bests = [run["methods"]["grid's best fixed lr"] for run in by_seed.values()]
            theirs = [run["methods"]["Lightning lr_find, fixed"] for run in by_seed.values()]
            theirs_cycle = [run["methods"]["Lightning lr_find, our 1Cycle"] for run in by_seed.values()]
            out[task][method] = {
                "median": statistics.median(one["metric"] for one in found),
                "within": sum(within(task, a["metric"], b["metric"]) for a, b in zip(found, bests, strict=True)),
                "lr ratio": statistics.median(a["lr"] / b["lr"] for a, b in zip(found, bests, strict=True)),
                "better, fixed": sum(a["metric"] < b["metric"] for a, b in zip(found, theirs, strict=True)),
                "better, 1Cycle": sum(a["metric"] < b["metric"] for a, b in zip(found, theirs_cycle, strict=True)),
                "runs": len(found),
            }
    return out


def print_tables(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    methods = list(next(iter(figures.values())))
    for task, rows in figures.items():
        kind = "error %" if make_task(task, 0).classifies else "loss"
        print(f"\n{task:<34} median {kind:<8} within 1 %   lr / best lr   better than Lightning: fixed, 1Cycle")
        for method, row in rows.items():
            print(
                f"  {method:<34} {row['median']:>12.4g} {row['within']:>6.0f} /{row['runs']:>3.0f}"
                f" {row['lr ratio']:>14.3g} {row['better, fixed']:>24.0f},"
                f" {row['better, 1Cycle']:>3.0f}"
            )
    print(f"\n{'all tasks':<34} within 1 %    lr / best lr: median, smallest and largest task")
    for method in methods:
        rows_ = [figures[task][method] for task in figures]
        within_, runs = sum(row["within"] for row in rows_), sum(row["runs"] for row in rows_)
        ratios = sorted(row["lr ratio"] for row in rows_)
        print(
            f"  {method:<34} {within_:>4.0f} /{runs:>4.0f} = {100 * within_ / runs:3.0f} %"
            f" {statistics.median(ratios):>12.3g}  {ratios[0]:.2g} .. {ratios[-1]:.2g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100:110", help="first and one behind the last")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--cache", type=Path, default=Path("build/benchmarks/range_test_quality_cache.json"))
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/range_test_quality.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    cache = Cache(args.cache)
    seeds = list(range(*map(int, args.seeds.split(":"))))
    runs: dict[str, dict[int, Any]] = {task: {} for task in args.tasks}
    for seed in seeds:
        for task in args.tasks:
            runs[task][seed] = measure(cache, task, seed, check_callback=seed == seeds[0])
        cache.save()
    figures = summary(runs)
    print_tables(figures)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"runs": runs, "summary": figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
