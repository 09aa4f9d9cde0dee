"""RangeTest: a range test in a loop of one's own, that ends by itself and leaves everything as it was."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_lrsched import LRRangeTestCallback, RangeTest, RangeTestResult, SchedulerConfig, WarmupLR
from lightning_lrsched.range_test import loop, loss_watch
from tests.kit.modules import Regression, data


def make(optimizer: Callable[..., Any] = torch.optim.SGD, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))
    return net, optimizer(net.parameters(), **{"lr": 0.01, **options})


def loss_of(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.mse_loss(net(batch[0]), batch[1])


def sweep(
    net: nn.Module, optimizer: Any, loader: Any = None, after_step: Callable[[], Any] = lambda: None, **settings: Any
) -> tuple[RangeTestResult, list[float]]:
    """Run a test in the plainest of loops; return its result and the lr of each step."""
    used = []
    with RangeTest(net, optimizer, **settings) as test:
        for batch in test.batches(loader or data()):
            loss = loss_of(net, batch)
            loss.backward()
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            after_step()
            optimizer.zero_grad()
            test.record(loss)
    return test.result, used


def scripted(losses: Any, micro_batches: int = 1, *, before: bool = False, **settings: Any) -> RangeTestResult:
    """Run a test whose losses are given, with a step after every ``micro_batches`` of them."""
    weight = nn.ParameterList([torch.zeros(1)])
    optimizer = torch.optim.SGD(weight, lr=0.1)
    with RangeTest(weight, optimizer, **settings) as test:
        for batch, loss in enumerate(test.batches(losses), start=1):
            if before:
                test.record(loss)
            if batch % micro_batches == 0:
                optimizer.step()
            if not before:
                test.record(loss)
    return test.result


# What it finds --------------------------------------------------------------------------------------------------------


def test_each_step_is_made_and_recorded_with_the_lr_of_the_sweep():
    result, used = sweep(*make(), max_lr=1.0, num_steps=50)
    assert result.stop_reason == "num_steps"
    assert result.steps == list(range(50))
    assert result.lrs == used == pytest.approx([1e-6 * 10 ** (6 * step / 49) for step in range(50)])


def test_the_loader_is_repeated_until_the_loss_diverges_and_the_result_leads_on():
    result, _ = sweep(*make(momentum=0.9))
    assert result.stop_reason == "diverged"
    assert len(result.steps) > len(data())
    assert result.momentum == "momentum"
    assert SchedulerConfig.from_dict(result.one_cycle(100)).build(make(momentum=0.9)[1]).lr_at(30) == [
        result.bounds()[1]
    ]


def test_a_loop_and_the_callback_find_the_same(make_trainer):
    callback, module = LRRangeTestCallback(num_steps=60), Regression()
    twin = copy.deepcopy(module)
    torch.manual_seed(3)
    make_trainer(callback).fit(module, data())
    torch.manual_seed(3)
    with RangeTest(twin, twin.configure_optimizers(), num_steps=60) as test:
        for batch in test.batches(data()):
            loss = twin.loss(batch)
            loss.backward()
            test._optimizer.step()
            test._optimizer.zero_grad()
            test.record(loss)
    assert test.result == callback.result


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_loss_of_a_step_is_the_mean_of_its_micro_batches_recorded_before_or_after_it(before, micro_batches):
    losses = list(itertools.chain(*([float(step)] * micro_batches for step in range(20))))
    losses[-1] += 3.0
    result = scripted(losses, micro_batches, before=before, num_steps=20, divergence_factor=None)
    assert result.losses == [float(step) for step in range(19)] + [19 + 3.0 / micro_batches]


def test_numbers_and_losses_of_other_shapes_may_be_recorded():
    assert scripted([1, 2.5, torch.tensor([3.0]), np.float64(4.0)], num_steps=4).losses == [1.0, 2.5, 3.0, 4.0]


@pytest.mark.parametrize("late", [False, True])
def test_a_loss_that_is_not_finite_ends_the_test(monkeypatch, late):
    monkeypatch.setattr(loss_watch, "_is_far", lambda loss: late)
    losses = [1.0] * 30 + [math.nan] * 30
    result = scripted(losses, num_steps=50)
    assert result.stop_reason == "non-finite loss"
    assert result.steps[-1] == 30


def test_a_linear_test_takes_its_lengths_from_the_run():
    with pytest.warns(UserWarning, match="less than one decade"):
        result, _ = sweep(*make(), lr_range_test_min_lr=0.001, lr_range_test_step_size="1ep", num_steps=0.2,
                          total_steps=100, steps_per_epoch=10)  # fmt: skip
    assert (result.mode, len(result.steps)) == ("linear", 20)
    assert result.lrs[10] == pytest.approx(0.002)


# The loops of all kinds -----------------------------------------------------------------------------------------------


def test_a_closure_is_one_step():
    net, optimizer = make(torch.optim.LBFGS, max_iter=3)
    with RangeTest(net, optimizer, max_lr=1.0, num_steps=15) as test:
        for batch in test.batches(data()):

            def closure(batch: Any = batch) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(net, batch)
                loss.backward()
                return loss

            test.record(optimizer.step(closure))
    assert test.result.steps == list(range(15))


def test_steps_that_a_gradient_scaler_skips_do_not_count_and_its_scale_is_put_back():
    weight = nn.ParameterList([torch.ones(1)])
    optimizer, scaler = torch.optim.SGD(weight, lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before, batches = scaler.state_dict(), 0
    with RangeTest(weight, optimizer, num_steps=12, also=[scaler]) as test:
        for _ in test.batches(itertools.repeat(None)):
            batches += 1
            loss = weight[0].sum() * 128
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            test.record(loss)
    assert test.result.steps == list(range(12))
    assert batches > 15
    assert scaler.state_dict() == before


@pytest.mark.parametrize(("last", "reason"), [(math.inf, "non-finite loss"), (1.0, "skipped steps")])
def test_steps_that_are_skipped_for_good_end_the_test(last, reason):
    weight = nn.ParameterList([torch.ones(1)])
    optimizer, scaler, batches = torch.optim.SGD(weight, lr=0.1), torch.amp.GradScaler("cpu", init_scale=1.0), 0
    with RangeTest(weight, optimizer, num_steps=500, also=[scaler]) as test:
        for batches in test.batches(itertools.count(1)):
            scaler.scale(weight[0].sum()).backward()
            if batches > 15:
                weight[0].grad.fill_(math.inf)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            test.record(last if batches > 15 else 1.0)
    assert test.result.stop_reason == reason
    assert test.result.steps == list(range(15))
    assert batches == 15 + 20


def test_a_loop_that_accumulates_many_batches_is_no_loop_that_skips():
    assert len(scripted([1.0] * 40, 40, num_steps=5).steps) == 5


def test_several_param_groups_keep_their_ratios_and_several_optimizers_are_put_back():
    first, second = nn.Linear(4, 1), nn.Linear(4, 1)
    optimizer = torch.optim.AdamW([{"params": [first.weight], "lr": 0.1}, {"params": [first.bias], "lr": 0.01}])
    other = torch.optim.Adam(second.parameters(), lr=0.1)
    models = nn.ModuleList([first, second])
    before = copy.deepcopy(models.state_dict())
    with RangeTest(models, optimizer, num_steps=20, also=[other]) as test:
        for batch in test.batches(data()):
            loss = loss_of(first, batch) + loss_of(second, batch)
            loss.backward()
            optimizer.step()
            other.step()
            models.zero_grad()
            test.record(loss)
    assert test.result.group_ratios == pytest.approx([1.0, 0.1])
    assert all(map(torch.equal, before.values(), models.state_dict().values()))
    assert optimizer.state_dict()["state"] == other.state_dict()["state"] == {}


def test_a_wrapper_around_an_optimizer_gets_its_own_state_back():
    class Counting(torch.optim.Optimizer):
        """Counts its steps beside the state of the optimizer that it wraps; as Lookahead and its like do."""

        def __init__(self, optimizer: Any) -> None:
            self.optimizer, self.defaults, self.steps = optimizer, optimizer.defaults, 0
            self.param_groups, self.state = optimizer.param_groups, optimizer.state

        def step(self, closure: Any = None) -> None:
            self.optimizer.step()
            self.steps += 1

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.optimizer.zero_grad(set_to_none)

        def state_dict(self) -> dict[str, Any]:
            return {"base": self.optimizer.state_dict(), "steps": self.steps}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.optimizer.load_state_dict(state_dict["base"])
            self.steps = state_dict["steps"]

    net, adam = make(torch.optim.Adam)
    wrapper = Counting(adam)
    result, _ = sweep(net, wrapper, num_steps=12, max_lr=0.1)
    assert result.steps == list(range(12))
    assert wrapper.steps == 0
    assert adam.state_dict()["state"] == {}


# What it leaves behind ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "break", "exception", "Ctrl+C"])
def test_everything_is_as_before_however_the_test_ends(how):
    net, optimizer = make(torch.optim.AdamW)
    loader = data(shuffle=True, generator=torch.Generator().manual_seed(3))
    loss_of(net, next(iter(loader))).backward()
    optimizer.step()
    net.eval()
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict(), loader.generator.get_state()))
    randoms = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    errors: dict[str, type[BaseException]] = {"exception": ZeroDivisionError, "Ctrl+C": KeyboardInterrupt}

    def run() -> None:
        for number, batch in enumerate(test.batches(loader)):
            net.train()
            random.random(), np.random.rand()  # noqa: NPY002
            loss = loss_of(net, batch)
            loss.backward()
            optimizer.step()
            test.record(loss)
            if number == 14 and how == "break":
                break
            if number == 15 and how in errors:
                raise errors[how]

    test = RangeTest(net, optimizer, num_steps=40, max_lr=0.01)
    if how in errors:
        with pytest.raises(errors[how]), test:
            run()
    else:
        with test:
            run()

    after = net.state_dict(), optimizer.state_dict(), loader.generator.get_state()
    assert all(map(torch.equal, before[0].values(), after[0].values()))
    assert before[1]["param_groups"] == after[1]["param_groups"]
    for index, state in before[1]["state"].items():
        assert all(torch.equal(value, after[1]["state"][index][name]) for name, value in state.items())
    assert torch.equal(before[2], after[2])
    assert randoms[:2] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert torch.equal(randoms[2], torch.get_rng_state())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module.training for module in net.modules())
    assert test.result.stop_reason == ("num_steps" if how == "end" else "interrupted")
    assert len(test.result.steps) == (40 if how == "end" else 15)


def test_the_same_test_can_be_run_again_and_an_earlier_result_is_not_shown():
    net, optimizer = make()
    first, _ = sweep(net, optimizer, num_steps=20)
    test = RangeTest(net, optimizer, num_steps=20)
    for _ in range(2):
        with test:
            with pytest.raises(RuntimeError, match="has not ended yet"):
                _ = test.result
            for batch in test.batches(data()):
                loss = loss_of(net, batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                test.record(loss)
        assert test.result == first


def test_a_second_module_that_the_loop_changes_is_put_back_with_its_versions():
    net, optimizer = make()
    average = copy.deepcopy(net)
    loaded = []
    average.register_load_state_dict_pre_hook(lambda module, state, *args: loaded.append(state._metadata))
    before = copy.deepcopy(average.state_dict())
    with RangeTest(net, optimizer, num_steps=3, also=[average]) as test:
        for _ in test.batches(itertools.repeat(None)):
            with torch.no_grad():
                average[0].weight.add_(1.0)
            optimizer.step()
            test.record(1.0)
    assert all(map(torch.equal, before.values(), average.state_dict().values()))
    assert loaded == [before._metadata]


def test_what_a_wrapper_has_set_up_stays_set_up():
    class FullyShardedDataParallel(nn.Module):
        """As torch's: at its first forward pass it finds out whether it is the outermost one."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self._is_root = module, None

        def forward(self, inputs: Tensor) -> Tensor:
            self._is_root = False
            return self.module(inputs)

    net, optimizer = make()
    net.steps, wrapper = 0, FullyShardedDataParallel(net)
    with RangeTest(wrapper, optimizer, num_steps=3) as test:
        for batch in test.batches(data()):
            net.steps += 1
            loss_of(wrapper, batch).backward()
            optimizer.step()
            test.record(1.0)
    assert wrapper._is_root is False
    assert net.steps == 0


