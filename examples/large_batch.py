"""The experiment of the LR range test's tutorial: a batch 4 times as large, and results as good, with 1Cycle.

An LSTM learns to predict the next character in the source of Python's standard library, always from as many samples:

(a) in small batches, at the best fixed lr;
(b) in batches 4 times as large, at the best fixed lr for these;
(c) as (b), but in LR range tests, a slow and a fast one, that begin at the lr of (b);
(d) in the large batches, with the 1Cycle schedule that the slow range test suggests.

    python examples/large_batch.py           # two seeds, at the fixed lrs that --full has found; some minutes
    python examples/large_batch.py --full    # first the search for the best fixed lrs, then ten seeds; an hour
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sysconfig
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import ProgressLines, quieten, say
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, RangeTestResult

SMALL, LARGE = 8, 32  # [samples] in a batch
SAMPLES = 256_000  # about two epochs
CONTEXT = 32  # [characters] in a sample
VOCABULARY = 128  # ASCII
VALIDATION_SAMPLES = 1024
VALIDATIONS = 40  # in each training

GRID = [0.001, 0.002, 0.004, 0.008, 0.016]
GRID_SEEDS = [0, 1, 2]
FRESH_SEEDS = list(range(100, 110))  # none of them was used to choose anything
BEST_LR = {SMALL: 0.004, LARGE: 0.004}
"""The best of GRID by the median validation loss of GRID_SEEDS, as --full finds it."""

GROWTH = {"slow": 0.8, "fast": 8.0}  # in 10 batches, as a multiple of the first lr; tenfold apart, as in the tutorial
TEST_STEPS = 600  # at most
WINDOW = 100  # [batches] in which the tests are compared with the fixed lr: a hundredth of the training
PLOTTED = 300  # [batches]
TEST_INTERVAL = 2  # [batches] from one validation to the next


class CharLSTM(LightningModule):
    """Predicts the next character. Note that it holds no scheduler code."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.characters = nn.Embedding(VOCABULARY, 32)
        self.lstm = nn.LSTM(32, 96, batch_first=True)
        self.head = nn.Linear(96, VOCABULARY)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.lstm(self.characters(text))[0])

    def training_step(self, batch: list[Tensor]) -> Tensor:
        text = batch[0].long()
        return nn.functional.cross_entropy(self(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    def validation_step(self, batch: list[Tensor]) -> None:
        text = batch[0].long()
        logits, following = self(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()
        self.log("val_loss", nn.functional.cross_entropy(logits, following))
        self.log("val_accuracy", (logits.argmax(1) == following).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class ValidationCurve(Callback):
    """Records the validation loss against the number of batches."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.points.append((trainer.global_step, float(trainer.callback_metrics["val_loss"])))


def loaders(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Return the training and the validation data: windows of text, from different files."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [file.read_text(encoding="utf-8").encode("ascii", "replace") for file in files]
    training = windows(b"".join(text for number, text in enumerate(texts) if number % 10))
    validation = windows(b"".join(texts[::10]))
    picked = torch.randperm(len(validation), generator=torch.Generator().manual_seed(0))[:VALIDATION_SAMPLES]
    # A sampler of whole batches: a batch is one indexing operation, not one for each sample.
    batches = BatchSampler(RandomSampler(training), batch_size, drop_last=True)
    return (
        DataLoader(training, sampler=batches, batch_size=None),
        DataLoader(TensorDataset(validation.tensors[0][picked]), batch_size=VALIDATION_SAMPLES),
    )


def windows(text: bytes) -> TensorDataset:
    """Return the text in pieces of CONTEXT characters, each with the one that follows it."""
    return TensorDataset(torch.frombuffer(bytearray(text), dtype=torch.uint8).unfold(0, CONTEXT + 1, CONTEXT))


def fit(
    what: str, seed: int, batch_size: int, lr: float, steps: int, interval: int, callback: Callback | None = None
) -> Trainer:
    """Train from scratch for ``steps`` steps, with a validation every ``interval`` steps; say how it ended."""
    start = time.perf_counter()
    seed_everything(seed, verbose=False)
    module, (training, validation) = CharLSTM(lr), loaders(batch_size)
    trainer = Trainer(
        max_steps=steps,
        val_check_interval=interval,
        check_val_every_n_epoch=None,  # the interval may reach over the end of an epoch
        num_sanity_val_steps=0,
        callbacks=[ValidationCurve(), ProgressLines(f"seed {seed}, {what}"), *([callback] if callback else [])],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        accelerator="auto",
        devices=1,
    )
    trainer.fit(module, training, validation)
    if isinstance(callback, LRRangeTestCallback):  # what callbacks have noted is put back after a test
        made, loss = callback.result.steps[-1], callback.result.losses[-1]
    else:
        made, loss = trainer.callbacks[0].points[-1]
    say(f"seed {seed:<3}  {what:<24}  loss {loss:5.3f} after {made:>5} steps  {time.perf_counter() - start:5.0f} s")
    return trainer


def train(
    seed: int, batch_size: int, lr: float, samples: int, schedule: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return validation loss against samples, and the final accuracy in percent."""
    steps = samples // batch_size
    callback = LRSchedulerCallback(schedule) if schedule else None
    what = f"batch {batch_size}, " + ("1Cycle" if schedule else f"fixed lr {lr:g}")
    trainer = fit(what, seed, batch_size, lr, steps, steps // VALIDATIONS, callback)
    curve = trainer.callbacks[0].points
    return {
        "samples": [step * batch_size for step, _ in curve],
        "losses": [loss for _, loss in curve],
        "accuracy": 100 * float(trainer.callback_metrics["val_accuracy"]),
    }


def range_test(seed: int, lr: float, growth: float) -> RangeTestResult:
    """Run an LR range test on the validation loss, starting at ``lr``."""
    callback = LRRangeTestCallback(
        lr, lr_range_test_step_size=10, lr_range_test_step_rate=growth, monitor="val_loss", num_steps=TEST_STEPS
    )
    fit("LR range test", seed, LARGE, lr, TEST_STEPS, TEST_INTERVAL, callback)
    return callback.result


def fixed_lr_beginning(seed: int, lr: float) -> dict[str, Any]:
    """Return the beginning of a training at a fixed lr, validated as often as a range test."""
    curve = fit(f"batch {LARGE}, beginning", seed, LARGE, lr, PLOTTED, TEST_INTERVAL).callbacks[0].points
    return {"batches": [step for step, _ in curve], "losses": [loss for _, loss in curve], "lrs": [lr] * len(curve)}


def one_seed(seed: int, best_lr: dict[int, float], samples: int) -> dict[str, Any]:
    """Return the record of everything that is done with one seed."""
    results = {name: range_test(seed, best_lr[LARGE], growth) for name, growth in GROWTH.items()}
    tests = {
        name: {"batches": [step + 1 for step in result.steps], "losses": result.losses, "lrs": result.lrs}
        for name, result in results.items()
    }
    schedule = results["slow"].one_cycle(samples // LARGE)
    return {
        "seed": seed,
        "tests": {"fixed": fixed_lr_beginning(seed, best_lr[LARGE]), **tests},
        "schedule": schedule,
        "a": train(seed, SMALL, best_lr[SMALL], samples),
        "b": train(seed, LARGE, best_lr[LARGE], samples),
        "d": train(seed, LARGE, best_lr[LARGE], samples, schedule),
    }


def search_best_lr(pool: ProcessPoolExecutor, samples: int) -> dict[int, float]:
    """Return, for each size of batch, the lr of GRID with the lowest median of the final validation loss."""
    runs = {
        (batch_size, lr): [pool.submit(train, seed, batch_size, lr, samples) for seed in GRID_SEEDS]
        for batch_size in (SMALL, LARGE)
        for lr in GRID
    }
    best_lr = {}
    for batch_size in (SMALL, LARGE):
        losses = {lr: statistics.median(run.result()["losses"][-1] for run in runs[batch_size, lr]) for lr in GRID}
        best_lr[batch_size] = min(losses, key=losses.get)
        shown = ", ".join(f"{loss:.3f} at {lr:g}" for lr, loss in losses.items())
        say(f"Batch {batch_size}, final validation loss: {shown}")
    return best_lr


def read_record(path: Path) -> dict[str, Any]:
    """Return a record as main has written it: the arguments of report."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return {**record, "best_lr": {int(batch_size): lr for batch_size, lr in record["best_lr"].items()}}


def batches_to_target(test: dict[str, Any], fixed: dict[str, Any]) -> float:
    """Return after how many batches a test had the lowest loss that the fixed lr reaches within WINDOW."""
    target = min(loss for at, loss in zip(fixed["batches"], fixed["losses"], strict=True) if at <= WINDOW)
    return reached(test["batches"], test["losses"], target)


def reached(where: list[int], losses: list[float], target: float) -> float:
    """Return where the losses first come down to the target; infinity: never."""
    return next((at for at, loss in zip(where, losses, strict=True) if loss <= target), math.inf)


def median_and_range(values: list[float], form: str) -> str:
    """Return "median (lowest .. highest)"; of an even number of values the mean of the middle two."""
    median, low, high = (format(f(values), form) for f in (statistics.median, min, max))
    return f"{median} ({low} .. {high})".replace("inf", "never")


def report(records: list[dict[str, Any]], best_lr: dict[int, float], samples: int) -> str:
    """Return two tables: the range tests beside the fixed lr, and the trainings."""
    params = [record["schedule"]["params"] for record in records]
    peak = median_and_range([param["cycle_max_lr"] for param in params], ".3f")
    lines = [
        "The next character of Python's own source; LSTM, AdamW.",
        f"{samples:,} samples of {CONTEXT} characters; medians of {len(records)} seeds (lowest .. highest).",
        "",
        f"(a) batch {SMALL}, fixed lr {best_lr[SMALL]:g}",
        f"(b) batch {LARGE}, fixed lr {best_lr[LARGE]:g}",
        f"(c) batch {LARGE}, LR range tests from the lr of (b) on",
        f"(d) batch {LARGE}, 1Cycle, peak lr {peak} from the slow test",
        "",
        f"{'(c)':<8}{f'batches to what (b) has after {WINDOW}':<38}length [% of a training]",
    ]
    for name in GROWTH:
        tests = [(record["tests"][name], record["tests"]["fixed"]) for record in records]
        target = median_and_range([batches_to_target(test, fixed) for test, fixed in tests], ".0f")
        share = median_and_range([100 * test["batches"][-1] * LARGE / samples for test, _ in tests], ".1f")
        lines.append(f"{name:<8}{target:<38}{share}")
    lines += ["", f"    {'samples to the loss of (a)':<30}{'final loss':<24}final accuracy [%]"]
    for key in ("a", "b", "d"):
        runs = [(record[key], record["a"]["losses"][-1]) for record in records]
        target = median_and_range([reached(run["samples"], run["losses"], loss) for run, loss in runs], ",.0f")
        final = median_and_range([run["losses"][-1] for run, _ in runs], ".3f")
        accuracy = median_and_range([run["accuracy"] for run, _ in runs], ".2f")
        lines.append(f"({key}) {target:<30}{final:<24}{accuracy}")
    wins = sum(record["d"]["losses"][-1] <= record["a"]["losses"][-1] for record in records)
    return "\n".join([*lines, "", f"(d) matches or beats (a) in {wins} of {len(records)}."])


def draw(records: list[dict[str, Any]], best_lr: dict[int, float]) -> tuple[Figure, Figure]:
    """Return the tutorial's two plots as one figure, and the trainings as another: medians, and bands of all seeds."""
    tests, trainings = Figure((9.0, 3.4), layout="constrained"), Figure((9.0, 3.4), layout="constrained")
    left, right = tests.subplots(1, 2)
    for name in ("fixed", "slow", "fast"):
        runs = [record["tests"][name] for record in records]
        label = f"fixed lr {best_lr[LARGE]:g}" if name == "fixed" else f"{name} LR range test"
        band(left, [run["batches"] for run in runs], [run["losses"] for run in runs], label)
        band(right, [run["batches"] for run in runs], [run["lrs"] for run in runs], label)
    lowest = min(min(record["tests"]["slow"]["losses"]) for record in records)
    left.set(ylim=(lowest - 0.1, lowest + 1.4), ylabel="validation loss", title=f"batches of {LARGE} samples")
    right.set(yscale="log", ylabel="learning rate", title="the lr meanwhile")
    axes = trainings.subplots()
    for key, label in (
        ("a", f"(a) batch {SMALL}, fixed lr {best_lr[SMALL]:g}"),
        ("b", f"(b) batch {LARGE}, fixed lr {best_lr[LARGE]:g}"),
        ("d", f"(d) batch {LARGE}, 1Cycle from the range test"),
    ):
        runs = [record[key] for record in records]
        band(axes, [run["samples"] for run in runs], [run["losses"] for run in runs], label)
    lowest = min(record["d"]["losses"][-1] for record in records)
    axes.set(ylim=(lowest - 0.03, lowest + 0.4), ylabel="validation loss", xlabel="samples")
    for plot in (left, right):
        plot.set(xlim=(0, PLOTTED), xlabel="batches")
    right.legend(loc="lower right", bbox_to_anchor=(1.0, 0.2))  # holds on the left too, where it would hide a band
    axes.legend()
    for plot in (left, right, axes):
        plot.grid(alpha=0.3)
    return tests, trainings


def band(axes: Axes, where: list[list[int]], values: list[list[float]], label: str) -> None:
    """Draw the median over seeds, and the range as a band, as far as every seed goes."""
    columns = list(zip(*values, strict=False))
    x = where[0][: len(columns)]
    [line] = axes.plot(x, [statistics.median(column) for column in columns], linewidth=2.0, label=label)
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="search the best fixed lrs first; ten fresh seeds")
    parser.add_argument("--seeds", type=int, help="how many of the fresh seeds (2; with --full 10)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="length of each training")
    parser.add_argument("--workers", type=int, default=2, help="processes that train side by side")
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output/large_batch"), help="folder for record and pictures"
    )
    args = parser.parse_args()
    seeds = FRESH_SEEDS[: args.seeds or (10 if args.full else 2)]
    start = time.perf_counter()
    # Fresh processes, whatever the platform: torch's threads do not survive a fork.
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), initializer=quieten) as pool:
        best_lr = search_best_lr(pool, args.samples) if args.full else BEST_LR
        runs = [pool.submit(one_seed, seed, best_lr, args.samples) for seed in seeds]
        records = [run.result() for run in runs]

    args.out.mkdir(parents=True, exist_ok=True)
    record = {"best_lr": best_lr, "samples": args.samples, "records": records}
    (args.out / "large_batch.json").write_text(json.dumps(record), encoding="utf-8")
    for name, figure in zip(("tests", "trainings"), draw(records, best_lr), strict=True):
        figure.savefig(args.out / f"{name}.png", dpi=120)
    print(f"\n{report(**record)}\n")
    print(f"Pictures:  {args.out / 'tests.png'}  {args.out / 'trainings.png'}")
    print(f"Took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
