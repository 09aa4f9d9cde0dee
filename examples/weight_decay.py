"""AdamW with a constant weight decay, and with one that follows the lr; a small GPT, several seeds.

For each seed the GPT of char_lm.py is trained three times with WarmupCosineLR: without weight decay, with a constant
one, and with one in proportion to the lr (AdamC's, arXiv 2506.02285). Bias and norms have none in all of them.

    python examples/weight_decay.py [--seeds 5] [--steps 200] [--out demo_output/weight_decay]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from char_lm import BATCH_SIZE, CONTEXT, CharGPT, loaders
from common import make_trainer, quieten, say
from lightning.pytorch import seed_everything

from lightning_lrsched import configure_optimizers

LR = 0.012  # the best of char_lm.py for the cosine
DECAY = 0.1
WAYS: dict[str, tuple[float, dict[str, Any]]] = {
    "none": (0.0, {}),
    "constant": (DECAY, {}),
    "follows the lr": (DECAY, {"weight_decay": {"follows": "lr"}}),
}


class DecayedGPT(CharGPT):
    def __init__(self, decay: float, beside: dict[str, Any]) -> None:
        super().__init__(LR)
        groups = [{"match": "*.bias", "weight_decay": 0.0}]
        self.config = {
            "optimizer": {"type": "AdamW", "params": {"lr": LR, "weight_decay": decay}, "groups": groups},
            "scheduler": {
                "type": "WarmupCosineLR",
                "params": {
                    "total_num_steps": "auto",
                    "warmup_num_steps": 20,
                    "cos_min_ratio": 0.0,
                    "hyperparameters": beside,
                },
            },
        }

    def configure_optimizers(self) -> Any:
        return configure_optimizers(self, self.config)


def train(way: str, seed: int, args: argparse.Namespace) -> float:
    """Return the final validation loss [bits per character]."""
    seed_everything(seed, verbose=False)
    training, validation = loaders(args.steps * BATCH_SIZE * CONTEXT)
    name = f"{way.replace(' ', '_')}_seed{seed}"
    trainer = make_trainer(
        args.out / "tensorboard",
        name,
        max_steps=args.steps,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
    )
    module = DecayedGPT(*WAYS[way])
    trainer.fit(module, training)
    trainer.limit_val_batches = 1.0
    return trainer.validate(module, validation, verbose=False)[0]["val_loss"]


def table(losses: dict[str, list[float]]) -> str:
    """Return medians and ranges over the seeds, and how many seeds each way wins against the constant one."""
    lines = ["validation loss [bits per character]: median (lowest to highest)"]
    lines += [f"{'weight decay':<14} | {'loss':<22} | better than constant"]
    for way, of_seeds in losses.items():
        spread = f"{statistics.median(of_seeds):.3f} ({min(of_seeds):.3f} to {max(of_seeds):.3f})"
        wins = sum(own < constant for own, constant in zip(of_seeds, losses["constant"], strict=True))
        better = "" if way == "constant" else f"{wins} of {len(of_seeds)} seeds"
        lines.append(f"{way:<14} | {spread:<22} | {better}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("demo_output/weight_decay"), help="folder for the logs")
    args = parser.parse_args()
    quieten()
    start = time.perf_counter()
    losses = {way: [train(way, seed, args) for seed in range(args.seeds)] for way in WAYS}
    (args.out / "weight_decay.json").write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")
    say(f"{table(losses)}\n\nTook {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
