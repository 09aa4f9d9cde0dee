"""LRRangeTestCallback in a real Trainer: what it records, when it stops, what it leaves behind, what it shows."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import CombinedLoader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, RangeTestResult
from tests.trainer.conftest import Regression, ValidatedRegression, data


class Scripted(Regression):
    """A module whose loss is whatever ``script(step)`` says; its gradients are all 0, so that no lr harms it."""

    def __init__(self, script, optimizer=None):
        super().__init__(optimizer)
        self.script = script

    def training_step(self, batch, batch_idx):
        return 0.0 * self.loss(batch) + self.script(self.trainer.global_step)


def run(make_trainer, module, loader=None, trainer_options=None, **options) -> RangeTestResult:
    callback = LRRangeTestCallback(**options)
    make_trainer(callback, **(trainer_options or {})).fit(module, loader or data())
    return callback.result


# Growth -----------------------------------------------------------------------------------------------------------


def test_exponential_growth_reaches_max_lr_with_the_last_of_num_steps(make_trainer):
    module = Scripted(lambda step: 1.0)
    result = run(make_trainer, module, lr_range_test_min_lr=1e-4, max_lr=1.0, num_steps=40)
    assert result.lrs == pytest.approx([1e-4 * 10 ** (4 * step / 39) for step in range(40)])
    assert [lr for lr, _ in module.seen] == result.lrs
    assert result.steps == list(range(40))
    assert (result.stop_reason, result.mode) == ("num_steps", "exponential")


@pytest.mark.parametrize("staircase", [False, True])
def test_linear_growth_stops_at_max_lr(make_trainer, staircase):
    result = run(
        make_trainer, Scripted(lambda step: 1.0), lr_range_test_min_lr=0.01, lr_range_test_step_size=5,
        lr_range_test_step_rate=10.0, lr_range_test_staircase=staircase, max_lr=0.5,
    )  # fmt: skip
    interval = [step // 5 if staircase else step / 5 for step in result.steps]
    assert result.lrs == pytest.approx([0.01 * (1 + 10 * i) for i in interval])
    assert max(result.lrs) <= 0.5 * (1 + 1e-9)
    assert (result.stop_reason, result.mode) == ("max_lr", "linear")


def test_linear_growth_without_an_end_lasts_as_long_as_the_trainer(make_trainer):
    result = run(make_trainer, Scripted(lambda step: 1.0), lr_range_test_step_size=2)
    assert (len(result.steps), result.stop_reason) == (30, "trainer")


def two_groups(parameters):
    parameters = list(parameters)
    return torch.optim.SGD([{"params": parameters[:2], "lr": 0.01}, {"params": parameters[2:], "lr": 0.1}])


@pytest.mark.parametrize("min_lr", [1e-3, [1e-4, 1e-3]])
def test_the_groups_keep_the_ratio_of_their_learning_rates(make_trainer, min_lr):
    module = Scripted(lambda step: 1.0, two_groups)
    ratios = []
    module.on_before_optimizer_step = lambda optimizer: ratios.append(
        optimizer.param_groups[0]["lr"] / optimizer.param_groups[1]["lr"]
    )
    result = run(make_trainer, module, lr_range_test_min_lr=min_lr, max_lr=1.0, num_steps=20)
    assert ratios == pytest.approx([0.1] * 20)
    assert result.group_ratios == pytest.approx([0.1, 1.0])
    assert result.lrs[0] == 1e-3


@pytest.mark.parametrize(
    ("optimizer", "momentum"),
    [(None, "momentum"), (lambda p: torch.optim.Adam(p, 0.1), "betas"), (lambda p: torch.optim.SGD(p, 0.1), None)],
)
def test_the_result_knows_where_the_optimizer_keeps_its_momentum(make_trainer, optimizer, momentum):
    module = Scripted(lambda step: 1.0, optimizer)
    module.on_before_optimizer_step = lambda optimizer: None
    assert run(make_trainer, module, num_steps=12).momentum == momentum


def test_a_range_of_less_than_one_decade_is_warned_about(make_trainer):
    with pytest.warns(UserWarning, match="less than one decade"):
        run(make_trainer, Scripted(lambda step: 1.0), lr_range_test_min_lr=0.1, max_lr=0.5, num_steps=20)


# Record -----------------------------------------------------------------------------------------------------------


def test_accumulated_losses_are_averaged_and_lightnings_division_is_undone(make_trainer):
    losses = iter(range(1000))
    module = Scripted(lambda step: float(next(losses)))
    result = run(make_trainer, module, trainer_options={"accumulate_grad_batches": 4}, num_steps=5)
    # 10 batches an epoch: windows of 4, 4 and 2 batches
    assert result.losses == pytest.approx([1.5, 5.5, 8.5, 11.5, 15.5])


def test_the_monitored_validation_loss_takes_the_place_of_the_training_loss(make_trainer):
    module = ValidatedRegression()
    seen = []
    module.on_validation_epoch_end = lambda: seen.append(module.trainer.callback_metrics["val_loss"].item())
    callback = LRRangeTestCallback(monitor="val_loss", num_steps=40)
    make_trainer(callback, val_check_interval=2, num_sanity_val_steps=1).fit(module, data(), data(2))
    recorded = len(callback.result.losses)
    assert recorded >= 8
    assert callback.result.steps == list(range(1, 2 * recorded, 2))
    assert callback.result.losses == pytest.approx(seen[1 : 1 + recorded])  # without the sanity check's


def test_a_metric_that_is_not_logged_is_told_with_the_nearest_name(make_trainer):
    with pytest.raises(ValueError, match=r"monitor='val_los' was not logged.*did you mean 'val_loss'"):
        make_trainer(LRRangeTestCallback(monitor="val_los")).fit(ValidatedRegression(), data(), data(2))


def test_manual_optimization_sweeps_one_optimizer_and_holds_the_other(make_trainer):
    class Manual(LightningModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.a, self.b, self.lrs = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1), []

        def training_step(self, batch, batch_idx):
            self.lrs.append([o.param_groups[0]["lr"] for o in self.optimizers()])
            for net, optimizer in zip((self.a, self.b), self.optimizers(), strict=True):
                optimizer.zero_grad()
                loss = net(batch[0]).square().mean()
                self.manual_backward(loss)
                optimizer.step()
            return {"loss": loss}

        def configure_optimizers(self):
            return torch.optim.SGD(self.a.parameters(), 0.01), torch.optim.Adam(self.b.parameters(), 0.02)

    module = Manual()
    result = run(make_trainer, module, optimizer_index=1, max_lr=0.1, num_steps=20)
    assert len(result.steps) >= 12
    assert [lrs[0] for lrs in module.lrs] == [0.01] * len(module.lrs)
    assert [lrs[1] for lrs in module.lrs][: len(result.lrs)] == pytest.approx(result.lrs)


def test_steps_that_a_gradient_scaler_skips_are_not_recorded(make_trainer):
    class Scaled(Scripted):
        """Stands for fp16 training: every third optimizer call is skipped, as a GradScaler does after an overflow."""

        calls = 0

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            self.calls += 1
            if self.calls % 3:
                super().optimizer_step(epoch, batch_idx, optimizer, closure)
            else:
                closure()

    batches = iter(range(1000))
    module = Scaled(lambda step: float(next(batches)))
    result = run(make_trainer, module, num_steps=8)
    assert result.losses == [0.0, 1.0, 3.0, 4.0, 6.0, 7.0, 9.0, 10.0]
    assert result.steps == list(range(8))


# Stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 7, 25])
def test_a_loss_that_is_not_finite_stops_the_test_at_once(make_trainer, bad, step):
    result = run(make_trainer, Scripted(lambda s: bad if s == step else 1.0))
    assert result.stop_reason == "non-finite loss"
    assert result.steps[-1] == step


def falling_then_rising(offset: float, scale: float):
    return lambda step: offset + scale * (2.3 - 0.05 * min(step, 40) + 0.2 * max(0, step - 60))


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("offset", [0.0, 1000.0, -1000.0, -2.3, -1.0])
def test_neither_a_constant_nor_the_sign_of_the_loss_changes_the_decision(make_trainer, offset, scale):
    result = run(make_trainer, Scripted(falling_then_rising(offset, scale)))
    plain = run(make_trainer, Scripted(falling_then_rising(0.0, 1.0)))
    assert result.stop_reason == "diverged"
    assert result.steps == plain.steps


def test_a_noisy_loss_that_still_falls_does_not_stop_the_test(make_trainer):
    noise = random.Random(0)
    result = run(make_trainer, Scripted(lambda step: 3.0 - 0.005 * step + noise.gauss(0, 0.3)), num_steps=150)
    assert result.stop_reason == "num_steps"


def test_a_loss_that_only_rises_stops_the_test(make_trainer):
    result = run(make_trainer, Scripted(lambda step: 1.0 + 0.05 * step))
    assert result.stop_reason == "diverged"
    assert len(result.steps) < 40


def test_a_real_model_diverges_and_stops(make_trainer):
    result = run(make_trainer, Regression())
    assert result.stop_reason in ("diverged", "non-finite loss")
    low, high = result.bounds()
    assert 1e-6 < low < high < 1.0


def test_minimum_epochs_and_steps_do_not_keep_a_diverged_test_running(make_trainer):
    limits = {"min_epochs": 3, "min_steps": 100}
    result = run(make_trainer, Scripted(lambda s: math.nan if s == 5 else 1.0), trainer_options=limits)
    assert result.steps[-1] == 5


# Everything as it was -----------------------------------------------------------------------------------------------


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


def test_the_test_can_start_from_a_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(Regression(), data())
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    trained = state_of(trainer.lightning_module)

    module, callback = Regression(), LRRangeTestCallback(num_steps=20)
    make_trainer(callback).fit(module, data(), ckpt_path=tmp_path / "trained.ckpt")
    assert [lr for lr, _ in module.seen] == callback.result.lrs
    assert all(torch.equal(a, b) for a, b in zip(trained, state_of(module), strict=True))


def test_a_modules_own_scheduler_and_our_callback_give_way_during_the_test(make_trainer):
    def wired(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module, callback = Regression(wired), LRRangeTestCallback(num_steps=20)
    module.seen = []
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


def in_a_batch_sampler(generator):
    dataset = data().dataset
    sampler = torch.utils.data.RandomSampler(dataset, generator=generator)
    return torch.utils.data.DataLoader(dataset, batch_sampler=torch.utils.data.BatchSampler(sampler, 8, False))


class InADataModule(LightningDataModule):
    def __init__(self, generator):
        super().__init__()
        self.sampler = torch.utils.data.WeightedRandomSampler([1.0] * 80, 80, generator=generator)

    def train_dataloader(self):
        return data(sampler=self.sampler)


@pytest.mark.parametrize(
    "make",
    [
        lambda generator: data(shuffle=True, generator=generator),
        lambda generator: {"a": [data(shuffle=True, generator=generator)]},
        lambda generator: CombinedLoader({"a": data(shuffle=True, generator=generator)}),
        in_a_batch_sampler,
        InADataModule,
    ],
)
def test_the_datas_generators_are_put_back_wherever_they_are(make_trainer, make):
    class First(Regression):
        def training_step(self, batch, batch_idx):
            while isinstance(batch, dict) or isinstance(batch[0], list):
                batch = batch["a"] if isinstance(batch, dict) else batch[0]
            return self.loss(batch)

    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    make_trainer(LRRangeTestCallback(num_steps=12)).fit(First(), make(generator))
    assert torch.equal(before, generator.get_state())


def test_metrics_and_accumulation_are_as_before(make_trainer):
    trainer = make_trainer(LRRangeTestCallback(num_steps=12), GradientAccumulationScheduler({1: 2}))
    trainer.fit(Regression(), data())
    assert trainer.accumulate_grad_batches == 1
    assert trainer.progress_bar_metrics == {}


# Other drivers ------------------------------------------------------------------------------------------------------


def test_the_ratios_are_those_of_the_optimizer_not_of_a_warmup_that_begins_at_0(make_trainer):
    def warmed_up(parameters):
        optimizer = two_groups(parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module = Scripted(lambda step: 1.0, warmed_up)
    module.on_before_optimizer_step = lambda optimizer: None
    assert run(make_trainer, module, num_steps=12).group_ratios == pytest.approx([0.1, 1.0])


class Gan(LightningModule):
    """Steps two optimizers and their schedulers by hand, as Lightning's documentation does."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.a, self.b, self.lrs = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1), []

    def training_step(self, batch, batch_idx):
        for net, optimizer, scheduler in zip((self.a, self.b), self.optimizers(), self.lr_schedulers(), strict=True):
            loss = net(batch[0]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            scheduler.step()
        self.lrs.append([o.param_groups[0]["lr"] for o in self.optimizers()])
        return loss

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD(net.parameters(), 0.01) for net in (self.a, self.b)]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]


