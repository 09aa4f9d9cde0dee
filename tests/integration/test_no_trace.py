"""A range test leaves no trace: afterwards, and between its sweeps, everything is as if there had been none."""

from __future__ import annotations

import collections
import copy
import csv
import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, RangeTest
from lightning_lrsched.range_test.record import one_cycle
from tests.kit.modules import Notes, data
from tests.kit.runs import with_range_test
from tests.kit.traces import Everything, data_trace, noisy_data, plain, trace

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
        self.look = lambda: watch.look()  # noqa: PLW0108 - what a method belongs to would be put back

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

    def on_train_start(self, *_: Any) -> None:
        self.rows.clear()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"].item() if outputs else None
        self.rows.append((trainer.global_step, loss, batch[0].sum().item(), batch_idx))


def fit(make_trainer: Any, callback: Any, module: Any, loader: Any, source: Any) -> Any:
    seed_everything(3, verbose=False)
    rows = Rows()
    trainer = make_trainer(callback, rows, max_epochs=6)
    trainer.fit(module, source(loader))
    return callback, (
        trace(module, trainer.optimizers[0]), data_trace(loader), rows.rows,
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


class Passes(Sampler):
    """Has another order in each pass, as it counts them."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return 80

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(random.Random(self.passes).sample(range(80), 80))


@pytest.mark.parametrize("finder", [LRSchedulerCallback, with_range_test])
def test_a_sampler_that_counts_its_passes_gives_the_training_the_batches_that_it_would_have_had(make_trainer, finder):
    found = []
    for callback in (finder(), LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.01}})):
        rows = Rows()
        make_trainer(callback, rows, max_epochs=30).fit(Kind(), DataLoader(data().dataset, 8, sampler=Passes()))
        found.append([batch for _, _, batch, _ in rows.rows])
    assert found[0] == found[1]


# Modules of many kinds ------------------------------------------------------------------------------------------------


class Kind(LightningModule):
    """A small regression; what makes it special is in the classes below."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class SetsUpInHooks(Kind):
    def on_fit_start(self) -> None:
        self.net[0].bias.requires_grad_(False)

    def on_train_start(self) -> None:
        self.weight = 2.0
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def on_train_epoch_start(self) -> None:
        self.epoch_loss = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.weight * self.loss(batch)
        self.seen += 1
        self.epoch_loss += float(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.weight *= 0.9 + 0.01 * self.epoch_loss


class LogsMetrics(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.error, self.mean = torchmetrics.MeanSquaredError(), torchmetrics.MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.error(self.net(batch[0]), batch[1])
        self.mean.update(loss.detach())
        self.log("error", self.error, on_step=True, on_epoch=True)
        self.log_dict({"loss": loss, "mean": self.mean}, on_step=False, on_epoch=True)
        return loss


@dataclasses.dataclass(slots=True)
class Record:
    batches: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)


class KeepsARecordInSlots(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [Record()]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.seen[0].batches += 1
        self.seen[0].losses.append(float(loss.detach()))
        return loss * (1 + 0.01 * self.seen[0].batches + 0.001 * len(self.seen[0].losses))


class DrawsNoise(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.noise, self.numpy = torch.Generator().manual_seed(5), np.random.default_rng(2)

    def loss(self, batch: Any) -> Tensor:
        draw = torch.randn(1, generator=self.noise) + self.numpy.normal() + random.random() + torch.randn(1)
        return super().loss((batch[0] + 0.1 * draw, batch[1]))


class HooksIn(Kind):
    """Has hooks of torch, in modules and tensors, that its own hooks register."""

    def on_train_start(self) -> None:
        self.net[0].register_forward_hook(lambda module, inputs, output: 1.5 * output)
        self.net[0].weight.register_hook(lambda gradient: 0.25 * gradient)
        self.net[2].weight.register_post_accumulate_grad_hook(self.halve)
        self.optimizers().optimizer.register_step_post_hook(self.shrink)

    def shrink(self, *_: Any) -> None:
        with torch.no_grad():
            self.net[2].weight.mul_(0.99)

    def halve(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)


class Parametrizes(Kind):
    def on_train_start(self) -> None:
        nn.utils.parametrize.register_parametrization(self.net[0], "weight", nn.Tanh())


class TakesANewOptimizer(Kind):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.trainer.optimizers = [self.configure_optimizers()]


class Grows(Kind):
    """Has parts that come and are replaced as the training goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.best = torchmetrics.MetricTracker(torchmetrics.MeanSquaredError(), maximize=False)

    def on_train_epoch_start(self) -> None:
        self.best.increment()
        self.parts.append(nn.Identity())
        self.net[1] = nn.Tanh() if self.current_epoch % 2 else nn.Sigmoid()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.best.update(self.net(batch[0]), batch[1])
        return self.loss(batch) / len(self.parts)

    def on_train_epoch_end(self) -> None:
        self.log("best", self.best.best_metric())


class AveragesItself(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, *_: Any) -> None:
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now.detach(), 0.1)


class Normalizes(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)
        )


class EvaluatesItsNorm(Normalizes):
    def on_train_epoch_start(self) -> None:
        self.net[1].train(self.current_epoch % 2 == 0)


class CarriesItsState(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.hidden = nn.GRUCell(4, 4), None

    def loss(self, batch: Any) -> Tensor:
        before = None if self.hidden is None or len(self.hidden) != len(batch[0]) else self.hidden
        hidden = self.cell(batch[0], before)
        self.hidden = hidden.detach()
        return super().loss((batch[0] + hidden, batch[1]))


class SpectralNorm(Kind):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.net[0])


class RenormsItsEmbedding(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4, max_norm=0.5)

    def loss(self, batch: Any) -> Tensor:
        return super().loss((batch[0] + self.table(batch[0][:, 0].abs().long() % 8), batch[1]))


class Anneals(Kind):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        share = min(1.0, (self.global_step + 1) / 30) / (1 + self.current_epoch)
        return (0.5 + share) * self.loss(batch) + 0.01 * batch_idx * self.net[0].weight.square().mean()


class Replays(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.counts = collections.deque(maxlen=5), collections.Counter()

    def loss(self, batch: Any) -> Tensor:
        loss = super().loss(batch)
        loss = loss + sum(super(Replays, self).loss(old) for old in self.memory)
        self.memory.append([part.clone() for part in batch])
        self.counts[len(self.memory)] += 1
        return loss


class ClipsByItsHistory(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def configure_gradient_clipping(self, optimizer: Any, **_: Any) -> None:
        most = 2 * sum(self.norms[-10:]) / max(1, len(self.norms[-10:])) or 1.0
        self.norms.append(float(nn.utils.clip_grad_norm_(self.parameters(), most)))


class Validates(Kind):
    best = math.inf

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.best = min(self.best, float(self.trainer.callback_metrics["val_loss"]))


class Rarely(Kind):
    """Has batches without a loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 5 == 4 else self.loss(batch)


class WithMomentum(Kind):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class TwoGroups(Kind):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.net[0].parameters(), "lr": 0.003}, {"params": self.net[2].parameters()}]
        return torch.optim.NAdam(groups, lr=0.01)


class ByHand(Kind):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        optimizer, loss = self.optimizers(), self.loss(batch)
        self.manual_backward(loss)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": loss.detach()}


class SharpnessAware(torch.optim.Optimizer):
    """Steps by an optimizer of its own, which has the same param groups, and counts."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, options)
        self.inner, self.steps = torch.optim.SGD(self.param_groups, **options), 0
        self.param_groups = self.inner.param_groups

    def step(self, closure: Any) -> Any:
        loss = closure()
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        with torch.no_grad():
            for parameter in parameters:
                self.state[parameter]["up"] = 0.01 / (1 + self.steps) * parameter.grad
                parameter.add_(self.state[parameter]["up"])
        closure()
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(self.state[parameter]["up"])
        self.inner.step()
        self.steps += 1
        return loss


class StepsSharpnessAware(Kind):
    def configure_optimizers(self) -> Any:
        return SharpnessAware(self.parameters(), lr=0.01, momentum=0.9)


class ReplacesAParameter(Kind):
    """Gives the optimizer another parameter for its head, and a mask to another one."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and self.current_epoch == 0:
            optimizer, old = self.optimizers().optimizer, self.net[2].weight
            self.net[2].weight = nn.Parameter(1.1 * old.detach())
            for group in optimizer.param_groups:
                group["params"] = [self.net[2].weight if each is old else each for each in group["params"]]
            optimizer.state.pop(old, None)

    def on_after_backward(self) -> None:
        weight = self.net[0].weight
        weight.mask = 0.99 * getattr(weight, "mask", torch.ones_like(weight))
        weight.grad.mul_(weight.mask)


DRAWS = np.random.default_rng(0)


class DrawsFromItsFile(Kind):
    """Takes random numbers from a generator at the top of its file, and counts its steps in the Trainer."""

    def __init__(self) -> None:
        super().__init__()
        DRAWS.bit_generator.state = np.random.default_rng(0).bit_generator.state

    def loss(self, batch: Any) -> Tensor:
        self.trainer.steps = getattr(self.trainer, "steps", 0) + 1
        return super().loss(batch) * (1 + DRAWS.random() + 0.01 * self.trainer.steps)


class HasUnusualTensors(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("graph", torch.eye(4).to_sparse(), persistent=False)
        self.register_buffer("table", torch.ones(1, 1).expand(8, 4))
        with torch.inference_mode():  # as after a validation
            self.last = torch.ones(1)

    def loss(self, batch: Any) -> Tensor:
        self.graph._values().mul_(1.01)
        return super().loss((batch[0] @ self.graph.to_dense() * self.table, batch[1]))


class MixesUp(Callback):
    """Changes each batch in place, with a state of its own."""

    def __init__(self) -> None:
        self.draws, self.batches = torch.Generator().manual_seed(7), 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].add_(0.1 * torch.randn(1, generator=self.draws))
        self.batches += 1


class PrunesGradients(Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            if parameter.grad is not None:
                parameter.grad[parameter.grad.abs() < 1e-3] = 0


KINDS: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    **{cls.__name__: (cls, [], {}) for cls in (
        Everything, SetsUpInHooks, LogsMetrics, DrawsNoise, AveragesItself, Normalizes, EvaluatesItsNorm,
        CarriesItsState, SpectralNorm, RenormsItsEmbedding, Anneals, Replays, ClipsByItsHistory, Validates, Rarely,
        WithMomentum, TwoGroups, ByHand, HooksIn, Parametrizes, Grows,
        TakesANewOptimizer, KeepsARecordInSlots, StepsSharpnessAware, ReplacesAParameter, DrawsFromItsFile,
        HasUnusualTensors,
    )},
    "MixUp": (DrawsNoise, [MixesUp], {}),
    "pruned gradients": (Normalizes, [PrunesGradients], {}),
    "accumulation": (DrawsNoise, [], {"accumulate_grad_batches": 3}),
    "accumulation by a callback": (Normalizes, [lambda: GradientAccumulationScheduler({0: 2, 3: 1})], {}),
    "clipping": (DrawsNoise, [], {"gradient_clip_val": 0.1}),
    "EarlyStopping": (Validates, [lambda: EarlyStopping("val_loss", patience=9)], {}),
    "LearningRateMonitor": (TwoGroups, [lambda: LearningRateMonitor("step")], {}),
    "max_steps": (AveragesItself, [], {"max_steps": 55}),
    "val_check_interval": (Validates, [], {"val_check_interval": 3}),
}  # fmt: skip


def record(make_trainer: Any, folder: Any, callback: Any, kind: str) -> Any:
    """Train; return all that a training leaves: module, optimizer, random numbers, batches, rows, checkpoint."""
    make, others, options = KINDS[kind]
    seed_everything(3, verbose=False)
    module, loader, rows, logger = make(), noisy_data(), Rows(), CSVLogger(folder)
    callbacks = [callback, *(other() for other in others), rows]
    trainer = make_trainer(*callbacks, **{"max_epochs": 9, "logger": logger, "log_every_n_steps": 3, **options})
    validation = [DataLoader(noisy_data().dataset, 8)] if isinstance(module, Validates) else []
    trainer.fit(module, loader, *validation)
    trainer.save_checkpoint(folder / "end.ckpt")
    saved = torch.load(folder / "end.ckpt", weights_only=False)
    saved["callbacks"] = {key: state for key, state in saved["callbacks"].items() if "LRScheduler" not in key}
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        logged = [
            {key: value for key, value in row.items() if value}
            for row in csv.DictReader(file)
            if not row.get("lr_range_test/lr")
        ]
    return {
        "module and optimizer": trace(module, trainer.optimizers[0]),
        "data and random numbers": data_trace(loader),
        "batches": rows.rows,
        "steps": trainer.global_step,
        "callbacks": [plain(vars(each)) for each in callbacks[1:-1] if type(each).__module__ == __name__],
        "metrics": plain(dict(trainer.callback_metrics)),
        "logged": logged,
        "checkpoint": plain({key: saved[key] for key in ("state_dict", "loops", "callbacks", "epoch", "global_step")}),
    }


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_training_sees_what_was_found_before_it(make_trainer, tmp_path, kind):
    one_line = LRSchedulerCallback()
    tested = record(make_trainer, tmp_path / "tested", one_line, kind)
    [found] = [
        each.learning_rates() for each in (*one_line.probe_results.values(), *one_line.range_test_results.values())
    ]
    [resolved] = one_line.schedulers
    config = {"type": "OneCycle", "params": dict(resolved.hyperparameters)}
    assert found["high"] == pytest.approx(config["params"]["cycle_max_lr"])
    given = record(make_trainer, tmp_path / "given", LRSchedulerCallback(config), kind)
    for what, value in given.items():
        assert tested[what] == value, what
