"""A training process that is killed with SIGKILL at any moment goes on from its last checkpoint as if nothing was."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.training_to_kill import CONFIG, SAVE_EVERY, STEPS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

ROOT = Path(__file__).parents[2]


class Victim:
    """The process that starts the training processes."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.integration.training_to_kill"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def train(self, folder: Path, kill_after: int | None = None, delay: float = 0.0) -> int:
        """Train in ``folder``; kill the process ``delay`` [s] after it has written ``kill_after`` lines."""
        log = folder / "steps.log"
        before = len(log.read_text().splitlines()) if log.exists() else 0
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        pid = int(self._answer())
        if kill_after is not None:
            deadline = time.monotonic() + 60
            while not log.exists() or len(log.read_text().splitlines()) < before + kill_after:
                assert time.monotonic() < deadline, "the training process writes nothing"
                time.sleep(0.0005)
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
        return int(self._answer().split()[1])

    def close(self) -> None:
        self._process.communicate(timeout=30)  # closes its pipes: it ends at the end of its input


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    process = Victim()
    yield process
    process.close()


@pytest.fixture(scope="module")
def uninterrupted(victim: Victim, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert victim.train(folder) == 0
    lines = (folder / "steps.log").read_text().splitlines()
    assert [int(line.partition("|")[0]) for line in lines] == list(range(STEPS))
    assert len({line.partition("|")[2] for line in lines}) == STEPS
    return lines


def kill_points(seed: int, how_many: int) -> list[tuple[int, float]]:
    """(lines written before the kill, further delay in seconds), the same for the same seed."""
    chance = random.Random(seed)
    return [(chance.randint(1, 9), chance.uniform(0.0, 0.012)) for _ in range(how_many)]


@pytest.mark.parametrize(
    ("seed", "kills"),
    [(1, 5), *[pytest.param(seed, 8, marks=pytest.mark.slow) for seed in range(2, 16)]],
)
def test_a_run_that_is_killed_again_and_again_ends_as_the_uninterrupted_one(
    victim, uninterrupted, tmp_path, seed, kills
):
    for kill_after, delay in kill_points(seed, kills):
        status = victim.train(tmp_path, kill_after, delay)
        assert status == -signal.SIGKILL
    assert victim.train(tmp_path) == 0
    lines = (tmp_path / "steps.log").read_text().splitlines()
    steps = [int(line.partition("|")[0]) for line in lines]
    assert set(steps) == set(range(STEPS))
    # Every line, those of steps that were made again too, is the line of the uninterrupted run.
    assert [line for line, step in zip(lines, steps, strict=True) if line != uninterrupted[step]] == []
    resumed_at = [now for before, now in itertools.pairwise(steps) if now != before + 1]
    assert all(step % SAVE_EVERY == 0 for step in resumed_at)
    assert len(steps) > STEPS, "no step was lost: no kill came between two checkpoints"


def test_the_schedule_of_this_test_moves_at_every_step(uninterrupted):
    assert CONFIG["type"] == "OneCycle"
    values = {line.split("|")[1] for line in uninterrupted}
    assert len(values) > STEPS // 2
