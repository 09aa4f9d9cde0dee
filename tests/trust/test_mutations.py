"""A test that cannot fail proves nothing: each of these mistakes is made in a copy of the package, and a test sees it.

One change of a comparison makes no mistake, because both sides of it have the same values: that has a test of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lightning_lrsched.schedulers.curves import cycle, linear_growth, reciprocal_decay

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

ROOT = Path(__file__).parents[2]
EXACT_RESUME = "tests/trust/test_exact_resume.py::test_lr_momentum_and_weights_go_on_bit_for_bit"
CHANGED = "tests/trust/test_changed_configuration.py"
DRIVERS = "tests/trust/test_two_drivers.py"


class Mutation(NamedTuple):
    """In ``file``, ``old`` is replaced by ``new``; then ``test`` must fail."""

    file: str
    old: str
    new: str
    test: str


MUTATIONS = {
    "the cycle ends one step late": Mutation(
        "schedulers/one_cycle.py",
        "if step <= self._total_size:",
        "if step <= self._total_size + 1:",
        "tests/schedulers/test_one_cycle.py",
    ),
    "the decay begins one step late": Mutation(
        "schedulers/one_cycle.py",
        "after = step - self._total_size",
        "after = step - self._total_size - 1",
        "tests/schedulers/test_one_cycle.py",
    ),
    "<= becomes < in the switch from warmup to decay": Mutation(
        "schedulers/warmup.py",
        "if step <= self._warmup_steps:\n            up =",
        "if step < self._warmup_steps:\n            up =",
        "tests/schedulers/test_warmup.py",
    ),
    "<= becomes < in the switch from warmup to cosine": Mutation(
        "schedulers/warmup.py",
        "if step <= self._warmup_steps:\n            low, up",
        "if step < self._warmup_steps:\n            low, up",
        "tests/schedulers/test_warmup.py",
    ),
    "> becomes >= at the end of the warmup": Mutation(
        "schedulers/curves.py",
        "if step > warmup_steps or warmup_steps == 0:",
        "if step >= warmup_steps or warmup_steps == 0:",
        "tests/schedulers/test_warmup.py",
    ),
    "step + 1 in a linear warmup": Mutation(
        "schedulers/curves.py",
        "return (step - 1) / warmup_steps",
        "return step / warmup_steps",
        "tests/schedulers/test_warmup.py",
    ),
    "step + 1 in a logarithmic warmup": Mutation(
        "schedulers/curves.py",
        "return math.log(step) /",
        "return math.log(step + 1) /",
        "tests/schedulers/test_warmup.py",
    ),
    "beta2 dropped": Mutation(
        "schedulers/param_groups.py",
        "self.others = self.written[1:]",
        "self.others = ()",
        "tests/schedulers/test_param_groups.py",
    ),
    "the hook registered twice": Mutation(
        "schedulers/clock.py",
        "        self._hook = optimizer.register_step_post_hook(self._on_step)\n",
        "        self._hook = optimizer.register_step_post_hook(self._on_step)\n" * 2,
        "tests/schedulers/test_clock.py",
    ),
    "the state is not applied again on load": Mutation(
        "schedulers/base.py",
        'if state_dict.get("in_charge", True):',
        'if state_dict.get("in_charge") is None:',
        "tests/schedulers/test_state.py::test_loading_writes_lr_and_momentum_at_once",
    ),
    "the position is saved one step late": Mutation(
        "schedulers/base.py",
        "position = max(-1, self.last_epoch)",
        "position = max(-1, self.last_epoch - 1)",
        EXACT_RESUME,
    ),
    "a skipped step counts": Mutation(
        "schedulers/clock.py",
        "if found_inf is None or not found_inf:",
        "if True:",
        "tests/schedulers/test_clock.py",
    ),
    "the checkpoint's own lr wins": Mutation(
        "schedulers/base.py",
        "new_groups = groups[len(self.base_lrs) :]",
        "self.base_lrs, new_groups = [], groups",
        "tests/schedulers/test_state.py::test_the_own_lr_is_the_optimizers_now_not_the_checkpoints",
    ),
    "a cycled momentum stays": Mutation(
        "schedulers/base.py",
        "write_momenta(self.optimizer.param_groups, self._own_momenta)",
        "pass",
        f"{CHANGED}::test_a_momentum_that_is_no_longer_scheduled_is_the_optimizers_own_again",
    ),
    "a second schedule may follow": Mutation(
        "schedulers/clock.py", "if isinstance(other, OptimizerClock):", "if False:", DRIVERS
    ),
    "the NaN check removed": Mutation(
        "range_test/divergence.py", "if not math.isfinite(loss):", "if False:", "tests/range_test/test_divergence.py"
    ),
    "the reduction over ranks removed": Mutation(
        "range_test/loss_reader.py",
        "loss = mean_over_ranks(loss.detach())",
        "loss = loss.detach()",
        "tests/trust/test_rank_reduction.py",
    ),
    "the sum over ranks is not divided": Mutation(
        "range_test/loss_reader.py",
        "return value / torch.distributed.get_world_size()",
        "return value",
        "tests/trust/test_rank_reduction.py",
    ),
    "a missing state is left to Lightning": Mutation(
        "trainer/scheduler_callback.py",
        "        self._checkpoint = checkpoint\n",
        "        pass\n",
        f"{CHANGED}::test_a_checkpoint_from_before_the_callback_continues_from_its_global_step_and_says_so",
    ),
    "ours are not marked in the checkpoint": Mutation(
        "trainer/checkpoint.py",
        '["places"] += pairs',
        '["places"] += []',
        f"{CHANGED}::test_a_schedule_gets_its_own_state_although_another_one_is_gone",
    ),
    "a stranger's state is taken": Mutation(
        "schedulers/state.py",
        'and not any(key.startswith("_") for key in state)',
        "",
        f"{CHANGED}::test_without_the_callback_the_state_of_a_scheduler_of_torch_is_refused",
    ),
    "a schedule that nobody steps stays silent": Mutation(
        "schedulers/watch.py", "if self._steps == 2:", "if False:", "tests/schedulers/test_clock.py"
    ),
    "other callbacks may set the lr": Mutation(
        "trainer/rivals.py", "if callbacks_named(trainer, name):", "if False:", DRIVERS
    ),
    "a new group waits for its second step": Mutation(
        "trainer/scheduler_callback.py", "if batch_idx == 0:", "if False:", "tests/trust/test_added_groups.py"
    ),
}


class Runner:
    """The process that runs tests on copies."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("mutant_runner.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT.anchor,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "ready"

    def run(self, folder: Path, test: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder}\t{test}\t-m\tnot slow\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=30)  # closes its pipes: it ends at the end of its input


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    process = Runner()
    yield process
    process.close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and of its tests."""
    for name in ("lightning_lrsched", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "benchmarks"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


MOST_IMPORTANT = (
    *("the cycle ends one step late", "the decay begins one step late", "step + 1 in a linear warmup", "beta2 dropped"),
    *("the hook registered twice", "the state is not applied again on load", "the position is saved one step late"),
    *("the NaN check removed", "the reduction over ranks removed", "a missing state is left to Lightning"),
)


@pytest.mark.parametrize(
    "name", [name if name in MOST_IMPORTANT else pytest.param(name, marks=pytest.mark.slow) for name in MUTATIONS]
)
def test_a_mistake_in_the_package_makes_a_test_fail(runner, copy, name):
    file, old, new, test = MUTATIONS[name]
    path = copy / "lightning_lrsched" / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} has changed: write this mutation anew"
    path.write_text(text.replace(old, new))
    compile(path.read_text(), str(path), "exec")
    assert runner.run(copy, test) == pytest.ExitCode.TESTS_FAILED


@pytest.mark.slow
@pytest.mark.parametrize("test", sorted({mutation.test for mutation in MUTATIONS.values()}))
def test_without_a_mistake_the_same_tests_pass(runner, copy, test):
    assert runner.run(copy, test) == pytest.ExitCode.OK


@pytest.mark.parametrize("second", [0, 3, 5])
@pytest.mark.parametrize("stairs", [0, 2])
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("size", [0, 4])
def test_at_the_switch_from_cycle_to_decay_both_give_the_same_values(second, stairs, rate, size):
    """Whether OneCycle's switch says > or >= changes no value: no test could tell it, and none has to."""
    up = cycle(4 + second, 4, second, stairs, stairs)
    of_the_cycle = 1.0 - up, up
    of_the_decay = reciprocal_decay(0, size, rate), 0.0
    assert of_the_cycle == of_the_decay
    assert not size or linear_growth(0, size, rate, staircase=False) == 1.0 - up
