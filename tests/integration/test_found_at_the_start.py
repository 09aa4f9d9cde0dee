"""What is found at the start of a fit, by a probe or an LR range test, and the 1Cycle that follows."""

from __future__ import annotations

import csv
import json
import logging
import math
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.data import DataLoader

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, SchedulerConfig, configure_optimizers
from lightning_lrsched.range_test.probe import STEPS_OF_SHORT_RUN as PROBE_STEPS
from tests.kit.modules import Notes, Regression, ValidatedRegression, data
from tests.kit.runs import RestoresLater, with_range_test

EPOCHS, BATCHES = 6, 10
STEPS = EPOCHS * BATCHES
FINDERS = {"probe": LRSchedulerCallback, "range test": with_range_test}
finders = pytest.mark.parametrize("finder", FINDERS.values(), ids=FINDERS)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.002)


def weights(module: Any) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def fit(make_trainer: Any, module: Any, *callbacks: Any, loader: Any = None, **options: Any) -> Any:
    """Train with the first of the callbacks (none: one that makes a probe), and return it and the Trainer."""
    seed_everything(3, verbose=False)
    callbacks = callbacks or (LRSchedulerCallback(),)
    trainer = make_trainer(*callbacks, **{"max_epochs": EPOCHS, **options})
    trainer.fit(module, loader or data(BATCHES))
    return callbacks[0], trainer


def found_by(callback: Any) -> Any:
    [found] = {**callback.probe_results, **callback.range_test_results}.values()
    return found


def steps_of(found: Any) -> int:
    """Optimizer steps before the training."""
    return found.steps if isinstance(found.steps, int) else found.coarse.num_steps + found.num_steps


# Both -----------------------------------------------------------------------------------------------------------------


@finders
@pytest.mark.parametrize("optimizer", [None, adam])
def test_one_line_trains_with_1cycle_up_to_the_peak_that_is_found(make_trainer, finder, optimizer):
    module, callback = Regression(optimizer), finder()
    _, trainer = fit(make_trainer, module, callback, loader=data(BATCHES, shuffle=True))
    assert (trainer.global_step, trainer.current_epoch) == (STEPS, EPOCHS)
    schedule, trained_at, found = callback.schedulers[0], module.seen[-STEPS:], found_by(callback)
    assert type(schedule).__name__ == "OneCycle"
    assert [lr for lr, _ in trained_at] == [schedule.lr_at(step)[0] for step in range(STEPS)]
    if optimizer is None:
        assert [momentum for _, momentum in trained_at] == [schedule.momentum_at(step)[0] for step in range(STEPS)]
    else:
        assert {momentum for _, momentum in trained_at} == {0.9}
    rates = found.learning_rates()
    assert (schedule.lr_at(0)[0], max(lr for lr, _ in trained_at)) == pytest.approx((rates["low"], rates["high"]))
    lengths = ("cycle_first_step_size", "cycle_second_step_size", "decay_step_size")
    assert sum(schedule.hyperparameters[key] for key in lengths) == STEPS
    assert bool(callback.probe_results) == (finder is LRSchedulerCallback) == (steps_of(found) == PROBE_STEPS)


@finders
def test_accumulated_batches_are_one_step(make_trainer, finder):
    for options, callbacks in (({"accumulate_grad_batches": 4}, ()), ({}, (GradientAccumulationScheduler({0: 4}),))):
        module, callback = Regression(adam), finder()
        _, trainer = fit(make_trainer, module, callback, *callbacks, max_epochs=20, **options)
        assert trainer.global_step == callback.schedulers[0].last_epoch == 20 * 3
        assert len(module.seen) - trainer.global_step == steps_of(found_by(callback))  # per step, not per batch


@finders
def test_the_ratio_of_param_groups_is_kept(make_trainer, finder):
    module, callback = Regression(), finder()
    module.make_optimizer = lambda _: torch.optim.SGD(
        [{"params": module.net[0].parameters(), "lr": 0.01}, {"params": module.net[1:].parameters(), "lr": 0.04}],
        momentum=0.9,
    )
    fit(make_trainer, module, callback)
    low, high = found_by(callback).learning_rates()["high"]
    assert low / high == pytest.approx(0.25)
    assert callback.schedulers[0].hyperparameters["cycle_max_lr"] == pytest.approx([low, high])
    for step in (0, 10, 18, 59):
        first, second = callback.schedulers[0].lr_at(step)
        assert first / second == pytest.approx(0.25)


class Hooks(Callback):
    """Notes every hook that is called."""

    def __init__(self):
        self.called = []
        for name in dir(Callback):
            if name.startswith("on_"):
                setattr(self, name, self._noting(name))

    def _noting(self, name):
        return lambda *_, **__: self.called.append(name)


