"""What the examples share: quiet Trainers with a named progress bar, and the command that shows the curves."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger


class NamedProgressBar(TQDMProgressBar):
    """A progress bar that says which training it is, and disappears at its end."""

    def __init__(self, name: str) -> None:
        super().__init__(leave=False)
        self._name = name

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin an epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"{self._name}, epoch {trainer.current_epoch}")


def make_trainer(folder: Path, run: str, *callbacks: Any, **options: Any) -> Trainer:
    """Return an ordinary Trainer whose curves go to ``folder / run``; with a progress bar where there is a terminal."""
    bar = [NamedProgressBar(run.replace("_", " "))] if sys.stdout.isatty() else []
    defaults: dict[str, Any] = {
        "logger": TensorBoardLogger(folder, name=run, version=""),
        "log_every_n_steps": 5,
        "enable_progress_bar": bool(bar),
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=[*callbacks, *bar], **{**defaults, **options})


def quieten() -> None:
    """Keep Lightning's start-up messages out of a short report."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
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
