"""Small real trainings, to measure what a learning rate is worth: model, data, optimizer, loss, number of steps.

All data ships with scikit-learn or with Python itself. A training takes between 0.1 and 2 seconds on one core.
The same task runs in a plain torch loop (``train``, ``sweep``) and, through ``TaskModule``, in a Lightning Trainer.
"""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_friedman1
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name
from torch.utils.data import DataLoader

Arrays = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs and targets, validation inputs and targets."""


@dataclass
class Task:
    """One training, from its seed: nothing in it is shared with another."""

    name: str
    seed: int
    model: nn.Module
    make_optimizer: Callable[[Any, float], torch.optim.Optimizer]
    data: Arrays
    loss: Callable[[Tensor, Tensor], Tensor]
    batch_size: int
    num_steps: int
    classifies: bool

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return self.make_optimizer(self.model.parameters(), lr)

    def batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches, epoch after epoch in a new order; the order depends on the seed alone."""
        inputs, targets, _, _ = self.data
        order = torch.Generator().manual_seed(self.seed)
        size, done = self.batch_size, 0
        while done < number:
            index = torch.randperm(len(inputs), generator=order)
            for begin in range(0, len(inputs) - size + 1, size):
                if done == number:
                    return
                rows = index[begin : begin + size]
                yield inputs[rows], targets[rows]
                done += 1

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the validation loss and, of a classifier, the error rate in percent."""
        self.model.eval()
        _, _, inputs, targets = self.data
        outputs = self.model(inputs)
        self.model.train()
        values = {"loss": self.loss(outputs, targets).item()}
        if self.classifies:
            wrong = outputs.flatten(0, -2).argmax(-1) != targets.flatten()
            values["error"] = 100 * wrong.double().mean().item()
        return {key: value if math.isfinite(value) else math.inf for key, value in values.items()}


def train(task: Task, lr: float, schedule: Callable[[torch.optim.Optimizer], Any] | None = None) -> dict[str, float]:
    """Train at ``lr``, or with the LR scheduler that ``schedule`` returns; return the final validation values."""
    optimizer = task.optimizer(lr)
    scheduler = schedule(optimizer) if schedule else None
    for inputs, targets in task.batches(task.num_steps):
        loss = task.loss(task.model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return task.validate()


def sweep(task: Task, lrs: Sequence[float], *, validate: bool = False) -> list[float]:
    """Train with one lr after the other, to the end whatever happens; return the loss of each step.

    ``validate``: the validation loss after each step instead.
    """
    optimizer = task.optimizer(lrs[0])
    losses = []
    for lr, (inputs, targets) in zip(lrs, task.batches(len(lrs)), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = task.loss(task.model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(task.validate()["loss"] if validate else loss.item())
        if not math.isfinite(losses[-1]):
            break
    return losses + [math.nan] * (len(lrs) - len(losses))


class TaskModule(LightningModule):
    """A task as a LightningModule; ``lr`` is where Lightning's ``lr_find`` looks for it."""

    def __init__(self, task: Task, lr: float = 1e-3) -> None:
        super().__init__()
        self.task, self.net, self.lr = task, task.model, lr

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return self.task.loss(self.net(inputs), targets)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(list(self.task.batches(500)), batch_size=None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.task.optimizer(self.lr)


# Data -----------------------------------------------------------------------------------------------------------------


def split(inputs: Tensor, targets: Tensor, train_rows: int) -> Arrays:
    """Split into training and validation rows, the same for every seed; scale the inputs by the training rows."""
    index = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    first, rest = index[:train_rows], index[train_rows:]
    mean, scale = inputs[first].mean(0), inputs[first].std(0).clamp(min=1e-6)
    inputs = (inputs - mean) / scale
    return inputs[first], targets[first], inputs[rest], targets[rest]


@cache
def digits() -> Arrays:
    raw = load_digits()
    index = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(raw.target)
    return images[index[:1100]], labels[index[:1100]], images[index[1100:]], labels[index[1100:]]


@cache
def friedman() -> Arrays:
    inputs, targets = make_friedman1(n_samples=2000, n_features=10, noise=1.0, random_state=0)
    as_float = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)
    return split(*as_float, train_rows=1200)


@cache
def diabetes() -> Arrays:
    raw = load_diabetes()
    targets = torch.tensor(raw.target, dtype=torch.float32)
    return split(torch.tensor(raw.data, dtype=torch.float32), (targets - 152) / 77, train_rows=300)


def noisy_cancer(seed: int) -> Arrays:
    """Breast cancer, with 15 % of the training labels turned round."""
    raw = load_breast_cancer()
    data = split(torch.tensor(raw.data, dtype=torch.float32), torch.tensor(raw.target), train_rows=350)
    flipped = torch.rand(350, generator=torch.Generator().manual_seed(seed)) < 0.15
    return data[0], torch.where(flipped, 1 - data[1], data[1]), data[2], data[3]


CONTEXT = 64


