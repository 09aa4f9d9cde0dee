"""Schedules on a CUDA device: captured graphs see every new value, and nothing waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

from lightning_lrsched import OneCycle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WITH_BETAS = [Adam, AdamW, NAdam, RAdam, Adamax]


@pytest.fixture
def no_waiting() -> Iterator[Any]:
    """A function: from its call on, whatever makes the host wait for the device is an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def make_optimizer(cls: Any, groups: int = 3, *, tensors: bool = False, **options: Any) -> Optimizer:
    """Make an optimizer whose step can be captured if its lr and betas are tensors, as torch documents it."""

    def group() -> dict[str, Any]:
        params = [torch.ones(4, device="cuda", requires_grad=True)]
        if not tensors:
            return {"params": params}
        lr, *betas = (torch.tensor(value, device="cuda") for value in (0.01, 0.9, 0.999))
        return {"params": params, "lr": lr, "betas": tuple(betas), "capturable": True}

    return cls([group() for _ in range(groups)], **{"lr": 0.01, **options})


def one_cycle(optimizer: Optimizer) -> OneCycle:
    return OneCycle(optimizer, 0.001, 0.1, cycle_first_step_size=10, cycle_min_mom=0.5)


def parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_gradients(optimizer: Optimizer) -> None:
    for number, p in enumerate(parameters(optimizer)):
        p.grad = torch.full_like(p, 0.1 * (number + 1))


@pytest.mark.parametrize("cls", WITH_BETAS)
@pytest.mark.parametrize("tensors", [False, True], ids=["floats", "tensors"])
def test_stepping_waits_for_nothing(cls: Any, tensors: bool, no_waiting: Any) -> None:
    optimizer = make_optimizer(cls, tensors=tensors)
    schedule = one_cycle(optimizer)
    schedule.follow_optimizer()
    set_gradients(optimizer)
    optimizer.step()
    no_waiting()
    for _ in range(10):
        optimizer.step()
        schedule.lr_at(schedule.last_epoch)
        schedule.momentum_at(schedule.last_epoch)


def test_a_fused_optimizer_under_a_gradient_scaler_is_the_one_that_waits(no_waiting: Any) -> None:
    """Whether its step was taken only the device knows: the documented exception."""
    optimizer = make_optimizer(AdamW, fused=True)
    schedule = one_cycle(optimizer)
    schedule.follow_optimizer()
    set_gradients(optimizer)
    scaler = torch.amp.GradScaler("cuda")
    scaler.scale(torch.ones((), device="cuda"))
    scaler.step(optimizer)
    scaler.update()
    assert schedule.last_epoch == 1
    optimizer.found_inf, optimizer.grad_scale = torch.zeros((), device="cuda"), None
    no_waiting()
    with pytest.raises(RuntimeError, match="synchronizing"):
        optimizer.step()


@pytest.mark.parametrize("cls", WITH_BETAS)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_captured_graph_replays_with_the_new_lr_and_momentum(cls: Any, groups: int) -> None:
    eager, captured = make_optimizer(cls, groups), make_optimizer(cls, groups, tensors=True)
    schedules = [one_cycle(eager), one_cycle(captured)]
    for optimizer in (eager, captured):
        set_gradients(optimizer)
    # The graph is captured after a few steps on a side stream, as torch asks for.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured.step()
            schedules[1].step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(12):
        graph.replay()
        schedules[1].step()
    for _ in range(15):
        eager.step()
        schedules[0].step()
    for a, b in zip(parameters(eager), parameters(captured), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cls", WITH_BETAS)
@pytest.mark.parametrize("groups", [1, 20])
def test_each_of_a_thousand_replays_runs_with_the_lr_and_momentum_of_its_step(cls: Any, groups: int) -> None:
    optimizer = make_optimizer(cls, groups, tensors=True)
    schedule = OneCycle(optimizer, 0.001, 0.1, cycle_first_step_size=300, cycle_min_mom=0.5, decay_step_size=10,
                        decay_lr_rate=0.1)  # fmt: skip
    set_gradients(optimizer)
    # What the captured steps themselves read, noted on the device at a position that the graph moves on.
    used = torch.zeros(1000, 2, device="cuda")
    position = torch.zeros(1, dtype=torch.int64, device="cuda")

    def step() -> None:
        group = optimizer.param_groups[-1]
        used.index_copy_(0, position, torch.stack([group["lr"], group["betas"][0]]).reshape(1, 2).float())
        position.add_(1)
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    position.zero_()
    for _ in range(1000):
        graph.replay()
        schedule.step()
    expected = [(schedule.lr_at(s)[-1], (schedule.momentum_at(s) or [0.0])[-1]) for s in range(1000)]
    torch.testing.assert_close(used.cpu(), torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=0)


def test_capturing_a_followed_step_is_refused() -> None:
    optimizer = make_optimizer(AdamW, tensors=True)
    schedule = one_cycle(optimizer)
    set_gradients(optimizer)
    optimizer.step()
    schedule.follow_optimizer()
    with pytest.raises(RuntimeError, match="a replay runs no hooks"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


@pytest.mark.parametrize("groups", [1, 40])
def test_values_in_flight_are_not_overwritten_by_a_host_that_runs_ahead(groups: int) -> None:
    optimizer = make_optimizer(AdamW, groups, tensors=True)
    schedule = one_cycle(optimizer)
    seen = []
    torch.cuda._sleep(200_000_000)  # the device is busy; the host goes through all steps meanwhile
    for _ in range(20):
        schedule.step()
        seen.append(torch.stack([value for g in optimizer.param_groups for value in (g["lr"], g["betas"][0])]))
    for step, values in enumerate(seen, start=1):
        pairs = zip(schedule.lr_at(step), schedule.momentum_at(step) or [], strict=True)
        assert values.tolist() == pytest.approx([value for pair in pairs for value in pair])
