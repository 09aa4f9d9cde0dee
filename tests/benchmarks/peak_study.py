"""What trainings reach with 1Cycles of many peaks, and what is known before: stored, for rules to be tried on.

    python tests/benchmarks/peak_study.py --seeds 300:302 [--tasks NAMES]    (adds what is not stored yet)

For each task and seed, from the same weights and with the same batches:

*grid*: the metric after a whole 1Cycle, by peak; peaks are powers of two times the prior of the optimizer. The grid
grows until the best lies inside.
*shorter*: the same with the steps that a test may cost taken off, for two peaks.
*record*: what ``RangeTest()`` records with its defaults.
*trials*: short 1Cycles, by length and peak: mean loss of the last fifth, loss on held-back batches, validation loss.
*probe*: the loss of a batch along the update that the optimizer makes of it, at the beginning and after some steps at a
low lr.
*module*: what the module itself says of how it was made.

``peak_rules.py`` evaluates rules on the file.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peak_probe import loss_of
from peak_tasks import CHOOSING, OLD, REPORTED, TASKS, kind_of, make_task
from tasks import Task
from torch import Tensor, nn

from lightning_lrsched import RangeTest
from lightning_lrsched.optim.hyperparameters import momentum_kind
from lightning_lrsched.optim.schedulers import OneCycle
from lightning_lrsched.range_test.probe import Weights, lowest_of_parabola
from lightning_lrsched.range_test.record import one_cycle
from lightning_lrsched.range_test.suggest import prior_of

STORE = Path(__file__).with_name("peak_study.json")

UNKNOWN = {"Adagrad": 0.1, "Adadelta": 2.0}
"""Where the grid begins for optimizers without a prior."""

GRID = range(-5, 4)
WIDEST = range(-9, 8)
TRIAL_PEAKS = (-3, -2, -1, 0, 1, 2, 3, 4)
TRIAL_LENGTHS = (20, 50, 100)
HELD_BACK = 8
RECORD_BATCHES = 400
PROBED, PROBED_BATCHES = range(-12, 8), 3
WARM = ((10, 64),)
WARM_OF_OWN = ((1, 64), (10, 64))
"""Steps before the probe, and the fraction of the lr at which they are made. Tried on the choosing half: 5, 10, 20 and
40 steps at a 64th, 10 and 20 at a 16th, 10 at a 256th."""

PARTS = ("grid", "shorter", "record", "trials", "probe", "module")

Losses = dict[str, Any]


def base_of(task: Task) -> float:
    optimizer = task.optimizer(1.0)
    return prior_of(optimizer) or UNKNOWN[type(optimizer).__name__]


def budget(num_steps: int) -> int:
    """Steps that a test may cost."""
    return max(min(300, num_steps // 3), num_steps // 20)


def rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def cycle(task: Task, peak: float, num_steps: int, batches: Iterator[tuple[Tensor, Tensor]]) -> list[float]:
    """Train with a 1Cycle; return the losses, up to the first that is not finite."""
    optimizer = task.optimizer(peak)
    momentum = momentum_kind(optimizer) == "momentum"
    schedule = OneCycle(optimizer, **one_cycle(0.1 * peak, peak, num_steps, momentum)["params"])
    losses = []
    for batch in batches:
        loss = loss_of(task, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    return losses


def lowest(losses: Sequence[float]) -> float | None:
    """Return the power at which the loss along an update is lowest, from the loss at 0 and those at ``PROBED``."""
    beginning, *along = (loss if math.isfinite(loss) else math.inf for loss in losses)
    index = along.index(min(along))
    if not along[index] < beginning:
        return None
    around = along[index - 1 : index + 2] if index else []
    return round(PROBED[index] + (math.log2(lowest_of_parabola(*around)) if len(around) == 3 else 0.0), 2)


@torch.no_grad()
def move_to(parameters: list[Tensor], starts: list[Tensor], moves: list[Tensor], multiple: float) -> None:
    for parameter, start, move in zip(parameters, starts, moves, strict=True):
        parameter.copy_(start + multiple * move)


def metric_of(task: Task) -> str:
    return "error" if task.classifies else "loss"


class Study:
    """One task and seed."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        task = self.fresh()
        self.steps, self.metric, self.base = task.num_steps, metric_of(task), base_of(task)

    def fresh(self) -> Task:
        return make_task(self.name, self.seed)

    def trained(self, power: float, num_steps: int) -> float:
        task = self.fresh()
        losses = cycle(task, self.base * 2.0**power, num_steps, task.batches(num_steps))
        return task.validate()[self.metric] if math.isfinite(losses[-1]) else math.inf

    def grid(self) -> Losses:
        found = {power: self.trained(power, self.steps) for power in GRID}
        while True:
            best = min(found, key=lambda power: found[power])
            more = {min(found) - 1, max(found) + 1} & set(WIDEST)
            more = {power for power in more if abs(power - best) == 1}
            if not more:
                return {str(power): rounded(found[power]) for power in sorted(found)}
            found.update({power: self.trained(power, self.steps) for power in more})

    def shorter(self) -> Losses:
        left = self.steps - budget(self.steps)
        return {str(power): rounded(self.trained(power, left)) for power in (-1, 0)}

    def record(self) -> Losses:
        task = self.fresh()
        optimizer = task.optimizer(1e-3)
        with RangeTest(task.model, optimizer) as test:
            for batch in test.batches(list(task.batches(RECORD_BATCHES))):
                loss = loss_of(task, batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                test.record(loss)
        fine = test.result
        return {"sweeps": [_compact(sweep) for sweep in ([fine.coarse] if fine.coarse else []) + [fine]]}

    def trials(self) -> Losses:
        found: Losses = {}
        lengths = [length for length in TRIAL_LENGTHS if 3 * length <= budget(self.steps)]
        for length in lengths[-1:]:
            found[str(length)] = {str(power): self.trial(power, length) for power in TRIAL_PEAKS}
        return found

    def trial(self, power: int, length: int) -> list[float | None]:
        task = self.fresh()
        batches = task.batches(HELD_BACK + length)
        held_back = list(islice(batches, HELD_BACK))
        losses = cycle(task, self.base * 2.0**power, length, batches)
        if not math.isfinite(losses[-1]):
            return [None, None, None]
        last = fmean(losses[-max(3, length // 5) :])
        return [rounded(last), rounded(self.mean_loss(task, held_back)), rounded(task.validate()["loss"])]

    def mean_loss(self, task: Task, batches: list[tuple[Tensor, Tensor]]) -> float:
        return fmean(loss_of(task, batch).item() for batch in batches)

    def probe(self) -> Losses:
        """Return the powers at which the losses of three batches are lowest along the optimizer's own updates.

        The steps before are made at a small fraction of the lr that is best along the very first updates (or of the
        base, if that is lower).
        """
        first = self.along_updates(0, self.base)
        own = self.base * 2.0 ** min([power for power in first if power is not None] or [0.0])
        found: Losses = {"0": first}
        for warm, divisor in WARM:
            found[f"{warm} at 1/{divisor}"] = self.along_updates(warm, min(own, self.base) / divisor)
        for warm, divisor in WARM_OF_OWN:
            found[f"{warm} at own/{divisor}"] = self.along_updates(warm, own / divisor)
        return found | {"gradient": self.gradient()}

    def along_updates(self, warm: int, lr: float) -> list[float | None]:
        task = self.fresh()
        optimizer = task.optimizer(lr)
        parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        found = []
        for number, batch in enumerate(task.batches(warm + PROBED_BATCHES)):
            before = [parameter.detach().clone() for parameter in parameters]
            noise = torch.get_rng_state()  # dropout and sampling are to be the same at each place
            loss = loss_of(task, batch)
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = lr if number < warm else self.base
            optimizer.step()
            if number < warm:
                continue
            moves = [parameter.detach() - start for parameter, start in zip(parameters, before, strict=True)]
            losses = [loss.item()]
            for power in PROBED:
                move_to(parameters, before, moves, 2.0**power)
                torch.set_rng_state(noise)
                losses.append(loss_of(task, batch).item())
            found.append(lowest(losses))
            move_to(parameters, before, moves, lr / self.base)
        return found

    def gradient(self) -> Losses:
        """Return norms at the beginning: of the trained weights, of each batch's gradient, of the mean gradient."""
        task = self.fresh()
        trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        total, norms = None, []
        for batch in task.batches(HELD_BACK):
            gradient = torch.autograd.grad(loss_of(task, batch), trained, allow_unused=True)
            flat = torch.cat([part.flatten() for part in gradient if part is not None])
            norms.append(flat.norm().item())
            total = flat if total is None else total + flat
        assert total is not None
        weights = math.sqrt(sum(parameter.detach().pow(2).sum().item() for parameter in trained))
        return {
            "weights": rounded(weights),
            "batch": rounded(fmean(norms)),
            "mean": rounded(total.norm().item() / HELD_BACK),
        }

    def module(self) -> Losses:
        """Return what the module itself says of how it was made."""
        model = self.fresh().model
        weights = Weights.of(model)
        return {
            "trained share": rounded(weights.trained_share),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "weight matrices": weights.matrices,
            "width": weights.width,
            "pretrained": weights.pretrained,
            "above noise": rounded(_above_noise(model)),
        }

    def complete(self, known: Losses, names: Sequence[str]) -> Losses:
        """Return what is known with what is missing."""
        began = time.perf_counter()
        parts: dict[str, Callable[[], Losses]] = {name: getattr(self, name) for name in names}
        found = known | {name: part() for name, part in parts.items() if name not in known}
        task = self.fresh()
        return found | {
            "kind": kind_of(self.name),
            "optimizer": type(task.optimizer(1.0)).__name__,
            "steps": self.steps,
            "base": self.base,
            "untrained": rounded(task.validate()[self.metric]),
            "seconds": round(known.get("seconds", 0.0) + time.perf_counter() - began, 1),
        }


def _compact(sweep: Any) -> Losses:
    """Return a sweep without what can be computed: its lrs grow by a constant factor."""
    return {
        "from": rounded(sweep.lrs[0]),
        "to": rounded(sweep.lrs[-1]),
        "steps": sweep.steps[-1] - sweep.steps[0] + 1,
        "losses": [float(f"{loss:.4g}") if math.isfinite(loss) else None for loss in sweep.losses],
        "ended": str(sweep.stop_reason),
    }


def _above_noise(model: nn.Module) -> float:
    """Return how far the largest singular value of a weight stands above that of independent numbers; the median."""
    ratios = []
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or min(weight.shape[0], weight[0].numel()) < 8 or "norm" in name:
            continue
        matrix = weight.detach().flatten(1)
        edge = matrix.std() * (math.sqrt(matrix.shape[0]) + math.sqrt(matrix.shape[1]))
        ratios.append((torch.linalg.matrix_norm(matrix, 2) / edge).item())
    return sorted(ratios)[len(ratios) // 2] if ratios else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="300:302", help="first and one behind the last")
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS, *OLD], default=[*CHOOSING, *REPORTED])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--slowest", type=float, default=math.inf, help="skip tasks of which a stored run took longer [s]"
    )
    parser.add_argument("--store", type=Path, default=STORE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    store = json.loads(args.store.read_text(encoding="utf-8")) if args.store.exists() else {}
    for seed in range(*map(int, args.seeds.split(":"))):
        for name in args.tasks:
            known = [run["seconds"] for key, run in store.items() if key.startswith(f"{name}/")]
            key = f"{name}/{seed}"
            if "probe" in store.get(key, {}) or (known and max(known) > args.slowest):
                continue
            store[key] = run = Study(name, seed).complete(store.get(key, {}), args.parts)
            part = args.store.with_suffix(".part")
            part.write_text(json.dumps(store, separators=(",", ":")).replace('"},"', '"},\n"'), encoding="utf-8")
            part.replace(args.store)
            print(name, seed, run["seconds"], run["untrained"], run["grid"], flush=True)


if __name__ == "__main__":
    main()