@cache
def source_text() -> Arrays:
    """Characters of some modules of the standard library, in windows of 64: predict each next character."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("argparse", "ast", "bdb", "calendar", "cmd", "copy", "csv", "dis", "enum", "heapq", "inspect", "textwrap")
    text = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in names)
    codes = torch.tensor([min(ord(letter), 127) for letter in text])
    windows = codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    held_out, rest = windows[:192], windows[192:]
    return (
        rest[:, :-1].contiguous(),
        rest[:, 1:].contiguous(),
        held_out[:, :-1].contiguous(),
        held_out[:, 1:].contiguous(),
    )


# Models ---------------------------------------------------------------------------------------------------------------


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.norm2(x))


class CharTransformer(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(128, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.letters(codes) + self.places.weight
        return self.head(self.blocks(x))


def letters_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs.squeeze(-1), targets)


def pixels_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets)


# Optimizers -----------------------------------------------------------------------------------------------------------


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def sgd_with_decay(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)


def adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, fused=True)


# Tasks ----------------------------------------------------------------------------------------------------------------


def digits_cnn_sgd() -> dict[str, Any]:
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )
    return {"model": model, "make_optimizer": sgd, "data": digits(), "batch_size": 32, "num_steps": 400}


def digits_mlp_adam() -> dict[str, Any]:
    return {"model": mlp(64, 64, 10), "make_optimizer": adam, "data": digits(), "batch_size": 64, "num_steps": 300}


def digits_mlp_sgd() -> dict[str, Any]:
    return {"model": mlp(64, 64, 10), "make_optimizer": sgd, "data": digits(), "batch_size": 64, "num_steps": 300}


def digits_batchnorm_sgd() -> dict[str, Any]:
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU()),
        *(nn.Linear(48, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10)),
    )
    return {
        "model": model,
        "make_optimizer": sgd_with_decay,
        "data": digits(),
        "batch_size": 32,
        "num_steps": 400,
    }


def digits_autoencoder_adam() -> dict[str, Any]:
    train, _, held_out, _ = (part.flatten(1) if part.dim() > 1 else part for part in digits())
    return {
        "model": nn.Sequential(mlp(64, 48, 12), mlp(12, 48, 64)),
        "make_optimizer": adam,
        "data": (train, train, held_out, held_out),
        "loss": pixels_loss,
        "batch_size": 32,
        "num_steps": 500,
        "classifies": False,
    }


def friedman_adamw() -> dict[str, Any]:
    return {
        "model": mlp(10, 64, 64, 1),
        "make_optimizer": adamw,
        "data": friedman(),
        "loss": squares,
        "batch_size": 32,
        "num_steps": 500,
        "classifies": False,
    }


def diabetes_sgd() -> dict[str, Any]:
    return {
        "model": mlp(10, 8, 1),
        "make_optimizer": sgd_with_decay,
        "data": diabetes(),
        "loss": squares,
        "batch_size": 16,
        "num_steps": 300,
        "classifies": False,
    }


def noisy_cancer_sgd(seed: int) -> dict[str, Any]:
    return {
        "model": mlp(30, 32, 2),
        "make_optimizer": sgd,
        "data": noisy_cancer(seed),
        "batch_size": 8,
        "num_steps": 300,
    }


def char_transformer_adamw() -> dict[str, Any]:
    return {
        "model": CharTransformer(),
        "make_optimizer": adamw,
        "data": source_text(),
        "loss": letters_loss,
        "batch_size": 8,
        "num_steps": 200,
        "classifies": False,  # every letter is right or wrong, but the loss is what a language model is judged by
    }


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "digits_cnn_sgd": digits_cnn_sgd,
    "digits_mlp_adam": digits_mlp_adam,
    "digits_mlp_sgd": digits_mlp_sgd,
    "digits_batchnorm_sgd": digits_batchnorm_sgd,
    "digits_autoencoder_adam": digits_autoencoder_adam,
    "friedman_adamw": friedman_adamw,
    "diabetes_sgd": diabetes_sgd,
    "noisy_cancer_sgd": noisy_cancer_sgd,
    "char_transformer_adamw": char_transformer_adamw,
}


LR_GRIDS = {"diabetes_sgd": (1e-4, 0.3), "noisy_cancer_sgd": (3e-4, 1.0)}
"""Lowest and highest lr of the tasks whose best lies elsewhere than their optimizer's."""


def make_task(name: str, seed: int) -> Task:
    """Return a fresh task; two with the same seed are equal."""
    torch.manual_seed(seed)
    parts = TASKS[name](seed) if name == "noisy_cancer_sgd" else TASKS[name]()
    defaults = {"loss": F.cross_entropy, "classifies": True}
    return Task(name=name, seed=seed, **{**defaults, **parts})


def lr_grid(name: str) -> list[float]:
    """Return 12 learning rates, evenly spaced in log lr, wide enough that the best lies inside."""
    low, high = LR_GRIDS.get(name, (1e-3, 3.0) if name.endswith("_sgd") else (1e-4, 0.3))
    return [float(lr) for lr in np.geomspace(low, high, 12)]
