"""What a user is told before training: what "auto" became and for which optimizer, and which section is not used."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.optim import SGD, AdamW

from lightning_lrsched import LRSchedulerCallback, SchedulerConfig, configure_optimizers
from tests.kit.modules import Regression, data

AUTO = {"type": "WarmupLR", "params": {"warmup_num_steps": "auto", "warmup_max_lr": "auto"}}


class TwoOptimizers(Regression):
    """Manual optimization; the second optimizer trains nothing."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        return SGD(parameters[:1], 0.01, momentum=0.9), AdamW(parameters[1:], 0.02)


@pytest.fixture
def told(make_trainer: Any, caplog: Any) -> Any:
    def fit(module: Any, *callbacks: Any, **options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            make_trainer(*callbacks, **options).fit(module, data())
        return [message for message in caplog.messages if "as written" in message or "section" in message]

    return fit


def test_a_table_names_its_optimizer_by_number_where_there_are_several(told):
    assert told(TwoOptimizers(), LRSchedulerCallback([AUTO, AUTO])) == [
        "Schedule of optimizer 0 (SGD):\n"
        "WarmupLR         | as written | in this run\n"
        "warmup_num_steps | auto       | 3\n"
        "warmup_max_lr    | auto       | 0.01",
        "Schedule of optimizer 1 (AdamW):\n"
        "WarmupLR         | as written | in this run\n"
        "warmup_num_steps | auto       | 3\n"
        "warmup_max_lr    | auto       | 0.02",
    ]
    [table] = told(TwoOptimizers(), LRSchedulerCallback(AUTO, optimizer_index=1))
    assert table.startswith("Schedule of optimizer 1 (AdamW):\n")


def test_a_table_names_the_only_optimizer_by_its_class(told):
    [table] = told(Regression(), LRSchedulerCallback(AUTO))
    assert table.startswith("Schedule of SGD:\n")


class Wired(Regression):
    """Optimizer, and perhaps schedule, from a configuration with "auto" in both."""

    learning_rate, weight_decay = 0.01, 0.25

    def __init__(self, **sections: Any) -> None:
        super().__init__()
        self.sections = sections

    def configure_optimizers(self) -> Any:
        params = {"lr": "auto", "betas": "auto", "eps": 1e-6, "weight_decay": "Auto"}
        return configure_optimizers(self, {"optimizer": {"type": "Adam", "params": params}, **self.sections})


@pytest.mark.parametrize("sections", [{}, {"scheduler": AUTO}])
def test_what_auto_became_in_the_optimizer_is_told_and_kept_as_hyperparameters(told, tmp_path, sections):
    logger = CSVLogger(tmp_path)
    tables = told(Wired(**sections), logger=logger)
    assert tables[0] == (
        "AdamW        | as written | in this run\n"
        "lr           | auto       | 0.01\n"
        "betas        | auto       | [0.9, 0.999]\n"
        "weight_decay | Auto       | 0.25"
    )  # fmt: skip
    assert [table.splitlines()[0] for table in tables[1:]] == ["Schedule of AdamW:"] * len(sections)
    assert logger.experiment.hparams["optimizer"] == {"lr": 0.01, "betas": [0.9, 0.999], "weight_decay": 0.25}


@pytest.mark.parametrize("optimizer", [{"lr": 0.003}, {"lr": "3e-3"}, {"lr": "auto"}, {}, None])
@pytest.mark.parametrize("as_file", [True, False])
def test_an_optimizer_section_that_the_callback_leaves_alone_is_told_once(told, tmp_path, optimizer, as_file):
    config: Any = {"optimizer": {"type": "AdamW", "params": optimizer}, "scheduler": AUTO}
    if as_file:
        (tmp_path / "ds.json").write_text(json.dumps(config))
        config = tmp_path / "ds.json"
    callback = LRSchedulerCallback(config)
    differs = " (its lr is 0.01, the section's 0.003)" if optimizer and optimizer["lr"] != "auto" else ""
    for _ in range(2):
        [line] = [message for message in told(Regression(), callback, max_epochs=1) if "as written" not in message]
        assert line == (
            "LRSchedulerCallback: the configuration's optimizer section is not used; the module's own SGD"
            f" is{differs}. To make the optimizer from the section, return"
            " lightning_lrsched.configure_optimizers(self, config) from the module's configure_optimizers, in place of"
            " this callback"
        )


def test_the_optimizers_own_lr_is_told_not_the_one_that_the_schedule_has_set(told):
    config = {"optimizer": {"type": "AdamW", "params": {"lr": 0.003}}, "scheduler": AUTO}
    [_, first, _, second] = told(TwoOptimizers(), LRSchedulerCallback([config, config]))
    assert "the module's own optimizer 0 (SGD) is (its lr is 0.01, the section's 0.003)." in first
    assert "the module's own optimizer 1 (AdamW) is (its lr is 0.02, the section's 0.003)." in second

    def groups(parameters: Any) -> SGD:
        first, *rest = parameters
        return SGD([{"params": [first], "lr": 0.003}, {"params": rest}], 0.01, momentum=0.9)

    several = told(Regression(groups), LRSchedulerCallback(config))[-1]
    assert "SGD is (its lr is 0.003 and 0.01, the section's 0.003)." in several
    same = told(Regression(lambda p: SGD(p, 0.003, momentum=0.9)), LRSchedulerCallback(config))[-1]
    assert "SGD is. To" in same


@pytest.mark.parametrize("config", [AUTO, {"scheduler": AUTO, "fp16": {}}, SchedulerConfig.of(AUTO)])
def test_without_an_optimizer_section_there_is_no_word_about_one(told, config):
    assert not any("section" in message for message in told(Regression(), LRSchedulerCallback(config)))


@pytest.mark.parametrize("section", ["AdamW", [], {"params": "fast"}, {"params": {"lr": [1]}}])
def test_a_section_that_is_not_used_may_hold_anything(told, section):
    assert "SGD is. To" in told(Regression(), LRSchedulerCallback({"optimizer": section, "scheduler": AUTO}))[-1]


# The values that are used ---------------------------------------------------------------------------------------------


WITH_LENGTHS = {
    "type": "WarmupDecayLR",
    "params": {"total_num_steps": "auto", "warmup_num_steps": "1ep", "warmup_max_lr": "auto", "warmup_min_lr": "Auto"},
}


RESOLVED = {"total_num_steps": 30, "warmup_num_steps": 10, "warmup_max_lr": 0.01, "warmup_min_lr": 0.0}


class WiredWithLengths(Regression):
    def configure_optimizers(self) -> Any:
        config = {"optimizer": {"type": "SGD", "params": {"lr": 0.01, "momentum": 0.9}}, "scheduler": WITH_LENGTHS}
        return configure_optimizers(self, config)


@pytest.mark.parametrize("wired", [False, True])
def test_resolved_values_are_used_told_once_and_kept_as_hyperparameters(make_trainer, tmp_path, caplog, wired):
    module = WiredWithLengths() if wired else Regression()
    callbacks = [] if wired else [LRSchedulerCallback(WITH_LENGTHS)]
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(*callbacks, logger=logger)
    with caplog.at_level(logging.INFO):
        trainer.fit(module, data())
    expected = SchedulerConfig("WarmupDecayLR", RESOLVED).build(torch.optim.SGD([torch.zeros(1)], lr=0.01))
    assert [lr for lr, _ in module.seen] == [expected.lr_at(step)[0] for step in range(30)]
    tables = [record.message for record in caplog.records if "as written" in record.message]
    assert len(tables) == 1
    assert all(key in tables[0] for key in RESOLVED)
    assert "| 1ep " in tables[0]
    assert logger.experiment.hparams["lr_scheduler"] == {"type": "WarmupDecayLR", **RESOLVED}


def test_a_configuration_without_auto_is_not_told(make_trainer, caplog):
    callback = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}})
    with caplog.at_level(logging.INFO):
        make_trainer(callback, max_epochs=1).fit(Regression(), data())
    assert not any("as written" in record.message for record in caplog.records)


