"""RangeTest: a range test in a loop of one's own, that ends by itself. What it leaves behind: test_no_trace.py."""

from __future__ import annotations

import copy
import itertools
import math
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


def run(
    test: RangeTest, net: nn.Module, optimizer: Any, loss: Any = loss_of, every: int = 1, after: Any = lambda: None
) -> tuple[RangeTestResult, list[float]]:
    """Run a test in the plainest of loops; return its result and the lr of each step."""
    used = []
    with test:
        for number, batch in enumerate(test.batches(data()), 1):
            value = loss(net, batch)
            (value / every).backward()
            if number % every == 0:
                used.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                optimizer.zero_grad()
                after()
            test.record(value)
    return test.result, used


def sweep(net: nn.Module, optimizer: Any, **settings: Any) -> tuple[RangeTestResult, list[float]]:
    return run(RangeTest(net, optimizer, **settings), net, optimizer)


def scripted(
    losses: Any, micro_batches: int = 1, *, before: bool = False, until: int | None = None, **settings: Any
) -> RangeTestResult:
    """Run a test whose losses are given, with a step after every ``micro_batches`` of them; leave it at ``until``."""
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
            if batch == until:
                break
    assert optimizer.param_groups[0]["lr"] == 0.1
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
    schedule = SchedulerConfig.from_dict(result.one_cycle(100)).build(make(momentum=0.9)[1])
    assert schedule.lr_at(30) == [result.bounds()[1]]


@pytest.mark.parametrize(("settings", "every"), [({"num_steps": 60}, 1), ({}, 2)])
def test_a_loop_and_the_callback_find_the_same(make_trainer, settings, every):
    callback, module = LRRangeTestCallback(**settings), Regression()
    twin = copy.deepcopy(module)
    torch.manual_seed(3)
    make_trainer(callback, accumulate_grad_batches=every).fit(module, data())
    torch.manual_seed(3)
    optimizer = twin.configure_optimizers()
    test = RangeTest(twin, optimizer, **settings)
    assert run(test, twin, optimizer, Regression.loss, every)[0] == callback.result


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3, 40])
def test_the_loss_of_a_step_is_the_mean_of_its_micro_batches_recorded_before_or_after_it(before, micro_batches):
    losses = list(itertools.chain(*([float(step)] * micro_batches for step in range(20))))
    losses[-1] += 3.0
    result = scripted(losses, micro_batches, before=before, num_steps=20, divergence_factor=None)
    assert result.losses == pytest.approx([float(step) for step in range(19)] + [19 + 3.0 / micro_batches])


def test_numbers_and_losses_of_other_shapes_may_be_recorded():
    assert scripted([1, 2.5, torch.tensor([3.0]), np.float64(4.0)], num_steps=4).losses == [1.0, 2.5, 3.0, 4.0]


@pytest.mark.parametrize("late", [False, True])
def test_a_loss_that_is_not_finite_ends_the_test(monkeypatch, late):
    monkeypatch.setattr(loss_watch, "_is_far", lambda loss: late)
    result = scripted([1.0] * 30 + [math.nan] * 30, num_steps=50)
    assert result.stop_reason == "non-finite loss"
    assert result.steps[-1] == 30


def test_a_linear_test_takes_its_lengths_from_the_run():
    with pytest.warns(UserWarning, match="less than one decade"):
        result, _ = sweep(*make(), lr_range_test_min_lr=0.001, lr_range_test_step_size="1ep", num_steps=0.2,
                          total_steps=100, steps_per_epoch=10)  # fmt: skip
    assert (result.mode, len(result.steps)) == ("linear", 20)
    assert result.lrs[10] == pytest.approx(0.002)


def test_the_data_go_on_from_one_sweep_to_the_next():
    seen = []
    result = scripted(seen.append(number) or 1.0 for number in itertools.count())
    assert seen == list(range(len(seen)))
    assert (len(result.coarse.steps), len(result.steps)) == (100, 200)


@pytest.mark.parametrize(("until", "coarse"), [(21, None), (121, 100)])
def test_a_loop_that_is_left_early_has_its_record(until, coarse):
    result = scripted(itertools.repeat(1.0), until=until)
    assert (len(result.steps), result.stop_reason) == (21, "interrupted")
    assert (result.coarse and len(result.coarse.steps)) == coarse


def test_tensor_learning_rates_are_swept_twice():
    net, optimizer = make(torch.optim.AdamW, lr=torch.tensor(0.01), foreach=False)
    result, used = sweep(net, optimizer)
    assert used == pytest.approx([*result.coarse.lrs, *result.lrs])
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(0.01)


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


