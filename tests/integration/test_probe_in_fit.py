"""LRSchedulerCallback() alone: a probe at the start of the fit, then 1Cycle up to the peak that it finds."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_lrsched import LRSchedulerCallback
from lightning_lrsched.range_test.probe import STEPS
from tests.kit.modules import Regression, data

EPOCHS, BATCHES = 8, 10


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.5)


def fit(make_trainer: Any, module: Any, *callbacks: Any, loader: Any = None, **options: Any) -> Any:
    seed_everything(3, verbose=False)
    callback = LRSchedulerCallback()
    trainer = make_trainer(callback, *callbacks, **{"max_epochs": EPOCHS, **options})
    trainer.fit(module, loader or data(BATCHES))
    return callback, trainer


@pytest.mark.parametrize("optimizer", [None, adam])
def test_one_line_trains_with_1cycle_up_to_the_peak_of_a_probe(make_trainer, optimizer):
    module = Regression(optimizer)
    callback, trainer = fit(make_trainer, module)
    found, schedule = callback.probe_results[0], callback.schedulers[0]
    assert (trainer.global_step, found.steps) == (EPOCHS * BATCHES, STEPS)
    trained_at = [lr for lr, _ in module.seen[-EPOCHS * BATCHES :]]
    assert trained_at == [schedule.lr_at(step)[0] for step in range(EPOCHS * BATCHES)]
    assert max(trained_at) == pytest.approx(found.peak)
    assert callback.range_test_results == {}


def test_it_costs_a_dozen_steps_and_about_as_many_forward_passes(make_trainer):
    class Counts(Regression):
        passes = steps = 0

        def loss(self, batch: Any) -> Any:
            Counts.passes += 1
            return super().loss(batch)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            Counts.steps += 1

    callback, trainer = fit(make_trainer, Counts(adam))
    found = callback.probe_results[0]
    assert Counts.steps - trainer.global_step == found.steps == STEPS
    assert Counts.passes - Counts.steps == found.forwards < 30


def test_accumulated_batches_are_one_step_and_are_all_searched(make_trainer):
    for options, callbacks in (({"accumulate_grad_batches": 4}, ()), ({}, (GradientAccumulationScheduler({0: 4}),))):
        module = Regression(adam)
        callback, trainer = fit(make_trainer, module, *callbacks, max_epochs=20, loader=data(12), **options)
        assert trainer.global_step == 20 * 3
        assert len(module.seen) - trainer.global_step == callback.probe_results[0].steps == STEPS


def test_the_ratio_of_param_groups_is_kept(make_trainer):
    class TwoGroups(Regression):
        def configure_optimizers(self) -> Any:
            groups = [{"params": self.net[0].parameters()}, {"params": self.net[4].parameters(), "lr": 0.1}]
            return torch.optim.AdamW(groups, lr=0.01)

    callback, _ = fit(make_trainer, TwoGroups())
    peak = callback.probe_results[0].peak
    assert callback.probe_results[0].learning_rates()["high"] == pytest.approx([0.1 * peak, peak])
    assert callback.schedulers[0].hyperparameters["cycle_max_lr"] == pytest.approx([0.1 * peak, peak])


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
    callback, _ = fit(make_trainer, Large(adam), Doubles(), loader=loader)
    assert callback.probe_results[0].steps == STEPS


def test_a_callback_of_lightnings_that_changes_weights_is_set_aside_and_named(make_trainer, caplog):
    averaging = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging", reason="came with Lightning 2.6")
    with caplog.at_level("INFO"):
        callback, _ = fit(make_trainer, Regression(adam), averaging.EMAWeightAveraging())
    assert callback.probe_results[0].steps == STEPS
    assert "LR probe: without EMAWeightAveraging, which would stop it or change weights or lr" in caplog.messages


def test_a_short_run_takes_the_prior(make_trainer, caplog):
    with caplog.at_level("INFO"):
        module = Regression(adam)
        callback, trainer = fit(make_trainer, module, max_epochs=2)
    found = callback.probe_results[0]
    assert (found.peak, found.prior, found.steps) == (0.006, 0.006, 0)
    assert len(module.seen) == trainer.global_step == 20
    assert "peak 0.006: the prior of this kind of optimizer, in a run of only 20 steps" in caplog.text


def test_manual_optimization_has_a_range_test(make_trainer):
    class Manual(Regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            optimizer.step()
            return loss

    callback, _ = fit(make_trainer, Manual(adam))
    assert callback.probe_results == {}
    assert list(callback.range_test_results) == [0]


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


def test_a_resume_goes_on_with_what_was_found_and_makes_no_second_probe(make_trainer, tmp_path):
    class Saves(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 3:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    module = Regression(adam)
    first, _ = fit(make_trainer, module, Saves())
    again = Regression(adam)
    second, trainer = LRSchedulerCallback(), None
    trainer = make_trainer(second, max_epochs=EPOCHS)
    trainer.fit(again, data(BATCHES), ckpt_path=tmp_path / "half.ckpt")
    assert second.probe_results == first.probe_results
    assert again.seen[-20:] == module.seen[-20:]
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["lightning_lrsched"]["probes"]
    assert json.loads(json.dumps(saved))["0"]["peak"] == first.probe_results[0].peak


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


def test_an_error_in_the_module_puts_the_trainer_back(make_trainer):
    class Fails(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.count = nn.Linear(4, 1), 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.count += 1
            if self.count == 5:
                raise ZeroDivisionError
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.5)

    module, callback = Fails(), LRSchedulerCallback()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = make_trainer(callback, max_epochs=EPOCHS)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, data(BATCHES))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert callback in trainer.callbacks
    assert trainer.max_epochs == EPOCHS