def test_schedulers_stepped_by_hand_do_not_disturb_the_sweep_and_the_other_goes_on(make_trainer):
    module = Gan()
    result = run(make_trainer, module, optimizer_index=1, max_lr=0.01, num_steps=12)
    assert [lrs[0] for lrs in module.lrs] == pytest.approx([0.01 * 0.9 ** (step + 1) for step in range(12)])
    assert [lrs[1] for lrs in module.lrs][:-1] == result.lrs[1:]


def test_a_manual_loop_that_returns_no_loss_is_told_so(make_trainer):
    class Silent(Gan):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match="training_step returned no loss in 10 optimizer steps"):
        make_trainer(LRRangeTestCallback()).fit(Silent(), data())


def test_a_gradient_scaler_that_skips_every_step_ends_the_test(make_trainer):
    class Exploding(Regression):
        """As after an explosion under fp16: from the 15th batch on the optimizer is never called again."""

        calls = 0

        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            self.calls += 1
            closure() if self.calls > 14 else super().optimizer_step(epoch, batch_idx, optimizer, closure)

    module = Exploding()
    result = run(make_trainer, module)
    assert result.stop_reason == "skipped steps"
    assert (len(result.steps), module.calls) == (14, 34)


# Shown ------------------------------------------------------------------------------------------------------------