def test_the_epoch_of_a_distributed_sampler_is_put_back():
    dataset = data().dataset
    sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=2, rank=0)
    loader = torch.utils.data.DataLoader(dataset, 8, sampler=sampler)
    net, optimizer = make()
    with RangeTest(net, optimizer, num_steps=3) as test:
        for _ in test.batches(loader):
            sampler.set_epoch(5)
            optimizer.step()
            test.record(1.0)
    assert sampler.epoch == 0


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mode": "linear"}, "a linear test needs an end: give max_lr or num_steps"),
        ({"num_steps": "auto"}, r"num_steps='auto' needs .*pass total_steps=\.\.\. and steps_per_epoch=\.\.\."),
        ({"num_steps": "2ep", "total_steps": 100}, "num_steps='2ep' needs to know how long an epoch is"),
        ({"total_steps": 0}, "total_steps must be a whole number, at least 1"),
        ({"smoothing": 1.0}, "smoothing"),
    ],
)
def test_settings_that_are_wrong_are_refused_at_once(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        RangeTest(*make(), **settings)


def test_what_could_not_be_put_back_is_refused():
    net, optimizer = make()
    with pytest.raises(ValueError, match="SGD trains a parameter that is not part of model"):
        RangeTest(net[0], optimizer)
    with pytest.raises(ValueError, match="Adam trains a parameter that is not part of model"):
        RangeTest(net, optimizer, also=[torch.optim.Adam([torch.zeros(1)])])
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        RangeTest([net], optimizer)


def test_a_schedule_that_follows_the_optimizer_is_refused_and_nothing_is_changed():
    net, optimizer = make()
    schedule = WarmupLR(optimizer, warmup_max_lr=0.1, warmup_num_steps=3)
    schedule.follow_optimizer()
    before = optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match=r"WarmupLR follows it already.*unfollow_optimizer"), RangeTest(net, optimizer):
        pass
    assert optimizer.param_groups[0]["lr"] == before
    optimizer.step()
    optimizer.step()
    assert schedule.last_epoch == 2
    assert optimizer.param_groups[0]["lr"] == schedule.lr_at(2)[0]


