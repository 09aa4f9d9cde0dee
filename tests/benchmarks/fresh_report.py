"""Is ``LRSchedulerCallback()`` worth its line on tasks that nothing was chosen by? Against tuned 1Cycles and rivals.

    python tests/benchmarks/fresh_report.py --seeds 0:5      (adds what is not stored yet, seed by seed)
    python tests/benchmarks/fresh_report.py --report         (prints the tables)
    python tests/benchmarks/fresh_report.py --csv            (writes one row per training to fresh_report.csv)

Each training of a task and seed starts from the same weights, sees the same batches and has the same number N of
optimizer steps:

*grid*: 1Cycles with ten peaks a factor of 2 apart; up to three more where the best lies at an end.
*one line*: ``LRSchedulerCallback()`` in a Trainer; the steps of its probe are taken off N.
*the prior*: 1Cycle whose peak is what the package knows of the optimizer; the optimizer's default lr where there is
none.
*schedule-free*: AdamW at 0.0025, or SGD at 1.0 in place of SGD; warmup in 5 % of N.
*Prodigy*: lr 1, cosine annealing.
*habit*: AdamW at 0.001, or SGD at 0.1 with momentum 0.9 in place of SGD; 5 % linear warmup, then a cosine to 0.
*AdamW 3e-4*: the same with AdamW at 0.0003.

The last four keep the task's weight decay. *Regret*: min(1, (metric - best) / (untrained - best)), where the best is
that of the grid; 1 where the training diverges or ends with an error.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from fresh_tasks import FINE_TUNING, TASKS, Task, make_task
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_lrsched import LRSchedulerCallback
from lightning_lrsched.optim.hyperparameters import momentum_kind
from lightning_lrsched.optim.schedulers import OneCycle
from lightning_lrsched.range_test.probe import SHORT_RUN
from lightning_lrsched.range_test.record import one_cycle
from lightning_lrsched.range_test.suggest import prior_of

STORE = Path(__file__).with_name("fresh_report.json")

LOWEST = {"SGD": 2e-3, "Lion": 1e-5, "Adagrad": 2e-3, "Adafactor": 5e-4, "Muon": 1e-3, "voice_head_sgd": 3.2e-2}
"""The lowest peak of the grid, by task or by optimizer; that of Adam and its kin is 1e-4. The highest is 512 times it.

A head on vectors of norm 1 needs a higher lr than the grid of SGD reaches.
"""

PEAKS, MORE = 10, 3
PROBE_STEPS = (3, 12)
"""Of a run below 600 steps, and of others; two more where a batch shows little."""

WARMUP_SHARE = 0.05
PRECISE_BATCHES = 50
"""Forward passes by which batch norms learn their statistics at the weights that a schedule-free optimizer returns."""

OURS = "one line"
ROWS = (OURS, "the prior", "schedule-free", "Prodigy", "habit", "AdamW 3e-4")
FIRST = "one line, first report"
"""Stored when these tasks were new: the rule's limits for wide and pretrained nets came later."""


Row = dict[str, Any]


# Trainings ------------------------------------------------------------------------------------------------------------


def rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def train(task: Task, optimizer: torch.optim.Optimizer, schedule: Any = None) -> float:
    """Train for the task's steps; return the metric, infinity from the first loss on that is no number."""
    for inputs, targets in task.batches(task.num_steps):
        loss = task.loss(task.model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if not math.isfinite(loss.item()):
            return math.inf
    return task.measure()


def cycle(task: Task, peak: float) -> float:
    """Train with the 1Cycle that the package makes of a peak."""
    optimizer = task.optimizer(peak)
    momentum = momentum_kind(optimizer) == "momentum"
    config = one_cycle(0.1 * peak, peak, task.num_steps, momentum)["params"]
    return train(task, optimizer, OneCycle(optimizer, **config))


class Module(LightningModule):
    """A task as a user has it, with the optimizer's default lr."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.net = task, task.model

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return self.task.loss(self.net(inputs), targets)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(list(self.task.batches(self.task.num_steps)), batch_size=None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.task.optimizer(default_lr(self.task))


def default_lr(task: Task) -> float:
    kind = type(task.optimizer(1.0))
    return float(kind([nn.Parameter(torch.zeros(2, 2))]).defaults["lr"])


def fit(name: str, seed: int, num_steps: int) -> tuple[Task, LRSchedulerCallback]:
    task = make_task(name, seed)
    callback = LRSchedulerCallback()
    module = Module(task)
    trainer = Trainer(
        max_steps=num_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(module)
    return task, callback


def one_line(name: str, seed: int) -> Row:
    """Fit with the callback; the steps that it takes are known after a fit only, which is then repeated."""
    try:
        steps = TASKS[name]().num_steps
        steps -= PROBE_STEPS[steps >= SHORT_RUN]
        task, callback = fit(name, seed, steps)
        found = callback.probe_result
        if found.steps != task.num_steps - steps:
            task, callback = fit(name, seed, task.num_steps - found.steps)
            found = callback.probe_result
    except Exception as caught:  # noqa: BLE001 - what a user gets is the result
        return {"metric": None, "error": f"{type(caught).__name__}: {caught}"[:600]}
    return {
        "metric": rounded(task.measure()),
        "peak": rounded(found.peak),
        "steps": found.steps,
        "forwards": found.forwards,
        "lowest": None if found.lowest is None else rounded(found.lowest),
        "because": found.because,
    }


def the_prior(task: Task) -> Row:
    known = prior_of(task.optimizer(1.0))
    peak = known or default_lr(task)
    return {"metric": rounded(cycle(task, peak)), "peak": peak, "known": known is not None}


def other(task: Task) -> tuple[bool, float]:
    """Return whether the task's optimizer is SGD, and its weight decay; gradients become dense, which all can use."""
    own = task.optimizer(1.0)
    for part in task.model.modules():
        if isinstance(part, nn.Embedding):
            part.sparse = False
    return isinstance(own, torch.optim.SGD), float(own.defaults.get("weight_decay") or 0.0)


def schedule_free(task: Task) -> Row:
    import schedulefree

    is_sgd, decay = other(task)
    kind, lr = (schedulefree.SGDScheduleFree, 1.0) if is_sgd else (schedulefree.AdamWScheduleFree, 0.0025)
    warmup = round(WARMUP_SHARE * task.num_steps)
    optimizer = kind(task.trained, lr=lr, weight_decay=decay, warmup_steps=warmup)
    optimizer.train()
    metric = train(task, optimizer)
    optimizer.eval()
    if math.isfinite(metric):
        if any(isinstance(part, nn.BatchNorm2d) for part in task.model.modules()):
            with torch.no_grad():
                for inputs, _ in task.batches(PRECISE_BATCHES):
                    task.model(inputs)
        metric = task.measure()
    return {"metric": rounded(metric)}


def prodigy(task: Task) -> Row:
    from prodigyopt import Prodigy

    is_sgd, decay = other(task)
    optimizer = Prodigy(task.trained, lr=1.0, weight_decay=decay, decouple=not is_sgd)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.num_steps)
    return {"metric": rounded(train(task, optimizer, cosine))}


def by_habit(task: Task, lr: float = 1e-3, *, always_adamw: bool = False) -> Row:
    is_sgd, decay = other(task)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(task.trained, lr=lr, weight_decay=decay)
    if is_sgd and not always_adamw:
        optimizer = torch.optim.SGD(task.trained, lr=0.1, momentum=0.9, weight_decay=decay)
    warmup = max(1, round(WARMUP_SHARE * task.num_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / (task.num_steps - warmup))) / 2

    return {"metric": rounded(train(task, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)))}


def row(kind: str, name: str, seed: int) -> Row:
    if kind == OURS:
        return one_line(name, seed)
    makers: dict[str, Callable[[Task], Row]] = {
        "the prior": the_prior,
        "schedule-free": schedule_free,
        "Prodigy": prodigy,
        "habit": by_habit,
        "AdamW 3e-4": lambda task: by_habit(task, 3e-4, always_adamw=True),
    }
    return makers[kind](make_task(name, seed))


# The store ------------------------------------------------------------------------------------------------------------


