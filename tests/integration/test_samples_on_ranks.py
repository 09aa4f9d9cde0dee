"""Two processes that count samples and tokens: the same lr on both, and the same lr per sample as one process."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch

from lightning_lrsched import SchedulerConfig
from tests.integration.two_ranks_samples import AUTO, EPOCHS, SAMPLES, TOKENS, loader, train
from tests.kit.ranks import needs_fully_shard, run_on_two_ranks
from tests.kit.runs import Save

TOTAL = EPOCHS * SAMPLES


@pytest.fixture(scope="module", params=["ddp", pytest.param("fsdp2", marks=needs_fully_shard)])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The findings of both ranks, and the folder with the checkpoints that one process and two have saved."""
    folder = tmp_path_factory.mktemp("ranks")
    train(AUTO, loader(), Save(folder / "one.ckpt"), devices=1)
    return run_on_two_ranks(request.param, folder, "cpu", "two_ranks_samples.py"), folder


def lrs(positions: Any, total: int = TOTAL, section: dict[str, Any] = AUTO) -> Any:
    """The lr of a schedule, planned for the run, at some positions; within 1e-12."""
    schedule: Any = SchedulerConfig.of(section).build(torch.optim.AdamW([torch.zeros(1)], 0.001), total_steps=total)
    return pytest.approx([schedule.lr_at(position)[0] for position in positions], rel=1e-12, abs=0.0)


def test_two_processes_have_the_lr_of_their_samples(ranks: Any) -> None:
    for found in ranks[0]:
        assert found["whole"] == {"lrs": lrs(range(0, TOTAL, 8)), "position": TOTAL, "total": TOTAL}


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 1), (2, 1), (1, 4)])
def test_from_one_process_to_two_the_lr_of_each_sample_stays(ranks: Any, batch_size: int, accumulate: int) -> None:
    for found in ranks[0]:
        resumed = found[f"from one, {batch_size} x {accumulate}"]
        positions = range(SAMPLES, TOTAL, 2 * batch_size * accumulate)
        assert resumed == {"lrs": lrs(positions), "position": TOTAL, "total": TOTAL}


@pytest.mark.parametrize("batch_size", [8, 4])
def test_from_two_processes_to_one_the_lr_of_each_sample_stays(ranks: Any, batch_size: int) -> None:
    resumed = train(AUTO, loader(batch_size=batch_size), devices=1, ckpt_path=ranks[1] / "two.ckpt")
    assert resumed == {"lrs": lrs(range(SAMPLES, TOTAL, batch_size)), "position": TOTAL, "total": TOTAL}


def test_partial_batches_and_steps_count_what_all_ranks_have_taken(ranks: Any) -> None:
    # The sampler gives each rank 39 of 77 samples, one of them twice: steps of 32, 32 and 14.
    positions = [78 * epoch + 32 * step for epoch in range(EPOCHS) for step in range(3)]
    for found in ranks[0]:
        assert found["partial"] == {"lrs": lrs(positions, 234), "position": 234, "total": 234}


def test_ranks_with_other_batches_have_one_lr(ranks: Any) -> None:
    for found in ranks[0]:
        assert found["uneven"] == {"lrs": lrs(range(0, 216, 9), 216), "position": 216, "total": 216}
    first, second = (found["tokens of each batch"] for found in ranks[0])
    assert first != second
    both = [0, *accumulate(map(sum, zip(first, second, strict=True)))]
    for found in ranks[0]:
        assert found["tokens"] == {"lrs": lrs(both[:-1], 400, TOKENS), "position": both[-1], "total": 400}


def test_ranks_that_share_a_batch_count_it_once(ranks: Any) -> None:
    for found in ranks[0]:
        assert found["the same batch"] == {"lrs": lrs(range(0, TOTAL, 8)), "position": TOTAL, "total": TOTAL}
