"""Several processes on one machine."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.fsdp

ROOT = Path(__file__).parents[2]

needs_fully_shard = pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard"), reason="torch.distributed.fsdp.fully_shard came with torch 2.6"
)


def _free_port() -> int:
    """Return a port that no outgoing connection gets: the first rank listens there only seconds later."""
    while True:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", random.SystemRandom().randint(15_000, 30_000)))
            return int(free.getsockname()[1])


def environment_of_ranks(processes: int) -> dict[str, str]:
    """Return what the processes of one run have in common; each needs its LOCAL_RANK besides."""
    port = str(_free_port())
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    run = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **run}


def run_on_two_ranks(
    strategy: str, folder: Path, accelerator: str, script: str = "two_ranks.py"
) -> list[dict[str, Any]]:
    """Run a script in two processes and return what each has found."""
    # Files, not pipes: a rank whose pipe is full would wait for its reader, and the other rank for it.
    common = {**environment_of_ranks(2), "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, str(ROOT / "tests" / "integration" / script), strategy, str(folder), accelerator]
    files = [folder / f"rank{rank}.txt" for rank in range(2)]
    ranks = []
    for rank, file in enumerate(files):
        with file.open("w") as out:
            env = {**common, "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT))
    deadline = time.monotonic() + 200
    try:
        for rank in ranks:
            rank.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        for rank in ranks:
            rank.send_signal(signal.SIGABRT)  # it writes where each thread is
            rank.wait(20)
    finally:
        for rank in ranks:
            rank.kill()
    said = [file.read_text(encoding="utf-8", errors="replace")[-8000:] for file in files]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
