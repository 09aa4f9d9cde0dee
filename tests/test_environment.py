"""The schedule that an environment variable names: nothing without it, a callback with it, and clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.trainer.connectors import callback_connector

from lightning_lrsched import LRSchedulerCallback, SchedulerConfig
from lightning_lrsched.environment import callbacks
from tests.kit.modules import Regression, data

VARIABLE = "LIGHTNING_LRSCHED_CONFIG"
WARMUP = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 4}}


@pytest.fixture
def schedule(tmp_path, monkeypatch):
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(WARMUP), encoding="utf-8")
    monkeypatch.setenv(VARIABLE, str(path))
    # Where the package is installed, Lightning calls the entry point as well; the tests call it themselves.
    monkeypatch.setattr(callback_connector, "_load_external_callbacks", lambda group: [])
    return path


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_there_is_no_callback(value, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert callbacks() == []


def test_without_the_variable_nothing_heavy_is_imported(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    code = (
        "import sys; from lightning_lrsched.environment import callbacks; assert callbacks() == [];"
        "print([name for name in ('torch', 'lightning', 'numpy', 'yaml', 'hjson') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_with_the_variable_a_trainer_follows_the_file(make_trainer, schedule):
    module = Regression()
    [callback] = callbacks()
    make_trainer(callback, max_epochs=1).fit(module, data())
    expected = SchedulerConfig.of(WARMUP).build(torch.optim.SGD([torch.zeros(1)], lr=0.01))
    assert [lr for lr, _ in module.seen] == [expected.lr_at(step)[0] for step in range(10)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ('{"type": "WarmupRL"}', "'WarmupRL'.*WarmupLR"),
        ('{"type": "WarmupLR", "params": {"warmup_max_lr": "high"}}', "warmup_max_lr.*'high'"),
    ],
)
def test_an_error_names_the_variable_the_file_and_the_way_out(schedule, content, message):
    if content is None:
        schedule.unlink()
    else:
        schedule.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{VARIABLE}: .*schedule.json.*{message}.*unset it"):
        callbacks()


def test_a_folder_is_refused_as_well(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=f"{VARIABLE}: .*no such file"):
        callbacks()


def test_a_second_callback_is_refused_with_both_ways_out(make_trainer, schedule):
    trainer = make_trainer(LRSchedulerCallback(WARMUP), *callbacks())
    with pytest.raises(ValueError, match=f"{VARIABLE} has added another; unset the variable, or leave"):
        trainer.fit(Regression(), data())


def test_a_scheduler_of_the_module_is_refused_with_the_variable(make_trainer, schedule):
    class WithStepLR(Regression):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    with pytest.raises(ValueError, match=rf"StepLR.*leave this callback out \(unset {VARIABLE}, which has added it\)"):
        make_trainer(*callbacks()).fit(WithStepLR(), data())
