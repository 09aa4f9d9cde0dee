"""The how-to pages run as they stand, and their learning rates are those that they promise."""

from __future__ import annotations

import csv
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning

from lightning_lrsched import PhasedLR, SchedulerConfig, WarmupCosineLR, WarmupDecayLR, WarmupStableDecayLR
from lightning_lrsched.__main__ import main
from tests.kit.pages import DOCS, commands_of, python_of, run_command, run_python, write_files
from tests.kit.schedules import sgd

PAGES = DOCS / "how_to"
IN_PROCESSES_OF_THEIR_OWN = ("ddp", "fsdp2", "deepspeed")
WITH_SCRIPTS = ("lightning_cli", "hydra")
WITH_A_TEST_BELOW = {
    *("cool_down", "extend_a_run", "resume", "several_optimizers", "fabric", "loggers", "compiled_step"),
    *("samples_and_tokens", "phases", "restarts", "other_callbacks"),
}
OTHERS = sorted(
    {page.stem for page in PAGES.glob("*.md")}
    - {*IN_PROCESSES_OF_THEIR_OWN, *WITH_SCRIPTS, *WITH_A_TEST_BELOW, "index"}
)
EXPECTED_WARNINGS = (
    "resumes at step .* with hyperparameters that differ from the saved ones",
    "Checkpoint directory .* exists and is not empty",
)

