"""What a user sees once per fit: values in this run, hyperparameters in the loggers, lengths that do not fit."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata
from torch.optim import SGD, AdamW

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, configure_optimizers
from lightning_lrsched.trainer.protocol import autologs
from tests.kit.modules import Regression, data

DECAY = {"type": "WarmupDecayLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 3, "total_num_steps": 30}}
AUTO = {"type": "WarmupDecayLR", "params": {**DECAY["params"], "total_num_steps": "auto"}}


def section(**params: Any) -> dict[str, Any]:
    return {"type": "WarmupDecayLR", "params": {**DECAY["params"], **params}}


# Values ---------------------------------------------------------------------------------------------------------------

WARMUP = {"type": "WarmupLR", "params": {"warmup_num_steps": "auto", "warmup_max_lr": "auto"}}


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
    assert told(TwoOptimizers(), LRSchedulerCallback([WARMUP, WARMUP])) == [
        "Schedule of optimizer 0 (SGD):\n"
        "WarmupLR         | as written | in this run\n"
        "warmup_max_lr    | auto       | 0.01\n"
        "warmup_num_steps | auto       | 3",
        "Schedule of optimizer 1 (AdamW):\n"
        "WarmupLR         | as written | in this run\n"
        "warmup_max_lr    | auto       | 0.02\n"
        "warmup_num_steps | auto       | 3",
    ]
    [table] = told(Regression(), LRSchedulerCallback({"scheduler": WARMUP, "fp16": {}}))
    assert table.startswith("Schedule of SGD:\n")


def test_a_schedule_of_numbers_is_shown_too(told, caplog):
    told(Regression(), LRSchedulerCallback(DECAY))
    [table] = [message for message in caplog.messages if message.startswith("Schedule of")]
    assert table == (
        "Schedule of SGD:\n"
        "WarmupDecayLR    | in this run\n"
        "total_num_steps  | 30\n"
        "warmup_max_lr    | 0.1\n"
        "warmup_num_steps | 3"
    )
    with pytest.warns(UserWarning, match="warmup_max_lr was not given"):
        told(Regression(), LRSchedulerCallback({"type": "WarmupLR"}))
    assert "Schedule of SGD: WarmupLR, with its defaults" in caplog.messages


def test_a_table_shows_all_that_was_given_in_eighty_columns(told):
    module = Regression()
    parameters = list(module.parameters())
    module.make_optimizer = lambda _: SGD([{"params": [each]} for each in parameters], 0.1, momentum=0.9)
    low = [0.000123456789 * (1 + number) for number in range(len(parameters))]
    params = {"cycle_min_lr": low, "cycle_max_lr": [10 * lr for lr in low], "cycle_second_step_size": 0.5}
    [table] = told(module, LRSchedulerCallback({"type": "OneCycle", "params": {**params, "cycle_momentum": False}}))
    assert len(parameters) > 3
    assert table == (
        "Schedule of SGD:\n"
        "OneCycle               | as written | in this run\n"
        f"cycle_min_lr           |            | [0.000123457, ..., {low[-1]:.6g}]\n"
        f"cycle_max_lr           |            | [0.00123457, ..., {10 * low[-1]:.6g}]\n"
        "cycle_second_step_size | 0.5        | 15\n"
        "cycle_momentum         |            | False"
    )
    assert max(map(len, table.splitlines())) <= 80


class Configured(Regression):
    """Optimizer, and perhaps schedule, from a configuration with "auto" in both."""

    learning_rate, weight_decay = 0.01, 0.25

    def __init__(self, **sections: Any) -> None:
        super().__init__()
        self.sections = sections

    def configure_optimizers(self) -> Any:
        params = {"lr": "auto", "betas": "auto", "eps": 1e-6, "weight_decay": "Auto"}
        return configure_optimizers(self, {"optimizer": {"type": "Adam", "params": params}, **self.sections})


@pytest.mark.parametrize("sections", [{}, {"scheduler": WARMUP}])
def test_what_auto_became_in_the_optimizer_is_told_and_kept_as_hyperparameters(told, tmp_path, sections):
    logger = CSVLogger(tmp_path)
    tables = told(Configured(**sections), logger=logger)
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
    config: Any = {"optimizer": {"type": "AdamW", "params": optimizer}, "scheduler": WARMUP}
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
    config = {"optimizer": {"type": "AdamW", "params": {"lr": 0.003}}, "scheduler": WARMUP}
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


@pytest.mark.parametrize("section", ["AdamW", [], {"params": "fast"}, {"params": {"lr": [1]}}])
def test_a_section_that_is_not_used_may_hold_anything(told, section):
    assert "SGD is. To" in told(Regression(), LRSchedulerCallback({"optimizer": section, "scheduler": WARMUP}))[-1]


WHOLE = {
    "gradient_accumulation_steps": 4,
    "gradient_clipping": 0.5,
    "bf16": {"enabled": True},
    "optimizer": {"type": "SGD", "params": {"lr": 0.1}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 2}},
}


class Whole(Regression):
    """Takes optimizer and schedule from a whole configuration."""

    def configure_optimizers(self) -> Any:
        return configure_optimizers(self, WHOLE)


@pytest.mark.parametrize("route", ["LRSchedulerCallback", "configure_optimizers"])
def test_what_the_rest_of_a_deepspeed_file_asks_of_the_trainer_is_logged_once(make_trainer, caplog, route):
    callbacks, module = ([LRSchedulerCallback(WHOLE)], Regression()) if "Callback" in route else ([], Whole())
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


# Hyperparameters --------------------------------------------------------------------------------------------------


class WithHyperparameters(Regression):
    """Has hyperparameters of its own, two of them under our names."""

    def __init__(self, lr: float = 0.01, lr_scheduler: str = "mine", optimizer: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters("lr", "lr_scheduler")


class Wired(WithHyperparameters):
    """Optimizer and schedule from a configuration."""

    def configure_optimizers(self) -> Any:
        return configure_optimizers(self, {"optimizer": {"type": "Adam", "params": {"lr": "auto"}}, "scheduler": AUTO})


def shown_by_tensorboard(logger: TensorBoardLogger, tmp_path: Any) -> dict[str, Any]:
    """The hyperparameters of the first summary of a run: the page HPARAMS shows no other."""
    for path in sorted(tmp_path.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    info = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                    return {
                        name: v.WhichOneof("kind") and getattr(v, v.WhichOneof("kind"))
                        for name, v in info.hparams.items()
                    }
    return {}


@pytest.mark.parametrize("route", ["callback", "two callbacks", "configure_optimizers"])
def test_tensorboard_shows_the_modules_hyperparameters_and_the_schedules(make_trainer, tmp_path, route):
    logger = TensorBoardLogger(tmp_path)
    callbacks, module = [LRSchedulerCallback(DECAY, optimizer_index=0)], WithHyperparameters()
    if route == "configure_optimizers":
        callbacks, module = [], Wired()
    elif route == "two callbacks":
        callbacks.append(LRSchedulerCallback(DECAY, optimizer_index=1))
        module.automatic_optimization = False
        module.training_step = lambda batch, batch_idx: None
        parameters = list(module.parameters())
        module.configure_optimizers = lambda: [torch.optim.SGD(parameters, 0.1, momentum=0.9) for _ in range(2)]
    make_trainer(*callbacks, logger=logger).fit(module, data())
    shown = shown_by_tensorboard(logger, tmp_path)
    assert shown["lr"] == 0.01
    assert shown["lr_scheduler"] == "mine"
    assert shown["lightning_lrsched_lr_scheduler/type"] == "WarmupDecayLR"
    assert shown["lightning_lrsched_lr_scheduler/total_num_steps"] == 30
    assert ("optimizer/lr" in shown) == (route == "configure_optimizers")
    assert ("lr_scheduler_1/type" in shown) == (route == "two callbacks")
    saved = yaml.safe_load((tmp_path / "lightning_logs/version_0/hparams.yaml").read_text())
    assert saved["lr_scheduler"] == "mine"
    assert saved["lightning_lrsched_lr_scheduler"]["total_num_steps"] == 30


def test_tensorboard_shows_the_modules_hyperparameters_and_what_a_range_test_found(make_trainer, tmp_path):
    logger, callback = TensorBoardLogger(tmp_path), LRRangeTestCallback(num_steps=60)
    trainer = make_trainer(callback, logger=logger)
    trainer.fit(WithHyperparameters(), data())
    shown = shown_by_tensorboard(logger, tmp_path)
    assert shown["lr"] == 0.01
    assert shown["lr_range_test/suggestion"] == pytest.approx(callback.result.suggestion())
    assert (shown["lr_range_test/low"], shown["lr_range_test/high"]) == pytest.approx(callback.result.bounds())
    assert shown["lr_range_test/stop_reason"] == callback.result.stop_reason
    assert autologs(trainer)
    saved = yaml.safe_load((tmp_path / "lightning_logs/version_0/hparams.yaml").read_text())
    assert saved["lr"] == 0.01
    assert saved["lr_range_test"]["suggestion"] == pytest.approx(callback.result.suggestion())


def test_the_file_of_hyperparameters_has_those_of_a_range_test_at_the_start_of_the_fit(make_trainer, tmp_path):
    logger, callback = TensorBoardLogger(tmp_path), LRSchedulerCallback(range_test=LRRangeTestCallback(num_steps=60))
    make_trainer(callback, logger=logger, max_epochs=3).fit(WithHyperparameters(), data())
    saved = yaml.safe_load((tmp_path / "lightning_logs/version_0/hparams.yaml").read_text())
    assert saved["lr"] == 0.01
    assert saved["lightning_lrsched_lr_scheduler"]["type"] == "OneCycle"
    assert saved["lr_range_test"]["high"] == pytest.approx(callback.range_test_result.bounds()[1])


def test_a_range_test_without_logging_leaves_the_modules_hyperparameters(make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    make_trainer(LRRangeTestCallback(num_steps=20, log=False), logger=logger).fit(WithHyperparameters(), data())
    assert shown_by_tensorboard(logger, tmp_path).keys() == {"lr", "lr_scheduler"}


def test_a_logger_that_refuses_changed_hyperparameters_does_not_end_training(make_trainer, tmp_path):
    class LikeMLflow(CSVLogger):
        def log_hyperparams(self, params: Any) -> None:
            if params["lr_scheduler"]["total_num_steps"] != 30:
                raise RuntimeError("Changing param values is not allowed")

    logger, callback = LikeMLflow(tmp_path), LRSchedulerCallback(AUTO)
    make_trainer(callback, logger=logger).fit(Regression(), data())
    with pytest.warns(UserWarning, match="LikeMLflow did not take the hyperparameters .*Changing param") as caught:
        make_trainer(callback, logger=logger, max_epochs=4).fit(Regression(), data())
    assert sum("LikeMLflow" in str(warning.message) for warning in caught) == 1
    assert callback.schedulers[0].last_epoch == 40


def test_nothing_is_left_in_the_trainer(make_trainer):
    callback = LRSchedulerCallback(DECAY)
    trainer = make_trainer(callback)
    trainer.fit(Regression(), data())
    assert trainer.callbacks == [callback]
    trainer.fit(Regression(), data())  # nothing is left to train
    assert trainer.callbacks == [callback]
    trainer.fit_loop.max_epochs = 4

    class Fails(Regression):
        def on_fit_start(self) -> None:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.fit(Fails(), data())
    assert trainer.callbacks == [callback]


class Short(Regression):
    """Its own schedule ends long before the run."""

    def configure_optimizers(self) -> Any:
        return configure_optimizers(super().configure_optimizers(), section(total_num_steps=5), trainer=self.trainer)


def test_a_range_test_reports_no_schedule(make_trainer, tmp_path, caplog):
    logger = CSVLogger(tmp_path)
    callbacks = [LRRangeTestCallback(max_lr=1.0, num_steps=30)]
    trainer = make_trainer(*callbacks, logger=logger)
    with caplog.at_level(logging.INFO):
        trainer.fit(Short(), data())
    assert "lr_scheduler" not in logger.experiment.hparams
    assert not any("schedule ends" in message for message in caplog.messages)
    assert trainer.callbacks == callbacks


# Lengths ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(make_trainer: Any, caplog: Any) -> Any:
    def fit(config: Any, module: Any = None, **options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            make_trainer(LRSchedulerCallback(config), **options).fit(module or Regression(), data())
        return [message for message in caplog.messages if "the run" in message or "in this fit" in message]

    return fit


def one_cycle(**params: Any) -> dict[str, Any]:
    return {"type": "OneCycle", "params": {"cycle_min_lr": 0.01, "cycle_max_lr": 0.1, **params}}


SHORT = (
    "WarmupDecayLR: the schedule ends at step 10 (total_num_steps), the run only at step 30: the last 20 steps will"
    ' have an lr of 0. Write "total_num_steps": "auto" for lengths that fit the run, or train for 10 steps'
)
CUT_OFF = "the run ends at step 30, the schedule only at step"


@pytest.mark.filterwarnings("ignore:WarmupDecayLR. total_num_steps=30 is less than")
@pytest.mark.parametrize(
    ("config", "line"),
    [
        (section(total_num_steps=10), f"^{re.escape(SHORT)}$"),
        (one_cycle(), rf"{CUT_OFF} 4000 \(cycle_first_step_size \+ cycle_second.*\"cycle_second_step_size\": \"auto\""),
        ({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}, rf"{CUT_OFF} 1000 \(warmup_num_steps\)"),
        (section(total_num_steps=30, warmup_num_steps=1000), rf"{CUT_OFF} 1000 \(warmup_num_steps\)"),
    ],
)
def test_a_length_that_does_not_fit_the_run_is_reported_once_with_both_numbers_and_the_remedy(lines, config, line):
    [found] = lines(config)
    assert re.search(line, found)


def test_the_modules_own_configure_optimizers_is_reported_alike(make_trainer, caplog):
    class Own(Regression):
        def configure_optimizers(self) -> Any:
            return configure_optimizers(
                super().configure_optimizers(), section(total_num_steps=10), trainer=self.trainer
            )

    with caplog.at_level(logging.INFO):
        make_trainer().fit(Own(), data())
    assert sum("the schedule ends at step 10" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (DECAY, {}),
        (section(total_num_steps=29), {}),
        (section(total_num_steps=31), {}),
        (section(total_num_steps=0.5), {}),
        (section(total_num_steps="auto"), {}),
        (section(total_num_steps=10), {"fast_dev_run": 3}),
        (one_cycle(cycle_first_step_size="auto", cycle_second_step_size="auto", decay_step_size="auto"), {}),
        (one_cycle(cycle_first_step_size=15), {}),
        (one_cycle(cycle_first_step_size=5, decay_step_size=5, decay_lr_rate=1.0), {}),
        ({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 5}}, {}),
        ({"type": "LRRangeTest", "params": {"lr_range_test_min_lr": 0.01}}, {}),
        ({"type": "StepLR", "params": {"step_size": 3}}, {}),
    ],
    ids=str,
)
def test_reasonable_lengths_are_not_reported(lines, config, options):
    assert lines(config, **options) == []


@pytest.mark.parametrize("stop", [10, 20])
def test_after_a_resume_the_whole_run_counts(make_trainer, tmp_path, caplog, stop):
    trainer = make_trainer(LRSchedulerCallback(DECAY), max_steps=stop, max_epochs=-1)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        make_trainer(LRSchedulerCallback(DECAY)).fit(Regression(), data(), ckpt_path=tmp_path / "saved.ckpt")
    assert [message for message in caplog.messages if "the run " in message] == []


class ByHand(LightningModule):
    """Accumulates four batches under manual optimization."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.net(batch[0]).square().mean())
        if batch_idx % 5 == 4:
            self.optimizers().step()
            self.optimizers().zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def test_at_the_end_a_schedule_far_from_where_its_lengths_put_it_is_reported(lines):
    [line] = lines(AUTO, ByHand())
    assert line.startswith(
        "WarmupDecayLR: the optimizer made 6 steps in this fit, where one per batch would be 30; the schedule is at"
        " step 6 of 30 (total_num_steps)."
    )
    assert "Write the lengths as numbers of optimizer steps" in line
    assert lines(section(total_num_steps=6), ByHand()) == []  # numbers that only the author of the loop can know
