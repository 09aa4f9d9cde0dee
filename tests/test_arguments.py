"""The flags: one for every parameter, only what was typed overrides, and every schedule from flags alone."""

from __future__ import annotations

import argparse
import json
import sys

import pytest

from lightning_lrsched import SchedulerConfig, add_tuning_arguments, arguments, get_config_from_args, get_lr_from_config
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.schedules import SMALL


def parse(*flags: str) -> argparse.Namespace:
    return add_tuning_arguments(argparse.ArgumentParser()).parse_args(list(flags))


FLAGS = {
    "LRRangeTest": "--lr_range_test_min_lr 1e-4 --lr_range_test_step_size 10 --lr_range_test_staircase",
    "OneCycle": "--cycle_min_lr 0.1 0.2 --cycle_max_lr 1 --cycle_first_step_size 10 --cycle_momentum false",
    "WarmupLR": "--warmup_max_lr 0.1 --warmup_num_steps 2ep --warmup_type linear",
    "WarmupDecayLR": "--total_num_steps auto --warmup_max_lr auto --warmup_num_steps 0.1",
    "WarmupCosineLR": "--total_num_steps 1e2 --cos_min_ratio 0.1",
    "WarmupStableDecayLR": "--total_num_steps auto --decay_num_steps auto --decay_type 1-sqrt --decay_min_lr 1e-5 0",
    "PhasedLR": '--phases [{"steps":0.1,"lr":"auto"},{"steps":"2ep"}] --start_lr {"ratio":0.1} '
    "--start_momentum 0.9 0.8",
}
PARAMS = {
    "LRRangeTest": {"lr_range_test_min_lr": 1e-4, "lr_range_test_step_size": 10, "lr_range_test_staircase": True},
    "OneCycle": {"cycle_min_lr": [0.1, 0.2], "cycle_max_lr": 1, "cycle_first_step_size": 10, "cycle_momentum": False},
    "WarmupLR": {"warmup_max_lr": 0.1, "warmup_num_steps": "2ep", "warmup_type": "linear"},
    "WarmupDecayLR": {"total_num_steps": "auto", "warmup_max_lr": "auto", "warmup_num_steps": 0.1},
    "WarmupCosineLR": {"total_num_steps": 100, "cos_min_ratio": 0.1},
    "WarmupStableDecayLR": {
        "total_num_steps": "auto",
        "decay_num_steps": "auto",
        "decay_type": "1-sqrt",
        "decay_min_lr": [1e-5, 0],
    },
    "PhasedLR": {
        "phases": [{"steps": 0.1, "lr": "auto"}, {"steps": "2ep"}],
        "start_lr": {"ratio": 0.1},
        "start_momentum": [0.9, 0.8],
    },
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_can_be_built_from_flags_alone(name):
    flags = [
        text
        for key, value in SMALL[name].items()
        for text in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
    config, error = get_config_from_args(parse("--lr_schedule", name, *flags))
    assert (config, error) == ({"type": name, "params": SMALL[name]}, None)


@pytest.mark.parametrize("name", FLAGS)
def test_flags_take_lists_words_and_switches(name):
    config, error = get_config_from_args(parse("--lr_schedule", name, *FLAGS[name].split()))
    assert error is None
    assert config["type"] == name
    assert config["params"].items() >= PARAMS[name].items()
    assert list(SchedulerConfig.from_dict(config).params) == list(config["params"])


def test_every_parameter_has_a_flag_and_a_help():
    parser = add_tuning_arguments(argparse.ArgumentParser())
    helped = {action.dest: action.help for action in parser._actions}
    for schedule in SCHEDULERS.values():
        for name in schedule.kind.fields:
            assert len(helped[name]) > 40
    assert "(default: 1.0)" in helped["lr_range_test_step_rate"]
    assert parser.format_help()


def test_only_what_was_typed_overrides():
    params = {"warmup_num_steps": 10, "warmup_min_lr": 0.5}
    arguments.override_params(parse("--warmup_num_steps", "20"), params)
    assert params == {"warmup_num_steps": 20, "warmup_min_lr": 0.5}
    arguments.override_params(argparse.Namespace(), params)
    assert params == {"warmup_num_steps": 20, "warmup_min_lr": 0.5}


@pytest.mark.parametrize(
    ("override", "typed", "ignored"),
    [
        (arguments.override_lr_range_test_params, "lr_range_test_min_lr", "warmup_min_lr"),
        (arguments.override_1cycle_params, "cycle_min_lr", "warmup_min_lr"),
        (arguments.override_warmupLR_params, "warmup_min_lr", "total_num_steps"),
        (arguments.override_warmupDecayLR_params, "total_num_steps", "cycle_min_lr"),
        (arguments.override_warmupCosineLR_params, "cos_min_ratio", "warmup_min_lr"),
    ],
)
def test_each_part_takes_its_own_schedules_parameters(override, typed, ignored):
    params: dict = {}
    override(argparse.Namespace(**{typed: 1, ignored: 2}), params)
    assert params == {typed: 1}


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ([], None),
        (["--cycle_momentum"], True),
        (["--cycle_momentum", "True"], True),
        (["--cycle_momentum", "False"], False),
        (["--cycle_momentum", "0"], False),
    ],
)
def test_a_switch_says_what_was_typed(flags, value):
    assert parse(*flags).cycle_momentum is value


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--warmup_num_steps", "x"], "must be a number, epochs such as 2ep, or auto; got 'x'"),
        (["--decay_lr_rate", "auto"], "must be a number, got 'auto'"),
        (["--cycle_momentum", "perhaps"], "must be true or false, got 'perhaps'"),
        (["--lr_schedule", "Cosine"], "invalid choice: 'Cosine'"),
    ],
)
def test_argparse_refuses_what_no_schedule_takes(flags, complaint, capsys):
    with pytest.raises(SystemExit):
        parse(*flags)
    assert complaint in capsys.readouterr().err


