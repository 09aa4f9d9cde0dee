"""After a range test everything is as it was before: module, optimizer, metrics, random numbers, Trainer."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback
from lightning_lrsched.optim.snapshot import ModelSnapshot
from tests.kit.modules import Notes, Regression, data, run
from tests.kit.runs import RestoresLater


class Interrupt(Callback):
    def __init__(self, exception):
        self.exception = exception

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 7 and self.exception is not None:
            raise self.exception


def global_numpy_state() -> np.ndarray:
    return np.random.get_state()[1].copy()  # noqa: NPY002 - the old global generator is what user code may use


def state_of(module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in [*module.parameters(), *module.buffers()]]


@pytest.mark.parametrize("exception", [None, RuntimeError("user's code"), KeyboardInterrupt()])
def test_weights_random_states_generators_and_trainer_are_as_before(make_trainer, exception):
    generator = torch.Generator().manual_seed(3)
    loader = data(shuffle=True, generator=generator)
    optimizer = None

    def keep(parameters):
        nonlocal optimizer
        optimizer = optimizer or torch.optim.Adam(parameters, 0.01)
        return optimizer

    module = Regression(keep)
    module.configure_optimizers()
    checkpoint, stopping = ModelCheckpoint(), EarlyStopping("never_logged")
    callback = LRRangeTestCallback()
    trainer = make_trainer(callback, checkpoint, stopping, Interrupt(exception), enable_checkpointing=True, min_steps=2)
    callbacks_before = list(trainer.callbacks)
    before, generator_before = state_of(module), generator.get_state()
    random_before = random.getstate(), global_numpy_state(), torch.get_rng_state()

    if exception is None:
        trainer.fit(module, loader)
    else:
        with pytest.raises(SystemExit if isinstance(exception, KeyboardInterrupt) else RuntimeError):
            trainer.fit(module, loader)

    assert all(torch.equal(a, b) for a, b in zip(before, state_of(module), strict=True))
    assert torch.equal(generator_before, generator.get_state())
    assert random_before[0] == random.getstate()
    assert (random_before[1] == global_numpy_state()).all()
    assert torch.equal(random_before[2], torch.get_rng_state())
    assert optimizer.state_dict()["state"] == {}
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert all(parameter.grad is None for parameter in module.parameters())
    assert trainer.callbacks == callbacks_before
    assert (trainer.global_step, trainer.current_epoch) == (0, 0)
    assert (trainer.max_epochs, trainer.max_steps, trainer.min_steps) == (3, -1, 2)
    assert not trainer.should_stop
    assert not list(Path(trainer.default_root_dir).rglob("*.ckpt"))
    assert len(callback.result.steps) >= 7


def test_training_after_the_test_is_the_same_as_without_it(make_trainer):
    def train(with_test):
        torch.manual_seed(5)
        module, loader = Regression(), data(shuffle=True)
        callback = LRRangeTestCallback()
        if with_test:
            make_trainer(callback).fit(module, loader)
        make_trainer().fit(module, loader)
        return state_of(module)

    assert all(torch.equal(a, b) for a, b in zip(train(True), train(False), strict=True))


def test_the_same_trainer_can_train_after_the_test(make_trainer):
    module, callback = Regression(), LRRangeTestCallback()
    trainer = make_trainer(callback)
    trainer.fit(module, data())
    trainer.callbacks.remove(callback)
    schedule = LRSchedulerCallback(callback.result.one_cycle(30))
    trainer.callbacks.append(schedule)
    trainer.fit(module, data())
    assert trainer.global_step == 30
    assert schedule.schedulers[0].last_epoch == 30


@pytest.mark.parametrize("later", [False, True])
def test_the_test_can_start_from_a_checkpoint(make_trainer, tmp_path, later):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    trained = state_of(trainer.lightning_module)

    module, callback = Regression(), LRRangeTestCallback(num_steps=20)
    options = {"strategy": RestoresLater(torch.device("cpu"))} if later else {}
    make_trainer(callback, **options).fit(module, data(), ckpt_path=tmp_path / "trained.ckpt")
    assert [lr for lr, _ in module.seen] == callback.result.lrs
    assert all(torch.equal(a, b) for a, b in zip(trained, state_of(module), strict=True))


def test_a_modules_own_scheduler_and_our_callback_give_way_during_the_test(make_trainer):
    def wired(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module, callback = Regression(wired), LRRangeTestCallback(num_steps=20)
    module.seen = Notes()
    module.on_before_optimizer_step = lambda optimizer: module.seen.append(optimizer.param_groups[0]["lr"])
    ours = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}})
    make_trainer(callback, ours).fit(module, data())
    assert module.seen[: len(callback.result.lrs)] == callback.result.lrs
    assert ours.schedulers == []


class Backbone(Regression):
    """Its first layer is frozen at the beginning, and its buffer grows with every step."""

    def __init__(self):
        super().__init__(lambda p: torch.optim.SGD([q for q in p if q.requires_grad], 0.01, momentum=0.9))
        self.register_buffer("queue", torch.zeros(1))
        self.register_buffer("later", None)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.queue = torch.cat([self.queue, loss.detach()[None]])
        self.later = loss.detach()
        return loss


class AddGroup(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        optimizer = trainer.optimizers[0]
        if len(optimizer.param_groups) == 1 and trainer.global_step == 4:
            pl_module.net[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(pl_module.net[0].parameters())})


@pytest.mark.parametrize("exception", [None, RuntimeError("user's code")])
def test_added_groups_grown_buffers_and_thawed_weights_are_put_back(make_trainer, exception):
    module = Backbone()
    module.net[0].requires_grad_(False)
    queue = module.queue
    trainer = make_trainer(LRRangeTestCallback(num_steps=20), AddGroup(), Interrupt(exception))
    if exception is None:
        trainer.fit(module, data())
    else:
        with pytest.raises(RuntimeError, match="user's code"):
            trainer.fit(module, data())
    assert module.queue is queue
    assert module.queue.tolist() == [0.0]
    assert module.later is None
    assert not any(parameter.requires_grad for parameter in module.net[0].parameters())
    assert len(trainer.optimizers[0].param_groups) == 1
    assert trainer.max_epochs == 3


def test_metrics_and_accumulation_are_as_before(make_trainer):
    trainer = make_trainer(LRRangeTestCallback(num_steps=12), GradientAccumulationScheduler({1: 2}))
    trainer.fit(Regression(), data())
    assert trainer.accumulate_grad_batches == 1
    assert trainer.progress_bar_metrics == {}


# Metrics, logs, data --------------------------------------------------------------------------------------------------


class Measured(Regression):
    """Has a metric that is never reset, and logs its loss; as many modules do."""

    def __init__(self):
        super().__init__()
        self.error, self.values = torchmetrics.MeanMetric(), torchmetrics.CatMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.error.update(loss.detach())
        self.values.update(loss.detach())
        self.log("train_loss", loss, prog_bar=True)
        return loss


def test_metrics_of_the_module_are_as_before(make_trainer):
    module = Measured()
    module.error.update(3.0)
    make_trainer(LRRangeTestCallback()).fit(module, data())
    assert module.error.compute() == 3.0
    assert module.error.update_count == 1
    assert module.values.value == []


def test_what_is_kept_is_put_back_twice():
    module = Measured()
    module.nested, module.shrinks = {"losses": [[]]}, torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    module.error.update(3.0)
    module.values.update(4.0)
    module.loss(next(iter(data()))).backward()
    optimizer.step()

    def state():
        return (
            module.state_dict(), optimizer.state_dict(), module.nested, module.error.compute(), module.values.value
        )  # fmt: skip

    before = copy.deepcopy(state())
    snapshot = ModelSnapshot(module, [optimizer])
    for keep in (True, False):
        module.nested["losses"][0].append(1.0)
        module.error.update(100.0)
        module.values.update(5.0)
        module.shrinks.data = torch.zeros(2)
        module.shrinks.grad = None
        for batch in data():
            module.loss(batch).backward()
            optimizer.step()
        snapshot.restore(keep=keep)
        assert repr(state()) == repr(before)
        assert all(torch.equal(value, before[0][name]) for name, value in module.state_dict().items())
        for key, moments in optimizer.state_dict()["state"].items():
            assert all(torch.equal(value, before[1]["state"][key][name]) for name, value in moments.items())


@pytest.mark.parametrize("log", [True, False])
def test_what_the_module_logs_during_the_test_does_not_reach_the_training_s_run(make_trainer, tmp_path, log):
    class Records(CSVLogger):
        def log_metrics(self, metrics, step=None):
            recorded.append((step, set(metrics)))

    recorded = []
    module, callback = Measured(), LRRangeTestCallback(log=log)
    trainer = make_trainer(callback, LearningRateMonitor(), logger=Records(tmp_path), log_every_n_steps=1)
    trainer.fit(module, data())
    assert all(name.startswith("lr_range_test/") for _, names in recorded for name in names)
    assert bool(recorded) == log
    recorded.clear()
    trainer.callbacks.remove(callback)
    trainer.fit(module, data())
    assert [step for step, names in recorded if "train_loss" in names] == list(range(30))


def test_a_lazy_module_is_refused_with_what_to_do_and_works_after_that(make_trainer):
    class Lazy(Regression):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.ReLU(), torch.nn.LazyLinear(1))

        def forward(self, inputs):
            return self.net(inputs)

    module = Lazy()
    with pytest.raises(
        ValueError, match=r"net\.0\.weight of Lazy is a lazy parameter.*before fit, call the module once"
    ):
        make_trainer(LRRangeTestCallback()).fit(module, data())
    module(next(iter(data()))[0])
    assert len(run(make_trainer, module, num_steps=20).steps) > 0


def test_a_trained_optimizer_gets_its_state_back_bit_for_bit(make_trainer):
    optimizer = None

    def keep(parameters):
        nonlocal optimizer
        optimizer = optimizer or torch.optim.AdamW(parameters, 0.01)
        return optimizer

    module = Regression(keep)
    make_trainer().fit(module, data())
    before = copy.deepcopy(optimizer.state_dict())
    make_trainer(LRRangeTestCallback()).fit(module, data())
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for key, state in before["state"].items():
        assert all(torch.equal(value, after["state"][key][name]) for name, value in state.items())


@pytest.mark.filterwarnings("ignore:.*float16")
def test_the_scale_of_a_gradient_scaler_is_put_back(make_trainer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = scaler.state_dict()
    trainer = make_trainer(
        LRRangeTestCallback(num_steps=12, max_lr=0.01), plugins=MixedPrecision("16-mixed", "cpu", scaler)
    )
    trainer.fit(Regression(lambda p: torch.optim.AdamW(p, 0.01)), data())
    assert scaler.state_dict() == before