class Store:
    """{task/seed: what is known of it}, written after each training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.runs, separators=(",", ":")).replace('},"', '},\n"'), encoding="utf-8")
        part.replace(self.path)

    def complete(self, name: str, seed: int, kinds: Sequence[str]) -> None:
        run = self.runs.setdefault(f"{name}/{seed}", {"grid": {}, "rows": {}})
        began = time.perf_counter()
        if "untrained" not in run:
            task = make_task(name, seed)
            run |= {
                "kind": task.parts.kind,
                "optimizer": type(task.optimizer(1.0)).__name__,
                "steps": task.num_steps,
                "untrained": rounded(task.measure()),
            }
        lowest = LOWEST.get(name) or LOWEST.get(run["optimizer"], 1e-4)
        for peak in peaks(lowest, run["grid"]):
            if f"{peak:.4g}" not in run["grid"]:
                run["grid"][f"{peak:.4g}"] = rounded(cycle(make_task(name, seed), peak))
                self.save()
        for kind in kinds:
            if kind not in run["rows"]:
                run["rows"][kind] = row(kind, name, seed)
                self.save()
        print(name, seed, f"{time.perf_counter() - began:.1f} s", flush=True)


def peaks(lowest: float, found: dict[str, float | None]) -> Iterator[float]:
    """Yield the grid's peaks, then up to three more at an end where the best lies."""
    powers = list(range(PEAKS))
    yield from (lowest * 2.0**power for power in powers)
    for _ in range(MORE):
        values = [found[f"{lowest * 2.0**power:.4g}"] for power in powers]
        best = powers[min(range(len(values)), key=lambda i: math.inf if values[i] is None else values[i])]
        if best == powers[0]:
            powers.insert(0, best - 1)
        elif best == powers[-1]:
            powers.append(best + 1)
        else:
            return
        yield lowest * 2.0 ** (best - 1 if best == powers[1] else best + 1)


# Tables ---------------------------------------------------------------------------------------------------------------


def finite(value: float | None) -> float:
    return math.inf if value is None else value


def best_of(run: Row) -> float:
    return min(finite(value) for value in run["grid"].values())


def regret(run: Row, kind: str) -> float:
    best = best_of(run)
    share = (finite(run["rows"][kind]["metric"]) - best) / (run["untrained"] - best)
    return min(1.0, share) if math.isfinite(share) else 1.0


def complete_seeds(runs: dict[str, Row]) -> list[int]:
    """Return the seeds of which all tasks have all rows."""
    seeds = sorted({int(key.split("/")[1]) for key in runs})
    return [seed for seed in seeds if all(set(ROWS) <= set(_rows(runs, name, seed)) for name in TASKS)]


def _rows(runs: dict[str, Row], name: str, seed: int) -> Row:
    return runs.get(f"{name}/{seed}", {"rows": {}})["rows"]


def spread(values: Sequence[float]) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{fmean(values):.3f} ± {error:.3f}"