def test_tensorboard_shows_curves_figure_and_table(make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    result = run(make_trainer, Regression(), trainer_options={"logger": logger})
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0}).Reload()
    for tag, values in (("loss", result.losses), ("smoothed_loss", result.smoothed_losses), ("lr", result.lrs)):
        points = events.Scalars(f"lr_range_test/{tag}")
        assert [event.step for event in points] == result.steps
        assert [event.value for event in points] == pytest.approx(values, rel=1e-6)
    assert [image.step for image in events.Images("lr_range_test/loss_vs_lr")] == [result.steps[-1]]
    [text] = events.Tensors("lr_range_test/result/text_summary")
    assert "cycle_max_lr" in text.tensor_proto.string_val[0].decode()


def test_a_logger_without_figures_gets_files_in_its_folder(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    result = run(make_trainer, Regression(), trainer_options={"logger": logger})
    folder = Path(logger.log_dir)
    assert RangeTestResult.load(folder / "range_test.json") == result
    assert "suggested lr" in (folder / "range_test.md").read_text()
    assert (folder / "loss_vs_lr.png").stat().st_size > 1000


def test_the_progress_bar_shows_lr_and_smoothed_loss(make_trainer):
    shown = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            shown.append(dict(trainer.progress_bar_metrics))

    callback = LRRangeTestCallback(num_steps=10)
    make_trainer(callback, Look()).fit(Scripted(lambda step: 1.0), data())
    assert shown[5]["lr"] == callback.result.lrs[4]
    assert shown[5]["smoothed_loss"] == pytest.approx(1.0)


def test_log_false_shows_nothing(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    run(make_trainer, Regression(), trainer_options={"logger": logger}, log=False)
    assert not (Path(logger.log_dir) / "metrics.csv").exists()
    assert not (Path(logger.log_dir) / "range_test.json").exists()


# Arguments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"mode": "exponentiel"}, "did you mean 'exponential'"),
        ({"lr_range_test_min_lr": 0.0}, "lr_range_test_min_lr"),
        ({"lr_range_test_min_lr": (1e-4, -1.0)}, r"lr_range_test_min_lr\[1\]"),
        ({"lr_range_test_min_lr": 1.0, "max_lr": 0.1}, "max_lr"),
        ({"max_lr": math.nan}, "max_lr"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 2.5}, "num_steps"),
        ({"lr_range_test_step_size": -1}, "lr_range_test_step_size"),
        ({"lr_range_test_step_rate": "fast"}, "lr_range_test_step_rate"),
        ({"mode": "exponential", "lr_range_test_step_size": 5}, "lr_range_test_step_size belongs to mode='linear'"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"divergence_factor": 0.0}, "divergence_factor"),
    ],
)
def test_wrong_arguments_are_told_at_construction(options, key):
    with pytest.raises((TypeError, ValueError), match=key):
        LRRangeTestCallback(**options)


def test_the_result_is_json_that_training_accepts(make_trainer, tmp_path):
    result = run(make_trainer, Regression())
    config = json.loads(json.dumps(result.one_cycle(30)))
    module = Regression()
    make_trainer(LRSchedulerCallback(config)).fit(module, data())
    assert max(lr for lr, _ in module.seen) == pytest.approx(result.bounds()[1])
