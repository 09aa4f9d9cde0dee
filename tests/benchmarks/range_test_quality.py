"""Is what a range test finds worth training with? Against tuned learning rates, other finders, and optimizers without.

    python tests/benchmarks/range_test_quality.py --seeds 200:206 [--half reported] [--tasks digits_mlp_sgd ...]

Every training of a task and seed starts from the same weights and sees the same batches. Trainings and range tests are
kept in a file (--cache): an interrupted run goes on, and after a change of the rules only what the new suggestions ask
for is trained. Learning rates are rounded to three digits, so that equal suggestions are trained once.

*Metric*: a classifier's validation error rate [%]; elsewhere the validation loss, both at the end of training.
*Regret*: (metric - best) / (untrained - best), the share of the possible improvement that is missed, at most 1; the
best is that of 1Cycles with 13 peaks, by the very metric that is reported: it has picked its luck, no method has.
*Within 1 %*: error rate at most 1 percentage point above that of the best of 12 fixed learning rates; loss at most 1.01
times its.
*Cost*: steps that finding takes, as a share of the training's.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from other_ways import FASTAI_STEPS, LIGHTNING_STEPS, fastai_cycle, fastai_suggestions, lightning_finder, without_lr
from tasks import CHOOSING, REPORTED, TASKS, Task, Values, lr_grid, make_task, train

from lightning_lrsched import RangeTest, RangeTestResult
from lightning_lrsched.optim.hyperparameters import momentum_kind
from lightning_lrsched.optim.schedulers import OneCycle
from lightning_lrsched.range_test.record import one_cycle
from lightning_lrsched.range_test.suggest import prior_of

PEAKS = 13
FIXED_LRS = 12
MAX_TEST_STEPS = 1000
LOW_OF_HIGH = 0.1
"""Lowest lr of a 1Cycle, as a fraction of its peak, where no range test gives one."""

BEST_CYCLE, BEST_FIXED = "best of 13 1Cycles", "best of 12 fixed lrs"

TORCH_DEFAULTS = {"SGD": 1e-3, "RMSprop": 1e-2, "NAdam": 2e-3, "Adafactor": 1e-2, "Lion": 1e-4}
"""What torch (and Lion's authors) take without an lr; Adam, AdamW and RAdam: 0.001."""


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


class Run:
    """All trainings of one task and seed."""

    def __init__(self, cache: Cache, name: str, seed: int) -> None:
        self.cache, self.name, self.seed = cache, name, seed
        self.task = make_task(name, seed)
        self.metric = "error" if self.task.classifies else "loss"
        self.optimizer = self.task.optimizer(1.0)

    def cached(self, key: str, compute: Callable[[], Any]) -> Any:
        return self.cache.get(f"{self.name}/{self.seed}/{key}", compute)

    def of(self, values: Values) -> float:
        return float(values[self.metric])

    def fixed(self, lr: float) -> float:
        lr = float(f"{lr:.3g}")
        return self.of(self.cached(f"fixed {lr:g}", lambda: train(self.fresh(), lr)))

    def cycle(self, high: float, low: float | None = None) -> float:
        high, low = float(f"{high:.3g}"), float(f"{low or LOW_OF_HIGH * high:.3g}")
        momentum = momentum_kind(self.optimizer) == "momentum"
        config = one_cycle(low, high, self.task.num_steps, momentum)["params"]

        def run() -> Values:
            return train(self.fresh(), high, lambda optimizer: OneCycle(optimizer, **config))

        return self.of(self.cached(f"1Cycle {low:g} .. {high:g}", run))

    def fresh(self) -> Task:
        return make_task(self.name, self.seed)

    def range_test(self) -> RangeTestResult:
        """Return what a range test with its defaults finds, in a plain loop."""

        def run() -> dict[str, Any]:
            task = self.fresh()
            optimizer = task.optimizer(1e-3)
            with RangeTest(task.model, optimizer) as test:
                for inputs, targets in test.batches(list(task.batches(MAX_TEST_STEPS))):
                    loss = task.loss(task.model(inputs), targets)
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    test.record(loss)
            return test.result.to_dict()

        result = RangeTestResult.from_dict(self.cached("range test", run))
        return replace(result, prior=prior_of(self.optimizer))

    def rows(self) -> Iterator[tuple[str, float, int]]:
        """Yield (method, metric, steps that finding took)."""
        result = self.range_test()
        cost = result.num_steps + (result.coarse.num_steps if result.coarse else 0)
        yield "range test, 1Cycle", self.suggested(result), cost
        yield "range test without the prior, 1Cycle", self.suggested(replace(result, prior=None)), cost
        yield "the prior without a test, 1Cycle", self.cycle(prior_of(self.optimizer) or math.nan), 0
        yield "range test, suggestion() as fixed lr", self.fixed(result.suggestion()), cost
        for rule, top in self.cached("fastai", lambda: fastai_suggestions(self.name, self.seed)).items():
            found = self.cached(f"fastai cycle {top:.3g}", lambda top=top: fastai_cycle(self.name, self.seed, top))
            yield f"fastai {rule}, its 1Cycle", self.of(found), FASTAI_STEPS
        lr = self.cached("lightning", lambda: lightning_finder(self.name, self.seed))
        yield "Lightning's finder, fixed lr", self.fixed(lr) if lr else math.inf, LIGHTNING_STEPS
        default = TORCH_DEFAULTS.get(type(self.optimizer).__name__, 1e-3)
        yield "torch's default lr, 1Cycle", self.cycle(default), 0
        yield "torch's default lr, fixed", self.fixed(default), 0
        for kind in ("Prodigy", "D-Adaptation", "schedule-free"):
            found = self.cached(kind, lambda kind=kind: without_lr(kind, self.name, self.seed))
            yield kind, self.of(found), 0

    def suggested(self, result: RangeTestResult) -> float:
        try:
            low, high = result.bounds()
        except ValueError:  # the user gets an error
            return math.inf
        return self.cycle(high, low)

    def measure(self) -> dict[str, dict[str, float]]:
        """Return {method: {"metric", "regret", "within 1 %", "cost"}}."""
        untrained = self.of(self.cached("untrained", lambda: self.fresh().validate()))
        best = min(self.cycle(high) for high in lr_grid(self.name, PEAKS))
        fixed = min(self.fixed(lr) for lr in lr_grid(self.name, FIXED_LRS))
        bar = fixed + 1.0 + 1e-9 if self.task.classifies else fixed + 0.01 * abs(fixed)
        found = {
            method: {
                "metric": metric,
                "regret": min(1.0, (metric - best) / (untrained - best)),
                "within 1 %": float(metric <= bar),
                "cost": steps / self.task.num_steps,
            }
            for method, metric, steps in [(BEST_CYCLE, best, 0), (BEST_FIXED, fixed, 0), *self.rows()]
        }
        self.cache.save()
        return found


def summary(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return {method: figures}, the best first."""
    figures = {}
    for method in runs[0]:
        regrets = [run[method]["regret"] for run in runs]
        figures[method] = {
            "mean regret": statistics.fmean(regrets),
            "standard error": _spread(regrets),
            "below 1 %": statistics.fmean(regret < 0.01 for regret in regrets),
            "below 10 %": statistics.fmean(regret < 0.1 for regret in regrets),
            "above 50 %": sum(regret > 0.5 for regret in regrets),
            "worst": max(regrets),
            "within 1 % of the best fixed lr": statistics.fmean(run[method]["within 1 %"] for run in runs),
            "cost": statistics.median(run[method]["cost"] for run in runs),
            "ahead of it": statistics.fmean(regrets)
            - statistics.fmean(run["range test, 1Cycle"]["regret"] for run in runs),
            "ahead, standard error": _spread(
                [run[method]["regret"] - run["range test, 1Cycle"]["regret"] for run in runs]
            ),
            "runs": len(runs),
        }
    return dict(sorted(figures.items(), key=lambda item: item[1]["mean regret"]))


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def as_markdown(figures: dict[str, dict[str, float]]) -> str:
    lines = [
        "| trained with | mean regret | below 1 % | below 10 % | above 50 % | worst"
        " | within 1 % of the best fixed lr | cost of finding |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, row in figures.items():
        lines.append(
            f"| {method} | {row['mean regret']:.3f} ± {row['standard error']:.3f} | {row['below 1 %']:.0%}"
            f" | {row['below 10 %']:.0%} | {row['above 50 %']:.0f} of {row['runs']:.0f} | {row['worst']:.2f}"
            f" | {row['within 1 % of the best fixed lr']:.0%} | {row['cost']:.0%} |"
        )
    return re.sub(r"(?<=\d)%", " %", "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="200:206", help="first and one behind the last")
    parser.add_argument("--half", default="reported", choices=("reported", "choosing"))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="instead of all of the half")
    parser.add_argument("--cache", type=Path, default=Path("build/benchmarks/range_test_quality_cache.json"))
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/range_test_quality.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    cache = Cache(args.cache)
    runs = {}
    for seed in range(*map(int, args.seeds.split(":"))):
        for name in args.tasks or (REPORTED if args.half == "reported" else CHOOSING):
            runs[f"{name}/{seed}"] = Run(cache, name, seed).measure()
    figures = summary(list(runs.values()))
    print(as_markdown(figures))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"runs": runs, "summary": figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
