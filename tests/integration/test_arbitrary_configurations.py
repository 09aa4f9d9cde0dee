"""Whatever a JSON file may hold: it is taken, or refused by ValueError or TypeError that names the key."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.optim.schedulers import SCHEDULERS
from lightning_lrsched.optim.torch_schedulers import torch_schedules
from lightning_lrsched.schedules.length import Horizon
from lightning_lrsched.trainer.configure_optimizers import configure_optimizers
from tests.kit.schedules import SMALL, adamw, snapshot

RUN = Horizon(total=1000, per_epoch=100)
EXAMPLES = max(200, settings.default.max_examples)  # the profile "nightly" asks for more
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

words = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["auto", "AUTO", "2ep", "0.5 epochs", "0.1", "1e-5", "1e999", "nan", "1_0", "log", "true", "9" * 500]
    ),
)
numbers = st.one_of(st.integers(), st.floats(), st.integers(-2, 20), st.floats(0, 1), st.just(10**400))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=2)),
    max_leaves=5,
)


def refusal(make: Callable[[], object]) -> str | None:
    """Return the message of a ValueError or TypeError; None if there was none. Any other exception fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make()
    except (ValueError, TypeError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", SCHEDULERS)
@many
@given(data=st.data())
def test_any_value_under_a_known_key(name: str, data: st.DataObject) -> None:
    keys = [*SCHEDULERS[name].kind.fields, "last_batch_iteration"]
    chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True))
    params = {**SMALL[name], **{key: data.draw(values, label=key) for key in chosen}}
    told = refusal(lambda: SchedulerConfig(name, params))
    optimizer = adamw(0.1, 0.2)
    if told is None:
        config = SchedulerConfig(name, params)
        assert SchedulerConfig.from_dict(config.to_dict()) == config
        before = snapshot(optimizer)
        told = refusal(lambda: config.build(optimizer, RUN))
        assert told is None or snapshot(optimizer) == before
    if told is not None:
        assert any(key in told for key in chosen)
        assert len(told) < 4000
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule = config.build(adamw(0.1, 0.2), RUN)
    assert all(lr >= 0 for step in (0, 1, 10**6, 2**53) for lr in schedule.lr_at(step))
    json.dumps(config.resolve(adamw(0.1, 0.2), RUN).to_dict(), allow_nan=False)


@many
@given(type_name=st.one_of(values, st.sampled_from(["OneCycle", "StepLR", "LRScheduler"])), params=values, rest=values)
def test_any_section(type_name: Any, params: Any, rest: Any) -> None:
    for config in (
        {"scheduler": {"type": type_name, "params": params}},
        {"scheduler": params, "deepspeed": rest},
        rest,
    ):
        told = refusal(lambda config=config: SchedulerConfig.from_dict(config))
        assert told is None or "scheduler" in told or "optimizer" in told


@many
@given(
    type_name=st.one_of(values, st.sampled_from(["AdamW", "SGD", "adam", "Lamb"])),
    params=st.one_of(values, st.dictionaries(st.sampled_from(["lr", "betas", "weight_decay", "eps", "foo"]), values)),
)
def test_any_optimizer_section(type_name: Any, params: Any) -> None:
    config = {"optimizer": {"type": type_name, "params": params}}
    told = refusal(lambda: configure_optimizers(torch.nn.Linear(1, 1), config))
    assert told is None or "optimizer" in told


@many
@given(
    name=st.sampled_from(["StepLR", "CosineAnnealingLR", "OneCycleLR", "CyclicLR", "MultiStepLR", "PolynomialLR"]),
    data=st.data(),
)
def test_any_value_for_torch_schedulers(name: str, data: st.DataObject) -> None:
    params = data.draw(st.dictionaries(st.sampled_from(list(torch_schedules()[name].fields)), values, max_size=4))
    optimizer = adamw(0.1, 0.2)
    before = snapshot(optimizer)
    told = refusal(lambda: SchedulerConfig(name, params).build(optimizer, RUN))
    if told is not None:
        assert "scheduler.params" in told
        assert snapshot(optimizer) == before
