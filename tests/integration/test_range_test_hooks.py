"""A range test in modules and beside callbacks that do more than a loss: hooks, learning rates of their own, checks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch import callbacks as lightnings
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRRangeTestCallback
from tests.kit.modules import Notes, Regression, data
from tests.kit.runs import with_range_test

RESULTS = {"alone": LRRangeTestCallback, "inside": with_range_test}


@pytest.fixture(params=RESULTS)
def tested(request: pytest.FixtureRequest, make_trainer: Any) -> Any:
    """Make a test in a fit of its own, or at the start of a training; return its result."""

    def run(module: Any, loader: Any = None, *callbacks: Any, first: bool = True, **options: Any) -> Any:
        test = RESULTS[request.param]()
        everything = [test, *callbacks] if first else [*callbacks, test]
        make_trainer(*everything, **{"max_epochs": 6, **options}).fit(module, loader or data())
        return test.result if request.param == "alone" else test.range_test_result

    return run


# What hooks have prepared is there in both sweeps ---------------------------------------------------------------------


class Prepared(Regression):
    """Freezes a layer, keeps the statistics of another, and weights its loss, each in another hook."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.steps = 0.0, Notes()

    def on_fit_start(self) -> None:
        self.net[0].requires_grad_(False)

    def on_train_start(self) -> None:
        self.weight, self.made_at_start = 2.0, 0

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()
        self.made_in_epoch = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.made_at_start += 1
        self.made_in_epoch += 1.0
        self.steps.append((self.net[0].weight.requires_grad, self.net[1].training, self.weight))
        return self.weight * self.loss(batch)


def test_both_sweeps_have_what_the_hooks_have_prepared(tested):
    module = Prepared()
    result = tested(module)
    assert result.coarse is not None
    assert set(module.steps) == {(False, False, 2.0)}