def test_a_warning_that_is_an_error_leaves_everything_as_it_was():
    net, optimizer = make()
    test = RangeTest(net, optimizer, max_lr=2e-6)
    with pytest.raises(UserWarning, match="less than one decade"):
        test.__enter__()
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert sweep(net, optimizer, num_steps=20)[0].stop_reason == "num_steps"


def test_a_scheduler_in_the_loop_is_an_error_not_a_wrong_record():
    net, optimizer = make()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with pytest.raises(ValueError, match="something else has set the lr of param group 1"):
        sweep(net, optimizer, after_step=scheduler.step)


@pytest.mark.parametrize(
    ("step", "record", "complaint"),
    [
        (True, False, "no loss was recorded in 10 optimizer steps"),
        (False, True, "the loop has not stepped this SGD in 50 batches"),
    ],
)
def test_a_loop_that_forgets_to_record_or_to_step_is_told(monkeypatch, step, record, complaint):
    monkeypatch.setattr(loop, "MAX_BATCHES_WITHOUT_STEP", 50)
    net, optimizer = make()

    def run() -> None:
        with RangeTest(net, optimizer) as test:
            for _ in test.batches(itertools.repeat(None)):
                if step:
                    optimizer.step()
                if record:
                    test.record(1.0)

    with pytest.raises(ValueError, match=complaint):
        run()