def scaled(explodes: Callable[[int, float], bool], loss: float = 1.0, scale: float = 1.0, **settings: Any) -> Any:
    """Run a test with a gradient scaler and a second optimizer; return it, the batches, and the scales at begins."""
    weights = nn.ParameterList([torch.ones(1), torch.ones(1)])
    optimizer, other = torch.optim.SGD([weights[0]], lr=0.1), torch.optim.Adam([weights[1]], lr=0.1)
    scaler, batches, begins, last = torch.amp.GradScaler("cpu", init_scale=scale), 0, [], math.inf
    before = scaler.state_dict()
    with RangeTest(weights, optimizer, also=[scaler, other], **settings) as test:
        for batches in test.batches(itertools.count(1)):
            lr = optimizer.param_groups[0]["lr"]
            if lr < last:
                begins.append((scaler.state_dict(), other.state_dict()["state"], weights[0].item()))
            last, explosion = lr, explodes(batches, lr)
            for one in (optimizer, other):
                scaler.scale(128 * (weights[0].sum() + weights[1].sum())).backward()
                if explosion:
                    weights[0].grad.fill_(math.inf)
                scaler.step(one)
                one.zero_grad()
            scaler.update()
            test.record(math.inf if explosion and loss == math.inf else 1.0)
    assert scaler.state_dict() == before
    assert all(begin == begins[0] for begin in begins)
    return test.result, batches, begins


def test_steps_that_a_gradient_scaler_skips_do_not_count():
    result, batches, _ = scaled(lambda batch, lr: False, scale=2.0**127, num_steps=12)
    assert result.steps == list(range(12))
    assert batches > 12


@pytest.mark.parametrize(("loss", "reason", "last"), [(math.inf, "non-finite loss", 35), (1.0, "skipped steps", 35)])
def test_steps_that_are_skipped_for_good_end_the_test(loss, reason, last):
    result, batches, _ = scaled(lambda batch, lr: batch > 15, loss, num_steps=500)
    assert result.stop_reason == reason
    assert result.steps == list(range(15))
    assert batches == last


def test_skipped_steps_lead_to_a_fine_sweep_from_the_same_scale():
    result, _, begins = scaled(lambda batch, lr: lr > 0.01, scale=2.0**10)
    assert (result.coarse.stop_reason, result.stop_reason) == ("skipped steps", "skipped steps")
    assert result.lrs[0] == pytest.approx(result.coarse.lrs[-1] / 100)
    assert result.coarse.lrs[-1] < 0.01
    assert len(begins) == 2


def test_several_param_groups_keep_their_ratios_and_several_optimizers_are_put_back():
    first, second = nn.Linear(4, 1), nn.Linear(4, 1)
    optimizer = torch.optim.AdamW([{"params": [first.weight], "lr": 0.1}, {"params": [first.bias], "lr": 0.01}])
    other = torch.optim.Adam(second.parameters(), lr=0.1)
    models = nn.ModuleList([first, second])
    before = copy.deepcopy(models.state_dict())
    test = RangeTest(models, optimizer, num_steps=20, also=[other])
    result, _ = run(
        test, models, optimizer, lambda nets, batch: sum(loss_of(net, batch) for net in nets), after=other.step
    )
    assert result.group_ratios == pytest.approx([1.0, 0.1])
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


def test_the_same_test_can_be_run_again_and_an_earlier_result_is_not_shown():
    net, optimizer = make()
    test = RangeTest(net, optimizer, num_steps=20)
    first = run(test, net, optimizer)[0]
    with test, pytest.raises(RuntimeError, match="has not ended yet"):
        _ = test.result
    assert run(test, net, optimizer)[0] == first


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


@pytest.mark.filterwarnings("error")
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
        run(RangeTest(net, optimizer), net, optimizer, after=scheduler.step)


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

    def forget() -> None:
        with RangeTest(net, optimizer) as test:
            for _ in test.batches(itertools.repeat(None)):
                if step:
                    optimizer.step()
                if record:
                    test.record(1.0)

    with pytest.raises(ValueError, match=complaint):
        forget()


@pytest.mark.parametrize(("loader", "complaint"), [([], "no batches"), (iter([1.0] * 12), "no batches, or no more")])
def test_a_loader_that_ends_for_good_is_an_error(loader, complaint):
    with pytest.raises(ValueError, match=complaint):
        scripted(loader)


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
    test = RangeTest(*make())
    with pytest.raises(RuntimeError, match="batches: only inside 'with RangeTest"):
        test.batches(data())
    with pytest.raises(RuntimeError, match="record: only inside 'with RangeTest"):
        test.record(1.0)
    with test, pytest.raises(RuntimeError, match="running already"):
        test.__enter__()
