"""SchedulerConfig: every form that a user may bring, every mistake, and what it gives back."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest
import torch
from torch.optim import SGD, AdamW

from lightning_lrsched import OneCycle, SchedulerConfig
from lightning_lrsched.schedules.length import Horizon

SECTION = {"type": "OneCycle", "params": {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0, "cycle_first_step_size": 4}}
CONFIG = SchedulerConfig("OneCycle", SECTION["params"])


def sgd(groups: int = 1, lr: float = 0.1) -> SGD:
    return SGD([{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(groups)], lr=lr, momentum=0.9)


@pytest.mark.parametrize(
    "content",
    [
        SECTION,
        {"scheduler": SECTION},
        {"train_batch_size": 8, "zero_optimization": {"stage": 3}, "fp16": {"enabled": "auto"}, "scheduler": SECTION},
        {"model": "x", "deepspeed": {"scheduler": SECTION}},
    ],
)
@pytest.mark.parametrize("form", ["dict", "json", "yaml"])
def test_every_form_gives_the_same_configuration(tmp_path, content, form):
    if form == "dict":
        assert SchedulerConfig.of(content) == CONFIG
    else:  # JSON is YAML, too
        path = tmp_path / f"config.{form}"
        path.write_text(json.dumps(content))
        assert SchedulerConfig.load(path) == SchedulerConfig.of(str(path)) == CONFIG


def test_keyword_arguments_are_another_form():
    assert SchedulerConfig("OneCycle", cycle_min_lr=0.1, cycle_max_lr=1, cycle_first_step_size=4) == CONFIG


def test_it_builds_the_schedule():
    schedule = CONFIG.build(sgd())
    assert isinstance(schedule, OneCycle)
    assert [schedule.lr_at(step)[0] for step in (0, 4, 8)] == pytest.approx([0.1, 1.0, 0.1])


def test_it_cannot_be_changed_and_has_a_hash():
    given = {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": 1.0}
    config = SchedulerConfig("OneCycle", given)
    given["cycle_min_lr"][0] = 7
    assert config.params["cycle_min_lr"] == (0.1, 0.2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.type = "WarmupLR"
    with pytest.raises(TypeError):
        config.params["cycle_min_lr"] = 3
    assert hash(config) == hash(SchedulerConfig.from_dict(config.to_dict()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))])
def test_it_can_be_copied_and_pickled(duplicate):
    assert duplicate(CONFIG) == CONFIG


def test_numbers_written_as_strings_become_numbers():
    config = SchedulerConfig("WarmupDecayLR", total_num_steps="1e3", warmup_min_lr="1e-8", warmup_num_steps=20.0)
    assert config.to_dict()["params"] == {"total_num_steps": 1000, "warmup_min_lr": 1e-8, "warmup_num_steps": 20}
    assert all(type(config.params[key]) is int for key in ("total_num_steps", "warmup_num_steps"))


@pytest.mark.parametrize(
    ("type_name", "params", "complaint"),
    [
        ("OneCycel", {}, r"scheduler\.type must be one of .*, got 'OneCycel' \(did you mean 'OneCycle'\?\)"),
        ("onecycle", {}, "did you mean 'OneCycle'"),
        ("CosineAnnealing", {}, "did you mean 'CosineAnnealingLR'"),
        ("ReduceLROnPlateau", {}, "follows a metric"),
        ("LambdaLR", {}, "needs a function"),
        ("SequentialLR", {}, "needs other schedulers"),
        ("OneCycle", {"cycle_min_lr": 0.1}, r"scheduler\.params\.cycle_max_lr is missing: OneCycle needs it"),
        (
            "OneCycle",
            {"cycle_min_lr": 0.2, "cycle_max_lr": 0.1},
            r"scheduler\.params\.cycle_min_lr must not be greater",
        ),
        ("OneCycle", {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": [1, 1, 1]}, "cycle_min_lr 2, cycle_max_lr 3"),
        (
            "OneCycle",
            {"cycle_min_lr": 0, "cycle_max_lr": 1, "max_lr": 1},
            r"\.max_lr: .*it is one of CyclicLR, OneCycleLR",
        ),
        ("OneCycle", {"cycle_min_lr": 0, "cycle_max_lr": 1, "post_cycle_decay_step_size": 1}, "'decay_step_size'"),
        (
            "OneCycle",
            {"cycle_min_lr": 0, "cycle_max_lr": 1, "cycle_momentum": "yes"},
            "must be true or false, got 'yes'",
        ),
        ("OneCycle", {"cycle_min_lr": {}, "cycle_max_lr": 1}, r"params\.cycle_min_lr must be .* got a mapping"),
        ("WarmupLR", {"warmup_min_lr": "fast"}, r"params\.warmup_min_lr must be a finite number.*got 'fast'"),
        ("WarmupLR", {"warmup_min_lr": "0\x1f"}, r"params\.warmup_min_lr must be a finite number.*got '0"),
        ("WarmupLR", {"warmup_num_steps": -5}, r"params\.warmup_num_steps must be a whole number.*got -5"),
        ("WarmupLR", {"warmup_num_steps": 10.5}, r"params\.warmup_num_steps must be a whole number.*got 10.5"),
        ("WarmupLR", {"warmup_max_lr": float("nan")}, r"params\.warmup_max_lr must be a finite number"),
        ("WarmupLR", {"warmup_type": "Linear"}, "did you mean 'linear'"),
        ("WarmupLR", {"warmup_type": "auto"}, "must be one of 'log', 'linear', got 'auto'"),
        ("LRRangeTest", {"lr_range_test_step_rate": "auto"}, '"auto" has no meaning here'),
        ("linear", {}, "did you mean 'WarmupDecayLR'"),
        (
            "cosine_with_restarts",
            {},
            r'did you mean \'PhasedLR\'\? With .* {"lr_scheduler_type": "cosine_with_restarts", ',
        ),
        ("reduce_lr_on_plateau", {}, r'scheduler\.type="reduce_lr_on_plateau": it follows a metric'),
        ("torch.optim.lr_scheduler.StepLR", {}, "did you mean 'StepLR'"),
        ("lr_rangetest", {}, "did you mean 'LRRangeTest'"),
        (
            "WarmupDecayLR",
            {"total_num_steps": 9, "warmup_ratio": 0.1},
            "did you mean 'warmup_num_steps'.*fraction of the run",
        ),
        (
            "WarmupLR",
            {"warmup_steps": 10},
            r"scheduler\.params\.warmup_steps: .* \(did you mean 'warmup_num_steps'\?\)",
        ),
        ("WarmupLR", {"warmup_min_lr": 0x1 << 20_000}, "thousands of digits"),
        ("WarmupLR", {"warmup_type": "x" * 1000}, "must be one of .*xxx\\.\\.\\."),
        ("WarmupCosineLR", {"total_num_steps": 9, "warmup_min_lr": 0}, "did you mean 'warmup_min_ratio'"),
        ("WarmupCosineLR", {"total_num_steps": 9, "warmup_max_lr": 0.1}, "set lr in the optimizer instead"),
        ("WarmupDecayLR", {}, r"scheduler\.params\.total_num_steps is missing"),
        ("LRRangeTest", {"lr_min": 1e-7}, "did you mean 'lr_range_test_min_lr'"),
    ],
)
def test_a_mistake_is_told_at_once_with_its_key(type_name, params, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint) as error:
        SchedulerConfig(type_name, params)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "scheduler is missing; the configuration has the keys none"),
        ({"optimizer": {"type": "Adam"}}, "scheduler is missing; .* 'optimizer'"),
        ({"lr_scheduler": SECTION}, r"lr_scheduler: .*did you mean 'scheduler'"),
        ({"scheduler": SECTION, "lr_scheduler": SECTION}, r"lr_scheduler: .*did you mean 'scheduler'"),
        ({"Scheduler": SECTION}, "did you mean 'scheduler'"),
        ({"deepspeed": {"lr_scheduler": SECTION}}, r"deepspeed\.lr_scheduler"),
        ({"deepspeed": {"scheduler": {"type": "WarmupLR", "params": {"x": 1}}}}, r"deepspeed\.scheduler\.params\.x"),
        ({"scheduler": []}, "scheduler must be a mapping"),
        ({"scheduler": {"params": {}}}, r"scheduler\.type is missing"),
        ({"scheduler": {"type": "WarmupLR", "params": [1]}}, r"scheduler\.params must be a mapping"),
        (
            {"scheduler": {"type": "WarmupLR", "warmup_num_steps": 1}},
            r"did you mean scheduler\.params\.warmup_num_steps",
        ),
        ({"scheduler": {"type": ["WarmupLR"]}}, r"scheduler\.type must be one of"),
        ([SECTION], "must be a mapping, got list"),
    ],
)
def test_a_mistake_in_the_sections_is_told_with_its_path(content, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        SchedulerConfig.from_dict(content)


def test_an_error_in_a_file_begins_with_its_name(tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text('{"scheduler": {"type": "WarmupLR", "params": {"warmup_num_step": 3}}}')
    with pytest.raises(ValueError, match="warmup_num_steps") as error:
        SchedulerConfig.load(path)
    assert str(error.value).startswith(f"{path}: scheduler.params.warmup_num_step: ")


def test_a_list_of_the_wrong_length_leaves_the_optimizer_as_it_was():
    optimizer = sgd(groups=3)
    with pytest.raises(ValueError, match=r"scheduler\.params\.cycle_min_lr lists 2 values, but .* 3 param groups"):
        SchedulerConfig("OneCycle", cycle_min_lr=[0.1, 0.2], cycle_max_lr=1.0).build(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1] * 3
    assert "initial_lr" not in optimizer.param_groups[0]


# DeepSpeed takes what we give back ----------------------------------------------------------------------------------


resolved_configurations = pytest.mark.parametrize(
    "config",
    [
        SchedulerConfig("LRRangeTest", lr_range_test_min_lr="1e-4", lr_range_test_step_size=1e1),
        CONFIG,
        SchedulerConfig("OneCycle", cycle_min_lr="auto", cycle_max_lr="auto", cycle_first_step_size="auto"),
        SchedulerConfig("WarmupLR", last_batch_iteration=-1, warmup_max_lr="auto", warmup_num_steps=0.1),
        SchedulerConfig("WarmupDecayLR", total_num_steps="auto", warmup_max_lr=0.1, warmup_num_steps="1ep"),
        SchedulerConfig("WarmupCosineLR", total_num_steps="Auto", warmup_num_steps="auto"),
    ],
)


def resolve(config):
    return config.resolve(AdamW([torch.zeros(1)], lr=0.01), Horizon(40, 10))


@resolved_configurations
def test_the_resolved_configuration_is_json_and_comes_back(config):
    resolved = resolve(config)
    section = resolved.to_dict()
    assert SchedulerConfig.from_dict(section) == resolved
    assert json.loads(json.dumps(section)) == section


@resolved_configurations
def test_deepspeed_takes_the_resolved_configuration_and_agrees(config, deepspeed):
    optimizer = AdamW([torch.zeros(1, requires_grad=True)], lr=0.01)
    section = resolve(config).to_dict()
    ours = config.build(AdamW([torch.zeros(1, requires_grad=True)], lr=0.01), Horizon(40, 10))
    theirs = getattr(deepspeed, section["type"])(optimizer, **section["params"])
    for step in range(1, 41):
        theirs.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours.lr_at(step)[0], rel=1e-12)


def test_a_group_that_is_added_later_warms_up_to_its_own_lr():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = SchedulerConfig("WarmupLR", warmup_max_lr="auto", warmup_num_steps=2).build(optimizer)
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.7})
    assert schedule.lr_at(10) == [0.1, 0.7]


# The length of a run without a Trainer --------------------------------------------------------------------------------


AUTO = SchedulerConfig("WarmupDecayLR", total_num_steps="auto", warmup_max_lr=0.1, warmup_num_steps="2ep")


def test_a_loop_of_ones_own_says_how_long_it_is():
    by_keywords = AUTO.build(sgd(), total_steps=200, steps_per_epoch=10)
    by_run_length = AUTO.build(sgd(), Horizon(200, 10))
    assert by_keywords.hyperparameters == by_run_length.hyperparameters
    assert (by_keywords.total_num_steps, by_keywords.warmup_num_steps) == (200, 20)
    assert AUTO.resolve(sgd(), total_steps=200, steps_per_epoch=10) == AUTO.resolve(sgd(), Horizon(200, 10))


@pytest.mark.parametrize(
    ("lengths", "key"),
    [
        ({}, "total_num_steps='auto'"),
        ({"total_steps": 200}, "warmup_num_steps='2ep'"),
        ({"steps_per_epoch": 10}, "total_num_steps='auto'"),
    ],
)
def test_a_length_that_is_missing_is_told_with_both_keywords(lengths, key):
    with pytest.raises(ValueError, match=rf"{key} needs .*pass total_steps=\.\.\. and steps_per_epoch=\.\.\."):
        AUTO.build(sgd(), **lengths)


@pytest.mark.parametrize(
    ("lengths", "error", "complaint"),
    [
        ({"total_steps": 0}, ValueError, "total_steps must be a whole number, at least 1"),
        ({"steps_per_epoch": 2.5}, ValueError, "steps_per_epoch must be a whole number"),
        ({"horizon": 200}, TypeError, "horizon must be a Horizon, got int"),
        ({"steps_per_epoch": "10"}, TypeError, "steps_per_epoch must be a whole number"),
        (
            {"horizon": Horizon(200, 10), "total_steps": 200},
            ValueError,
            "total_steps, steps_per_epoch: not together with a horizon",
        ),
    ],
)
def test_a_length_that_is_wrong_is_refused_also_where_it_is_not_needed(lengths, error, complaint):
    for config in (AUTO, SchedulerConfig("WarmupLR")):
        with pytest.raises(error, match=complaint):
            config.resolve(sgd(), **lengths)


def test_a_unit_is_kept_wherever_a_configuration_goes():
    section = {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto", "warmup_max_lr": "auto"}, "unit": "token"}
    for config in (SchedulerConfig.of(section), SchedulerConfig.of({"deepspeed": {"scheduler": section}})):
        assert config == SchedulerConfig(**section) == copy.deepcopy(config) == pickle.loads(pickle.dumps(config))
        assert config.to_dict() == section
        assert str(config).endswith(", unit='token')")
        assert config.resolve(sgd(), total_steps=10).unit == "token"
        assert config.without_range_test().unit == "token"
    assert SchedulerConfig.of({**section, "unit": "step"}) == SchedulerConfig(section["type"], section["params"])
    assert SchedulerConfig(section["type"], section["params"]) != SchedulerConfig(**section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"unit": "tokens"}, r"^scheduler\.unit must be one of 'step', 'sample', 'token', got 'tokens' \(did you mean"),
        ({"unit": None}, r"^scheduler\.unit must be one of 'step', 'sample', 'token', got None"),
        ({"unit": "second"}, r'^scheduler\.unit cannot be "second": clocks differ between ranks'),
        (
            {"type": "StepLR", "params": {"step_size": 3}, "unit": "sample"},
            r"^scheduler\.unit=\"sample\" needs one of LRR",
        ),
        (
            {"steps": 3},
            r"^scheduler\.steps: this section has only the keys type, params, unit and cool_down; did you mean",
        ),
    ],
)
def test_a_wrong_unit_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        SchedulerConfig.of({"type": "WarmupLR", "params": {}, **section})


def test_lists_and_mappings_of_omegaconf_are_taken():
    omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed (hydra-core brings it)")
    phases = [{"steps": 3, "lr": [0.1, 0.2]}, {"steps": 0.5, "lr": {"ratio": 0.1}}]
    for section in (
        {"type": "PhasedLR", "params": {"phases": phases}},
        {"type": "MultiStepLR", "params": {"milestones": [3, "50%"]}},
    ):
        assert SchedulerConfig.of(omegaconf.OmegaConf.create(section)) == SchedulerConfig.of(section)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cosine", "'WarmupCosineLR' or 'CosineAnnealingLR'"),
        ("onecycle", "'OneCycle' or 'OneCycleLR'"),
        ("WarmupCosine", "'WarmupCosineLR'"),
    ],
)
def test_a_word_that_is_neither_a_file_nor_a_type_is_told_with_the_nearest_types(name, meant):
    with pytest.raises(FileNotFoundError) as told:
        SchedulerConfig.of(name)
    assert str(told.value) == f"{name}: no such file, and no type of a schedule (did you mean {meant}?)"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("OneCycle", '{"type": "OneCycle", "params": {"cycle_min_lr": ..., "cycle_max_lr": ...}}'),
        ("WarmupLR", '{"type": "WarmupLR", "params": {...}}'),
        ("StepLR", '{"type": "StepLR", "params": {"step_size": ...}}'),
    ],
)
def test_the_name_of_a_type_alone_is_told_with_its_form(name, form):
    with pytest.raises(ValueError, match="is the type of a schedule") as told:
        SchedulerConfig.of(name)
    assert str(told.value) == f"{name!r} is the type of a schedule, not a configuration: write {form}"
