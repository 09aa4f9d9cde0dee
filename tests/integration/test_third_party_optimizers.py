"""Every optimizer of pytorch_optimizer: scheduled rightly at each real step, or clearly refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lightning_lrsched import LRSchedulerCallback, OneCycle, WarmupLR
from tests.kit.runs import ONE_CYCLE, Net, SaveAtBatches, StatefulLoader, quiet_trainer
from tests.kit.schedules import LRS, STEPS, Task, check, values_of

others = pytest.importorskip(
    "pytorch_optimizer", reason="pytorch_optimizer, whose optimizers these are, is not installed"
)

pytestmark = [
    pytest.mark.slow,  # the quick suite needs no pytorch_optimizer; what these tests found has quick ones beside them
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

# pytorch_optimizer --------------------------------------------------------------------------------------------------

NO_LR = {"a2grad", "alig"}
"""They choose it themselves: there is nothing to schedule."""

NOT_HERE = {
    "demo": "needs a process group",
    "distributedmuon": "needs a process group",
    "lomo": "steps inside backward, without step()",
    "adalomo": "steps inside backward, without step()",
    "bsam": "is one of the wrappers below",
    "muonclip": "needs an attention model",
}
MUONS = {"muon", "adamuon", "adago", "normuon"}


def build(name: str, task: Task) -> Any:
    cls = others.load_optimizer(name)
    if name in MUONS:
        split = [{"params": task.matrices, "use_muon": True}, {"params": task.vectors, "use_muon": False}]
        return cls(split, lr=0.01)
    options: dict[str, Any] = {"ranger21": {"num_iterations": 100}}.get(name, {})
    if name == "adammini":
        return cls(task.model, lr=0.01)
    return cls(task.matrices if name == "spectralsphere" else task.model.parameters(), lr=0.01, **options)


@pytest.mark.parametrize("name", sorted(set(others.get_supported_optimizers()) - {"aggmo"} - NO_LR))
def test_each_optimizer_of_pytorch_optimizer_is_scheduled(name):
    if name in NOT_HERE:
        pytest.skip(f"{name} {NOT_HERE[name]}")
    task = Task()
    optimizer = build(name, task)

    def step() -> None:
        task.model.zero_grad()
        loss = nn.functional.mse_loss(task.model(task.inputs), task.inputs.sum(1, keepdim=True))
        loss.backward(create_graph=name in {"adahessian", "sophiah"})
        optimizer.step()
        for p in task.model.parameters():
            p.grad = None

    if name in {"adahessian", "sophiah"}:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
            check(optimizer, step)
    elif name == "lbfgs":
        check(optimizer, lambda: optimizer.step(task.loss))
    else:
        check(optimizer, step)


def test_all_three_betas_of_adan_but_the_first_stay():
    task = Task()
    optimizer = others.Adan(task.model.parameters(), lr=0.01, betas=(0.98, 0.92, 0.99))
    schedule = check(optimizer, lambda: (task.loss(), optimizer.step()))
    assert optimizer.param_groups[0]["betas"] == (*schedule.momentum_at(STEPS), 0.92, 0.99)


@pytest.mark.parametrize("name", sorted(NO_LR))
@pytest.mark.parametrize("schedule", [lambda o: OneCycle(o, **LRS), WarmupLR], ids=["OneCycle", "WarmupLR"])
def test_an_optimizer_without_lr_is_refused(name, schedule):
    arguments = {"a2grad": {"beta": 10.0}, "alig": {"max_lr": 0.1}}[name]
    optimizer = others.load_optimizer(name)(Task().model.parameters(), **arguments)
    before = deepcopy(optimizer.param_groups)
    with pytest.raises(ValueError, match=r"has no learning rate to schedule: its param_groups\[0\] has no 'lr'"):
        schedule(optimizer)
    assert [list(group) for group in optimizer.param_groups] == [list(group) for group in before]


def test_aggmos_betas_are_refused_and_its_lr_is_scheduled():
    task = Task()
    optimizer = others.AggMo(task.model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match="cycle_momentum: AggMo keeps a buffer for each of its betas"):
        OneCycle(optimizer, **LRS)
    schedule = OneCycle(optimizer, **LRS, cycle_momentum=False)
    check(optimizer, lambda: (task.loss(), optimizer.step()), schedule)


# An optimizer inside an optimizer -------------------------------------------------------------------------------------


def wsam(task: Task) -> Any:
    return others.WSAM(task.model, task.model.parameters(), SGD, lr=0.01, momentum=0.9)


def gsam(task: Task) -> Any:
    base = SGD(task.model.parameters(), lr=0.01, momentum=0.9)
    rho = others.ProportionScheduler(WarmupLR(SGD([torch.zeros(1)], lr=0.1), 0.0, 0.1), 0.1, 0.01, 0.1, 0.01)
    return others.GSAM(task.model.parameters(), base_optimizer=base, model=task.model, rho_scheduler=rho)


def with_inner(cls: Any, **options: Any) -> Callable[[Task], Any]:
    return lambda task: cls(SGD(task.model.parameters(), lr=0.01, momentum=0.9), **options)


def schedule_free(task: Task) -> Any:
    optimizer = others.ScheduleFreeWrapper(SGD(task.model.parameters(), lr=0.01))
    optimizer.train()
    return optimizer


WRAPPERS: dict[str, Callable[[Task], Any]] = {
    "Lookahead": with_inner(others.Lookahead, k=3),
    "OrthoGrad": with_inner(others.OrthoGrad),
    "TRAC": with_inner(others.TRAC),
    "ScheduleFreeWrapper": schedule_free,
}
WITH_CLOSURE: dict[str, Callable[[Task], Any]] = {
    "SAM": lambda task: others.SAM(task.model.parameters(), SGD, lr=0.01, momentum=0.9),
    "LookSAM": lambda task: others.LookSAM(task.model.parameters(), SGD, lr=0.01, momentum=0.9),
    "FriendlySAM": lambda task: others.FriendlySAM(task.model.parameters(), SGD, lr=0.01, momentum=0.9),
    "BSAM": lambda task: others.BSAM(task.model.parameters(), num_data=16, lr=0.01),
    "WSAM": wsam,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_wraps_an_optimizer_is_scheduled_once_a_step(name):
    task = Task()
    optimizer = WRAPPERS[name](task)
    check(optimizer, lambda: (task.loss(), optimizer.step()))


@pytest.mark.parametrize("name", WITH_CLOSURE)
def test_sharpness_aware_optimizers_are_scheduled_once_a_step_with_closure(name):
    task = Task()
    optimizer = WITH_CLOSURE[name](task)
    check(optimizer, lambda: (task.loss(), optimizer.step(task.loss)))


@pytest.mark.parametrize("name", ["SAM", "LookSAM", "FriendlySAM", "WSAM"])
def test_sharpness_aware_optimizers_are_scheduled_too_where_their_two_halves_are_called(name):
    # Nobody calls their step() then; the optimizer inside steps in the second half.
    task = Task()
    optimizer = WITH_CLOSURE[name](task)

    def step() -> None:
        task.loss()
        optimizer.first_step(zero_grad=True)
        task.loss()
        optimizer.second_step(zero_grad=True)

    check(optimizer, step)


def test_gsam_whose_rho_follows_another_lr_is_scheduled():
    task = Task()
    optimizer = gsam(task)
    check(optimizer, lambda: optimizer.step(task.outputs_and_loss))


def test_pcgrad_is_scheduled_at_the_optimizer_inside():
    task = Task()
    optimizer = others.PCGrad(SGD(task.model.parameters(), lr=0.01, momentum=0.9))
    check(optimizer.optimizer, lambda: (task.loss(), optimizer.step()))


class SharpnessAware(Net):
    """Manual optimization with the two halves of SAM."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.used.append((0, values_of(self.optimizers())))
        sam = self.optimizers().optimizer
        self.manual_backward(self.loss(batch))
        sam.first_step(zero_grad=True)
        self.manual_backward(self.loss(batch))
        sam.second_step(zero_grad=True)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        raise AssertionError("nobody calls step()")


