"""LRSchedulerCallback beside a Trainer's other features: precision, accumulation, short runs, loggers that fail."""

from __future__ import annotations

import copy
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, SchedulerConfig
from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.trainer import loggers as curve_logger
from tests.kit.modules import Regression, ValidatedRegression, data
from tests.kit.schedules import Calls

ONE_CYCLE = {"type": "OneCycle", "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8}}


def expected(steps: int) -> list[tuple[float, float]]:
    """(lr, momentum) of the first steps, from the pure functions."""
    schedule = SchedulerConfig.of(ONE_CYCLE).build(torch.optim.SGD([torch.zeros(1)], lr=0.01, momentum=0.9))
    return [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0]) for step in range(steps)]


OPTIONS: dict[str, tuple[dict[str, Any], int]] = {
    "accumulation": ({"accumulate_grad_batches": 4}, 9),  # the last, shorter window of each epoch steps too
    "clipping": ({"gradient_clip_val": 0.1}, 30),
    "clipping by value": ({"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}, 30),
    "bf16": ({"precision": "bf16-mixed"}, 30),
    "bf16-true": ({"precision": "bf16-true"}, 30),
    "float64": ({"precision": "64-true"}, 30),
    "barebones": ({"barebones": True}, 30),
    "fast_dev_run": ({"fast_dev_run": 3}, 3),
    "overfit_batches": ({"overfit_batches": 2}, 6),
    "limit_train_batches": ({"limit_train_batches": 0.5}, 15),
    "max_steps": ({"max_steps": 7}, 7),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_step_has_the_values_of_the_schedule(make_trainer: Any, name: str) -> None:
    options, steps = OPTIONS[name]
    if options.get("barebones"):
        # barebones refuses what the fixture switches off, even switched off; only the default is accepted.
        options = {**options, "logger": None, "enable_checkpointing": None, "enable_progress_bar": None}
        options["enable_model_summary"] = None
    module, callback = Regression(), LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback, **options).fit(module, data())
    assert module.seen == expected(steps)
    assert callback.schedulers[0].last_epoch == steps


class Overflowing(Regression):
    """Its gradients overflow on every third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch) * (torch.inf if batch_idx % 3 == 1 else 1.0)


@pytest.mark.parametrize("optimizer", ["plain", "fused"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_that_the_gradient_scaler_skips_do_not_count(make_trainer: Any, optimizer: str, accumulate: int) -> None:
    # Not SGD: when its very first step is skipped, torch's fused kernel goes on with a momentum that nobody has set.
    module = Overflowing(lambda p: torch.optim.AdamW(p, 0.01, fused=optimizer == "fused"))
    weights: list[torch.Tensor] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            weights.append(pl_module.net[0].weight.detach().clone())

    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    callback = LRSchedulerCallback(ONE_CYCLE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*float16.*", category=UserWarning)
        make_trainer(callback, Look(), plugins=plugin, accumulate_grad_batches=accumulate).fit(module, data(batches=12))
    moved = sum(not torch.equal(a, b) for a, b in pairwise(weights)) + (accumulate == 1)
    assert callback.schedulers[0].last_epoch == moved
    assert 0 < moved < 36 // accumulate


class Losing(Regression):
    """Has no loss for some batches."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 4 == 3 else self.loss(batch)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_batches_without_a_loss_move_the_schedule_as_they_move_the_optimizer(make_trainer: Any) -> None:
    module, callback = Losing(), LRSchedulerCallback(ONE_CYCLE)
    make_trainer(callback).fit(module, data())
    steps = callback.schedulers[0].last_epoch
    assert steps == len(module.seen)
    assert module.seen == expected(steps)


# Tensors --------------------------------------------------------------------------------------------------------------


def adamw_in_groups(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": [p]} for p in parameters], lr=0.01)


def test_capturable_trains_alike_with_tensors_that_are_never_replaced(make_trainer: Any) -> None:
    weights = []
    for capturable in (False, True):
        torch.manual_seed(0)
        module = Regression(adamw_in_groups)
        module.on_before_optimizer_step = lambda optimizer: None
        held: list[list[int]] = []

        class Look(Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
                groups = trainer.optimizers[0].param_groups
                held.append([id(value) for g in groups for value in (g["lr"], g["betas"][0])])  # noqa: B023

        callback = LRSchedulerCallback(ONE_CYCLE, capturable=capturable)
        trainer = make_trainer(callback, Look())
        trainer.fit(module, data())
        weights.append(module.net[0].weight.detach())
        if capturable:
            assert all(isinstance(group["lr"], torch.Tensor) for group in trainer.optimizers[0].param_groups)
            assert all(now == held[0] for now in held)
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_capturable_resumes_from_a_checkpoint_of_an_eager_run(make_trainer: Any, tmp_path: Any) -> None:
    def fit(steps: int, capturable: bool, ckpt_path: Any = None) -> tuple[Any, ClosedFormLR]:
        module = Regression(lambda p: torch.optim.AdamW(p, lr=0.01))
        callback = LRSchedulerCallback(ONE_CYCLE, capturable=capturable)
        trainer = make_trainer(callback, max_steps=steps, max_epochs=-1)
        trainer.fit(module, data(batches=20), ckpt_path=ckpt_path)
        return trainer, callback.schedulers[0]

    eager, _ = fit(10, capturable=False)
    eager.save_checkpoint(tmp_path / "eager.ckpt")
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        trainer, schedule = fit(15, capturable=True, ckpt_path=tmp_path / "eager.ckpt")
    (group,) = trainer.optimizers[0].param_groups
    assert isinstance(group["lr"], torch.Tensor)
    assert group["lr"].item() == pytest.approx(schedule.lr_at(15)[0])
    assert group["betas"][0].item() == pytest.approx(schedule.momentum_at(15)[0])


def test_capturable_is_refused_where_torch_cannot(make_trainer: Any) -> None:
    with pytest.raises(ValueError, match="capturable: SGD has no such mode"):
        make_trainer(LRSchedulerCallback(ONE_CYCLE, capturable=True)).fit(Regression(), data())
    torchs = {"type": "StepLR", "params": {"step_size": 3}}
    with pytest.raises(ValueError, match="capturable needs one of LRRangeTest, OneCycle"):
        make_trainer(LRSchedulerCallback(torchs, capturable=True)).fit(Regression(), data())


@pytest.mark.parametrize("capturable", [False, True])
def test_the_callback_and_its_logging_read_nothing_back(make_trainer: Any, tmp_path: Any, capturable: bool) -> None:
    """Every read of a device passes one operation of torch; in our hooks it never comes up."""
    seen: list[int] = []

    class Watched(LRSchedulerCallback):
        def on_train_batch_end(self, *args: Any) -> None:
            with Calls() as calls:
                super().on_train_batch_end(*args)
            seen.append(calls.seen["_local_scalar_dense"])

    module = Regression(adamw_in_groups)
    module.on_before_optimizer_step = lambda optimizer: None
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)]
    callback = Watched(ONE_CYCLE, capturable=capturable)
    make_trainer(callback, logger=loggers, log_every_n_steps=1).fit(module, data())
    assert seen == [0] * 30


# Curves in bundles ----------------------------------------------------------------------------------------------------


def curves(logger: TensorBoardLogger) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "lr-" in tag]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def in_full(steps: int) -> dict[str, list[tuple[int, Any]]]:
    values = expected(steps)
    return {
        tag: [(step, pytest.approx(values[step][column], rel=1e-6)) for step in range(steps)]
        for column, tag in enumerate(("lr-SGD", "lr-SGD-momentum"))
    }


@pytest.mark.parametrize("bundle", [1, 7, 100])
def test_every_step_arrives_in_order_whatever_the_bundles(
    make_trainer: Any, tmp_path: Any, bundle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_logger, "MAX_POINTS", bundle)
    logger = TensorBoardLogger(tmp_path)
    make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=1).fit(Regression(), data())
    assert curves(logger) == in_full(30)