def test_a_mistake_is_raised_and_no_schedule_is_a_pair():
    assert get_config_from_args(argparse.Namespace()) == (None, "no --lr_schedule on the command line")
    with pytest.raises(ValueError, match=r"scheduler\.params\.cycle_min_lr is missing"):
        get_config_from_args(parse("--lr_schedule", "OneCycle"))
    with pytest.raises(ValueError, match=r"scheduler\.type must be one of"):
        get_config_from_args(argparse.Namespace(lr_schedule="Cosine"))


@pytest.mark.parametrize(
    ("section", "lr"),
    [
        ({"type": "LRRangeTest", "params": {"lr_range_test_min_lr": 0.2}}, 0.2),
        ({"type": "OneCycle", "params": {"cycle_min_lr": 0.1, "cycle_max_lr": [1.0, 2.0]}}, [1.0, 2.0]),
        ({"type": "WarmupLR", "params": {"warmup_max_lr": "1e-2"}}, 0.01),
        ({"type": "WarmupDecayLR", "params": {"total_num_steps": 9}}, 0.001),
        ({"type": "WarmupCosineLR", "params": {"total_num_steps": 9}}, None),
        ({"type": "WarmupLR", "params": {"warmup_max_lr": "auto"}}, None),
        ({"type": "StepLR", "params": {"step_size": 9}}, None),
    ],
)
def test_the_lr_of_a_configuration(section, lr):
    found, message = get_lr_from_config(section)
    assert found == lr
    assert bool(message) == (lr is None)


def test_what_is_no_configuration_has_no_lr():
    with pytest.raises(ValueError, match=r"scheduler\.type is missing"):
        get_lr_from_config({"params": {}})


DEEPSPEEDS_FLAGS = """
-h --help --lr_schedule
--lr_range_test_min_lr --lr_range_test_step_rate --lr_range_test_step_size --lr_range_test_staircase
--cycle_min_lr --cycle_max_lr --cycle_first_step_size --cycle_first_stair_count --cycle_second_step_size
--cycle_second_stair_count --decay_step_size --decay_lr_rate --cycle_momentum --cycle_min_mom --cycle_max_mom
--decay_mom_rate --warmup_min_lr --warmup_max_lr --warmup_num_steps --warmup_type --warmup_min_ratio --cos_min_ratio
"""
DEEPSPEEDS_FUNCTIONS = """
override_lr_range_test_params override_1cycle_params override_warmupLR_params override_warmupCosineLR_params
override_params get_config_from_args get_lr_from_config
"""
COMMAND_LINE = ["train.py", "--lr_schedule", "WarmupLR", "--warmup_num_steps", "7", "--other"]


def flags_of(parser):
    return {flag for action in parser._actions for flag in action.option_strings}


def test_deepspeeds_own_names_are_all_there():
    assert flags_of(add_tuning_arguments(argparse.ArgumentParser())) >= set(DEEPSPEEDS_FLAGS.split())
    assert all(callable(getattr(arguments, name)) for name in DEEPSPEEDS_FUNCTIONS.split())


def test_the_unit_has_a_flag_of_its_own():
    config, _ = get_config_from_args(parse("--lr_schedule", "WarmupLR", "--lr_schedule_unit", "token"))
    assert config == {"type": "WarmupLR", "params": {}, "unit": "token"}
    config, _ = get_config_from_args(parse("--lr_schedule", "WarmupLR", "--lr_schedule_unit", "step"))
    assert config == {"type": "WarmupLR", "params": {}}


def test_parse_arguments_leaves_what_belongs_to_others(monkeypatch):
    monkeypatch.setattr(sys, "argv", COMMAND_LINE)
    args, others = arguments.parse_arguments()
    assert others == ["--other"]
    assert get_config_from_args(args) == ({"type": "WarmupLR", "params": {"warmup_num_steps": 7}}, None)


def test_the_installed_deepspeed_has_these_names_and_makes_the_same_of_a_command_line(monkeypatch, deepspeed):
    assert flags_of(deepspeed.add_tuning_arguments(argparse.ArgumentParser())) == set(DEEPSPEEDS_FLAGS.split())
    functions = {name for name in vars(deepspeed) if name.startswith(("override_", "get_config", "get_lr_from"))}
    assert functions == set(DEEPSPEEDS_FUNCTIONS.split())
    monkeypatch.setattr(sys, "argv", COMMAND_LINE)
    args, _ = arguments.parse_arguments()
    assert get_config_from_args(args)[0] == deepspeed.get_config_from_args(args)[0]
