"""Trains in processes that can be killed: started by test_kill.py, which writes one line for each run.

Everything is imported once; each run is a fork, so that a run costs no import. A line holds the folder of the run; the
answer is the process id, and "ended" with its exit status when it is over.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_lrsched import LRSchedulerCallback
from tests.kit.runs import ONE_CYCLE, Net, StatefulLoader, adamw, quiet_trainer
from tests.kit.schedules import values_of

STEPS = 100
SAVE_EVERY = 3
CONFIG = {"type": "OneCycle", "params": {**ONE_CYCLE["params"], "cycle_max_lr": 0.2, "cycle_first_step_size": 40}}


class Log(Callback):
    """Writes a line before each optimizer step: step, lr and momentum of each group, and the sum of the weights."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "steps.log").open("a")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        weights = sum(float(p.detach().double().sum()) for p in pl_module.parameters())
        self._file.write(f"{trainer.global_step}|{values_of(optimizer)!r}|{weights!r}\n")
        self._file.flush()
        time.sleep(0.004)


def train(folder: Path) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    saved = sorted((folder / "saved").glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    saver = ModelCheckpoint(folder / "saved", "{step}", every_n_train_steps=SAVE_EVERY, save_top_k=-1)
    trainer = quiet_trainer(
        folder, LRSchedulerCallback(CONFIG), Log(folder), saver, max_steps=STEPS, enable_checkpointing=True
    )
    trainer.fit(Net(adamw), StatefulLoader(), ckpt_path=saved[-1] if saved else None)


def main() -> None:
    """Train in the folder of each line on the standard input."""
    print("ready", flush=True)  # noqa: T201 - the test reads it
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                train(Path(line.strip()))
            except BaseException:  # noqa: BLE001 - a fork must not go on in this loop
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)  # noqa: T201
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