class Switched(torch.optim.SGD):
    """As schedule-free optimizers: it must be put into the mode of training before its first step."""

    def train(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = True

    def step(self, closure: Any = None) -> Any:
        if not all(group.get("train_mode") for group in self.param_groups):
            raise RuntimeError("the optimizer is not in train mode")
        return super().step(closure)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_an_optimizer_that_a_hook_has_switched_on_is_on_in_both_sweeps(tested, hook):
    module = Regression(lambda parameters: Switched(parameters, lr=0.01, momentum=0.9))
    setattr(module, hook, lambda: module.optimizers().train())
    assert tested(module).coarse is not None


def test_a_loop_that_prepares_its_model_after_the_with_has_it_prepared_in_both_sweeps():
    from lightning_lrsched import RangeTest

    module = Regression().eval()
    optimizer, modes = module.configure_optimizers(), []
    with RangeTest(module, optimizer) as test:
        module.train()
        for batch in test.batches(data()):
            modes.append(module.training)
            loss = module.loss(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            test.record(loss)
    assert test.result.coarse is not None
    assert set(modes) == {True}
    assert not module.training


# Callbacks ------------------------------------------------------------------------------------------------------------


class Normalizes(Callback):
    """Brings raw inputs into the range that the module expects; its statistics come from the start of training."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.mean, self.batches = 100.0, 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.scale = 50.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].sub_(self.mean).div_(self.scale)
        self.batches += 1


def raw_data() -> DataLoader:
    inputs = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(100 + 50 * inputs, inputs.sum(1, keepdim=True)), 8)


class Plain(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize("first", [True, False])
def test_a_callback_that_prepares_the_batch_does_so_in_the_test(tested, first):
    torch.manual_seed(2)
    callback, module = Normalizes(), Plain()
    result = tested(module, raw_data(), callback, first=first, max_epochs=60)
    assert 0.005 < result.suggestion() < 0.5
    assert getattr(callback, "batches", 600) == 600  # of the training alone


def test_the_test_inside_a_fit_finds_what_a_test_of_its_own_finds(make_trainer):
    found = []
    for test in (LRRangeTestCallback(), with_range_test()):
        torch.manual_seed(2)
        make_trainer(Normalizes(), test, max_epochs=90).fit(Plain(), raw_data())  # long enough for a whole test
        found.append(test.result if isinstance(test, LRRangeTestCallback) else test.range_test_result)
    assert found[0].losses == pytest.approx(found[1].losses)


def test_inside_a_fit_a_callback_hears_of_the_work_of_a_batch_and_of_no_end(make_trainer):
    class Hears(Callback):
        def __init__(self) -> None:
            self.heard = Notes()
            for name in dir(Callback):
                if name.startswith("on_"):
                    setattr(type(self), name, lambda self, *_, name=name, **__: self.heard.append(name))

    hears = Hears()
    make_trainer(with_range_test(), hears, max_epochs=6).fit(Regression(), data())
    for hook in ("on_fit_start", "on_train_end", "on_fit_end"):
        assert hears.heard.count(hook) == 1
    assert hears.heard.count("on_train_epoch_end") == 6
    assert hears.heard.count("on_train_batch_start") == hears.heard.count("on_train_batch_end") > 60


class Averages(Callback):
    """Averages the weights, and leaves the average in the module at the end of training."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.average = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for name, value in pl_module.state_dict().items():
            self.average[name] = 0.9 * self.average[name] + 0.1 * value

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.load_state_dict(self.average)


class AveragesItself(Regression):
    def on_train_end(self) -> None:
        with torch.no_grad():
            self.net[0].weight.mul_(0.5)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("make", [Averages, lambda: lightnings.ModelPruning("l1_unstructured", amount=0.5)])
def test_beside_callbacks_that_change_weights_a_test_leaves_the_weights_as_they_were(make_trainer, make, first):
    module, test, other = AveragesItself(), LRRangeTestCallback(), make()
    before = {name: value.clone() for name, value in module.named_parameters()}
    make_trainer(*([test, other] if first else [other, test])).fit(module, data())
    assert test.result.coarse is not None
    after = {name.removesuffix("_orig"): value for name, value in module.named_parameters()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_who_does_not_take_part_is_named_once_where_that_may_matter(make_trainer, caplog):
    quiet = lightnings.LearningRateMonitor(), lightnings.EarlyStopping("train_loss", strict=False)
    with caplog.at_level(logging.INFO):
        callbacks = with_range_test(), lightnings.ModelPruning("l1_unstructured", amount=0.1), *quiet
        make_trainer(*callbacks, logger=True, max_epochs=6).fit(Regression(), data())
    lines = [text for text in caplog.messages if text.startswith("LR range test: without")]
    assert lines in ([], ["LR range test: without ModelPruning, which may stop a run or change weights or lr"])


def test_a_callback_that_stops_the_run_does_not_stop_the_test_inside_it(make_trainer):
    class Stops(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
            trainer.should_stop = True

    callback = with_range_test()
    trainer = make_trainer(callback, Stops(), max_epochs=6)
    trainer.fit(Regression(), data())
    assert callback.range_test_result.stop_reason == "diverged"
    assert trainer.global_step == 1


def test_callbacks_behind_ours_see_the_loader_when_training_starts(make_trainer):
    class Looks(Callback):
        seen = Notes()

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.seen.append(trainer.train_dataloader)

    loader, looks = data(), Looks()
    make_trainer(with_range_test(), looks, max_epochs=6).fit(Regression(), loader)
    assert looks.seen == [loader]


# The lr in force ------------------------------------------------------------------------------------------------------


class WarmsUp(Regression):
    """Sets its lr itself, as Lightning's documentation shows it."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.trainer.global_step + 1) / 500) * 0.1
        optimizer.step(closure=closure)


class InABatch(Regression):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().optimizer.param_groups[0]["lr"] = 0.05


class BeforeAStep(Regression):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        optimizer.param_groups[0]["lr"] = 0.05


class KeepsAScheduler(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        self.own_scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return optimizer

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        pass

    def on_train_batch_end(self, *_: Any) -> None:
        self.own_scheduler.step()


@pytest.mark.parametrize("make", [WarmsUp, InABatch, BeforeAStep, KeepsAScheduler])
def test_a_module_that_sets_its_lr_itself_is_refused_not_recorded_wrongly(tested, make):
    with pytest.raises(ValueError, match="something else has set the lr of param group 1"):
        tested(make())


def test_a_scheduler_that_the_module_steps_to_an_epoch_does_not_move_the_sweep(make_trainer):
    class Manual(Regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            optimizer, loss = self.optimizers(), self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.lr_schedulers().step(self.current_epoch)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    test, module = LRRangeTestCallback(), Manual()
    make_trainer(test).fit(module, data())
    assert [lr for lr, _ in module.seen] == [*test.result.coarse.lrs, *test.result.lrs]
