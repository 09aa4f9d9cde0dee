"""Makes ``wsd_golden.json``: what Hugging Face's ``get_wsd_schedule`` gives in its stable part and in its decay.

The quick tests (``test_wsd_golden.py``) read the file and need no ``transformers``. To renew it, with
transformers 5.24.0::

    python tests/integration/make_wsd_golden.py

A configuration of the file: the parameters as Hugging Face names them, the optimizer's lr, and the lr at each step from
the end of the warmup to beyond the end of the decay.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

GOLDEN = Path(__file__).with_name("wsd_golden.json")
SHAPES = ("linear", "cosine", "1-sqrt")
NUMBER = 12
"""Number of drawn configurations of each shape."""


def drawn() -> list[dict[str, Any]]:
    """Return the configurations, the same ones in every run."""
    random, found = Random(0), []
    for shape in SHAPES:
        for _ in range(NUMBER):
            warmup, stable, decay = (
                random.randint(2, 8),
                random.choice([0, 1, random.randint(2, 9)]),
                random.randint(1, 20),
            )
            found.append(
                {
                    "num_warmup_steps": warmup,
                    "num_decay_steps": decay,
                    "num_training_steps": warmup + stable + decay,
                    "decay_type": shape,
                    "min_lr_ratio": random.choice([0.0, random.random()]),
                    "lr": 10 ** random.uniform(-6, 0.5),
                }
            )
    return found


def with_values(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with Hugging Face's lr at each step from the end of its warmup on."""
    from torch import zeros
    from torch.optim import SGD
    from transformers import get_wsd_schedule

    params = dict(configuration)
    schedule = get_wsd_schedule(SGD([zeros(1)], lr=params.pop("lr")), **params)
    steps = range(params["num_warmup_steps"], params["num_training_steps"] + 3)
    return {**configuration, "lrs": [configuration["lr"] * schedule.lr_lambdas[0](step) for step in steps]}


def main() -> None:
    lines = [json.dumps(with_values(configuration), separators=(",", ":")) for configuration in drawn()]
    GOLDEN.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
