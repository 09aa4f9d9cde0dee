"""A small GPT on characters, trained with WarmupDecayLR, with WarmupCosineLR and, to compare, at a fixed learning rate.

Its text comes with every Python: the source of the standard library. On several devices each step takes a batch
from every one, so that the run has fewer steps; "auto" in the schedules below follows.

    python examples/char_lm.py [--schedule WarmupCosineLR] [--devices 2 --accelerator cpu] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import math
import sysconfig
import textwrap
import time
from pathlib import Path

import torch
from common import make_trainer, quieten, say, show_curves
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRSchedulerCallback

# The lengths become optimizer steps when training starts; "auto" for an lr means the optimizer's own, which
# WarmupCosineLR multiplies in any case.
SCHEDULES = {
    "WarmupDecayLR": {"warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"},
    "WarmupCosineLR": {"warmup_num_steps": "auto", "total_num_steps": "auto"},
    "fixed": None,
}
# The optimizer's lr, chosen by validation loss among 0.0015, 0.003, 0.006, 0.012 and 0.024 (one seed): for the fixed lr
# and the cosine the best of these; WarmupDecayLR would gain 0.02 bits at 0.024. A schedule that ends near 0 tolerates
# a higher lr, and needs it in so short a run: at 0.003 the fixed lr is ahead of both by 0.2 bits.
LRS = {"WarmupDecayLR": 0.012, "WarmupCosineLR": 0.012, "fixed": 0.006}
VOCABULARY = 128  # ASCII
CONTEXT = 64  # [characters]
BATCH_SIZE = 16  # on each device
VALIDATION_SHARE = 16  # one character to validate for this many to train


class CharGPT(LightningModule):
    """A transformer that predicts the next character. Note that it holds no scheduler code."""

    def __init__(self, lr: float, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.lr = lr
        self.characters = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCABULARY))
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        x = self.characters(text) + self.positions.weight[:length]
        for block in self.blocks:
            x = block(x, src_mask=self.causal[:length, :length], is_causal=True)
        return self.head(x)

    def loss(self, windows: Tensor) -> Tensor:
        """Return the mean loss of a character, in bits."""
        text = windows.long()
        return nn.functional.cross_entropy(self(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()) / math.log(2)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = self.loss(batch[0])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_loss", self.loss(batch[0]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Weight decay pulls on matrices alone: biases and the gains of LayerNorm are free.
        matrices = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.95))

    @torch.no_grad()
    def write(self, prompt: str, length: int, temperature: float = 0.8) -> str:
        """Return the prompt and what the model writes after it."""
        text = list(prompt.encode("ascii"))
        for _ in range(length):
            logits = self(torch.tensor([text[-CONTEXT:]], device=self.device))[0, -1]
            text.append(int(torch.multinomial((logits / temperature).softmax(0), 1)))
        return bytes(text).decode("ascii")


def loaders(characters: int) -> tuple[DataLoader, DataLoader]:
    """Return the training and the validation data: windows of text, from different files."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py"))
    texts = [file.read_text(encoding="utf-8").encode("ascii", "replace") for file in files]
    validation = b"".join(texts[::8])
    training = b"".join(text for number, text in enumerate(texts) if number % 8)
    return (
        DataLoader(windows(training, characters), BATCH_SIZE, shuffle=True),
        DataLoader(windows(validation, characters // VALIDATION_SHARE), BATCH_SIZE),
    )


def windows(text: bytes, characters: int) -> TensorDataset:
    """Return the text in pieces of CONTEXT characters, each with the one that follows it."""
    numbers = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return TensorDataset(numbers[: characters + 1].unfold(0, CONTEXT + 1, CONTEXT))


def train(name: str, args: argparse.Namespace) -> CharGPT:
    """Train from scratch, for one epoch, with an ordinary Trainer: the schedule is one callback."""
    start = time.perf_counter()
    seed_everything(args.seed, verbose=False)
    module = CharGPT(args.lr or LRS[name])
    callbacks = [LRSchedulerCallback({"type": name, "params": SCHEDULES[name]})] if SCHEDULES[name] else []
    trainer = make_trainer(
        args.out / "tensorboard",
        name,
        *callbacks,
        max_epochs=1,
        accelerator=args.accelerator,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        precision=args.precision,
        accumulate_grad_batches=args.accumulate,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, *loaders(args.characters))
    loss, took = trainer.callback_metrics["val_loss"], time.perf_counter() - start
    say(f"{name:<16} {module.lr:<7g} {loss:<6.3f} bits per character  {trainer.global_step:>6} steps  {took:5.0f} s")
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedule", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--lr", type=float, help=f"the same for every schedule; by default {LRS}")
    parser.add_argument("--characters", type=int, default=2**20, help="how much text to train on")
    parser.add_argument("--accumulate", type=int, default=1, help="batches for one optimizer step")
    parser.add_argument("--devices", type=int, default=1, help="several: DDP, one process for each")
    parser.add_argument("--accelerator", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--precision", default="32-true", help="as Lightning's Trainer has it, e.g. bf16-mixed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo_output/char_lm"), help="folder for logs")
    args = parser.parse_args()
    quieten(tables=True)
    size = sum(parameter.numel() for parameter in CharGPT(1.0).parameters())
    say("The next character in the source of Python's standard library, read once:")
    say(f"GPT with {size:,} parameters, AdamW, {args.devices} x {args.accumulate} x {BATCH_SIZE} windows in a step\n")
    say("schedule         lr      validation loss")
    trained = [train(name, args) for name in args.schedule]
    say(f"\nWhat the model trained with {args.schedule[0]} writes:\n")
    say(textwrap.indent(trained[0].write("def ", 300), "    "))
    show_curves(args.out / "tensorboard")


if __name__ == "__main__":
    main()
