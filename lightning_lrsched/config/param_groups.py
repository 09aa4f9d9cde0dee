"""Param groups by rule: patterns over the names of parameters, and an lr that decays with the depth of the layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch.nn import Module

from lightning_lrsched.schedules.errors import ParameterTypeError, ParameterValueError, did_you_mean, short
from lightning_lrsched.schedules.fields import Number, Params

LR_RATIO, DECAY_RATIO = "lr_ratio", "weight_decay_ratio"
KEYS = {
    LR_RATIO: Number(at_least=0),
    "weight_decay": Number(at_least=0),
    DECAY_RATIO: Number(at_least=0),
}
LAYER_DECAY = Number(above=0, at_most=1)
DEFAULT = "default"

BLOCK = re.compile(r"(?:^|(?<=\.))(\d+)(?=\.)")
"""The number of a block in the name of a parameter: 3 in ``encoder.layer.3.weight``."""


@dataclass(frozen=True)
class Rule:
    """Which parameters a rule is for, and what their group has.

    Args:
        match: a pattern over the names of parameters, with ``*``, ``?`` and ``[...]`` as in file names; a ``*`` also
            matches dots.
        values: what the group has, by key.
    """

    match: str
    values: Mapping[str, float]

    @classmethod
    def parse(cls, path: str, given: object) -> Rule:
        """Read ``{"match": "*.bias", "weight_decay": 0.0}``, or raise ParameterError."""
        if not isinstance(given, Mapping):
            raise ParameterTypeError(path, f"must be a mapping with the key match, got {short(given)}")
        allowed = ["match", *KEYS]
        for key in given:
            if key not in allowed:
                hint = (
                    " (write lr_ratio, a multiple of the optimizer's lr)" if key == "lr" else did_you_mean(key, allowed)
                )
                raise ParameterValueError(
                    f"{path}.{str(key)[:60]}", f": a group has no such key{hint}; it takes {', '.join(allowed)}"
                )
        if "match" not in given:
            raise ParameterValueError(f"{path}.match", "is missing: a pattern over the names of parameters")
        if not isinstance(given["match"], str):
            raise ParameterTypeError(
                f"{path}.match", f"must be a pattern such as '*.bias', got {short(given['match'])}"
            )
        if "weight_decay" in given and DECAY_RATIO in given:
            raise ParameterValueError(f"{path}.{DECAY_RATIO}", "and weight_decay are both given; keep one of them")
        values: Params = {key: KEYS[key].parse(f"{path}.{key}", one) for key, one in given.items() if key != "match"}
        return cls(given["match"], values)


@dataclass(frozen=True)
class GroupRules:
    """How parameters are sorted into groups; the first rule that matches a name counts.

    Args:
        path: key path of the optimizer section, for messages.
        rules: the rules, in their order.
        layer_decay: by which factor the lr of a layer is smaller than that of the one above it; None: it is the same.
    """

    path: str
    rules: Sequence[Rule] = field(default_factory=tuple)
    layer_decay: float | None = None

    @classmethod
    def parse(cls, path: str, section: object) -> GroupRules | None:
        """Read the keys ``groups`` and ``layer_decay`` of an optimizer section; None where it has neither."""
        if not isinstance(section, Mapping):
            return None
        given, decay = section.get("groups"), section.get("layer_decay")
        if given is None and decay is None:
            return None
        if given is not None and (isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence)):
            raise ParameterTypeError(
                f"{path}.groups", f"must be a list with a mapping for each rule, got {short(given)}"
            )
        rules = [Rule.parse(f"{path}.groups[{number}]", one) for number, one in enumerate(given or ())]
        factor: Any = None if decay is None else LAYER_DECAY.parse(f"{path}.layer_decay", decay)
        return cls(path, rules, factor)

    def groups(self, module: Module, weight_decay: float | None) -> list[Params]:
        """Return the param groups of a module's trainable parameters, each with a name and the ratio of its lr.

        Args:
            module: whose parameters they are.
            weight_decay: the optimizer's own weight decay; None: it has none.

        Raises:
            ValueError: if a pattern matches nothing, or there are no numbered layers.
        """
        named = list(module.named_parameters())
        names = [name for name, _ in named]
        rule_of = self._rule_of(names)
        depth_of, highest = ({}, 0) if self.layer_decay is None else self._depths(names)
        found: dict[tuple[int, int], Params] = {}
        for name, parameter in named:
            if not parameter.requires_grad:
                continue
            number, depth = rule_of.get(name, -1), depth_of.get(name, 0)
            if (number, depth) not in found:
                values = self.rules[number].values if number >= 0 else {}
                ratio = values.get(LR_RATIO, 1.0)
                ratio *= 1.0 if self.layer_decay is None else self.layer_decay ** (highest - depth)
                label = self.rules[number].match if number >= 0 else DEFAULT
                label = label if self.layer_decay is None else f"{label} layer {depth}"
                found[number, depth] = {
                    "params": [],
                    "name": label,
                    LR_RATIO: ratio,
                    **self._decay(values, weight_decay),
                }
            found[number, depth]["params"].append(parameter)
        if not found:
            raise ValueError("the module has no trainable parameters")
        return [found[key] for key in sorted(found)]

    def _decay(self, values: Mapping[str, float], weight_decay: float | None) -> Params:
        if "weight_decay" not in values and DECAY_RATIO not in values:
            return {}
        if weight_decay is None:
            raise ParameterValueError(
                f"{self.path}.groups", ": the optimizer has no weight_decay, but a group gives one"
            )
        return {"weight_decay": values.get("weight_decay", values.get(DECAY_RATIO, 1.0) * weight_decay)}

    def _rule_of(self, names: Sequence[str]) -> dict[str, int]:
        """Return the number of the rule for each name that one matches."""
        rule_of: dict[str, int] = {}
        for number, rule in enumerate(self.rules):
            matched = [name for name in names if fnmatchcase(name, rule.match)]
            where = f"{self.path}.groups[{number}].match"
            if not matched:
                near = get_close_matches(rule.match.strip("*."), names, n=3, cutoff=0.3) or names[:3]
                raise ParameterValueError(
                    where, f"={rule.match!r} matches no parameter; near names are {', '.join(near)}"
                )
            new = [name for name in matched if name not in rule_of]
            if not new:
                raise ParameterValueError(where, f"={rule.match!r} matches only parameters that earlier rules match")
            rule_of.update(dict.fromkeys(new, number))
        return rule_of

    def _depths(self, names: Sequence[str]) -> tuple[dict[str, int], int]:
        """Return the depth of each parameter, and the greatest: 0 before the blocks, the head one above the last."""
        numbers: dict[str, set[int]] = {}
        for name in names:
            found = BLOCK.search(name)
            if found:
                numbers.setdefault(name[: found.start()], set()).add(int(found.group(1)))
        longest = [prefix for prefix, each in numbers.items() if len(each) == max(map(len, numbers.values()))]
        if len(longest) != 1 or len(numbers[longest[0]]) < 2:
            listed = f"several of the same length: {', '.join(longest)}" if len(longest) > 1 else "none"
            raise ParameterValueError(
                f"{self.path}.layer_decay",
                f": it needs one series of numbered blocks (blocks.0, blocks.1, ...), found {listed}",
            )
        [prefix] = longest
        depth = {number: place for place, number in enumerate(sorted(numbers[prefix]), start=1)}
        last, head = len(depth), _head(names[-1], prefix)
        depths, passed = {}, 0
        for name in names:
            found = BLOCK.match(name, len(prefix)) if name.startswith(prefix) else None
            if found:
                passed = last
                depths[name] = depth[int(found.group(1))]
            else:
                depths[name] = last + 1 if head and name.startswith(head) else passed
        return depths, max(depths.values())


def _head(name: str, prefix: str) -> str:
    """Return the beginning of the names of the head, which the last parameter is of; empty if that is in a block."""
    if name.startswith(prefix) and BLOCK.match(name, len(prefix)):
        return ""
    shared = 0
    parts, of_blocks = name.split("."), prefix.split(".")
    while shared < len(parts) - 1 and parts[shared] == of_blocks[shared]:
        shared += 1
    return ".".join(parts[: shared + 1])
