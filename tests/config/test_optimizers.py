"""The optimizer section, with DeepSpeed's meaning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from lightning_lrsched import configure_optimizers

ONE_CYCLE = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 8},
}


class Net(torch.nn.Module):
    """A module with numbers that "auto" may look for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2, 2, bias=False)
        vars(self).update(attributes)


class Hparams(dict):
    __getattr__ = dict.__getitem__


def optimizer_of(section: Any, module: torch.nn.Module | None = None, **options: Any) -> torch.optim.Optimizer:
    return configure_optimizers(module or Net(), {"optimizer": section}, **options)["optimizer"]


@pytest.mark.parametrize(
    ("type_name", "params", "expected", "weight_decay"),
    [
        ("Adam", {}, AdamW, 0.0),
        ("adam", {"adam_w_mode": False}, Adam, 0.0),
        ("Adam", {"adam_w_mode": True, "torch_adam": True}, AdamW, 0.01),
        ("AdamW", {"adam_w_mode": False}, AdamW, 0.0),
        ("adamw", {"weight_decay": "1e-4", "bias_correction": True, "set_grad_none": True}, AdamW, 1e-4),
        ("SGD", {"lr": 0.1}, SGD, 0),
        ("RMSprop", {}, torch.optim.RMSprop, 0),
        ("ADAGRAD", {}, torch.optim.Adagrad, 0),
    ],
)
def test_names_and_defaults_are_deepspeeds(type_name, params, expected, weight_decay):
    optimizer = optimizer_of({"type": type_name, "params": params})
    assert type(optimizer) is expected
    assert optimizer.defaults["weight_decay"] == weight_decay


def test_params_may_be_missing():
    assert type(optimizer_of({"type": "Adam"})) is AdamW


def test_numbers_may_be_strings():
    optimizer = optimizer_of({"type": "AdamW", "params": {"lr": "1e-4", "eps": "1e-6", "betas": ["0.8", 0.99]}})
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"], optimizer.defaults["betas"]) == (
        1e-4,
        1e-6,
        (0.8, 0.99),
    )


@pytest.mark.parametrize(
    "module",
    [Net(lr=0.3), Net(learning_rate=0.3), Net(hparams=Hparams(lr=0.3)), Net(hparams=Hparams(learning_rate=0.3))],
)
def test_auto_lr_is_the_modules(module):
    if "hparams" in vars(module):
        module.hparams.__class__.__getattr__ = lambda self, key: self.get(key)
    section = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
    defaults = optimizer_of(section, module).defaults
    assert {key: defaults[key] for key in section["params"]} == {
        "lr": 0.3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0,
    }  # fmt: skip


def test_auto_weight_decay_is_the_modules_where_it_has_one():
    section = {"type": "AdamW", "params": {"lr": 0.1, "weight_decay": "Auto"}}
    assert optimizer_of(section, Net(weight_decay=0.2)).defaults["weight_decay"] == 0.2


def test_param_groups_are_given_or_the_modules_or_all():
    section = {"type": "SGD", "params": {"lr": 0.1}}
    module = Net()
    module.frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    assert [len(group["params"]) for group in optimizer_of(section, module).param_groups] == [1]
    groups = [{"params": [module.net.weight], "lr": 0.7}, {"params": [module.frozen]}]
    assert [group["lr"] for group in optimizer_of(section, module, params=groups).param_groups] == [0.7, 0.1]
    vars(module)["param_groups"] = lambda: groups
    assert [group["lr"] for group in optimizer_of(section, module).param_groups] == [0.7, 0.1]


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"type": "OneBitAdam"}, r"optimizer\.type: torch\.optim has no 'OneBitAdam' \(the nearest one is 'AdamW'\)"),
        ({"type": "Lamb"}, "has no 'Lamb' .*'AdamW'"),
        ({"type": "OneBitLamb"}, "has no 'OneBitLamb' .*'AdamW'"),
        ({"type": "ZeroOneAdam"}, "has no 'ZeroOneAdam' .*'AdamW'"),
        ({"type": "DeepSpeedCPUAdam"}, "has no 'DeepSpeedCPUAdam' .*'AdamW'"),
        ({"type": "sat.ops.FusedEmaAdam"}, "has no 'sat.ops.FusedEmaAdam' .*'AdamW'"),
        ({"type": "sgd"}, "has no 'sgd' .*did you mean 'SGD'"),
        ({"type": "Optimizer"}, "has no 'Optimizer'"),
        ({"type": 3}, r"optimizer\.type must be the name"),
        ({"type": "Adam", "params": {"max_grad_norm": 1.0}}, r"gradient_clip_val=1.0"),
        ({"type": "Adam", "params": {"bias_correction": False}}, "always corrects the bias"),
        ({"type": "Adam", "params": {"adam_w_mode": "no"}}, r"optimizer\.params\.adam_w_mode must be true or false"),
        *[
            ({"type": type_name, "params": {"lr": 0.1, key: "false"}}, rf"optimizer\.params\.{key} must be true or")
            for type_name, key in (("SGD", "maximize"), ("SGD", "nesterov"), ("Adam", "amsgrad"), ("Adam", "fused"))
        ],
        ({"type": "Adam", "params": {"learning_rate": 1}}, r"optimizer\.params\.learning_rate: .* no such parameter"),
        ({"type": "Adam", "params": {"lr": -1}}, r"optimizer\.params: AdamW refuses them: Invalid learning rate"),
        ({"type": "Adam", "params": {"betas": []}}, r"optimizer\.params: AdamW refuses them"),
        ({"type": "Adam", "params": {"lr": "fast"}}, r"optimizer\.params: AdamW refuses them"),
        ({"type": "Adam", "params": {"lr": "auto"}}, r"optimizer\.params\.lr: \"auto\" .* self\.lr, self\.hparams\.lr"),
        ({"type": "Adam", "params": {"amsgrad": "auto"}}, r"optimizer\.params\.amsgrad: \"auto\""),
        ({"type": "Adam", "params": {}, "eps": 1e-8}, r"optimizer\.eps: .*did you mean optimizer\.params\.eps"),
        ({"params": {}}, r"optimizer\.type is missing"),
        ("Adam", "optimizer must be a mapping"),
    ],
)
def test_a_mistake_is_told_with_its_key(section, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        optimizer_of(section)


def test_a_module_without_an_optimizer_section_or_parameters_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no 'optimizer' section"):
        configure_optimizers(Net(), {"scheduler": ONE_CYCLE})
    with pytest.raises(ValueError, match="no trainable parameters"):
        configure_optimizers(torch.nn.ReLU(), {"optimizer": {"type": "SGD"}})
    with pytest.raises(ValueError, match="params: only together with a module"):
        configure_optimizers(SGD([torch.zeros(1)], 0.1), {"scheduler": ONE_CYCLE}, params=[])
    with pytest.raises(TypeError, match="expected a module or an optimizer, got list"):
        configure_optimizers([], {"scheduler": ONE_CYCLE})
    path = tmp_path / "ds.json"
    path.write_text('{"optimizer": {"type": "Lamb"}}')
    with pytest.raises(ValueError, match="Lamb") as error:
        configure_optimizers(Net(), path)
    assert str(error.value).startswith(f"{path}: optimizer.type")
