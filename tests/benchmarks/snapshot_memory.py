"""What it costs to remember a model and to put it back: memory in models, and seconds per GB.

    python tests/benchmarks/snapshot_memory.py [--out build/benchmarks] [--mib 256] [--device cuda] [--rounds 1]

Each figure comes from a fit in a process of its own, which captures at its beginning, makes two steps and restores.

- ours: the range test's snapshot.
- copy on the device: deep copies of both state dictionaries, which is what pytorch-lr-finder 0.2.2 makes by default.
- file: a checkpoint on disk, which is what Lightning's lr_find writes and reads.

Held is the memory that was taken by capturing; restoring, what was taken on top of that while restoring, at most. On
the CPU device and host are the same memory. The file's share of the system's cache is not counted.
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from side_by_side import arguments, show
from torch.utils.data import DataLoader

from lightning_lrsched.optim.snapshot import ModelSnapshot

WIDTH = 2048
MIB_PER_LAYER = WIDTH * WIDTH * 4 // 2**20
NAMES = ("ours", "copy on the device", "file")


class Model(LightningModule):
    """Linear layers of 16 MiB each."""

    def __init__(self, mib: int, *, device: str, trained: bool) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            *(torch.nn.Linear(WIDTH, WIDTH, bias=False, device=device) for _ in range(max(1, mib // MIB_PER_LAYER)))
        )
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)
        if trained:
            self.training_step(torch.zeros(1, WIDTH, device=device), 0).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.net(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer


def memory_of_host() -> tuple[int, int]:
    """Return what the process has in memory [bytes], and the most since the last call."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, most = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")  # begin the maximum anew
    return now, most


def measured(do: Callable[[], Any], *, cuda: bool) -> tuple[Any, dict[str, float]]:
    """Return what ``do`` returns, its time [s], and the memory that was taken by it and during it [bytes]."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        device_before = torch.cuda.memory_allocated()
    host_before, _ = memory_of_host()
    start = time.perf_counter()
    result = do()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    host, most = memory_of_host()
    found = {"seconds": seconds, "host": host - host_before, "host at most": most - host_before}
    if cuda:
        found["device"] = torch.cuda.memory_allocated() - device_before
        found["device at most"] = torch.cuda.max_memory_allocated() - device_before
    return result, found


class Measures(Callback):
    """Captures when training starts and restores when it ends."""

    def __init__(self, name: str, folder: str, *, cuda: bool) -> None:
        self.name, self.path, self.cuda = name, f"{folder}/saved.ckpt", cuda
        self.found: dict[str, dict[str, float]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        captures = {
            "ours": lambda: ModelSnapshot(pl_module, trainer.optimizers),
            "copy on the device": lambda: copy.deepcopy(
                (pl_module.state_dict(), trainer.optimizers[0].state_dict()),
            ),
            "file": lambda: trainer.save_checkpoint(self.path),
        }
        self.copied, self.found["capture"] = measured(captures[self.name], cuda=self.cuda)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def load() -> None:
            pl_module.load_state_dict(self.copied[0])
            trainer.optimizers[0].load_state_dict(self.copied[1])

        def restore() -> None:
            self.copied.restore()

        restores = {
            "ours": restore,
            "copy on the device": load,
            "file": lambda: trainer._checkpoint_connector.restore(self.path),
        }
        _, self.found["restore"] = measured(restores[self.name], cuda=self.cuda)


def one_fit(name: str, mib: int, device: str, *, trained: bool) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = Model(mib, device=device, trained=trained)
    with tempfile.TemporaryDirectory() as folder:
        callback = Measures(name, folder, cuda=device == "cuda")
        Trainer(
            accelerator=device, devices=1, max_steps=2, callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        ).fit(model, DataLoader(torch.zeros(2, WIDTH)))  # fmt: skip
    size = sum(parameter.nbytes for parameter in model.parameters())
    return {"model": size, "saved": size * (3 if trained else 1), **callback.found}


def row(name: str, trained: bool, runs: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(of: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(map(of, runs))

    figures: dict[str, Any] = {"snapshot": name, "optimizer": "trained" if trained else "fresh"}
    for memory in [key for key in ("device", "host") if key in runs[0]["capture"]]:
        figures[f"{memory} held [models]"] = middle(lambda run, m=memory: run["capture"][m] / run["model"])
        figures[f"{memory} restoring [models]"] = middle(
            lambda run, m=memory: run["restore"][f"{m} at most"] / run["model"]
        )
    for part in ("capture", "restore"):
        figures[f"{part} [s/GB]"] = middle(lambda run, p=part: run[p]["seconds"] / run["saved"] * 1e9)
    return figures


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of the model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", nargs=2, help="for the processes that this one starts")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_fit(options.one[0], options.mib, options.device, trained=options.one[1] == "trained")))
        return
    if not Path("/proc/self/clear_refs").exists():
        print("snapshot_memory: skipped, only Linux tells a process its peak memory")
        return
    rows = []
    for trained in (False, True):
        for name in NAMES:
            command = [sys.executable, __file__, "--mib", str(options.mib), "--device", options.device, "--one", name]
            command.append("trained" if trained else "fresh")
            outputs = [
                subprocess.run(command, check=True, capture_output=True, text=True).stdout
                for _ in range(options.rounds)
            ]
            rows.append(row(name, trained, [json.loads(output.splitlines()[-1]) for output in outputs]))
    print(f"a model of {options.mib} MiB, AdamW, on {options.device}")
    show("snapshot_memory", rows, options.out)


if __name__ == "__main__":
    main()