@pytest.mark.parametrize("loader", [[], iter([1.0] * 12)])
def test_a_loader_that_ends_for_good_is_an_error_and_the_record_is_kept(loader):
    net, optimizer = make()
    test = RangeTest(net, optimizer)

    def run() -> None:
        with test:
            for loss in test.batches(loader):
                optimizer.step()
                test.record(loss)

    with pytest.raises(ValueError, match="the loader has no batches, or no more"):
        run()
    assert len(test.result.steps) == (0 if loader == [] else 12)


@pytest.mark.parametrize(
    ("loss", "error", "complaint"),
    [
        (torch.zeros(3), ValueError, r"got a tensor of shape \(3,\)"),
        (None, TypeError, "must be a tensor or a number, got NoneType"),
    ],
)
def test_what_is_no_loss_is_refused(loss, error, complaint):
    with pytest.raises(error, match=complaint), RangeTest(*make()) as test:
        test.record(loss)


def test_outside_of_the_with_block_there_is_no_test():
    net, optimizer = make()
    test = RangeTest(net, optimizer)
    with pytest.raises(RuntimeError, match="batches: only inside 'with RangeTest"):
        test.batches(data())
    with pytest.raises(RuntimeError, match="record: only inside 'with RangeTest"):
        test.record(1.0)
    with test, pytest.raises(RuntimeError, match="running already"):
        test.__enter__()


# Two sweeps -----------------------------------------------------------------------------------------------------------


class Begins:
    """Notes the state at the first batch of each sweep: where the lr is lower than at the batch before."""

    def __init__(self, optimizer: Any, state: Callable[[], Any]) -> None:
        self.optimizer, self.state, self.states, self.lr = optimizer, state, [], math.inf

    def look(self) -> None:
        lr = float(self.optimizer.param_groups[0]["lr"])
        if lr < self.lr:
            self.states.append(copy.deepcopy(self.state()))
        self.lr = lr