def summary(by_task: dict[str, list[Row]]) -> str:
    lines = [
        "| trained with | mean regret | runs below 10 % | above 25 % | above 50 % | worst | minus one line |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = {name: fmean(regret(run, OURS) for run in runs) for name, runs in by_task.items()}
    for kind in (
        OURS,
        *((FIRST,) if all(FIRST in run["rows"] for runs in by_task.values() for run in runs) else ()),
        *ROWS[1:],
    ):
        means = {name: fmean(regret(run, kind) for run in runs) for name, runs in by_task.items()}
        each = [regret(run, kind) for runs in by_task.values() for run in runs]
        behind = "" if kind == OURS else spread([means[name] - ours[name] for name in by_task])
        lines.append(
            f"| {kind} | {spread(list(means.values()))} | {100 * fmean(value < 0.1 for value in each):.0f} %"
            f" | {sum(value > 0.25 for value in each)} of {len(each)} | {sum(value > 0.5 for value in each)}"
            f" | {max(each):.2f} | {behind} |"
        )
    return "\n".join(lines)


def at_peak(run: Row, peak: float) -> float:
    """Return the regret of a peak, between those of the grid in log lr."""
    best, lrs = best_of(run), sorted(run["grid"], key=float)
    shares = [(finite(run["grid"][lr]) - best) / (run["untrained"] - best) for lr in lrs]
    regrets = [min(1.0, share) if math.isfinite(share) else 1.0 for share in shares]
    return float(np.interp(math.log(peak), [math.log(float(lr)) for lr in lrs], regrets))


def limits(by_task: dict[str, list[Row]]) -> str:
    """Return what no rule of prior and lowest loss can go below: the best of many, chosen on these very tasks."""

    def mean(peak_of_run: Callable[[Row], float]) -> float:
        return fmean(fmean(at_peak(run, peak_of_run(run)) for run in runs) for runs in by_task.values())

    def by_rule(weight: float, factor: float, most: float) -> Callable[[Row], float]:
        def peak(run: Row) -> float:
            ours, prior = run["rows"][OURS], run["rows"]["the prior"]
            lowest = ours.get("lowest")
            if lowest is None or not prior["known"]:
                return float(prior["peak"] if lowest is None else ours["peak"])
            return float(min(prior["peak"] ** (1 - weight) * lowest**weight * factor, most * prior["peak"]))

        return peak

    rules = {
        (weight / 10, 2 ** (power / 2), most): mean(by_rule(weight / 10, 2 ** (power / 2), most))
        for weight in range(11)
        for power in range(-6, 7)
        for most in (1, 2, 4, 8, 1000)
    }
    best = min(rules, key=lambda rule: rules[rule])
    known = [
        min(fmean(at_peak(run, float(peak)) for run in runs) for peak in {lr for run in runs for lr in run["grid"]})
        for runs in by_task.values()
    ]
    ours = mean(lambda run: run["rows"][OURS]["peak"])
    return (
        f"At no cost, between the peaks of the grid: the peak of one line {ours:.3f}; the best of {len(rules)} rules"
        f" prior^(1-a) * lowest^a * c, at most m priors, chosen on these tasks, {rules[best]:.3f}"
        f" (a, c, m = {best[0]:g}, {best[1]:.2g}, {best[2]:g}); the best peak of each task, known before,"
        f" {fmean(known):.3f}."
    )


def by_task_table(by_task: dict[str, list[Row]]) -> str:
    lines = [
        "| task | optimizer | N | best peak | peak of one line | regret of one line | of the prior | its peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in by_task.items():
        best = _middle([float(min(run["grid"], key=lambda lr: finite(run["grid"][lr]))) for run in runs])
        taken = [run["rows"][OURS]["peak"] for run in runs if "peak" in run["rows"][OURS]]
        lines.append(
            f"| {name} | {runs[0]['optimizer']} | {runs[0]['steps']} | {best}"
            f" | {_middle(taken) if taken else 'error'} | {fmean(regret(run, OURS) for run in runs):.3f}"
            f" | {fmean(regret(run, 'the prior') for run in runs):.3f}"
            f" | {runs[0]['rows']['the prior']['peak']:.2g}{'' if runs[0]['rows']['the prior']['known'] else ' (lr)'} |"
        )
    return "\n".join(lines)


def _middle(lrs: list[float]) -> str:
    """The geometric mean."""
    return f"{math.exp(fmean(math.log(lr) for lr in lrs)):.2g}"


COLUMNS = ("task", "kind", "optimizer", "steps", "seed", "way", "peak", "metric", "regret")
BEST, UNTRAINED = "best of the grid", "untrained"
"""The two ends of the regret, 0 and 1, beside the ways of training."""


def as_csv(runs: dict[str, Row]) -> str:
    """Return a row for each way of training in each complete task and seed; empty where there is no value."""
    seeds = complete_seeds(runs)
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for name in TASKS:
        for seed in seeds:
            run = runs[f"{name}/{seed}"]
            best = min(run["grid"], key=lambda lr: finite(run["grid"][lr]))
            rows = [(BEST, best, run["grid"][best], 0.0), (UNTRAINED, None, run["untrained"], 1.0)]
            for kind in (FIRST, *ROWS):
                if kind in run["rows"]:
                    row = run["rows"][kind]
                    peak = None if row.get("peak") is None else f"{row['peak']:.6g}"
                    rows.append((kind, peak, row["metric"], regret(run, kind)))
            for kind, peak, metric, share in rows:
                table.writerow(
                    (name, run["kind"], run["optimizer"], run["steps"], seed, kind, peak, metric, f"{share:.4f}")
                )
    return file.getvalue()


def report(runs: dict[str, Row]) -> str:
    seeds = complete_seeds(runs)
    by_task = {name: [runs[f"{name}/{seed}"] for seed in seeds] for name in TASKS}
    fine = {name: found for name, found in by_task.items() if found[0]["kind"] in FINE_TUNING}
    rest = {name: found for name, found in by_task.items() if name not in fine}
    parts = [f"{len(by_task)} tasks, seeds {seeds}. ± is the standard error by task."]
    for title, chosen in (("All", by_task), ("Fine-tuning", fine), ("From scratch", rest)):
        parts.append(f"{title} ({len(chosen)} tasks):\n\n{summary(chosen)}")
    parts += [by_task_table(by_task), limits(by_task)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:5", help="first and one behind the last")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, help="beside the grid")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--report", action="store_true", help="print the tables of what is stored, and train nothing")
    parser.add_argument("--csv", action="store_true", help="write the stored runs beside the store, and train nothing")
    args = parser.parse_args()
    store = Store(args.store)
    if args.csv:
        args.store.with_suffix(".csv").write_text(as_csv(store.runs), encoding="utf-8", newline="\n")
        return
    if args.report:
        print(report(store.runs))
        return
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning_lrsched").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for seed in range(*map(int, args.seeds.split(":"))):
        for name in args.tasks:
            store.complete(name, seed, args.rows)


if __name__ == "__main__":
    main()
