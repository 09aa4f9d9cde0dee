"""The how-to pages run as they stand, and their learning rates are those that they promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from torch import Tensor, nn, randn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import PhasedLR, WarmupDecayLR, WarmupStableDecayLR
from tests.kit.schedules import sgd

PAGES = Path(__file__).parents[1] / "docs" / "how_to"
EXPECTED_WARNINGS = (
    "resumes at step .* with hyperparameters that differ from the saved ones",
    "Checkpoint directory .* exists and is not empty",
)


class Model(LightningModule):
    """Records, for each optimizer step of each fit, the lr that it was made with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.lrs: list[dict[int, float]] = []

    def on_fit_start(self) -> None:
        self.lrs.append({})

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.layer(batch[0]).square().mean()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.lrs[-1][self.trainer.global_step] = optimizer.param_groups[0]["lr"]

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.1)


def run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[int, float]]:
    """Run the page's blocks one after the other; return step -> lr for each fit."""
    monkeypatch.chdir(folder)
    model, data = Model(), DataLoader(TensorDataset(randn(80, 2)), 2)
    names: dict[str, Any] = {"model": model, "data": data}
    for block in re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text("utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return model.lrs


def planned(total: int, decay: int, shape: Any = "linear") -> WarmupStableDecayLR:
    return WarmupStableDecayLR(
        sgd(), total, warmup_max_lr=0.1, warmup_num_steps=20, decay_num_steps=decay, decay_type=shape
    )


pytestmark = [
    *(pytest.mark.filterwarnings(f"ignore:.*{message}") for message in EXPECTED_WARNINGS),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def test_a_cooldown_has_the_lrs_of_a_training_that_was_planned_so(tmp_path: Path, monkeypatch: Any) -> None:
    stable, cooldown = run("cool_down.md", tmp_path, monkeypatch)
    whole = planned(100, 20, "1-sqrt")
    assert stable == {step: pytest.approx(planned(160, 0).lr_at(step)[0]) for step in range(160)}
    assert cooldown == {step: pytest.approx(whole.lr_at(step)[0]) for step in range(80, 100)}


def test_an_extended_run_has_the_lrs_of_one_that_was_planned_so(tmp_path: Path, monkeypatch: Any) -> None:
    short, extended, phased, phased_on = run("extend_a_run.md", tmp_path, monkeypatch)
    assert short == {step: pytest.approx(planned(100, 20).lr_at(step)[0]) for step in range(100)}
    assert extended == {step: pytest.approx(planned(200, 20).lr_at(step)[0]) for step in range(80, 200)}
    phases = [{"steps": 20, "lr": 0.1}, {"steps": 80}, {"steps": 20, "lr": 0.0}, {"steps": 10, "lr": 0.05}]
    whole = PhasedLR(sgd(), [*phases, {"steps": 70, "lr": 0.0, "shape": "cosine"}])
    assert {**phased, **phased_on} == {step: pytest.approx(whole.lr_at(step)[0]) for step in range(200)}


def test_a_resume_with_other_batches_has_the_lr_of_each_sample(tmp_path: Path, monkeypatch: Any) -> None:
    whole, resumed, in_tokens, counted = run("samples_and_tokens.md", tmp_path, monkeypatch)

    def planned(total: int) -> WarmupDecayLR:
        return WarmupDecayLR(sgd(), total, warmup_max_lr=0.1, warmup_num_steps=40, warmup_type="linear")

    assert whole == {step: pytest.approx(planned(240).lr_at(2 * step)[0]) for step in range(120)}
    assert resumed == {40 + step: pytest.approx(planned(240).lr_at(80 + 8 * step)[0]) for step in range(20)}
    assert in_tokens == {step: pytest.approx(planned(512 * 80).lr_at(512 * 2 * step)[0]) for step in range(40)}
    assert len(set(counted.values())) > 40