WHOLE = {
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 0.5,
    "bf16": {"enabled": True},
    "optimizer": {"type": "SGD", "params": {"lr": 0.1}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 2}},
}


class Configured(Regression):
    """Takes optimizer and schedule from a whole configuration."""

    def configure_optimizers(self) -> Any:
        return configure_optimizers(self, WHOLE)


@pytest.mark.parametrize("route", ["LRSchedulerCallback", "configure_optimizers"])
def test_what_the_rest_of_a_deepspeed_file_asks_of_the_trainer_is_logged_once(make_trainer, caplog, route):
    callbacks, module = ([LRSchedulerCallback(WHOLE)], Regression()) if "Callback" in route else ([], Configured())
    with caplog.at_level(logging.INFO):
        make_trainer(*callbacks, gradient_clip_val=0.5).fit(module, data())
    [line] = [message for message in caplog.messages if "also asks for" in message]
    assert line.startswith(
        f"{route}: the configuration also asks for Trainer(accumulate_grad_batches=4, precision='bf16-mixed'),"
        " which this Trainer does not have"
    )


def test_settings_that_contradict_each_other_are_logged_and_training_goes_on(make_trainer, caplog):
    config = {**WHOLE, "fp16": {"enabled": True}}
    with caplog.at_level(logging.INFO):
        make_trainer(LRSchedulerCallback(config)).fit(Regression(), data())
    assert "the rest of the configuration cannot be used: bf16 and fp16 are both enabled" in caplog.text