def test_slow_steps_are_shown_without_waiting_for_a_full_bundle(
    make_trainer: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_logger, "MAX_WAIT", 0.0)
    waiting: list[int] = []

    class Look(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            waiting.append(len(callback._curves._points))

    callback = LRSchedulerCallback(ONE_CYCLE)
    logger = TensorBoardLogger(tmp_path)
    make_trainer(callback, Look(), logger=logger, log_every_n_steps=1).fit(Regression(), data())
    assert max(waiting) <= 1


def test_a_run_that_fails_loses_no_point(make_trainer: Any, tmp_path: Any) -> None:
    class Failing(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(self.seen) == 13:
                raise RuntimeError("out of luck")
            return self.loss(batch)

    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=1).fit(Failing(), data())
    logger.experiment.flush()
    assert curves(logger) == in_full(13)


def test_before_validations_and_checkpoints_everything_is_handed_over(make_trainer: Any, tmp_path: Any) -> None:
    waiting: list[int] = []

    class Look(ModelCheckpoint):
        def on_validation_end(self, *args: Any) -> None:
            waiting.append(len(callback._curves._points))

        def state_dict(self) -> dict[str, Any]:
            waiting.append(len(callback._curves._points))
            return super().state_dict()

    callback = LRSchedulerCallback(ONE_CYCLE)
    options = {"log_every_n_steps": 1, "val_check_interval": 3, "enable_checkpointing": True, "num_sanity_val_steps": 0}
    trainer = make_trainer(Look(tmp_path / "checkpoints"), callback, logger=TensorBoardLogger(tmp_path), **options)
    trainer.fit(ValidatedRegression(), data(), data(2))
    assert set(waiting) == {0}


def test_the_tensorboard_prefix_is_kept(make_trainer: Any, tmp_path: Any) -> None:
    logger = TensorBoardLogger(tmp_path, prefix="mine")
    make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=logger, log_every_n_steps=1).fit(Regression(), data())
    assert list(curves(logger)) == ["mine-lr-SGD", "mine-lr-SGD-momentum"]


