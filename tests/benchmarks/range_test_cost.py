"""What a step of an LR range test costs: ours, Lightning's lr_find, and the same fit without either.

    python tests/benchmarks/range_test_cost.py [--out build/benchmarks] [--rounds 9] [--steps 300]

Whole calls are timed, with all that is saved before and put back after; neither may stop early.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from fit_loop import Module
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner
from side_by_side import arguments, show
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRRangeTestCallback


def make_trainer(*callbacks: Any, steps: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.mkdtemp(),
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    steps = options.steps
    inputs = torch.randn(64 * (steps + 1), 64)
    data = DataLoader(TensorDataset(inputs, torch.randint(0, 10, (len(inputs),))), 64)

    def lr_find() -> None:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            module = Module()
            module.lr = 0.1
            Tuner(make_trainer(steps=steps)).lr_find(
                module, data, min_lr=1e-6, max_lr=1e-3, num_training=steps, early_stop_threshold=None, update_attr=False
            )

    todo: dict[str, Callable[[], Any]] = {
        "fit": lambda: make_trainer(steps=steps).fit(Module(), data),
        "ours": lambda: make_trainer(LRRangeTestCallback(1e-6, max_lr=1e-3, num_steps=steps), steps=steps).fit(
            Module(), data
        ),
        "lr_find": lr_find,
    }
    times: dict[str, list[float]] = {name: [] for name in todo}
    os.chdir(tempfile.mkdtemp())  # lr_find writes a checkpoint
    for _ in range(options.rounds):
        for name, run in todo.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / steps * 1e6)
    rows = [
        {
            "range test": name,
            "us per step": statistics.median(values),
            "x fit": statistics.median(a / b for a, b in zip(values, times["fit"], strict=True)),
        }
        for name, values in times.items()
    ]
    show("range_test_cost", rows, options.out.resolve() if options.out else None)


if __name__ == "__main__":
    main()