def same(first: Any, second: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("how", ["end", "break", "exception"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.Adagrad])
def test_everything_is_put_back_between_the_sweeps_and_at_the_end(optimizer, how, trained):
    net, optimizer = make(optimizer)
    net.seen = []
    net.register_buffer("queue", torch.zeros(1))
    if trained:
        loss_of(net, next(iter(data()))).backward()
        optimizer.step()
        optimizer.zero_grad()
    begins = Begins(optimizer, lambda: (net.state_dict(), optimizer.state_dict()["state"], net.seen))
    before = copy.deepcopy(begins.state())

    def run() -> None:
        for batch in test.batches(data()):
            begins.look()
            assert all(parameter.grad is None for parameter in net.parameters())
            net.queue = torch.cat([net.queue, torch.ones(1)])
            net.seen.append(1)
            loss = loss_of(net, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            test.record(loss)
            if len(begins.states) == 2 and len(net.seen) == 12:
                if how == "break":
                    break
                if how == "exception":
                    raise ZeroDivisionError

    test = RangeTest(net, optimizer)
    if how == "exception":
        with pytest.raises(ZeroDivisionError), test:
            run()
    else:
        with test:
            run()
    assert len(begins.states) == 2
    assert all(same(before, state) for state in begins.states)
    assert same(before, begins.state())
    assert test.result.stop_reason == ("diverged" if how == "end" else "interrupted")
    assert how == "end" or len(test.result.steps) == {"break": 12, "exception": 11}[how]
    assert test.result.coarse.stop_reason == "diverged"


def test_the_data_go_on_from_one_sweep_to_the_next():
    seen = []
    weight = nn.ParameterList([torch.zeros(1)])
    optimizer = torch.optim.SGD(weight, lr=0.1)
    with RangeTest(weight, optimizer) as test:
        for number in test.batches(itertools.count()):
            seen.append(number)
            optimizer.step()
            test.record(1.0)
    assert seen == list(range(300))
    assert (len(test.result.coarse.steps), len(test.result.steps)) == (100, 200)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_loop_that_is_left_in_the_coarse_sweep_has_its_record():
    weight = nn.ParameterList([torch.zeros(1)])
    optimizer = torch.optim.SGD(weight, lr=0.1)
    with RangeTest(weight, optimizer) as test:
        for number in test.batches(itertools.count()):
            optimizer.step()
            test.record(1.0)
            if number == 20:
                break
    assert (len(test.result.steps), test.result.stop_reason, test.result.coarse) == (21, "interrupted", None)


def test_the_scale_of_a_gradient_scaler_and_other_optimizers_are_put_back_between_the_sweeps():
    weights = nn.ParameterList([torch.ones(1), torch.ones(1)])
    optimizer, other = torch.optim.SGD([weights[0]], lr=0.1), torch.optim.Adam([weights[1]], lr=0.1)
    scaler, explodes = torch.amp.GradScaler("cpu", init_scale=2.0**10), []
    begins = Begins(optimizer, lambda: (scaler.state_dict(), other.state_dict(), weights.state_dict()))
    with RangeTest(weights, optimizer, also=[scaler, other]) as test:
        for _ in test.batches(itertools.repeat(None)):
            begins.look()
            lr = optimizer.param_groups[0]["lr"]
            for one in (optimizer, other):
                scaler.scale(weights[0].sum() + weights[1].sum()).backward()
                if lr > 0.01:  # from here on every step overflows
                    explodes.append(lr)
                    weights[0].grad.fill_(math.inf)
                scaler.step(one)
                one.zero_grad()
            scaler.update()
            test.record(1.0)
    assert (test.result.coarse.stop_reason, test.result.stop_reason) == ("skipped steps", "skipped steps")
    assert test.result.coarse.lrs[-1] < 0.01 < explodes[0]
    assert test.result.lrs[0] == pytest.approx(test.result.coarse.lrs[-1] / 100)
    assert len(begins.states) == 2
    assert same(*begins.states)


def test_tensor_learning_rates_are_swept_twice():
    net, optimizer = make(torch.optim.AdamW, lr=torch.tensor(0.01), foreach=False)
    used = []
    with RangeTest(net, optimizer) as test:
        for batch in test.batches(data()):
            loss = loss_of(net, batch)
            loss.backward()
            used.append(optimizer.param_groups[0]["lr"].item())
            optimizer.step()
            optimizer.zero_grad()
            test.record(loss)
    assert used == pytest.approx([*test.result.coarse.lrs, *test.result.lrs])
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(0.01)


def test_a_loop_and_the_callback_make_the_same_two_sweeps(make_trainer):
    callback, module = LRRangeTestCallback(), Regression()
    twin = copy.deepcopy(module)
    torch.manual_seed(3)
    make_trainer(callback, accumulate_grad_batches=2).fit(module, data())
    torch.manual_seed(3)
    optimizer = twin.configure_optimizers()
    with RangeTest(twin, optimizer) as test:
        for number, batch in enumerate(test.batches(data())):
            loss = twin.loss(batch)
            (loss / 2).backward()
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
            test.record(loss)
    assert test.result == callback.result
    assert test.result.coarse is not None
