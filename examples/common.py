"""What the examples share: quiet Trainers with a named progress bar, the digits, the command that shows the curves."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, TensorDataset

SILENCE = 8.0
"""[s] Without a line in a pipe."""

COLUMNS = 80


class Wrapped(logging.Formatter):
    """Breaks the long lines of a message, so that they fit a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return wrap(super().format(record))


def wrap(text: str) -> str:
    """Return the text with no line longer than the terminal is wide; tables, whose lines are shorter, stay."""
    return "\n".join(
        textwrap.fill(line, COLUMNS, subsequent_indent="  ", break_on_hyphens=False) if len(line) > COLUMNS else line
        for line in text.split("\n")
    )


@rank_zero_only
def say(text: str) -> None:
    """Print it, once where several processes train."""
    print(wrap(text), flush=True)


class NamedProgressBar(TQDMProgressBar):
    """A progress bar that says which training it is, and disappears at its end."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def init_train_tqdm(self) -> Any:
        """Return the bar of the training."""
        return _disappearing(super().init_train_tqdm())

    def init_test_tqdm(self) -> Any:
        """Return the bar of a test."""
        return _disappearing(super().init_test_tqdm())

    def init_validation_tqdm(self) -> Any:
        """Return the bar of a validation."""
        return _disappearing(super().init_validation_tqdm())

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin an epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"{self._name}, epoch {trainer.current_epoch}")


def _disappearing(bar: Any) -> Any:
    bar.leave = False
    return bar


class ProgressLines(Callback):
    """Prints a line now and then, where there is no terminal for a progress bar: nobody should wonder if it hangs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Print how far the training is, if the last line is some seconds old."""
        if time.monotonic() - self._last > SILENCE:
            self._last = time.monotonic()
            steps = trainer.global_step // len(trainer.optimizers)  # Lightning counts those of all optimizers
            say(f"... {self._name}: step {steps} of {trainer.estimated_stepping_batches}")


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
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(Wrapped())
    messages = (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*LeafSpec.*")
    for message in messages:
        warnings.filterwarnings("ignore", message)


def digits(batch_size: int, order: torch.Generator | None = None) -> tuple[DataLoader, DataLoader]:
    """Return scikit-learn's handwritten digits: 1347 to train with, and always the same 450 to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)
    train, test = train_test_split(range(len(labels)), test_size=450, random_state=0, stratify=data.target)
    return (
        DataLoader(TensorDataset(images[train], labels[train]), batch_size, shuffle=True, generator=order),
        DataLoader(TensorDataset(images[test], labels[test]), 450),
    )


@rank_zero_only
def show_curves(folder: Path) -> None:
    """Print a command that shows the curves and works as it stands, whichever environment is active."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    script = python.with_name("tensorboard")
    command = str(script) if os.access(script, os.X_OK) else f"{python} -m tensorboard.main"
    print(f"\nThe curves, in TensorBoard:\n\n{command} --logdir {folder}", flush=True)
