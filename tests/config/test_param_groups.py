"""Param groups by rule: which parameters come into which group, with which lr and weight decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_lrsched import configure_optimizers
from lightning_lrsched.config.optimizers import build_optimizer, check_optimizer, group_lines

# timm 1.0.31, param_groups_layer_decay(vit of three blocks, layer_decay=0.75): name -> lr_scale.
TIMM = {
    "cls_token": 0.31640625,
    "patch_embed.proj.weight": 0.31640625,
    "blocks.0.weight": 0.421875,
    "blocks.1.weight": 0.5625,
    "blocks.2.weight": 0.75,
    "norm.weight": 0.75,
    "head.weight": 1.0,
    "head.bias": 1.0,
}


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(2, 2, bias=False)


class Vit(nn.Module):
    """The names of a timm VisionTransformer."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(2))
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 2)


def section(**keys: Any) -> dict[str, Any]:
    return {"type": "AdamW", "params": {"lr": 0.1, "weight_decay": 0.5}, **keys}


def by_name(module: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    of = {id(p): group.get(key, 1.0) for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in module.named_parameters() if id(p) in of}


def test_layer_decay_is_timms() -> None:
    module = Vit()
    found = by_name(module, build_optimizer(module, section(layer_decay=0.75), scheduled=True), "lr_scale")
    assert {name: found[name] for name in TIMM} == pytest.approx(TIMM, rel=1e-12)


@pytest.mark.parametrize(
    "scheduler",
    [
        {"type": "WarmupLR", "params": {"warmup_max_lr": 0.2, "warmup_num_steps": 0}},
        {"type": "WarmupLR", "params": {"warmup_max_lr": "auto", "warmup_num_steps": 0}},
    ],
)
def test_the_ratio_holds_for_absolute_and_relative_schedules(scheduler: dict[str, Any]) -> None:
    module = Vit()
    config = {"optimizer": section(layer_decay=0.5), "scheduler": scheduler}
    optimizer = configure_optimizers(module, config)["optimizer"]
    lrs = by_name(module, optimizer, "lr")
    assert lrs["blocks.2.weight"] == pytest.approx(lrs["head.weight"] / 2, rel=1e-12)


def test_the_first_match_counts_and_the_rest_is_the_default_group() -> None:
    module = Vit()
    module.norm.weight.requires_grad = False
    rules = [{"match": "*.bias", "weight_decay": 0.0}, {"match": "head.*", "lr_ratio": 0.1, "weight_decay_ratio": 0.5}]
    optimizer = build_optimizer(module, section(groups=rules))
    assert [group["name"] for group in optimizer.param_groups] == ["default", "*.bias", "head.*"]
    decays, lrs = by_name(module, optimizer, "weight_decay"), by_name(module, optimizer, "lr")
    assert (decays["head.bias"], decays["head.weight"], decays["cls_token"]) == (0.0, 0.25, 0.5)
    assert (lrs["head.bias"], lrs["cls_token"]) == (0.1, 0.1)
    assert lrs["head.weight"] == pytest.approx(0.01)
    assert "norm.weight" not in lrs
    assert group_lines(optimizer)[2] == "head.*: 4 numbers in 1 parameter, lr 0.01, weight decay 0.25"
    assert group_lines(torch.optim.SGD([torch.zeros(1), torch.zeros(2)], lr=0.1))[0].startswith(
        "group 0: 3 numbers in 2 parameters, lr 0.1"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"groups": [{"match": "haed.*"}]}, r"groups\[0\]\.match='haed.\*' matches no parameter; near names are head"),
        ({"groups": [{"match": "*"}, {"match": "*.bias"}]}, "matches only parameters that earlier rules match"),
        ({"groups": [{"match": "*", "lr": 0.1}]}, "write lr_ratio"),
        ({"groups": [{"match": "*", "weight_deacy": 0.1}]}, "did you mean 'weight_decay'"),
        ({"groups": [{"lr_ratio": 0.1}]}, "match is missing"),
        ({"groups": {"match": "*"}}, "must be a list"),
        ({"layer_decay": 1.5}, "layer_decay must be a finite number and greater than 0 and at most 1"),
    ],
)
def test_a_wrong_rule_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build_optimizer(Vit(), section(**keys))


def test_without_numbered_blocks_there_is_no_layer_decay() -> None:
    with pytest.raises(ValueError, match="needs one series of numbered blocks"):
        build_optimizer(nn.Linear(2, 2), section(layer_decay=0.5))


def test_rules_are_checked_without_a_model() -> None:
    with pytest.raises(ValueError, match="a group has no such key"):
        check_optimizer(object(), section(groups=[{"match": "*", "x": 1}]))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_the_muon_of_deepspeed_is_explained() -> None:
    muon = {"type": "Muon", "params": {"muon_lr": 0.02, "adam_lr": 1e-3}}
    with pytest.raises(ValueError, match="return Muon for them and AdamW for the rest"):
        build_optimizer(nn.Linear(2, 2), muon)
