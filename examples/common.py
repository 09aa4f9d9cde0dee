"""What the examples share: quiet Trainers with a named progress bar, and the command that shows the curves."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

SILENCE = 8.0
"""[s] Without a line in a pipe."""


class NamedProgressBar(TQDMProgressBar):
    """A progress bar that says which training it is, and disappears at its end."""

    def __init__(self, name: str) -> None:
        super().__init__(leave=False)
        self._name = name

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin an epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"{self._name}, epoch {trainer.current_epoch}")


class ProgressLines(Callback):
    """Prints a line now and then, where there is no terminal for a progress bar: nobody should wonder if it hangs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Print how far the training is, if the last line is some seconds old."""
        if trainer.is_global_zero and time.monotonic() - self._last > SILENCE:
            self._last = time.monotonic()
            print(f"... {self._name}: step {trainer.global_step} of {trainer.estimated_stepping_batches}", flush=True)


def make_trainer(folder: Path, run: str, *callbacks: Any, **options: Any) -> Trainer:
    """Return an ordinary Trainer whose curves go to ``folder / run``; with a progress bar where there is a terminal."""
    terminal = sys.stdout.isatty()
    progress = NamedProgressBar(run.replace("_", " ")) if terminal else ProgressLines(run.replace("_", " "))
    defaults: dict[str, Any] = {
        "logger": TensorBoardLogger(folder, name=run, version=""),
        "log_every_n_steps": 5,
        "enable_progress_bar": terminal,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=[*callbacks, progress], **{**defaults, **options})


def quieten(*, tables: bool = False) -> None:
    """Keep Lightning's start-up messages out of a short report; ``tables``: but not what "auto" became."""
    torch.set_num_threads(1)  # networks this small gain nothing from more
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric",
        *([] if tables else ["lightning.pytorch"]),
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    messages = (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*LeafSpec.*")
    for message in messages:
        warnings.filterwarnings("ignore", message)


def tensorboard_command(folder: Path) -> str:
    """Return a command that shows the curves and works as it stands, whichever environment is active."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    script = python.with_name("tensorboard")
    command = str(script) if os.access(script, os.X_OK) else f"{python} -m tensorboard.main"
    return f"{command} --logdir {folder}"