@finders
def test_callbacks_of_the_user_and_loggers_see_only_the_training(make_trainer, tmp_path, finder):
    called = {}
    given = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.01}})
    for name, callback in (("given", given), ("tested", finder())):
        hooks, logger = Hooks(), CSVLogger(tmp_path, name=name)
        checkpoints = ModelCheckpoint(tmp_path / f"{name}_checkpoints", every_n_train_steps=20, save_top_k=-1)
        module = ValidatedRegression()
        module.training_step = lambda batch, _, module=module: (
            module.log("train_loss", loss := module.loss(batch)) or loss
        )
        make_trainer(
            callback,
            *(hooks, checkpoints, EarlyStopping("val_loss", patience=100), LearningRateMonitor("step")),
            max_epochs=EPOCHS,
            logger=logger,
            log_every_n_steps=10,
            enable_checkpointing=True,
        ).fit(module, data(), data())
        called[name] = hooks.called
        assert sorted(path.name for path in (tmp_path / f"{name}_checkpoints").iterdir()) == [
            f"epoch={epoch}-step={step}.ckpt" for epoch, step in ((1, 20), (3, 40), (5, 60))
        ]
        with (Path(logger.log_dir) / "metrics.csv").open() as lines:
            rows = list(csv.DictReader(lines))
        for tag in ("train_loss", "lr-SGD"):
            assert [int(row["step"]) for row in rows if row[tag]] == [9, 19, 29, 39, 49, 59]
        assert sum(bool(row["val_loss"]) for row in rows) == EPOCHS
    assert called["tested"] == called["given"]
    assert (sum(bool(row.get("lr_range_test/loss")) for row in rows) > 50) == (finder is with_range_test)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("make", "again"),
    [
        (LRSchedulerCallback, LRSchedulerCallback),
        (with_range_test, with_range_test),
        (with_range_test, LRSchedulerCallback),  # which would make a probe
        (lambda: LRSchedulerCallback(DECAY), lambda: LRSchedulerCallback(DECAY)),
    ],
)
def test_a_resume_finds_nothing_anew_and_goes_on_with_what_was_found(
    make_trainer, tmp_path, caplog, make, again, later
):
    path = tmp_path / "at20.ckpt"

    class Save(Callback):
        def on_train_epoch_end(self, trainer, *_):
            if trainer.global_step == 20:
                trainer.save_checkpoint(path)

    def train(callback, *callbacks, ckpt_path=None):
        options = {"strategy": RestoresLater(torch.device("cpu"))} if later else {}
        module = Regression()
        trainer = make_trainer(callback, *callbacks, max_epochs=EPOCHS, **options)
        trainer.fit(module, data(), ckpt_path=ckpt_path)
        assert trainer.global_step == STEPS
        return module, callback

    whole, found = train(make(), Save())
    torch.load(path, weights_only=True)  # plain values only
    with caplog.at_level(logging.INFO):
        caplog.clear()
        resumed, known = train(again(), ckpt_path=path)
    assert known.range_test_results == found.range_test_results
    assert known.probe_results == found.probe_results
    assert not [line for line in caplog.messages if line.startswith(("LR probe", "LR range test"))]
    assert resumed.seen == whole.seen[-(STEPS - 20) :]


@finders
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_exception_the_trainer_is_as_it_was(make_trainer, finder, error):
    class Failing(Regression):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 2:
                raise error
            return super().training_step(batch, batch_idx)

    module, hooks, callback = Failing(), Hooks(), finder()
    trainer = make_trainer(callback, hooks, max_epochs=EPOCHS)
    before = weights(module)
    with pytest.raises((error, SystemExit)):
        trainer.fit(module, data())
    assert same(before, weights(module))
    assert (trainer.global_step, trainer.max_epochs) == (0, EPOCHS)
    assert getattr(trainer, "enable_autolog_hparams", True)  # came with Lightning 2.6
    assert trainer.callbacks == [callback, hooks]
    assert "on_exception" in hooks.called


# The probe ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "steps"), [(59, 3), (60, 12)])
def test_it_costs_few_steps_and_about_as_many_forward_passes(make_trainer, epochs, steps):
    class Counts(Regression):
        passes = steps = 0

        def loss(self, batch: Any) -> Any:
            Counts.passes += 1
            return super().loss(batch)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            Counts.steps += 1

    callback, trainer = fit(make_trainer, Counts(adam), max_epochs=epochs)
    found = callback.probe_results[0]
    assert Counts.steps - trainer.global_step == found.steps == steps
    assert Counts.passes - Counts.steps == found.forwards < 30


def test_a_loss_may_need_gradients_in_its_forward_pass(make_trainer):
    class Physics(Regression):
        def loss(self, batch: Any) -> Any:
            inputs = batch[0].clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(inputs).sum(), inputs, create_graph=True)
            return (slope - 1).square().mean()

    callback, _ = fit(make_trainer, Physics(adam))
    assert callback.probe_results[0].lowest is not None


def test_callbacks_that_change_batches_take_part_and_other_ones_see_only_the_training(make_trainer):
    class Doubles(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batch[0].mul_(2)

    class Large(Regression):
        def loss(self, batch: Any) -> Any:
            assert batch[0].abs().max() > 50
            return super().loss(batch)

    inputs = torch.full((80, 4), 30.0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, inputs[:, :1]), 8)
    callback, _ = fit(make_trainer, Large(adam), LRSchedulerCallback(), Doubles(), loader=loader)
    assert callback.probe_results[0].steps == PROBE_STEPS