pytestmark = [
    *(pytest.mark.filterwarnings(f"ignore:.*{message}") for message in EXPECTED_WARNINGS),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return lambda page: run_python(PAGES / f"{page}.md", tmp_path)


@pytest.mark.parametrize("page", OTHERS)
def test_the_blocks_and_commands_of_a_page_run(run: Any, page: str) -> None:
    assert python_of(PAGES / f"{page}.md")
    names = run(page)
    for program, *arguments in commands_of(PAGES / f"{page}.md"):
        assert program == "lightning-lrsched"
        assert main(arguments) == 0
    for lrs in names["model"].lrs:
        assert lrs, "a fit without a step"


def test_the_first_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_python(DOCS / "index.md", tmp_path)
    assert names["trainer"].global_step == 20 * len(names["data"])


def planned(total: int, decay: int, shape: Any = "linear") -> WarmupStableDecayLR:
    return WarmupStableDecayLR(
        sgd(), total, warmup_max_lr=0.1, warmup_num_steps=20, decay_num_steps=decay, decay_type=shape
    )


def test_a_cooldown_has_the_lrs_of_a_training_that_was_planned_so(run: Any) -> None:
    stable, cooldown = run("cool_down")["model"].lrs
    whole = planned(100, 20, "1-sqrt")
    assert stable == {step: pytest.approx(planned(160, 0).lr_at(step)[0]) for step in range(160)}
    assert cooldown == {step: pytest.approx(whole.lr_at(step)[0]) for step in range(80, 100)}


def test_other_callbacks_do_what_their_page_says(run: Any) -> None:
    names = run("other_callbacks")
    schedule, steps = names["cooled"].schedulers[0], names["steps"]
    assert names["trainer"].global_step == schedule.last_epoch == steps + steps // 5
    assert schedule.lr_at(steps)[0] == 0.1
    assert schedule.lr_at(schedule.last_epoch)[0] < 0.01

    class Noted(names["Pretrained"]):  # type: ignore[misc]
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.used = [*getattr(self, "used", []), [group["lr"] for group in optimizer.param_groups]]

    found = []
    for order in (slice(None), slice(None, None, -1)):
        torch.manual_seed(0)
        module, unfreeze = Noted(), BackboneFinetuning(2, backbone_initial_ratio_lr=0.1)
        callbacks = [names["LRSchedulerCallback"](), unfreeze][order]
        names["Trainer"](max_epochs=6, callbacks=callbacks, logger=False).fit(module, names["data"])
        found.append(module.used[-6 * 40 :])
    assert found[0] == found[1]
    assert [len(lrs) for lrs in found[0]] == [1] * 80 + [2] * 160
    ratios = [lrs[1] / lrs[0] for lrs in found[0][80:]]
    assert ratios[:40] == pytest.approx([0.1] * 40)
    assert ratios[40:80] == pytest.approx([ratios[40]] * 40)
    assert found[0][120][1] == pytest.approx(2 * found[0][80][1])
    assert ratios[-1] == 1.0


def test_an_extended_run_has_the_lrs_of_one_that_was_planned_so(run: Any) -> None:
    short, extended, phased, phased_on = run("extend_a_run")["model"].lrs
    assert short == {step: pytest.approx(planned(100, 20).lr_at(step)[0]) for step in range(100)}
    assert extended == {step: pytest.approx(planned(200, 20).lr_at(step)[0]) for step in range(80, 200)}
    phases = [{"steps": 20, "lr": 0.1}, {"steps": 80}, {"steps": 20, "lr": 0.0}, {"steps": 10, "lr": 0.05}]
    whole = PhasedLR(sgd(), [*phases, {"steps": 70, "lr": 0.0, "shape": "cosine"}])
    assert {**phased, **phased_on} == {step: pytest.approx(whole.lr_at(step)[0]) for step in range(200)}


def test_a_resumed_run_has_the_lrs_of_the_uninterrupted_one(run: Any) -> None:
    whole, resumed = run("resume")["model"].lrs
    schedule = WarmupCosineLR(sgd(), 160, warmup_num_steps=16)
    assert whole == {step: pytest.approx(schedule.lr_at(step)[0]) for step in range(160)}
    assert resumed == {step: whole[step] for step in range(80, 160)}


def test_two_optimizers_have_a_schedule_each(run: Any) -> None:
    callback = run("several_optimizers")["callback"]
    assert [type(schedule).__name__ for schedule in callback.schedulers] == ["WarmupCosineLR", "WarmupDecayLR"]
    assert [schedule.last_epoch for schedule in callback.schedulers] == [80, 80]


def test_a_loop_of_ones_own_reaches_the_end_of_its_schedule(run: Any) -> None:
    names = run("fabric")
    assert names["schedule"].last_epoch == names["epochs"] * len(names["data"])
    assert names["range_test"].result.bounds()[1] == pytest.approx(
        max(names["schedule"].lr_at(s)[0] for s in range(200))
    )


def test_a_csv_file_has_the_curves(run: Any, tmp_path: Path) -> None:
    run("loggers")
    [file] = tmp_path.rglob("metrics.csv")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len([row for row in rows if row["lr-SGD"]]) == 80 // 5
    assert all(row["lr-SGD-momentum"] for row in rows if row["lr-SGD"])


def test_an_lr_that_is_a_tensor_stays_one(run: Any) -> None:
    assert isinstance(run("compiled_step")["optimizer"].param_groups[0]["lr"], torch.Tensor)


def test_weight_decay_goes_through_the_phases(run: Any) -> None:
    [schedule] = run("phases")["schedule"].schedulers
    assert schedule.values_at(0)["weight_decay"] == [0.04]
    assert schedule.values_at(80)["weight_decay"] == [pytest.approx(0.4)]


def test_restarts_go_on_to_the_end_of_the_run(run: Any) -> None:
    restarts, filled, triangles, wsd_s = run("restarts")["model"].lrs
    assert [step for step, lr in restarts.items() if lr == 0.1] == [0, 10, 30, 70]
    assert [step for step, lr in filled.items() if lr == 0.1] == [8, 24, 40, 56]
    assert [step for step, lr in triangles.items() if lr == 0.1] == [8, 24, 40, 56, 72]
    assert [step for step, lr in wsd_s.items() if lr < 0.1] == [*range(31, 40), *range(71, 80)]


def test_the_schedule_of_the_page_on_the_cli_fits_any_lr(tmp_path: Path) -> None:
    write_files(PAGES / "lightning_cli.md", tmp_path)
    schedule = SchedulerConfig.load(tmp_path / "config.yaml").build(sgd(lr=1e-4), total_steps=10)
    assert schedule.lr_at(3) == [1e-4]


def test_the_settings_of_a_whole_file_are_those_that_its_comment_states(run: Any) -> None:
    assert run("deepspeed_file")["settings"] == {"gradient_clip_val": 1.0}


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("page", WITH_SCRIPTS)
def test_the_scripts_of_a_page_run(page: str, tmp_path: Path) -> None:
    write_files(PAGES / f"{page}.md", tmp_path)
    commands = commands_of(PAGES / f"{page}.md")
    assert len(commands) >= 3
    for words in commands:
        assert "Error" not in run_command(words, tmp_path)
    if page == "lightning_cli":
        assert (tmp_path / "scheduler.yaml").exists()


SCRIPT = """
from model import Model, make_data
{before}
if __name__ == "__main__":
    model, data = Model(), make_data()
{page}
    print("steps", trainer.global_step)
"""
DEEPSPEED_ON_CPU = """
import lightning.pytorch.strategies
from tests.integration.deepspeed_runs import OnCPU
lightning.pytorch.strategies.DeepSpeedStrategy = OnCPU
"""


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("page", IN_PROCESSES_OF_THEIR_OWN)
def test_a_page_about_a_strategy_trains_with_it(page: str, tmp_path: Path) -> None:
    if page == "deepspeed" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("there is no C++ compiler, which DeepSpeed needs on the CPU")
    before = DEEPSPEED_ON_CPU if page == "deepspeed" else ""
    code = textwrap.indent("\n".join(python_of(PAGES / f"{page}.md")), "    ")
    write_files(PAGES / f"{page}.md", tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT.format(before=before, page=code), encoding="utf-8")
    said = run_command(["python", "train.py"], tmp_path, DS_ACCELERATOR="cpu")
    steps_per_epoch = 40 if page == "deepspeed" else 20
    assert re.findall(r"^steps (\d+)", said, re.MULTILINE)[-1] == str(4 * steps_per_epoch)
    assert ("LR range test:" if page == "deepspeed" else "LR probe: peak") in said


def test_a_resume_with_other_batches_has_the_lr_of_each_sample(run: Any) -> None:
    whole, resumed, in_tokens, counted = run("samples_and_tokens")["model"].lrs

    def planned(total: int) -> WarmupDecayLR:
        return WarmupDecayLR(sgd(), total, warmup_max_lr=0.1, warmup_num_steps=40, warmup_type="linear")

    assert whole == {step: pytest.approx(planned(240).lr_at(2 * step)[0]) for step in range(120)}
    assert resumed == {40 + step: pytest.approx(planned(240).lr_at(80 + 8 * step)[0]) for step in range(20)}
    assert in_tokens == {step: pytest.approx(planned(512 * 80).lr_at(512 * 2 * step)[0]) for step in range(40)}
    assert len(set(counted.values())) > 40
