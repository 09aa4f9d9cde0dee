"""Makes ``golden.json``: what DeepSpeed's schedules give on drawn configurations, at the positions where they turn.

The quick tests (``test_golden.py``) read the file and need no DeepSpeed. To renew it, with the DeepSpeed that is pinned
in ``constraints.txt``::

    python tests/integration/make_golden.py

A configuration of the file: the schedule, its parameters, the lr of the optimizer's param groups (an AdamW), positions
(finished optimizer steps), and at each of them lr and momentum of each param group. ``null`` stands where DeepSpeed's
value is not ours, on purpose (``tests/schedulers/test_corrected_on_purpose.py``), and for the momentum of schedules
that leave it alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

GOLDEN = Path(__file__).with_name("golden.json")
NUMBER = 25
"""Number of drawn configurations of each schedule."""

LARGEST_MOMENTUM = 0.999
"""DeepSpeed's momentum grows past 1; this package's stops here."""

Draw = Callable[[Random, int], dict[str, Any]]


def size(random: Random) -> int:
    """A length [optimizer steps]: often a very short one."""
    return random.choice([1, 2, 3, *(random.randint(4, largest) for largest in (20, 20, 120, 120, 120))])


def lr(random: Random) -> float:
    return 10 ** random.uniform(-6, 0.5)


def stairs(random: Random) -> int:
    return random.choice([0, 1, 3, random.randint(2, 12)])


def one_or_list(random: Random, values: list[Any]) -> Any:
    """One value for all param groups, or the list with one for each."""
    return values if random.random() < 0.5 else values[0]


def ends(random: Random, value: Callable[[], float], groups: int) -> tuple[Any, Any]:
    """Low and high end: two numbers, or two lists with one number per param group."""
    pairs = [sorted([value(), value()]) for _ in range(groups)]
    one = one_or_list(random, pairs)
    return ([low for low, _ in pairs], [high for _, high in pairs]) if one is pairs else tuple(pairs[0])


def lr_ends(random: Random, groups: int) -> tuple[Any, Any]:
    return ends(random, lambda: random.choice([0.0, lr(random), lr(random), lr(random)]), groups)


def range_test(random: Random, groups: int) -> dict[str, Any]:
    return {
        "lr_range_test_min_lr": one_or_list(random, [lr(random) for _ in range(groups)]),
        "lr_range_test_step_size": size(random),
        "lr_range_test_step_rate": random.choice([1.0, 10 ** random.uniform(-3, 2)]),
        "lr_range_test_staircase": random.choice([True, False]),
    }


def one_cycle(random: Random, groups: int) -> dict[str, Any]:
    min_lr, max_lr = lr_ends(random, groups)
    min_mom, max_mom = ends(random, lambda: random.uniform(0.01, 0.998), groups)
    return {
        "cycle_min_lr": min_lr,
        "cycle_max_lr": max_lr,
        "decay_lr_rate": random.choice([0.0, random.uniform(0.01, 5)]),
        "cycle_first_step_size": size(random),
        "cycle_second_step_size": random.choice([None, 0, size(random), size(random)]),
        "cycle_first_stair_count": stairs(random),
        "cycle_second_stair_count": random.choice([None, stairs(random)]),
        "decay_step_size": random.choice([0, size(random), size(random)]),
        "cycle_momentum": random.random() < 0.8,
        "cycle_min_mom": min_mom,
        "cycle_max_mom": max_mom,
        "decay_mom_rate": random.choice([0.0, random.uniform(1e-4, 0.01)]),
    }


def warmup(random: Random, groups: int) -> dict[str, Any]:
    min_lr, max_lr = lr_ends(random, groups)
    return {
        "warmup_min_lr": min_lr,
        "warmup_max_lr": max_lr,
        "warmup_num_steps": size(random),
        "warmup_type": random.choice(["log", "linear"]),
    }


def warmup_to_own_lr(random: Random, groups: int) -> dict[str, Any]:
    params = warmup(random, groups)
    return {**params, "warmup_min_lr": 0.0, "warmup_max_lr": None} if random.random() < 0.2 else params


def warmup_decay(random: Random, groups: int) -> dict[str, Any]:
    params = warmup(random, groups)
    decay = random.choice([-5, 0, 1, *(size(random) for _ in range(5))])
    return {"total_num_steps": max(1, params["warmup_num_steps"] + decay), **params}


def warmup_cosine(random: Random, groups: int) -> dict[str, Any]:
    params = warmup_decay(random, groups)
    return {
        "total_num_steps": params["total_num_steps"],
        "warmup_min_ratio": random.choice([0.0, random.random()]),
        "warmup_num_steps": params["warmup_num_steps"],
        "cos_min_ratio": random.choice([0.0, random.random()]),
        "warmup_type": params["warmup_type"],
    }


DRAWS: dict[str, Draw] = {
    "LRRangeTest": range_test,
    "OneCycle": one_cycle,
    "WarmupLR": warmup_to_own_lr,
    "WarmupDecayLR": warmup_decay,
    "WarmupCosineLR": warmup_cosine,
}


def positions(params: dict[str, Any], random: Random) -> list[int]:
    """Finished steps around the beginning and around each turn of a schedule, and some between and after them."""
    lengths = {params[key] or 0 for key in params if key.endswith(("_num_steps", "_step_size"))}
    if "cycle_first_step_size" in params:
        first, second = params["cycle_first_step_size"], params["cycle_second_step_size"]
        lengths = {first, first + (first if second is None else second)}
    around = {0, 1, 2} | {length + offset for length in lengths for offset in (-1, 0, 1, 2)}
    between = {random.randint(0, 2 * max(lengths)) for _ in range(12)}
    return sorted(step for step in around | between if step >= 0)


def with_values(configuration: dict[str, Any], lr_schedules: ModuleType) -> dict[str, Any]:
    """Return the configuration with DeepSpeed's lr and momentum at its positions."""
    from torch import zeros
    from torch.optim import AdamW

    name, params = configuration["schedule"], configuration["params"]
    optimizer = AdamW([{"params": [zeros(1)], "lr": own} for own in configuration["own_lrs"]])
    schedule = getattr(lr_schedules, name)(optimizer, **params)
    lrs: list[list[float] | None] = []
    momenta: list[list[float] | None] = []
    for step in range(configuration["steps"][-1] + 1):
        if step:
            schedule.step()
        if step in configuration["steps"]:
            momentum = [group["betas"][0] for group in optimizer.param_groups]
            lrs.append(None if name == "WarmupCosineLR" and not step else [g["lr"] for g in optimizer.param_groups])
            momenta.append(momentum if step and max(momentum) <= LARGEST_MOMENTUM else None)
    return {**configuration, "lr": lrs, "momentum": momenta if params.get("cycle_momentum") else None}


def drawn() -> list[dict[str, Any]]:
    """Return the configurations and their positions, the same ones in every run."""
    random = Random(0)
    found = []
    for name, draw in DRAWS.items():
        for _ in range(NUMBER):
            own_lrs = [lr(random) for _ in range(random.choice([1, 1, 2]))]
            params = draw(random, len(own_lrs))
            steps = positions(params, random)
            found.append({"schedule": name, "params": params, "own_lrs": own_lrs, "steps": steps})
    return found


def main() -> None:
    from deepspeed.runtime import lr_schedules

    lines = [json.dumps(with_values(configuration, lr_schedules), separators=(",", ":")) for configuration in drawn()]
    GOLDEN.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