class Scales(Callback):
    """Tells the module how to read a batch, and takes it back at its end."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.scale = 0.1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.scale = 100.0


class Scaled(Regression):
    scale = 100.0

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss([batch[0] * self.scale, batch[1]])


def test_what_a_callback_sets_for_a_batch_holds_until_its_loss_was_computed_again(make_trainer):
    class Small(Scaled):
        scale = 0.1

    def made(module_class: Any) -> Any:
        torch.manual_seed(1)
        return module_class(adam)

    lambdas = LambdaCallback(
        on_train_batch_start=lambda trainer, module, *_: setattr(module, "scale", 0.1),
        on_train_batch_end=lambda trainer, module, *_: setattr(module, "scale", 100.0),
    )
    plain, _ = fit(make_trainer, made(Small), LRSchedulerCallback())
    for callback in (Scales(), lambdas):
        found, _ = fit(make_trainer, made(Scaled), LRSchedulerCallback(), callback)
        assert found.probe_result == plain.probe_result


@pytest.mark.parametrize("seed", range(3))
def test_sgd_without_momentum_stays_finite_to_the_end(make_trainer, seed):
    torch.manual_seed(seed)
    module = Regression(lambda parameters: torch.optim.SGD(parameters, 0.01))
    module.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    batch = next(iter(data(60)))
    start = module.loss(batch).item()
    callback, _ = fit(make_trainer, module, LRSchedulerCallback(), loader=data(60), max_epochs=20)
    assert "which is less than the prior 1.5" in callback.probe_result.because
    assert module.loss(batch).item() < 0.1 * start


def test_a_constant_loss_is_named(make_trainer):
    class Constant(Regression):
        def loss(self, batch: Any) -> torch.Tensor:
            return 0.0 * super().loss(batch) + 1.0

    callback, _ = fit(make_trainer, Constant(adam), LRSchedulerCallback())
    assert "the loss is constant; does it depend on the trained parameters?" in callback.probe_result.because


def test_a_callback_of_lightnings_that_changes_weights_is_set_aside_and_named(make_trainer, caplog):
    averaging = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging", reason="came with Lightning 2.6")
    with caplog.at_level("INFO"):
        callback, _ = fit(make_trainer, Regression(adam), LRSchedulerCallback(), averaging.EMAWeightAveraging())
    assert callback.probe_results[0].steps == PROBE_STEPS
    off = "these callbacks are off until it is over, because they may end it, or change weights or lr"
    assert f"LR probe: {off}: EMAWeightAveraging" in caplog.messages


def test_a_batch_whose_loss_does_not_fall_is_followed_by_another(make_trainer):
    class FirstRises(Regression):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss - 2 * loss.detach() if batch_idx == 0 else loss  # its gradient goes the other way

    module = FirstRises(adam)
    again = deepcopy(module)
    callback, trainer = fit(make_trainer, module)
    found, [schedule] = callback.probe_results[0], callback.schedulers
    assert (found.steps, found.lowest is not None) == (PROBE_STEPS + 1, True)
    assert trainer.global_step == STEPS
    fit(make_trainer, again, LRSchedulerCallback(SchedulerConfig("OneCycle", **schedule.hyperparameters)))
    assert same(weights(module), weights(again))


def test_a_short_run_takes_the_prior(make_trainer, caplog):
    with caplog.at_level("INFO"):
        module = Regression(adam)
        callback, trainer = fit(make_trainer, module, max_epochs=1)
    found = callback.probe_results[0]
    assert (found.peak, found.prior, found.steps) == (0.006, 0.006, 0)
    assert len(module.seen) == trainer.global_step == 10
    assert "peak 0.006: the prior of this kind of optimizer, in a run of only 10 steps" in caplog.text


@pytest.mark.parametrize("epochs", [26, 27])
def test_manual_optimization_has_a_range_test_or_in_a_short_run_the_prior(make_trainer, epochs):
    class Manual(Regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            optimizer.step()
            return loss

    callback, _ = fit(make_trainer, Manual(adam), max_epochs=epochs)
    if 10 * epochs < 3 * 90:
        assert callback.probe_results[0].because.endswith("in a run of only 260 steps")
        assert callback.range_test_results == {}
    else:
        assert callback.probe_results == {}
        result = callback.range_test_results[0]
        assert len(result.coarse.steps) + len(result.steps) <= 90


def test_log_and_tensorboard_say_what_was_found(make_trainer, tmp_path, caplog):
    pytest.importorskip("matplotlib")
    logger = TensorBoardLogger(tmp_path, name="", version="")
    with caplog.at_level("INFO"):
        callback, _ = fit(make_trainer, Regression(adam), logger=logger)
    assert f"LR probe: {callback.probe_results[0]}; weights, optimizers and Trainer restored." in caplog.messages
    assert "cycle_max_lr           | from the probe | " in caplog.text
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "lr_probe/loss_vs_lr" in events.Tags()["images"]
    assert "lr_probe/result/text_summary" in events.Tags()["tensors"]


def test_the_same_state_gives_the_same_peak_with_dropout_too(make_trainer):
    found = []
    for _ in range(2):
        seed_everything(5, verbose=False)
        callback, _ = fit(make_trainer, Regression(adam), loader=data(BATCHES))
        found.append(callback.probe_results[0])
    assert found[0] == found[1]


class Strict(Regression):
    """Checks its own loss, which is not finite far from the first weights."""

    def __init__(self, optimizer: Any, check: Any) -> None:
        torch.manual_seed(1)
        super().__init__(optimizer)
        self.check = check
        self.register_buffer("first", self.net[0].weight.detach().clone())

    def loss(self, batch: Any) -> Any:
        far = (self.net[0].weight.detach() - self.first).abs().max() > 0.5
        loss = torch.where(far, torch.inf, super().loss(batch))
        self.check(loss)
        return loss


def raises(loss: Any) -> None:
    if not torch.isfinite(loss):
        raise ValueError("the loss is not finite")


def asserts(loss: Any) -> None:
    assert torch.isfinite(loss), "the loss is not finite"


CHECKS = {
    "raise": raises,
    "assert": asserts,
    "distribution": lambda loss: torch.distributions.Normal(loss - loss, 1.0, validate_args=True),
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_module_that_checks_its_own_loss_gets_the_peak_of_one_that_does_not(make_trainer, caplog, check):
    with caplog.at_level("INFO"):
        strict, _ = fit(make_trainer, Strict(adam, CHECKS[check]))
    plain, _ = fit(make_trainer, Strict(adam, lambda loss: None))
    assert any(map(math.isinf, strict.probe_results[0].losses))
    assert strict.probe_results == plain.probe_results
    assert "which counts as a loss that is not finite" in caplog.text


def test_what_runs_out_of_memory_does_so_in_the_probe_too(make_trainer):
    class OutOfMemoryError(RuntimeError):
        pass

    def check(loss: Any) -> None:
        if not torch.isfinite(loss):
            raise OutOfMemoryError

    with pytest.raises(OutOfMemoryError) as caught:
        fit(make_trainer, Strict(adam, check))
    if sys.version_info >= (3, 11):
        [note] = caught.value.__notes__
        assert note.startswith("This was in the LR probe, in a step at lr 0.")


@finders
def test_a_param_group_may_be_empty(make_trainer, finder):
    module, callback = Regression(lambda p: torch.optim.SGD([{"params": []}, {"params": list(p)}], 0.01, 0.9)), finder()
    make_trainer(callback, max_epochs=30).fit(module, data())
    assert callback.schedulers[0].last_epoch == 300


class Complex(Regression):
    def __init__(self) -> None:
        super().__init__(lambda p: torch.optim.AdamW(p, lr=0.01))
        self.net = torch.nn.ParameterList([torch.randn(4, 8, dtype=torch.cfloat), torch.randn(8, 1)])

    def loss(self, batch: Any) -> torch.Tensor:
        inner, outer = self.net
        return torch.nn.functional.mse_loss((batch[0].cfloat() @ inner).abs() @ outer, batch[1])


def test_parameters_may_be_complex(make_trainer):
    callback = LRSchedulerCallback()
    make_trainer(callback, max_epochs=5).fit(Complex(), data())  # in silence: a warning would be an error
    assert callback.schedulers[0].last_epoch == 50


class Takes(Regression):
    """Uses its batch up, as models of Hugging Face do with their labels."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        targets = batch["more"].pop("targets")
        return super().training_step([batch.pop("inputs"), targets], batch_idx)


