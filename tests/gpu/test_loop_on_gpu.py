"""RangeTest on a CUDA device: a step waits for nothing, and the snapshot takes no memory of the device."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lightning_lrsched import OneCycle, RangeTest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
LAYERS, WIDTH = 60, 4096
"""Of a model of a billion parameters."""


@pytest.fixture
def sync_debug_mode() -> Iterator[Any]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=["default", "fused", "foreach"])
def test_a_step_of_the_test_waits_for_nothing(options: dict[str, Any], sync_debug_mode: Any) -> None:
    net = nn.Linear(8, 8, device=DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, **options)
    inputs = torch.ones(4, 8, device=DEVICE)
    with RangeTest(net, optimizer, max_lr=0.1, num_steps=60) as test:
        for number in test.batches(itertools.count()):
            # The first steps make the optimizer's state; what comes after the yield runs in the mode of the batch.
            sync_debug_mode("error" if number > 2 else "default")
            loss = net(inputs).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            test.record(loss)
        sync_debug_mode("default")
    assert len(test.result.steps) == 60


def test_a_real_gradient_scaler_skips_and_its_scale_is_put_back() -> None:
    net = nn.Linear(8, 8, device=DEVICE)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**100)
    before, batches = scaler.state_dict(), 0
    with RangeTest(net, optimizer, num_steps=20, max_lr=0.1, also=[scaler]) as test:
        for _ in test.batches(itertools.repeat(None)):
            batches += 1
            with torch.autocast(DEVICE, torch.float16):
                loss = net(torch.ones(4, 8, device=DEVICE)).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            test.record(loss)
    assert test.result.steps == list(range(20))
    assert batches > 60  # from 2 ** 100 down to where float16 gradients are finite
    assert scaler.state_dict() == before


def fingerprints(tensors: Any) -> list[tuple[int, int]]:
    """Two sums over the bits of each tensor: to keep the tensors themselves would take the memory in question."""
    bits = [tensor.detach().flatten().view(torch.int16) for tensor in tensors]
    return [(int(b.sum(dtype=torch.int64)), int(b[::7].sum(dtype=torch.int64))) for b in bits]


def most_memory(net: nn.Module, optimizer: Any, *, with_test: bool, steps: int = 4) -> int:
    """Return the largest amount of the device's memory in use during some steps, with a range test or without it."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    inputs = torch.ones(1, net[0].in_features, device=DEVICE, dtype=torch.bfloat16)

    def step() -> torch.Tensor:
        loss = net(inputs).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    if with_test:
        with RangeTest(net, optimizer, max_lr=1e-4, num_steps=steps) as test:
            for _ in test.batches(itertools.repeat(None)):
                test.record(step())
        assert len(test.result.steps) == steps
    else:
        for _ in range(steps):
            step()
    return torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
def test_a_model_of_a_billion_parameters_is_restored_bit_for_bit_where_80_percent_of_the_memory_is_taken(
    trained: bool,
) -> None:
    size = LAYERS * WIDTH * WIDTH * 2
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    # In the 80 % are parameters, gradients and momentum, in bfloat16.
    if free < 0.95 * total or total < 7.5 * size:
        pytest.skip(f"needs an unused GPU with {7.5 * size / 2**30:.0f} GiB of memory")
    net = nn.Sequential(
        *(nn.Linear(WIDTH, WIDTH, bias=False, device=DEVICE, dtype=torch.bfloat16) for _ in range(LAYERS))
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, foreach=False)
    if trained:
        most_memory(net, optimizer, with_test=False)
    # Gradients and, where they are not there yet, the momentum will come on top of what is allocated now.
    taken = torch.cuda.memory_allocated() + size * (1 if trained else 2)
    filler = torch.empty(max(0, int(0.8 * total) - taken), dtype=torch.uint8, device=DEVICE)
    state = [s["momentum_buffer"] for s in optimizer.state.values()]
    before = fingerprints([*net.parameters(), *state])
    with_test = most_memory(net, optimizer, with_test=True)
    state = [s["momentum_buffer"] for s in optimizer.state.values()]
    assert fingerprints([*net.parameters(), *state]) == before
    without = most_memory(net, optimizer, with_test=False)
    assert with_test <= without + 0.02 * size  # the snapshot itself would be 1.0, of a trained optimizer 2.0
    del filler


def test_an_lr_that_is_a_tensor_is_put_back() -> None:
    net = nn.Linear(8, 8, device=DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.01, device=DEVICE), capturable=True)
    schedule = OneCycle(optimizer, 0.001, 0.1, cycle_first_step_size=10)
    with RangeTest(net, optimizer, max_lr=0.1, num_steps=20) as test:
        for _ in test.batches(itertools.repeat(None)):
            net(torch.ones(4, 8, device=DEVICE)).square().mean().backward()
            optimizer.step()
            test.record(1.0)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.001)
    assert optimizer.param_groups[0]["lr"].device.type == DEVICE
    optimizer.step()
    schedule.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(schedule.lr_at(1)[0])
