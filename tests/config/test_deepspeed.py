"""What a DeepSpeed configuration asks of the Trainer."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from lightning.pytorch import Trainer

from lightning_lrsched import SchedulerConfig, trainer_arguments


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"gradient_accumulation_steps": "4", "gradient_clipping": "1.0"},
         {"accumulate_grad_batches": 4, "gradient_clip_val": 1.0}),
        ({"gradient_accumulation_steps": "auto", "gradient_clipping": "auto", "fp16": {"enabled": "auto"}}, {}),
        ({"gradient_clipping": 0, "bf16": {"enabled": False}, "fp16": {"loss_scale": 0}}, {}),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": False}}, {"precision": "bf16-mixed"}),
        ({"bfloat16": {"enabled": "true"}}, {"precision": "bf16-mixed"}),
        ({"fp16": {"enabled": True, "loss_scale": 0}}, {"precision": "16-mixed"}),
        ({"amp": {"enabled": True, "opt_level": "O1"}}, {"precision": "16-mixed"}),
        ({"steps_per_print": 2000}, {"log_every_n_steps": 2000}),
        ({"deepspeed": {"gradient_clipping": 0.1, "optimizer": {}}}, {"gradient_clip_val": 0.1}),
        ({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4},
         {"accumulate_grad_batches": 4}),
        ({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8}, {}),  # the number of devices is not known
    ],
)  # fmt: skip
def test_settings_become_arguments_that_the_trainer_takes(config, expected):
    arguments = trainer_arguments(config)
    assert arguments == expected
    arguments.pop("precision", None) if arguments.get("precision") == "16-mixed" else None  # it warns on a CPU
    Trainer(**arguments, accelerator="cpu", logger=False)


def test_the_accumulation_follows_from_batch_sizes_and_devices():
    config = {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8}
    assert trainer_arguments(config, world_size=2) == {"accumulate_grad_batches": 4}
    assert trainer_arguments({**config, "gradient_accumulation_steps": 4}, world_size=2)


@pytest.mark.parametrize(
    ("config", "world_size", "message"),
    [
        ({"train_batch_size": 60, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}, None,
         r"^train_batch_size must be train_micro_batch_size_per_gpu x gradient_accumulation_steps x devices, got 60"),
        ({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}, 4,
         r"got 64 and 8 x 4 x 4 devices"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, None, "^bf16 and fp16 are both enabled"),
        ({"deepspeed": {"gradient_clipping": -1}}, None, r"^deepspeed\.gradient_clipping must be .* at least 0"),
        ({"gradient_accumulation_steps": 0}, None, "^gradient_accumulation_steps must be a whole number, at least 1"),
        ({"fp16": {"enabled": 1}}, None, r"^fp16\.enabled must be true or false"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_an_error(config, world_size, message):
    with pytest.raises((TypeError, ValueError), match=message):
        trainer_arguments(config, world_size=world_size)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("gradient_acumulation_steps", "gradient_accumulation_steps"),
        ("grad_accumulation_steps", "gradient_accumulation_steps"),
        ("Gradient-Clipping", "gradient_clipping"),
        ("gradient_clip", "gradient_clipping"),
        ("train_bach_size", "train_batch_size"),
        ("train_micro_batch_size", "train_micro_batch_size_per_gpu"),
        ("step_per_print", "steps_per_print"),
        ("BF16", "bf16"),
        ("fp_16", "fp16"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_misspelt_key_is_told_because_deepspeed_ignores_it(key, meant, nested):
    config = {key: 2, "zero_optimization": {"stage": 1}}
    with pytest.raises(ValueError, match=rf"{key}: DeepSpeed ignores this key \(did you mean '{meant}'\?\)$"):
        trainer_arguments({"deepspeed": config} if nested else config)


@pytest.mark.parametrize("key", ["schedulr", "schedulerr", "Scheduler", "optimizr", "optimizzer"])
def test_a_misspelt_section_is_told(key):
    sections = {"scheduler": {"type": "WarmupLR"}, key: {"type": "SGD", "params": {"lr": 0.1}}}
    with pytest.raises(ValueError, match=f"^{key}: DeepSpeed ignores this section"):
        SchedulerConfig.from_dict(sections)


def test_no_key_that_deepspeed_has_counts_as_misspelt():
    constants = pytest.importorskip("deepspeed.runtime.constants")
    config = pytest.importorskip("deepspeed.runtime.config")
    known = {value for module in (constants, config) for value in vars(module).values() if isinstance(value, str)}
    keys = {word for word in known if re.fullmatch("[a-z][a-z0-9_]+", word)}
    assert {"zero_allow_untested_optimizer", "managed_gradient_accumulation", "gradient_clipping"} <= keys
    for key in keys - {"scheduler", "optimizer", "type", "params"}:
        with contextlib.suppress(TypeError):  # one that is read, and takes no mapping
            trainer_arguments({key: {}})
        SchedulerConfig.from_dict({key: {}, "scheduler": {"type": "WarmupLR"}})


def test_a_file_is_read_and_named_in_errors(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"gradient_clipping": "many"}))
    with pytest.raises(TypeError, match=r"ds\.json: gradient_clipping must be"):
        trainer_arguments(path)
