"""One long training at a stable learning rate, and a cooldown from each of its checkpoints.

For each seed, a small GPT (that of char_lm.py) is trained once with WarmupStableDecayLR without its decay. From three
checkpoints of that training a branch goes on for a quarter of the steps, with the decay: it ends as a training of its
own would, for a fifth of its steps. Beside it stand three separate trainings of the same lengths, planned so from the
start: with the same schedule, and with WarmupCosineLR, whose length must be known before it begins.

    python examples/cooldown.py [--seeds 5] [--steps 800] [--out demo_output/cooldown]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from char_lm import BATCH_SIZE, CONTEXT, CharGPT, loaders
from common import make_trainer, quieten, say, show_curves
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_lrsched import LRSchedulerCallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LR = 0.012  # the best of char_lm.py for the cosine
WARMUP = 20  # [optimizer steps]; the same for all lengths: the branches share it
DECAY = 0.2  # of a run's length
LENGTHS = (0.25, 0.5, 1.0)  # of --steps
PARAMS = {"total_num_steps": "auto", "warmup_num_steps": WARMUP}
WAYS = {"branch": "branch, 1-sqrt", "alone": "alone, 1-sqrt", "cosine": "alone, cosine"}

Record = dict[str, Any]


def schedule(name: str, **params: Any) -> LRSchedulerCallback:
    return LRSchedulerCallback({"type": name, "params": {**PARAMS, **params}})


def stable_decay(decay: float) -> LRSchedulerCallback:
    return schedule("WarmupStableDecayLR", warmup_max_lr="auto", decay_num_steps=decay, decay_type="1-sqrt")


def train(
    run: str, seed: int, steps: int, args: argparse.Namespace, *callbacks: Any, start: Path | None = None
) -> float:
    """Train until ``steps`` optimizer steps are made, from a checkpoint where one is given; return the final loss."""
    kind = run.partition("_")[0]
    # A branch reads other batches than the trunk; a separate training has weights and batches of its own.
    seed_everything(seed + {"trunk": 0, "branch": 1000, "alone": 2000, "cosine": 2000}[kind], verbose=False)
    training, validation = data(args.steps)
    trainer = make_trainer(
        args.out / "tensorboard",
        f"{run}_seed{seed}",
        *callbacks,
        max_steps=steps,
        # Checkpoints are saved where epochs end: an ordinary loader begins anew on a resume.
        limit_train_batches=round((1 - DECAY) * LENGTHS[0] * args.steps),
        limit_val_batches=0,
        gradient_clip_val=1.0,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )
    module = CharGPT(LR)
    trainer.fit(module, training, ckpt_path=start)
    trainer.limit_val_batches = 1.0
    return trainer.validate(module, validation, verbose=False)[0]["val_loss"]


def data(steps: int) -> tuple[DataLoader, DataLoader]:
    """Return text for that many steps, and text to validate."""
    return loaders(steps * BATCH_SIZE * CONTEXT)


def compare(seed: int, args: argparse.Namespace) -> list[Record]:
    """Return one record for each length: the final losses of the branch and of the two separate trainings."""
    lengths = [round(args.steps * share) for share in LENGTHS]
    starts = [round((1 - DECAY) * length) for length in lengths]
    folder = args.out / "checkpoints" / f"seed{seed}"
    saved = ModelCheckpoint(folder, "{step}", every_n_train_steps=starts[0], save_top_k=-1)
    train("trunk", seed, starts[-1], args, stable_decay(0), saved)
    records = []
    for length, start in zip(lengths, starts, strict=True):
        branch = train(f"branch_{length}", seed, length, args, stable_decay(DECAY), start=folder / f"step={start}.ckpt")
        alone = train(f"alone_{length}", seed, length, args, stable_decay(DECAY))
        cosine = train(f"cosine_{length}", seed, length, args, schedule("WarmupCosineLR", cos_min_ratio=0.0))
        losses = {"branch": branch, "alone": alone, "cosine": cosine}
        records.append({"seed": seed, "steps": length, "start": start, **losses})
        listed = ", ".join(f"{WAYS[way]} {loss:.3f}" for way, loss in losses.items())
        say(f"seed {seed}, {length:4} steps: {listed} bits per character")
    return records


def table(records: list[Record]) -> str:
    """Return medians and ranges over the seeds, and the steps that both ways took."""
    lengths = sorted({record["steps"] for record in records})
    lines = ["validation loss [bits per character]: median (lowest to highest)"]
    lines += [" | ".join(["steps", *(f"{title:<22}" for title in WAYS.values())]).rstrip()]
    for length in lengths:
        of_length = [record for record in records if record["steps"] == length]
        cells = [f"{spread([record[way] for record in of_length]):<22}" for way in WAYS]
        lines.append(" | ".join([f"{length:5}", *cells]).rstrip())
    branched, alone = steps_made(records)
    saved = 1 - branched / alone
    lines.append(f"steps made for each seed: {branched} with branches, {alone} alone: {saved:.0%} saved")
    return "\n".join(lines)


def spread(losses: list[float]) -> str:
    return f"{statistics.median(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})"


def steps_made(records: list[Record]) -> tuple[int, int]:
    """Return the optimizer steps of the trunk with its branches, and of separate trainings of one kind."""
    pairs = {(record["steps"], record["start"]) for record in records}
    trunk = max(start for _, start in pairs)
    return trunk + sum(steps - start for steps, start in pairs), sum(steps for steps, _ in pairs)


def draw(records: list[Record]) -> Figure:
    """Return a picture: the lr of the trunk and its branches, and the final losses of every seed."""
    import torch
    from matplotlib.figure import Figure

    from lightning_lrsched import WarmupStableDecayLR

    lengths = sorted({record["steps"] for record in records})
    figure = Figure((7.2, 2.8), layout="constrained")
    lrs, losses = figure.subplots(1, 2)
    for length in lengths:
        decay = round(DECAY * length)
        made = WarmupStableDecayLR(
            torch.optim.SGD([torch.zeros(1)], lr=LR),
            length,
            warmup_max_lr=LR,
            warmup_num_steps=WARMUP,
            decay_num_steps=decay,
            decay_type="1-sqrt",
        )
        steps = range(0 if length == lengths[-1] else length - decay, length + 1)
        lrs.plot(steps, [made.lr_at(step)[0] for step in steps], color="#3a86c8", linewidth=1.5)
    lrs.set(xlabel="step", ylabel="lr", ylim=(0, None))
    styles = {"branch": ("#3a86c8", "o", 0.96), "alone": ("#2f9e44", "^", 1.0), "cosine": ("#d9731a", "s", 1.04)}
    for way, (color, marker, shift) in styles.items():
        medians = [statistics.median(r[way] for r in records if r["steps"] == length) for length in lengths]
        losses.plot(lengths, medians, color=color, linewidth=1.5)
        losses.plot(
            [shift * record["steps"] for record in records],
            [record[way] for record in records],
            linestyle="",
            marker=marker,
            markersize=4,
            color=color,
            label=WAYS[way],
        )
    losses.set(xlabel="steps", ylabel="validation loss [bits]", xscale="log")
    losses.set_xticks(lengths, [str(length) for length in lengths])
    losses.set_xticks([], minor=True)
    losses.legend()
    for plot in (lrs, losses):
        plot.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800, help="length of the longest training; a multiple of 20")
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output/cooldown"), help="folder for logs and checkpoints"
    )
    args = parser.parse_args()
    if args.steps % 20:
        parser.error(f"--steps must be a multiple of 20, got {args.steps}: the branches begin where epochs end")
    quieten()
    # The branches have another length and decay than the training that saved the checkpoint: that is the point.
    warnings.filterwarnings("ignore", ".*resumes at step.*with hyperparameters that differ")
    # They need neither the callback that saved it nor a validation before their end.
    for message in (".*callbacks used to create the checkpoint.*", "You defined a `validation_step`.*"):
        warnings.filterwarnings("ignore", message)
    start = time.perf_counter()
    records = [record for seed in range(args.seeds) for record in compare(seed, args)]
    (args.out / "cooldown.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    say(f"\n{table(records)}\n\nTook {time.perf_counter() - start:.0f} s.")
    show_curves(args.out)


if __name__ == "__main__":
    main()