INSIDE_A_TRAINER = {
    "SAM": (SharpnessAware, lambda m: others.SAM(m.parameters(), SGD, lr=0.01, momentum=0.9)),
    "Lookahead": (Net, lambda m: others.Lookahead(SGD(m.parameters(), lr=0.01, momentum=0.9))),
    "AdamP": (Net, lambda m: others.AdamP(m.parameters(), lr=0.01)),
}


@pytest.mark.parametrize("name", INSIDE_A_TRAINER)
def test_in_a_trainer_the_wrapped_optimizer_is_scheduled_and_resumed(tmp_path, name):
    module_class, configure = INSIDE_A_TRAINER[name]

    def train(*callbacks: Any, ckpt_path: Any = None) -> tuple[Any, Any]:
        module, callback = module_class(configure), LRSchedulerCallback(ONE_CYCLE)
        limits = {"max_steps": -1, "max_epochs": 3}
        quiet_trainer(tmp_path, callback, *callbacks, **limits).fit(module, StatefulLoader(), ckpt_path=ckpt_path)
        return module.used, callback.schedulers[0]

    used, schedule = train(SaveAtBatches(tmp_path))
    assert [values for _, values in used] == [
        [(schedule.lr_at(step)[0], schedule.momentum_at(step)[0])] for step in range(15)
    ]
    resumed, _ = train(ckpt_path=tmp_path / "7.ckpt")
    assert resumed == used[7:]
