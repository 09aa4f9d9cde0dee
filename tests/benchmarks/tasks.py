"""Small real trainings, to measure what a learning rate is worth: model, data, optimizer, loss, number of steps.

Data, models and optimizers are in task_data.py and task_models.py. A training takes between 0.1 and 10 seconds on one
core, most take less than one.
The same task runs in a plain torch loop (``train``, ``sweep``) and, through ``TaskModule``, in a Lightning Trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import task_data as d
import task_models as m
import torch
from lightning.pytorch import LightningModule
from task_data import Arrays
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name
from torch.utils.data import DataLoader

Values = dict[str, float]
"""Validation loss and, of a classifier, error rate [%]."""


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
    def validate(self) -> Values:
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


def train(
    task: Task,
    lr: float,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Values:
    """Train at ``lr``, or with the LR scheduler that ``schedule`` returns; return the final validation values."""
    optimizer = optimizer or task.optimizer(lr)
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


# Tasks ----------------------------------------------------------------------------------------------------------------

Parts = tuple[Arrays, nn.Module, Any, int, int, Any]
"""Data, model, optimizer, batch size, number of steps, loss; a loss of None: the task classifies."""


def pretrained_cnn(seed: int) -> nn.Module:
    """Return a network that knows the digits 0 to 4, with a new last layer for the other five."""
    model = m.cnn(8, 5)
    train(_task("pretraining", seed, (d.some_digits(0, 5), model, m.adam, 32, 200, None)), 3e-3)
    model[-1].reset_parameters()
    return model


CHOOSING: dict[str, Callable[[int], Parts]] = {
    "digits_cnn_sgd": lambda seed: (d.digits(), m.cnn(8, 10), m.sgd, 32, 400, None),
    "digits_mlp_adam": lambda seed: (d.digits(), m.mlp(64, 64, 10), m.adam, 64, 300, None),
    "digits_mlp_sgd": lambda seed: (d.digits(), m.mlp(64, 64, 10), m.sgd, 64, 300, None),
    "digits_batchnorm_sgd": lambda seed: (
        *(d.digits(), m.normed_mlp(nn.BatchNorm1d, 64, 48, 48, 10), m.sgd_with_decay, 32, 400, None),
    ),
    "digits_autoencoder_adam": lambda seed: (
        *(d.digits_pixels(), nn.Sequential(m.mlp(64, 48, 12), m.mlp(12, 48, 64)), m.adam, 32, 500, m.pixels_loss),
    ),
    "friedman_adamw": lambda seed: (d.friedman(), m.mlp(10, 64, 64, 1), m.adamw, 32, 500, m.squares),
    "diabetes_sgd": lambda seed: (d.diabetes(), m.mlp(10, 8, 1), m.sgd_with_decay, 16, 300, m.squares),
    "noisy_cancer_sgd": lambda seed: (d.noisy_cancer(seed), m.mlp(30, 32, 2), m.sgd, 8, 300, None),
    # Every letter is right or wrong, but the loss is what a language model is judged by.
    "char_transformer_adamw": lambda seed: (d.source_text(), m.CharTransformer(), m.adamw, 8, 200, m.letters_loss),
    # Short, long.
    "wine_mlp_adamw_short": lambda seed: (d.wine(), m.mlp(13, 32, 3), m.adamw, 16, 80, None),
    "friedman_mlp_sgd_long": lambda seed: (d.friedman(), m.mlp(10, 32, 1), m.sgd, 16, 5000, m.squares),
    "digits_linear_adam_long": lambda seed: (d.digits(), m.mlp(64, 10), m.adam, 16, 3000, None),
    # Convex.
    "iris_linear_plain_sgd": lambda seed: (d.iris(), m.mlp(4, 3), m.plain_sgd, 10, 300, None),
    "least_squares_sgd": lambda seed: (d.least_squares(), m.mlp(20, 1), m.sgd, 16, 400, m.squares),
    "cancer_hinge_adam": lambda seed: (d.cancer(), m.mlp(30, 2), m.adam, 8, 200, m.hinge),
    # Plateaus at the beginning.
    "deep_sigmoid_adam": lambda seed: (
        *(d.digits(), m.mlp(64, 32, 32, 32, 10, activation=nn.Sigmoid), m.adam, 32, 800, None),
    ),
    "parity_mlp_sgd": lambda seed: (d.parity(), m.mlp(12, 64, 64, 2), m.sgd, 32, 1500, None),
    "spirals_tanh_adam": lambda seed: (d.spirals(), m.mlp(2, 32, 32, 3, activation=nn.Tanh), m.adam, 64, 1000, None),
    # Sequences; nets that saturate.
    "adding_lstm_adam": lambda seed: (d.adding(), m.Recurrent(nn.LSTM, 2, 1), m.adam, 32, 600, m.squares),
    "sines_gru_rmsprop": lambda seed: (d.sines(), m.Recurrent(nn.GRU, 1, 1), m.rmsprop, 32, 400, m.squares),
    "text_gru_adam": lambda seed: (
        *(d.source_text(), m.Recurrent(nn.GRU, 32, 128, codes=128, every=True), m.adam, 8, 250, m.letters_loss),
    ),
    # Embeddings.
    "ratings_adamw": lambda seed: (d.ratings(), m.Factors(), m.adamw, 64, 800, m.squares),
    # Noisy, overfitting.
    "shapes_cnn_noisy_nadam": lambda seed: (d.turn_labels(d.shapes(), 0.3, seed), m.cnn(12, 4), m.nadam, 16, 600, None),
    "shapes_batchnorm_sgd": lambda seed: (d.shapes(0.8), m.cnn(12, 4, norm=True), m.nesterov, 64, 300, None),
    "few_diabetes_adam": lambda seed: (d.diabetes(60), m.mlp(10, 128, 128, 1), m.adam, 16, 800, m.squares),
    "few_sines_lstm_adamw": lambda seed: (d.sines(80, 0.4), m.Recurrent(nn.LSTM, 1, 1), m.adamw, 16, 600, m.squares),
    # From weights that were trained before.
    "digits_finetuned_adamw": lambda seed: (d.some_digits(5, 10), pretrained_cnn(seed), m.adamw, 16, 100, None),
    # Scales that are not those of the textbooks.
    "unscaled_digits_sgd": lambda seed: (d.digits_from_0_to_16(), m.mlp(64, 64, 10), m.sgd, 64, 400, None),
    "summed_loss_sgd": lambda seed: (d.friedman(), m.mlp(10, 32, 1), m.sgd, 32, 600, m.summed_squares),
    # Other optimizers.
    "digits_mlp_lion": lambda seed: (d.digits(), m.mlp(64, 64, 10), m.lion, 32, 400, None),
    "text_transformer_lion": lambda seed: (d.source_text(), m.CharTransformer(32), m.lion, 8, 250, m.letters_loss),
    "digits_adafactor": lambda seed: (d.digits(), m.mlp(64, 64, 10), m.adafactor, 32, 400, None),
    "digits_muon": lambda seed: (d.digits(), m.mlp(64, 64, 64, 10, bias=False), m.muon, 64, 200, None),
    "counts_rmsprop": lambda seed: (d.counts(), m.mlp(8, 32, 1), m.rmsprop, 32, 500, m.poisson),
    "teacher_plain_sgd": lambda seed: (d.teacher(), m.mlp(16, 64, 1), m.plain_sgd, 64, 600, m.squares),
    # Reported until constants were chosen by them, too.
    "wine_deep_sgd": lambda seed: (d.wine(), m.mlp(13, 32, 32, 3), m.sgd, 8, 400, None),
    "cancer_mlp_adamw_short": lambda seed: (d.cancer(), m.mlp(30, 32, 2), m.adamw, 32, 60, None),
    "letters_linear_adam_long": lambda seed: (
        *(d.source_text(), nn.Sequential(nn.Embedding(128, 16), nn.Linear(16, 128)), m.adam, 4, 5000, m.letters_loss),
    ),
    "diabetes_linear_sgd": lambda seed: (d.diabetes(), m.mlp(10, 1), m.sgd, 16, 250, m.squares),
    "digits_sigmoid_cnn_adam": lambda seed: (d.digits(), m.cnn(8, 10, activation=nn.Sigmoid), m.adam, 32, 500, None),
    "spirals_relu_sgd": lambda seed: (d.spirals(), m.mlp(2, 64, 64, 3), m.sgd, 32, 2000, None),
    "adding_gru_adamw": lambda seed: (d.adding(30), m.Recurrent(nn.GRU, 2, 1), m.adamw, 64, 600, m.huber),
    "first_token_transformer_adamw": lambda seed: (
        *(d.first_token(), m.Classifier(12, 10, codes=10), m.adamw, 32, 300, None),
    ),
    "shapes_patches_adamw": lambda seed: (d.shapes(0.3), m.Classifier(9, 4), m.adamw, 32, 800, None),
    "shapes_autoencoder_rmsprop": lambda seed: (
        *(d.shapes_pixels(), m.mlp(144, 32, 144), m.rmsprop, 32, 400, m.pixels_loss),
    ),
    "friedman_noisy_adam": lambda seed: (d.friedman(5.0), m.mlp(10, 64, 1), m.adam, 8, 400, m.squares),
    "few_wine_overfit_adam": lambda seed: (
        d.turn_labels(d.wine(), 0.2, seed),
        m.mlp(13, 256, 3),
        m.adam,
        16,
        400,
        None,
    ),
    "turned_digits_cnn_sgd": lambda seed: (d.turn_labels(d.digits(), 0.3, seed), m.cnn(8, 10), m.sgd, 32, 1000, None),
    "teacher_tanh_adam": lambda seed: (
        d.teacher(),
        m.mlp(16, 64, 64, 1, activation=nn.Tanh),
        m.adam,
        64,
        150,
        m.squares,
    ),
    "ratings_sgd": lambda seed: (d.ratings(), m.Factors(), m.sgd, 64, 2000, m.squares),
    "digits_layernorm_radam": lambda seed: (
        d.digits(),
        m.normed_mlp(nn.LayerNorm, 64, 64, 64, 10),
        m.radam,
        32,
        300,
        None,
    ),
    "text_lstm_nadam": lambda seed: (
        *(d.source_text(), m.Recurrent(nn.LSTM, 32, 128, codes=128, every=True), m.nadam, 16, 300, m.letters_loss),
    ),
    "counts_deep_adamw": lambda seed: (d.counts(), m.mlp(8, 32, 32, 1), m.adamw, 64, 600, m.poisson),
}
"""The tasks by which constants are chosen, with seeds below 106."""


REPORTED: dict[str, Callable[[int], Parts]] = {
    "iris_mlp_adamw_short": lambda seed: (d.iris(), m.mlp(4, 16, 3), m.adamw, 8, 120, None),
    "cancer_linear_sgd": lambda seed: (d.cancer(), m.mlp(30, 2), m.sgd, 32, 250, None),
    "digits_rows_lstm_adam": lambda seed: (d.digits_rows(), m.Recurrent(nn.LSTM, 8, 10), m.adam, 32, 400, None),
    "digits_deep_tanh_sgd": lambda seed: (
        *(d.digits(), m.mlp(64, 48, 48, 48, 10, activation=nn.Tanh), m.nesterov, 32, 500, None),
    ),
    "diabetes_mlp_huber_adamw": lambda seed: (d.diabetes(), m.mlp(10, 32, 1), m.adamw, 32, 200, m.huber),
    "friedman_batchnorm_sgd": lambda seed: (
        *(d.friedman(), m.normed_mlp(nn.BatchNorm1d, 10, 64, 64, 1), m.sgd_with_decay, 64, 600, m.squares),
    ),
    "digits_denoising_nadam": lambda seed: (d.noisy_pixels(), m.mlp(64, 32, 64), m.nadam, 64, 600, m.pixels_loss),
    "next_letter_adamw": lambda seed: (
        *(d.next_letters(), nn.Sequential(nn.Embedding(128, 16), m.mlp(128, 64, 128)), m.adamw, 32, 1000, None),
    ),
    "sines_convolutions_adam": lambda seed: (d.sines(), m.Signal(), m.adam, 32, 500, m.squares),
    "blobs_linear_sgd_long": lambda seed: (d.blobs(), m.mlp(10, 6), m.sgd, 8, 5000, None),
    "moons_gelu_adam": lambda seed: (d.moons(), m.mlp(2, 32, 32, 2, activation=nn.GELU), m.adam, 16, 400, None),
    "ratings_network_rmsprop": lambda seed: (d.ratings(), m.DeepFactors(), m.rmsprop, 64, 1000, m.squares),
    "majority_mlp_sgd": lambda seed: (d.majority(), m.mlp(17, 64, 2), m.sgd, 32, 300, None),
    "friedman_quantile_adam": lambda seed: (d.friedman(), m.mlp(10, 48, 1), m.adam, 32, 500, m.quantile),
    "half_wrong_digits_adamw": lambda seed: (
        *(d.turn_labels(d.digits(), 0.5, seed), m.normed_mlp(nn.LayerNorm, 64, 64, 10), m.adamw, 64, 300, None),
    ),
    "outliers_huber_sgd": lambda seed: (d.outliers(), m.mlp(12, 1), m.sgd, 16, 300, m.huber),
    "digits_finetuned_sgd": lambda seed: (d.some_digits(5, 10), pretrained_cnn(seed), m.sgd, 32, 150, None),
    "digits_patches_adamw": lambda seed: (d.digits(), m.Classifier(4, 10), m.adamw, 64, 400, None),
}
"""The tasks that are reported, with seeds from 200 on; nothing was chosen by them."""

TASKS = CHOOSING | REPORTED


LR_RANGES = {
    "sgd": (2e-3, 8.0),
    "sgd_with_decay": (2e-3, 8.0),
    "nesterov": (2e-3, 8.0),
    "plain_sgd": (1e-2, 40.0),
    "lion": (1e-5, 4e-2),
    "adafactor": (5e-4, 2.0),
    "muon": (5e-4, 2.0),
    "summed_loss_sgd": (2e-6, 8e-3),
    "friedman_mlp_sgd_long": (1e-4, 0.4),
    "unscaled_digits_sgd": (1e-4, 0.4),
}
"""Lowest and highest lr, by task or by optimizer; those of Adam and its kin: 1e-4 and 0.4."""


def _task(name: str, seed: int, parts: Parts) -> Task:
    data, model, optimizer, batch_size, num_steps, loss = parts
    return Task(name, seed, model, optimizer, data, loss or F.cross_entropy, batch_size, num_steps, loss is None)


def make_task(name: str, seed: int) -> Task:
    """Return a fresh task; two with the same seed are equal."""
    torch.manual_seed(seed)
    return _task(name, seed, TASKS[name](seed))


def lr_grid(name: str, number: int = 12) -> list[float]:
    """Return learning rates, evenly spaced in log lr, wide enough that the best lies inside."""
    optimizer = TASKS[name](0)[2].__name__
    low, high = LR_RANGES.get(name) or LR_RANGES.get(optimizer) or (1e-4, 0.4)
    return [float(lr) for lr in np.geomspace(low, high, number)]