class ChangesInPlace(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        batch["inputs"].mul_(0.5)
        return super().training_step([2 * batch["inputs"], batch["more"]["targets"]], batch_idx)


class Iterates(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step([batch["inputs"], next(batch["iterator"])], batch_idx)


@pytest.mark.parametrize("make", [Takes, ChangesInPlace, Iterates])
def test_a_module_that_uses_its_batch_up_gets_the_peak_of_one_that_does_not(make_trainer, make):
    def nested(samples: Any) -> Any:
        inputs, targets = torch.utils.data.default_collate(samples)
        return {"inputs": inputs, "more": {"targets": targets}, "iterator": iter([targets])}

    class Plain(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step([batch["inputs"], batch["more"]["targets"]], batch_idx)

    found = []
    for module_class in (Plain, make):
        torch.manual_seed(1)
        callback = LRSchedulerCallback()
        make_trainer(callback, max_epochs=5).fit(module_class(), DataLoader(data().dataset, 8, collate_fn=nested))
        found.append(callback.probe_result)
    assert found[1] == found[0]


class NeedsValidation(ValidatedRegression):
    """Reads at the end of an epoch what its validation has found, and says at the end of the training what it was."""

    said: list[str]

    def on_train_epoch_end(self) -> None:
        self.last = float(self.trainer.callback_metrics["val_loss"])

    def on_train_end(self) -> None:
        self.said.append(f"after {self.trainer.global_step} steps")


@finders
def test_a_module_that_needs_its_validation_at_the_end_of_an_epoch_trains(make_trainer, caplog, finder):
    caplog.set_level(logging.INFO)
    module = NeedsValidation()
    module.said = Notes()
    make_trainer(finder(), max_epochs=30, limit_val_batches=1).fit(module, data(), data())
    assert module.said == ["after 300 steps"]
    [line] = [text for text in caplog.messages if "on_train_epoch_end" in text]
    assert "KeyError('val_loss')" in line


class LogsItself(Regression):
    """Writes to its loggers without Lightning, also beside the folder that they have."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        board, table = self.loggers
        board.experiment.add_scalar("direct", loss.item(), self.trainer.global_step)
        board.log_hyperparams({"batches": batch_idx})
        table.log_metrics({"direct": loss.item()}, step=self.trainer.global_step)
        self.folders = Path(table.log_dir), Path(self.trainer.log_dir), Path(board.experiment.log_dir)
        assert isinstance(board, TensorBoardLogger)
        return loss


@finders
def test_what_a_module_writes_to_its_loggers_itself_is_that_of_the_training(make_trainer, tmp_path, finder):
    loggers, module = [TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "table")], LogsItself()
    make_trainer(finder(), max_epochs=30, logger=loggers, log_every_n_steps=1).fit(module, data())
    folder = Path(loggers[1].log_dir)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["direct"]] == list(range(300))
    events = EventAccumulator(loggers[0].log_dir)
    events.Reload()
    assert [event.step for event in events.Scalars("direct")] == list(range(300))
    assert module.folders == (folder, Path(loggers[0].log_dir), Path(loggers[0].log_dir))


class Own(torch.optim.SGD):
    """Moves by what it thinks right, whatever lr is set."""

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(3e-4 * parameter.grad.sign())
        return loss


@pytest.mark.parametrize("optimizer", [None, adam, Own])
def test_an_optimizer_that_does_not_follow_the_lr_is_reported(make_trainer, caplog, optimizer):
    with caplog.at_level("INFO"):
        fit(make_trainer, Regression(optimizer))
    assert ("LR probe: The updates did not grow with the lr" in caplog.text) == (optimizer is Own)


def searching(parameters: Any, lr: float) -> Any:
    return torch.optim.LBFGS(parameters, lr, line_search_fn="strong_wolfe", max_iter=2)


@finders
@pytest.mark.parametrize("optimizer", [Own, searching])
def test_such_an_optimizer_keeps_its_own_lr(make_trainer, caplog, finder, optimizer):
    callback = finder()
    with caplog.at_level("INFO"):
        fit(make_trainer, Regression(lambda parameters: optimizer(parameters, lr=0.02)), callback, max_epochs=30)
    schedule = callback.schedulers[0]
    assert max(schedule.lr_at(step)[0] for step in range(300)) == pytest.approx(0.02)
    assert "updates did not grow with the lr" in caplog.text
    assert "own lr" in caplog.text
    assert "from the probe" not in caplog.text
    if finder is LRSchedulerCallback:
        assert callback.probe_result.peak == 0.02


@finders
def test_an_optimizer_without_an_lr_is_refused_by_name(make_trainer, finder):
    def without_lr(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.param_groups[0]["lr"] = None
        return optimizer

    with pytest.raises(ValueError, match=r"SGD has no learning rate to schedule: its param_groups\[0\] has lr=None"):
        fit(make_trainer, Regression(without_lr), finder())


def test_a_callback_that_was_copied_says_where_to_look():
    for name in ("probe_result", "range_test_result"):
        with pytest.raises(RuntimeError, match=r"a copy of this callback, look among trainer\.callbacks"):
            getattr(LRSchedulerCallback(), name)


def test_who_asks_for_the_wrong_kind_of_result_is_told_where_the_right_one_is(make_trainer):
    probed, _ = fit(make_trainer, Regression(adam))
    with pytest.raises(RuntimeError, match=r"made no LR range test, but an LR probe: see probe_result$"):
        _ = probed.range_test_result
    tested, _ = fit(make_trainer, Regression(adam), with_range_test())
    with pytest.raises(RuntimeError, match=r"made no LR probe, but an LR range test: see range_test_result$"):
        _ = tested.probe_result
    both, _ = fit(make_trainer, Gan(), with_range_test())
    with pytest.raises(RuntimeError, match=r"but 2 LR range tests, one per optimizer: see range_test_results$"):
        _ = both.probe_result


# The range test -------------------------------------------------------------------------------------------------------


class Gan(LightningModule):
    """Two networks against each other; returns no loss and counts its batches."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.generator, self.critic = torch.nn.Linear(4, 2), torch.nn.Linear(2, 1)
        self.batches = 0
        self.used = [Notes(), Notes()]

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        real, fake = batch[0][:, :2], self.generator(batch[0])
        loss = torch.nn.functional.softplus
        self.used[0].append(first.param_groups[0]["lr"])
        first.zero_grad()
        self.manual_backward(loss(-self.critic(real)).mean() + loss(self.critic(fake.detach())).mean())
        first.step()
        self.batches += 1
        if self.batches % 2:
            self.used[1].append(second.param_groups[0]["lr"])
            second.zero_grad()
            self.manual_backward(loss(-self.critic(fake)).mean() + (fake.mean() - real.mean()).square())
            second.step()

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.critic.parameters(), 1e-3),
            torch.optim.Adam(self.generator.parameters(), 1e-3),
        ]


def test_each_of_several_optimizers_gets_a_test_and_a_schedule(make_trainer):
    module, callback = Gan(), with_range_test()
    trainer = make_trainer(callback, max_epochs=EPOCHS)
    trainer.fit(module, data())
    assert module.batches == STEPS
    assert list(callback.range_test_results) == [0, 1]
    assert [schedule.last_epoch for schedule in callback.schedulers] == [STEPS, STEPS // 2]
    for used, schedule in zip(module.used, callback.schedulers, strict=True):
        steps = schedule.last_epoch
        assert used[-steps:] == [schedule.lr_at(step)[0] for step in range(steps)]
    with pytest.raises(RuntimeError, match="2 results, one per optimizer: see range_test_results"):
        _ = callback.range_test_result


class Opposed(Gan):
    """The loss of the generator rises, whatever its lr: the critic learns."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer, net, used in zip((first, second), (self.critic, self.generator), self.used, strict=True):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            inputs = batch[0][:, : net.in_features]
            loss = (net(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            rises = torch.tensor(1.0 + 0.01 * self.steps)
            self.manual_backward(loss if optimizer is first else 0.0 * loss + rises)
            optimizer.step()
        self.steps += 1

    def configure_optimizers(self):
        return [torch.optim.Adam(self.critic.parameters(), 4e-4), torch.optim.Adam(self.generator.parameters(), 2e-4)]


def test_several_optimizers_keep_their_balance_in_a_run_that_is_too_short_for_tests(make_trainer, caplog, tmp_path):
    for ckpt_path in (None, tmp_path / "saved.ckpt"):
        module, callback = Opposed(), LRSchedulerCallback()
        with caplog.at_level(logging.INFO):
            trainer = make_trainer(callback, max_epochs=9)
            trainer.fit(module, data(), ckpt_path=ckpt_path)
        assert [s.hyperparameters["cycle_max_lr"] for s in callback.schedulers] == pytest.approx([0.006, 0.003])
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
    assert "peak 0.006: the prior of this kind of optimizer, in a run of only 90 steps" in caplog.text
    assert "peak 0.003: less than the prior of this kind of optimizer, in a run of only 90 steps" in caplog.text


@pytest.mark.parametrize("finder", [LRSchedulerCallback, with_range_test])
def test_where_the_test_of_one_optimizer_shows_nothing_all_keep_their_own_lr(make_trainer, caplog, finder):
    module, callback = Opposed(), finder()
    with caplog.at_level(logging.INFO):
        make_trainer(callback, max_epochs=30).fit(module, data())
    highest = [max(used[-300:]) for used in module.used]
    assert highest == pytest.approx([4e-4, 2e-4])
    [line] = [text for text in caplog.messages if "keep their own lr" in text]
    assert line == (
        "LRSchedulerCallback: the LR range test of optimizer 1 (Adam) shows no learning rate, because its loss never"
        " fell. This is usual where the losses of several optimizers oppose each other. All 2 optimizers keep their own"
        " lr, and with it the balance between them: 1Cycle goes up to it"
    )
    told = [text for text in caplog.messages if text.startswith("LR range test")]
    assert all(
        text.startswith(("LR range test of optimizer 0 (Adam): ", "LR range test of optimizer 1 (Adam): "))
        for text in told
    )
    nothing = [text for text in told if text.startswith("LR range test of optimizer 1 (Adam)")]
    assert any("it shows no learning rate, because its loss never fell; weights" in text for text in nothing)
    assert not any(word in text for text in nothing for word in ("lower lr", "Look for the cause", "prior"))


def test_a_resume_keeps_the_balance_that_the_fit_has_kept(make_trainer, tmp_path):
    trainer = make_trainer(LRSchedulerCallback(), max_epochs=30)
    trainer.fit(Opposed(), data())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    callback = LRSchedulerCallback()
    make_trainer(callback, max_epochs=30).fit(Opposed(), data(), ckpt_path=tmp_path / "saved.ckpt")
    assert [s.hyperparameters["cycle_max_lr"] for s in callback.schedulers] == pytest.approx([4e-4, 2e-4])


def test_the_losses_of_each_optimizer_are_its_own(make_trainer):
    class Constant(Gan):
        """The losses of the two are 1 and 2, whatever the weights are."""

        def training_step(self, batch, batch_idx):
            for number, (net, optimizer) in enumerate(
                zip((self.critic, self.generator), self.optimizers(), strict=True)
            ):
                optimizer.zero_grad()
                inputs = batch[0][:, : net.in_features]
                self.manual_backward(0.0 * net(inputs).sum() + number + 1.0)
                optimizer.step()

    for index in (0, 1):
        test = LRRangeTestCallback(num_steps=20, optimizer_index=index)
        make_trainer(test).fit(Constant(), data())
        result = test.result
        assert set(result.losses) == {index + 1.0}
        assert len(result.losses) == 20


def test_the_modules_on_fit_start_runs_once_and_before_the_test(make_trainer):
    class Prepared(Regression):
        prepared = Notes()

        def on_fit_start(self):
            self.prepared.append(self.global_step)

        def training_step(self, batch, batch_idx):
            assert self.prepared
            return super().training_step(batch, batch_idx)

    module = Prepared()
    make_trainer(with_range_test(), max_epochs=EPOCHS).fit(module, data())
    assert module.prepared == [0]


def test_the_schedulers_of_other_optimizers_go_on_from_the_start(make_trainer):
    class Two(Gan):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            if self.batches % 2:
                self.lr_schedulers()[0].step()  # ours is there too

        def configure_optimizers(self):
            first, second = super().configure_optimizers()
            return [first, second], [torch.optim.lr_scheduler.StepLR(second, step_size=1, gamma=0.5)]

    module, callback = Two(), LRSchedulerCallback(optimizer_index=0)
    make_trainer(callback, max_epochs=1).fit(module, data())
    assert module.used[1][-5:] == [1e-3 * 0.5**step for step in range(5)]


def test_one_tensorboard_run_holds_the_test_the_training_and_what_was_found(make_trainer, tmp_path):
    class Saved(Regression):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"width": 8})

    callback, logger = with_range_test(), TensorBoardLogger(tmp_path, name="", version="")
    module = Saved()
    graphs = []
    logger.log_graph = graphs.append
    make_trainer(callback, logger=logger, log_every_n_steps=5, max_epochs=EPOCHS).fit(module, data())
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path), {"images": 0, "scalars": 0}).Reload()
    result = callback.range_test_result
    made = result.coarse.num_steps + result.num_steps
    assert [event.step for event in events.Scalars("lr_range_test/loss")] == list(range(made))
    assert [event.step for event in events.Scalars("lr-SGD")] == list(range(4, STEPS, 5))
    assert len(events.Images("lr_range_test/loss_vs_lr")) == 1
    assert graphs == [module]
    started = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    found = {k: v.number_value for k, v in HParamsPluginData.FromString(started).session_start_info.hparams.items()}
    low, high = result.bounds()
    assert found["width"] == 8
    assert found["lr_scheduler/cycle_max_lr"] == found["lr_range_test/high"] == pytest.approx(high)
    assert found["lr_scheduler/cycle_min_lr"] == found["lr_range_test/low"] == pytest.approx(low)


def test_the_log_says_what_was_found_and_what_it_became(make_trainer, caplog):
    callback = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": "lr_range_test"}})
    with caplog.at_level(logging.INFO):
        make_trainer(callback, max_epochs=EPOCHS).fit(Regression(), data())
    suggestion = callback.range_test_result.suggestion()
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("LR range test:") and f"suggested lr {suggestion:.3g}" in line for line in lines) == 1
    assert sum(f"warmup_max_lr | lr_range_test | {suggestion:.6g}" in line for line in lines) == 1


# The word in a configuration -----------------------------------------------------------------------------------------

WORD = "lr_range_test"


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"type": "WarmupLR", "params": {"warmup_max_lr": WORD}}, {"warmup_max_lr": "suggestion"}),
        (
            {
                "type": "WarmupDecayLR",
                "params": {"total_num_steps": "auto", "warmup_num_steps": "auto", "warmup_max_lr": "LR_range_test"},
            },
            {"warmup_max_lr": "suggestion"},
        ),
        (
            {"type": "WarmupLR", "params": {"warmup_min_lr": WORD, "warmup_max_lr": WORD}},
            {"warmup_min_lr": "low", "warmup_max_lr": "suggestion"},
        ),
        (
            {"type": "OneCycle", "params": {"cycle_min_lr": 1e-5, "cycle_max_lr": WORD, "cycle_first_step_size": 0.5}},
            {"cycle_max_lr": "high"},
        ),
        ({"type": "OneCycle", "params": {"cycle_min_lr": "auto", "cycle_max_lr": WORD}}, {"cycle_max_lr": "high"}),
    ],
)
def test_any_learning_rate_of_a_configuration_may_be_found(make_trainer, write, config, found):
    callback = LRSchedulerCallback(write(config))
    make_trainer(callback, max_epochs=EPOCHS).fit(Regression(), data())
    rates = callback.range_test_result.learning_rates()
    values = callback.schedulers[0].hyperparameters
    assert {key: values[key] for key in found} == {key: rates[name] for key, name in found.items()}
    if config["params"].get("cycle_min_lr") == "auto":
        assert values["cycle_min_lr"] == pytest.approx(rates["high"] / 10)


def test_a_list_may_test_for_one_optimizer_and_give_numbers_for_the_other(make_trainer):
    given = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.01, "warmup_num_steps": 5, "warmup_type": "linear"}}
    module, callback = Gan(), LRSchedulerCallback([given, {"type": "WarmupLR", "params": {"warmup_max_lr": WORD}}])
    make_trainer(callback, max_epochs=EPOCHS).fit(module, data())
    assert list(callback.range_test_results) == [1]
    assert module.used[0][-STEPS:] == [callback.schedulers[0].lr_at(step)[0] for step in range(STEPS)]
    assert callback.schedulers[1].hyperparameters["warmup_max_lr"] == callback.range_test_result.suggestion()


def test_two_callbacks_each_test_for_their_own_optimizer(make_trainer):
    module, callbacks = Gan(), [LRSchedulerCallback(optimizer_index=index) for index in (0, 1)]
    make_trainer(*callbacks, max_epochs=EPOCHS).fit(module, data())
    for index, callback in enumerate(callbacks):
        schedule = callback.schedulers[0]
        steps = schedule.last_epoch
        assert steps == (STEPS, STEPS // 2)[index]
        assert module.used[index][-steps:] == [schedule.lr_at(step)[0] for step in range(steps)]


def test_the_settings_of_the_test_may_be_given(make_trainer):
    test = LRRangeTestCallback(max_lr=1.0, num_steps=40, divergence_factor=None)
    callback = LRSchedulerCallback(range_test=test)
    make_trainer(callback, max_epochs=EPOCHS).fit(Regression(), data())
    assert callback.range_test_result.lrs[-1] == pytest.approx(1.0)
    assert len(callback.range_test_result.lrs) == 40


def test_the_test_may_follow_a_validation_loss(make_trainer):
    test = LRRangeTestCallback(monitor="val_loss", num_steps=100)
    module, callback = ValidatedRegression(), LRSchedulerCallback(range_test=test)
    trainer = make_trainer(callback, max_epochs=EPOCHS, val_check_interval=2)
    trainer.fit(module, data(), data())
    assert callback.range_test_result.steps[:3] == [1, 3, 5]
    assert trainer.global_step == callback.schedulers[0].last_epoch == STEPS


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: LRSchedulerCallback(
                {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}, range_test=LRRangeTestCallback()
            ),
            ValueError,
            'range_test: no learning rate of the schedule is "lr_range_test"',
        ),
        (
            lambda: LRSchedulerCallback(range_test={"num_steps": 10}),
            TypeError,
            "range_test must be an LRRangeTestCallback, got dict",
        ),
        (
            lambda: LRSchedulerCallback(range_test=LRRangeTestCallback(optimizer_index=1)),
            ValueError,
            "range_test: give optimizer_index to LRSchedulerCallback",
        ),
        (
            lambda: SchedulerConfig("WarmupLR", warmup_num_steps=WORD),
            TypeError,
            "warmup_num_steps must be a whole number",
        ),
        (
            lambda: SchedulerConfig("LRRangeTest", lr_range_test_min_lr=WORD),
            ValueError,
            '"lr_range_test" has no meaning',
        ),
        (
            lambda: SchedulerConfig("CyclicLR", base_lr=WORD, max_lr=1.0),
            ValueError,
            '"lr_range_test" has no meaning here',
        ),
        (
            lambda: configure_optimizers(
                torch.optim.SGD([torch.zeros(1)], 0.1), {"type": "WarmupLR", "params": {"warmup_max_lr": WORD}}
            ),
            ValueError,
            r'scheduler\.params\.warmup_max_lr: "lr_range_test" needs LRSchedulerCallback.*here write a number',
        ),
    ],
)
def test_mistakes_are_told(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_module_that_wires_the_schedule_itself_is_sent_to_the_callback(make_trainer):
    module = Regression()
    module.configure_optimizers = lambda: configure_optimizers(
        torch.optim.SGD(module.parameters(), 0.1), {"type": "WarmupLR", "params": {"warmup_max_lr": WORD}}
    )
    with pytest.raises(ValueError, match="needs LRSchedulerCallback, which runs the test before the first batch"):
        make_trainer().fit(module, data())


# Resuming ------------------------------------------------------------------------------------------------------------


DECAY = {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto", "warmup_num_steps": 5, "warmup_max_lr": WORD}}


def test_a_resume_with_another_configuration_uses_that(make_trainer, tmp_path):
    trainer = make_trainer(with_range_test(), max_epochs=2)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    module, callback = Regression(), LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": WORD}})
    with pytest.warns(UserWarning, match="WarmupLR"):
        make_trainer(callback, max_epochs=EPOCHS).fit(module, data(), ckpt_path=tmp_path / "saved.ckpt")
    assert callback.schedulers[0].hyperparameters["warmup_max_lr"] == callback.range_test_result.suggestion()
    assert len(module.seen) == STEPS - 20


def test_a_checkpoint_without_a_test_cannot_tell_what_it_would_have_found(make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=2)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    word = LRSchedulerCallback(DECAY)
    with pytest.raises(ValueError, match=r"warmup_max_lr of optimizer 0 is.*saved without a test.*write numbers"):
        make_trainer(word, max_epochs=EPOCHS).fit(Regression(), data(), ckpt_path=tmp_path / "saved.ckpt")


@finders
def test_one_line_on_a_plain_checkpoint_says_what_to_write_and_that_works(make_trainer, tmp_path, finder):
    trainer = make_trainer(max_epochs=2)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    module = Regression()
    with pytest.raises(ValueError, match="saved by a fit without LRSchedulerCallback") as told:
        make_trainer(finder(), max_epochs=EPOCHS).fit(module, data(), ckpt_path=tmp_path / "saved.ckpt")
    assert module.seen == []
    assert "lr_range_test" not in str(told.value)
    advised = json.loads(str(told.value).partition("LRSchedulerCallback({")[2].partition("), whose")[0].join(("{", "")))
    callback = LRSchedulerCallback(advised)
    with pytest.warns(UserWarning, match="the schedule continues from step 20"):
        make_trainer(callback, max_epochs=EPOCHS).fit(module, data(), ckpt_path=tmp_path / "saved.ckpt")
    used = [lr for lr, _ in module.seen]
    assert used == [callback.schedulers[0].lr_at(step)[0] for step in range(20, STEPS)]
    assert 0.01 > used[0] > used[-1] > 0.0


def test_a_second_fit_tests_again_from_where_the_module_is(make_trainer):
    module, callback = Regression(), with_range_test()
    trainer = make_trainer(callback, max_epochs=EPOCHS)
    trainer.fit(module, data())
    first = callback.range_test_result
    trainer.fit_loop.max_epochs = 2 * EPOCHS
    trainer.fit(module, data())
    assert callback.range_test_result.losses[0] < first.losses[0]
    assert (trainer.global_step, callback.schedulers[0].last_epoch) == (2 * STEPS, STEPS)


# Short and failing runs ----------------------------------------------------------------------------------------------


def test_a_fast_dev_run_makes_no_test_and_says_so(make_trainer, caplog):
    module, callback = Regression(), with_range_test()
    with caplog.at_level(logging.INFO):
        make_trainer(callback, fast_dev_run=True).fit(module, data())
    assert "a fast_dev_run makes no LR range test" in caplog.text
    assert len(module.seen) == 1
    assert callback.range_test_results == {}
    with pytest.raises(RuntimeError, match="this fit made no LR range test"):
        _ = callback.range_test_result


def test_a_fast_dev_run_speaks_of_the_probe_that_it_does_not_make(make_trainer, caplog):
    with caplog.at_level(logging.INFO):
        make_trainer(LRSchedulerCallback(), fast_dev_run=True).fit(Regression(), data())
    told = "LRSchedulerCallback: a fast_dev_run makes no LR probe; 1Cycle goes up to the optimizer's own lr"
    assert told in caplog.messages
    assert "lr_range_test" not in caplog.text


def test_two_callbacks_for_one_optimizer_are_refused_in_words_of_the_user(make_trainer):
    with pytest.raises(ValueError, match="already schedules optimizer 0; keep one of them"):
        make_trainer(LRSchedulerCallback(), LRSchedulerCallback()).fit(Regression(), data())


def test_a_fit_that_has_nothing_to_do_makes_no_test(make_trainer):
    for options in ({"max_epochs": 0}, {"max_steps": 0}, {"limit_train_batches": 0}):
        module = Regression()
        make_trainer(with_range_test(), **options).fit(module, data())
        assert module.seen == []


@pytest.mark.filterwarnings("ignore:Total length of `.*Loader` across ranks is zero")
def test_a_loader_without_batches_is_no_error(make_trainer):  # but a warning of Lightning's
    module = Regression()
    make_trainer(LRSchedulerCallback()).fit(module, DataLoader(data().dataset, 8, sampler=[]))
    assert module.seen == []


def test_a_training_shorter_than_its_test_is_reported(make_trainer, caplog):
    module, callback = Regression(), with_range_test()
    with caplog.at_level(logging.WARNING):
        make_trainer(callback, max_steps=30, max_epochs=-1).fit(module, data())
    assert "it takes up to 90 optimizer steps, but the training after it has only 30" in caplog.text
    assert callback.schedulers[0].last_epoch == 30


def test_a_constant_loss_ends_the_fit_with_what_to_do(make_trainer):
    class Flat(Regression):
        def loss(self, batch):
            return 0.0 * super().loss(batch) + 1.0

    module = Flat()
    before = weights(module)
    trainer = make_trainer(with_range_test(), max_epochs=EPOCHS)
    with pytest.raises(ValueError, match="loss"):
        trainer.fit(module, data())
    assert same(before, weights(module))
    assert trainer.global_step == 0


def test_where_the_loss_never_falls_the_training_has_the_optimizers_prior(make_trainer):
    class LowestAtFirst(Regression):
        def __init__(self):
            super().__init__()
            self.losses = 0

        def loss(self, batch):
            self.losses += 1
            return 1e-9 * super().loss(batch) + (1.0 if self.losses in (1, 101) else 1.5)

    callback = with_range_test()
    make_trainer(callback, max_epochs=EPOCHS).fit(LowestAtFirst(), data())
    result = callback.range_test_result
    assert result.caveats()[0].startswith("The loss never fell")
    assert result.bounds()[1] == min(result.prior, result.curve().edge() / 2)
    assert max(callback.schedulers[0].lr_at(s)[0] for s in range(200)) == pytest.approx(result.bounds()[1])


def test_on_the_command_line(tmp_path, monkeypatch, write):
    pytest.importorskip("jsonargparse", reason="jsonargparse, which LightningCLI needs, is not installed")
    from lightning_lrsched.cli import LRSchedulerCLI

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    section = write({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": WORD}}}, "scheduler.json")
    quiet = [
        "--seed_everything=1",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
    ]
    quiet += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.max_epochs=6"]

    class WithData(Regression):
        def __init__(self, width: int = 8) -> None:
            super().__init__()

        def train_dataloader(self):
            return data()

    for args in (
        [f"--scheduler={section}"],
        ["--scheduler.type=WarmupLR", f"--scheduler.params={json.dumps({'warmup_max_lr': WORD})}"],
    ):
        cli = LRSchedulerCLI(WithData, args=["fit", *args, *quiet], save_config_callback=None)
        callback = next(c for c in cli.trainer.callbacks if isinstance(c, LRSchedulerCallback))
        assert callback.schedulers[0].hyperparameters["warmup_max_lr"] == callback.range_test_result.suggestion()
