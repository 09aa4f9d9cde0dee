"""LossRecord: rows come out in order, a fixed number of steps late where the device is not the host."""

from __future__ import annotations

import math
import random

import pytest
import torch

from lightning_lrsched.range_test.record import LAG, LossRecord


def record(on_host: bool) -> LossRecord:
    made = LossRecord(torch.device("cpu"))
    made._on_host = on_host
    return made


def test_on_the_cpu_a_row_is_there_at_once():
    rows = record(on_host=True)
    for step in range(5):
        rows.add(step, 0.1 * step, torch.tensor(float(step)))
        assert [(row.step, row.lr, row.loss) for row in rows.rows()] == [(step, 0.1 * step, float(step))]


def test_on_an_accelerator_rows_come_exactly_lag_steps_late_and_all_in_the_end():
    rows = record(on_host=False)
    arrived = []
    for step in range(20):
        rows.add(step, 1.0, torch.tensor(math.nan if step == 5 else 1.0))
        new = rows.rows()
        assert [row.step for row in new] == ([step - LAG] if step >= LAG else [])
        arrived += new
    assert [row.step for row in arrived if math.isnan(row.loss)] == [5]
    assert [row.step for row in [*arrived, *rows.rows(all_of_them=True)]] == list(range(20))


def test_host_and_device_smooth_alike():
    noise = random.Random(0)
    host, device = record(on_host=True), record(on_host=False)
    for step in range(100):
        loss = torch.tensor(1e3 + noise.gauss(0, 1.0))
        host.add(step, 1.0, loss)
        device.add(step, 1.0, loss)
    for ours, theirs in zip(host.rows(), device.rows(all_of_them=True), strict=True):
        assert ours.loss == theirs.loss
        assert ours.smoothed_loss == pytest.approx(theirs.smoothed_loss, rel=1e-14)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_gpu_before_a_row_is_due():
    rows = LossRecord(torch.device("cuda"))
    losses = torch.ones(LAG, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(LAG):
            rows.add(step, 1.0, losses[step])
            assert rows.rows() == []
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [row.loss for row in rows.rows(all_of_them=True)] == [1.0] * LAG
