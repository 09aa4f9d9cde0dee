"""What a step of Trainer.fit costs with our callback, with torch's own scheduler, and with a LearningRateMonitor.

    python tests/benchmarks/fit_loop.py [--out build/benchmarks] [--rounds 15] [--steps 600]

Times are medians [us per step] of fits taken in turns; ratios are medians of the ratios within one round. "logging
adds" is what logging lr and momentum to TensorBoard costs beyond the same trainer, logger and schedule without it.
The module is a perceptron 64-64-10 on a CPU, batch 64: the smaller the model, the more a callback shows.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from side_by_side import arguments, show
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRSchedulerCallback

ONE_CYCLE = {"type": "OneCycle", "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 250}}


class Module(LightningModule):
    def __init__(self, torchs_own: bool = False) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        self.torchs_own = torchs_own

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.001)
        if not self.torchs_own:
            return optimizer
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=100_000)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Nothing(Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        pass


class Clock(Callback):
    def on_train_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, *args: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def fit(callbacks: list[Any], data: DataLoader, *, every: int | None = None, torchs_own: bool = False) -> float:
    """Return the time per step [us]; ``every``: log to TensorBoard every so many steps."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[clock, *callbacks],
        logger=TensorBoardLogger(tempfile.mkdtemp()) if every else False,
        log_every_n_steps=every or 50,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(torchs_own), data)
    return clock.seconds / len(data) * 1e6


def ours(*, log: bool) -> LRSchedulerCallback:
    return LRSchedulerCallback(ONE_CYCLE, log=log)


def candidates(data: DataLoader) -> dict[str, Callable[[], float]]:
    def monitored() -> list[Any]:
        return [ours(log=False), LearningRateMonitor(log_momentum=True)]

    made: dict[str, Callable[[], float]] = {
        "no callback": lambda: fit([], data),
        "do-nothing callback": lambda: fit([Nothing()], data),
        "ours": lambda: fit([ours(log=False)], data),
        "torch OneCycleLR": lambda: fit([Nothing()], data, torchs_own=True),
    }
    for every in (1, 50):
        suffix = f", TensorBoard every {every}"
        made[f"ours, no curves{suffix}"] = lambda e=every: fit([ours(log=False)], data, every=e)
        made[f"ours, curves{suffix}"] = lambda e=every: fit([ours(log=True)], data, every=e)
        made[f"ours, monitor's curves{suffix}"] = lambda e=every: fit(monitored(), data, every=e)
    return made


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    inputs = torch.randn(64 * options.steps, 64)
    data = DataLoader(TensorDataset(inputs, torch.randint(0, 10, (len(inputs),))), 64)
    todo = candidates(data)
    names, times = list(todo), {name: [] for name in todo}
    for round_ in range(options.rounds):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(todo[name]())
    rows = []
    for name in names:
        row: dict[str, Any] = {"fit": name, "us per step": statistics.median(times[name])}
        row["x do-nothing"] = ratio(times, name, "do-nothing callback")
        if "curves," in name and "no curves" not in name:
            every = name.rpartition(" ")[2]
            base = times[f"ours, no curves, TensorBoard every {every}"]
            row["logging adds"] = statistics.median(a - b for a, b in zip(times[name], base, strict=True))
        rows.append(row)
    added = {row["fit"]: row["logging adds"] for row in rows if "logging adds" in row}
    for row in rows:
        if row["fit"].startswith("ours, curves"):
            row["x monitor's"] = row["logging adds"] / added[row["fit"].replace("curves", "monitor's curves")]
    show("fit_loop", rows, options.out)


if __name__ == "__main__":
    main()