def test_a_logger_of_the_users_own_gets_each_step_as_metrics(make_trainer: Any, tmp_path: Any) -> None:
    got: list[tuple[int, set[str]]] = []

    class Own(TensorBoardLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "lr-SGD" in metrics:
                got.append((step, set(metrics)))

    make_trainer(LRSchedulerCallback(ONE_CYCLE), logger=Own(tmp_path), log_every_n_steps=1).fit(Regression(), data())
    assert got == [(step, {"lr-SGD", "lr-SGD-momentum"}) for step in range(30)]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_logger_that_fails_is_left_out_with_one_warning_and_training_goes_on(
    make_trainer: Any, tmp_path: Any, kind: Any
) -> None:
    class Broken(kind):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "lr-SGD" in metrics:
                raise OSError("disk full")

    module, whole = Regression(), CSVLogger(tmp_path / "whole")
    with pytest.warns(UserWarning, match=r"Broken failed to log the lr .* \(OSError: disk full\)") as caught:
        make_trainer(
            LRSchedulerCallback(ONE_CYCLE), logger=[Broken(tmp_path), whole], log_every_n_steps=1
        ).fit(module, data())  # fmt: skip
    assert sum("failed to log" in str(warning.message) for warning in caught) == 1
    assert len(module.seen) == 30
    assert (tmp_path / "whole").exists()


# On a GPU -------------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NoWaiting(Callback):
    """From the third batch on, whatever makes the host wait for the device is an error."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.batches += 1
        torch.cuda.set_sync_debug_mode("error" if self.batches > 2 else "default")

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


class OnDevice(LightningModule):
    """Its data is on the device already, so that a step by itself waits for nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.net, self.options = torch.nn.Linear(8, 8), options

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(torch.ones(4, 8, device=self.device)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([{"params": [p]} for p in self.net.parameters()], lr=0.01, **self.options)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("callback", "options"),
    [
        (LRSchedulerCallback(ONE_CYCLE), {}),
        (LRSchedulerCallback(ONE_CYCLE), {"fused": True}),
        (LRSchedulerCallback(ONE_CYCLE, capturable=True), {}),
        (LRRangeTestCallback(max_lr=0.1, num_steps=25), {}),
    ],
    ids=["eager", "fused", "capturable", "range test"],
)
def test_a_step_waits_for_nothing(make_trainer: Any, tmp_path: Any, callback: Any, options: dict[str, Any]) -> None:
    logger = TensorBoardLogger(tmp_path)
    trainer = make_trainer(
        NoWaiting(), copy.deepcopy(callback), accelerator="cuda", logger=logger, log_every_n_steps=1, max_epochs=1
    )
    trainer.fit(OnDevice(**options), data(30))
