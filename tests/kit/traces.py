"""All that a training changes, in one module and its data, and a fingerprint of it: what a trial must put back."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
import torchmetrics
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Meter:
    """A running mean, as many projects have one of their own."""

    def __init__(self) -> None:
        self.total, self.count, self.history = 0.0, 0, []

    def update(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1
        self.history.append(value)


class Average:
    """An average of weights that is saved and loaded."""

    def __init__(self, weight: Tensor) -> None:
        self.value = weight.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].clone()


class Noisy(Dataset):
    """Adds noise from generators of its own, of all kinds."""

    def __init__(self, size: int = 80) -> None:
        self.inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
        self.numpy, self.old = np.random.default_rng(1), np.random.RandomState(1)
        self.python, self.torch = random.Random(1), torch.Generator().manual_seed(1)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = self.numpy.normal() + self.old.normal() + self.python.gauss(0, 1)
        inputs = self.inputs[index]
        return inputs + 0.01 * torch.randn(4, generator=self.torch) + 0.001 * noise, inputs.sum(0, keepdim=True)


def noisy_data() -> DataLoader:
    return DataLoader(Noisy(), 8, shuffle=True, generator=torch.Generator().manual_seed(3))


class Everything(LightningModule):
    """A small regression that keeps a state of every kind, and changes all of it in each step and in its hooks."""

    def __init__(self, optimizer: Any = torch.optim.AdamW) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))
        self.frozen, self.make_optimizer = nn.Linear(4, 1), optimizer
        self.frozen.requires_grad_(False)
        self.register_buffer("queue", torch.zeros(1))
        self.register_buffer("later", None)
        self.mean, self.values = torchmetrics.MeanMetric(), torchmetrics.CatMetric()
        self.mean.update(3.0)
        self.batches, self.names, self.nested = 5, [str(n) for n in range(150)], {"losses": [[]], "last": None}
        self.scale, self.array = torch.ones(2), np.ones(2)
        self.meter, self.average = Meter(), Average(self.frozen.weight)
        self.own = torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1, momentum=0.9)
        self.outside = [nn.Linear(2, 2)]
        self.noise = torch.Generator().manual_seed(5)

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def change(self, loss: Tensor) -> None:
        """All that a step may change besides weights and optimizer."""
        value = loss.detach()
        self.queue, self.later = torch.cat([self.queue, value[None]]), value
        self.mean.update(value)
        self.values.update(value)
        self.batches += 1
        self.names.append("one more")
        self.nested["losses"][0].append(float(value))
        self.nested["last"] = self.batches
        self.scale.mul_(1.1)
        self.array += random.random() + np.random.rand()  # noqa: NPY002
        self.meter.update(float(value))
        self.average.value.add_(torch.randn(1, generator=self.noise))
        [parameter] = self.own.param_groups[0]["params"]
        parameter.grad = torch.ones(2)
        self.own.step()
        with torch.no_grad():
            self.outside[0].weight.add_(1.0)
        self.frozen.requires_grad_(True)
        self.made_later = self._made_later = self.batches

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.change(loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters(), lr=0.01)


IGNORED = (
    "_trainer",
    "_fabric",
    "_metric_attributes",
    "_current_fx_name",
    "_hparams",
    "_fabric_optimizers",
    "make_optimizer",
    "_forward_hooks",  # under numbers that go on from one module to the next
)


def plain(thing: Any) -> Any:
    """Return ``thing`` as numbers, texts and tuples."""
    if isinstance(thing, torch.Generator):
        thing = thing.get_state()
    if isinstance(thing, Tensor):
        return digest(thing.detach().to_dense().numpy()), thing.requires_grad, thing.grad is None
    if isinstance(thing, torch.optim.Optimizer):
        groups = [{k: v for k, v in group.items() if k not in ("lr", "initial_lr")} for group in thing.param_groups]
        thing = [*thing.state.values(), *groups]
    elif isinstance(thing, (nn.Module, Meter, Average)):
        thing = {name: value for name, value in vars(thing).items() if not callable(value)}
    if isinstance(thing, dict):
        return tuple(sorted((str(key), plain(value)) for key, value in thing.items() if key not in IGNORED))
    if isinstance(thing, (list, tuple)):
        return tuple(map(plain, thing))
    if isinstance(thing, np.ndarray):
        return digest(thing)
    return repr(thing) if isinstance(thing, (int, float, str, bool, type(None))) else type(thing).__name__


def digest(array: np.ndarray) -> str:
    return hashlib.sha1(array.tobytes()).hexdigest()


def trace(module: nn.Module, optimizer: Any) -> Any:
    """Everything that belongs to the model, without the lr that a sweep sets."""
    return plain(module), plain(list(module.named_parameters())), plain(list(module.named_buffers())), plain(optimizer)


def data_trace(loader: Any) -> Any:
    """The position of all random numbers."""
    dataset = loader.dataset
    return (
        plain(loader.generator),
        plain(dataset.torch),
        str(dataset.numpy.bit_generator.state),
        str(dataset.old.get_state()),
        dataset.python.getstate(),
        random.getstate(),
        plain(np.random.get_state()[1]),  # noqa: NPY002
        plain(torch.get_rng_state()),
    )
