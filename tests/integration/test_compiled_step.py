"""A compiled optimizer step is compiled once, while lr and momentum change at every step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, AdamW, NAdam, Optimizer

from lightning_lrsched.optim.schedulers import OneCycle
from tests.kit.schedules import lrs, momenta
from tests.kit.versions import not_in_torch

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"),
    # What torch's own compiler says about torch's own code.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.fixture(autouse=True)
def strict_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def with_tensors(cls: Any) -> Any:
    def make(parameters: list[Tensor]) -> Optimizer:
        lr, *betas = (torch.tensor(value, device=parameters[0].device) for value in (0.1, 0.9, 0.999))
        return cls(parameters, lr=lr, betas=tuple(betas), capturable=True)

    return make


def sgd(parameters: list[Tensor]) -> Optimizer:
    return SGD(parameters, lr=torch.tensor(0.1, device=parameters[0].device), momentum=0.9, foreach=False)


def adamw_of_floats(parameters: list[Tensor]) -> Optimizer:
    return AdamW(parameters, lr=0.1)


MAKE = {  # name -> makes the optimizer whose step is compiled, and that for eager training
    "AdamW with tensors": (with_tensors(AdamW), adamw_of_floats),
    "NAdam with tensors": (with_tensors(NAdam), lambda p: NAdam(p, lr=0.1)),
    "SGD with tensor lr and float momentum": (sgd, sgd),
}
slow = pytest.mark.slow
CASES = [
    ("AdamW with tensors", "follow"),
    ("SGD with tensor lr and float momentum", "follow"),
    ("AdamW with tensors", "step"),
    pytest.param("SGD with tensor lr and float momentum", "step", marks=slow),
    pytest.param("AdamW with tensors", "step inside", marks=slow),
    pytest.param("NAdam with tensors", "follow", marks=slow),
]


def train(make: Any, driven: str, device: str, compiled: bool) -> tuple[list[Tensor], Any]:
    torch.manual_seed(0)
    parameters = [torch.randn(3, device=device, requires_grad=True) for _ in range(2)]
    optimizer = make(parameters)
    schedule = OneCycle(optimizer, 0.01, 0.1, cycle_first_step_size=10, cycle_min_mom=0.5)
    if driven == "follow":
        schedule.follow_optimizer()

    def both() -> None:
        optimizer.step()
        schedule.step()

    one_step = both if driven == "step inside" else optimizer.step
    if compiled:
        one_step = torch.compile(one_step)
    for step in range(20):
        for number, p in enumerate(parameters):
            p.grad = torch.full_like(p, 0.1 * (step + number))
        # SGD has no momentum buffers before its first step: torch compiles it again when it has them.
        strict = step >= (2 if isinstance(optimizer, SGD) else 1)
        with torch._dynamo.config.patch(error_on_recompile=compiled and strict):
            one_step()
        if driven == "step":
            schedule.step()
        assert schedule.last_epoch == step + 1
        assert lrs(optimizer) == pytest.approx(schedule.lr_at(step + 1))
        assert momenta(optimizer) == pytest.approx(schedule.momentum_at(step + 1))
    return [p.detach() for p in parameters], schedule


@not_in_torch("2.4", "it refuses capturable steps on the CPU, and compiles SGD again where its momentum changes")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "driven"), CASES)
def test_no_recompilation_after_the_first_step_and_the_same_weights(name: str, driven: str, device: str) -> None:
    make, make_eager = MAKE[name]
    eager, _ = train(make_eager, "step", device, compiled=False)
    torch._dynamo.utils.counters.clear()
    compiled, _ = train(make, driven, device, compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_test_can_fail() -> None:
    """With a float lr every step is compiled anew: this is what the tests above would see."""
    with pytest.raises(torch._dynamo.exc.RecompileError):
        train(adamw_of_floats, "follow", "cpu", compiled=True)
