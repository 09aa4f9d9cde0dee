"""A range test leaves no trace: afterwards, and between its sweeps, everything is as if there had been none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from torch.utils.data import DataLoader

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, RangeTest
from lightning_lrsched.range_test.record import one_cycle
from tests.kit.modules import Notes
from tests.kit.runs import with_range_test
from tests.kit.traces import Everything, data_trace, noisy_data, trace

ENDS: dict[str, type[BaseException] | None] = {"end": None, "exception": ZeroDivisionError, "Ctrl+C": KeyboardInterrupt}
OPTIMIZERS = [torch.optim.AdamW, torch.optim.Adagrad]


class Watch:
    """Notes the traces at the first batch of each sweep, where the lr is lower than before; ends the test early."""

    def __init__(self, module: Any, optimizer: Any, how: str) -> None:
        self.module, self.optimizer, self.how = module, optimizer, how
        self.begins, self.lr, self.batches = [], math.inf, 0

    def look(self) -> None:
        lr = float(self.optimizer.param_groups[0]["lr"])
        if lr < self.lr:
            self.begins.append(trace(self.module, self.optimizer))
        self.lr, self.batches = lr, self.batches + 1
        if len(self.begins) == 2 and self.batches % 10 == 0 and self.how != "end":
            raise ENDS[self.how]


def plain_loop(module: Any, optimizer: Any, loader: Any, watch: Watch) -> Any:
    test = RangeTest(module, optimizer)
    with test:
        for batch in test.batches(loader):
            watch.look()
            loss = module.training_step(batch, 0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            test.record(loss)
    return test.result


def fabric_loop(module: Any, optimizer: Any, loader: Any, watch: Watch) -> Any:
    fabric = Fabric(accelerator="cpu", devices=1)
    # The hooks of a LightningModule belong to a Trainer.
    model, wrapped = fabric.setup(module, optimizer)
    model.mark_forward_method("training_step")
    test = RangeTest(model, wrapped)
    with test:
        for batch in test.batches(fabric.setup_dataloaders(loader)):
            watch.look()
            loss = model.training_step(batch, 0)
            fabric.backward(loss)
            wrapped.step()
            wrapped.zero_grad()
            test.record(loss)
    return test.result


class Look(Callback):
    def __init__(self, watch: Watch) -> None:
        self.look = watch.look

    def on_train_batch_start(self, *_: Any) -> None:
        self.look()


WAYS = {"plain": plain_loop, "Fabric": fabric_loop}


@pytest.fixture
def ways(make_trainer: Any) -> dict[str, Callable[..., Any]]:
    def trainer(module: Any, optimizer: Any, loader: Any, watch: Watch) -> Any:
        module.configure_optimizers, test = lambda: optimizer, LRRangeTestCallback()
        make_trainer(test, Look(watch)).fit(module, loader)
        return test.result

    def inside(module: Any, optimizer: Any, loader: Any, watch: Watch) -> Any:
        module.configure_optimizers, callback = lambda: optimizer, with_range_test()
        make_trainer(callback, Look(watch), max_epochs=30, enable_model_summary=False).fit(module, loader)
        return callback.range_test_result

    return {**WAYS, "Trainer": trainer, "inside a fit": inside}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("way", [*WAYS, "Trainer", "inside a fit"])
def test_everything_is_put_back_between_the_sweeps_and_at_the_end(ways, way, how, optimizer_class, trained):
    module, loader = Everything(optimizer_class), noisy_data()
    optimizer = module.configure_optimizers()
    if trained:
        module.training_step(next(iter(loader)), 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    lr, watch = optimizer.param_groups[0]["lr"], Watch(module, optimizer, how)
    before, data_before = trace(module, optimizer), data_trace(loader)
    if how == "end":
        assert ways[way](module, optimizer, loader, watch).coarse is not None
        if way == "inside a fit":  # then the training begins
            assert watch.begins[:3] == [before] * 3
            return
    else:
        with pytest.raises((ENDS[how], SystemExit)):
            ways[way](module, optimizer, loader, watch)
    assert trace(module, optimizer) == before
    if way != "inside a fit":  # which has begun to use its data by then
        assert data_trace(loader) == data_before
    assert optimizer.param_groups[0]["lr"] == lr
    assert "initial_lr" not in optimizer.param_groups[0]
    assert watch.begins == [before] * 2


# Inside a fit: as the fit with the numbers that were found ------------------------------------------------------------


class Rows(Callback):
    """Notes lr and loss of every step of the training, not of a test, and the batches."""

    def __init__(self) -> None:
        self.rows = Notes()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append((trainer.global_step, outputs["loss"].item(), batch[0].sum().item(), batch_idx))


def fit(make_trainer: Any, callback: Any, module: Any, loader: Any, source: Any) -> Any:
    seed_everything(3, verbose=False)
    rows = Rows()
    trainer = make_trainer(callback, rows, max_epochs=6)
    trainer.fit(module, source(loader))
    return callback, (
        trace(module, trainer.optimizers[0]), data_trace(loader), rows.rows[-trainer.global_step :],
        trainer.fit_loop.state_dict(), trainer.callback_metrics,
    )  # fmt: skip


class Data(LightningDataModule):
    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> Any:
        return self.loader


@pytest.mark.parametrize("source", [lambda loader: loader, Data])
@pytest.mark.parametrize("finder", [LRSchedulerCallback, with_range_test])
def test_a_fit_with_one_line_is_the_fit_with_the_numbers_that_it_finds(make_trainer, finder, source):
    callback, tested = fit(make_trainer, finder(), Everything(), noisy_data(), source)
    found = {**callback.probe_results, **callback.range_test_results}[0].learning_rates()
    config = one_cycle(found["low"], found["high"], None, False)
    _, given = fit(make_trainer, LRSchedulerCallback(config), Everything(), noisy_data(), source)
    for one, other in zip(tested, given, strict=True):
        assert one == other


def test_workers_that_stay_have_the_batches_of_a_fit_without_a_test(make_trainer):
    def loader() -> Any:
        options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "fork"}
        return DataLoader(noisy_data().dataset, 8, shuffle=True, **options)

    found = []
    for schedule in (None, {"type": "WarmupLR", "params": {"warmup_max_lr": 0.01}}):
        seed_everything(3, verbose=False)
        rows = Rows()
        test = {"range_test": LRRangeTestCallback(num_steps=20)} if schedule is None else {}
        trainer = make_trainer(LRSchedulerCallback(schedule, **test), rows, max_epochs=2)
        trainer.fit(Everything(), loader())
        found.append([batch for _, _, batch, _ in rows.rows[-20:]])
    assert found[0] == found[1]
