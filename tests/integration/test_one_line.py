"""Modules of many kinds, each trained with the one line Trainer(callbacks=[LRSchedulerCallback()]) and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_lrsched import LRSchedulerCallback

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 250


def example(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
        return importlib.import_module(name)


def blobs(size: int = 512, classes: int = 4, batch_size: int = 32) -> DataLoader:
    """Clouds of points in eight dimensions, one for each class."""
    order = torch.Generator().manual_seed(0)
    centers = 1.5 * torch.randn(classes, 8, generator=order)
    labels = torch.randint(classes, (size,), generator=order)
    points = centers[labels] + torch.randn(size, 8, generator=order)
    return DataLoader(TensorDataset(points, labels), batch_size, shuffle=True)


class Classifier(LightningModule):
    """Tells the clouds apart; ``optimizer`` makes its optimizer."""

    def __init__(self, net: nn.Module, optimizer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net, self.make_optimizer = net, optimizer

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self)


def mlp(normalized: bool = False) -> nn.Module:
    norm = [nn.BatchNorm1d(32)] if normalized else []
    return nn.Sequential(nn.Linear(8, 32), *norm, nn.ReLU(), nn.Linear(32, 4))


def sgd(module: LightningModule) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)


def adam(module: LightningModule) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=1e-3)


def digits() -> tuple[Any, Any]:
    module = example("digits")
    return module.Digits(), module.loaders(0)[0]


def transformer() -> tuple[Any, Any, Any]:
    module = example("char_lm")
    return module.CharGPT(lr=1e-3, width=32, layers=1), *module.loaders(64_000)


def lstm() -> tuple[Any, Any, Any]:
    return example("large_batch").CharLSTM(1e-3), *example("char_lm").loaders(64_000)


def gan() -> tuple[Any, Any]:
    images, labels = example("digits").loaders(0)[0].dataset.tensors
    data = TensorDataset(images.flatten(1), labels)
    return example("gan").ConditionalGAN(), DataLoader(data, 64, shuffle=True, drop_last=True)


def hugging_face() -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers", reason="transformers, whose model this is, is not installed")

    class Bert(LightningModule):
        """Reads a sequence of numbers and says which of four it has most often."""

        def __init__(self) -> None:
            super().__init__()
            config = transformers.BertConfig(
                vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                max_position_embeddings=16, num_labels=4,
            )  # fmt: skip
            self.model = transformers.BertForSequenceClassification(config)

        def training_step(self, batch: Any) -> Tensor:
            return self.model(input_ids=batch[0], labels=batch[1]).loss

        def configure_optimizers(self) -> Any:
            return adam(self)

    order = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (512,), generator=order)
    texts = torch.randint(4, 16, (512, 12), generator=order)
    texts[:, ::2] = labels[:, None]
    return Bert(), DataLoader(TensorDataset(texts, labels), 32, shuffle=True)


def compiled() -> tuple[Any, Any]:
    return Classifier(torch.compile(mlp(), backend="aot_eager"), sgd), blobs()


def averaged() -> tuple[Any, Any]:
    return Classifier(mlp(normalized=True), sgd), blobs()


def autoencoder() -> tuple[Any, Any]:
    class Variational(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8)

        def training_step(self, batch: Any) -> Tensor:
            mean, log_variance = self.encoder(batch[0]).chunk(2, dim=1)
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
            return (self.decoder(code) - batch[0]).square().sum(1).mean() + 0.1 * divergence

        def configure_optimizers(self) -> Any:
            return torch.optim.RMSprop(self.parameters(), lr=1e-3, momentum=0.9)

    return Variational(), blobs()


def manual() -> tuple[Any, Any]:
    class Manual(Classifier):
        """Accumulates two batches by hand."""

        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.manual_backward(super().training_step(batch) / 2)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()

    return Manual(mlp(), adam), blobs()


def two_groups() -> tuple[Any, Any]:
    def optimizer(module: Any) -> torch.optim.Optimizer:
        matrices = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim == 1]
        return torch.optim.NAdam([{"params": matrices, "lr": 2e-3}, {"params": others, "lr": 1e-3}], weight_decay=0.01)

    return Classifier(mlp(), optimizer), blobs()


def stream() -> tuple[Any, Any]:
    class Stream(IterableDataset):
        """Never ends, and has no length."""

        def __iter__(self) -> Any:
            points, labels = blobs().dataset.tensors
            while True:
                chosen = torch.randint(len(labels), (32,))
                yield points[chosen], labels[chosen]

    return Classifier(mlp(), sgd), DataLoader(Stream(), batch_size=None)


def embedding() -> tuple[Any, Any]:
    class Bag(Classifier):
        """An embedding with sparse gradients and its own optimizer, and a head with another."""

        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__(nn.EmbeddingBag(64, 16, sparse=True), lambda module: module.two())
            self.head = nn.Linear(16, 4)

        def two(self) -> Any:
            return [torch.optim.SparseAdam(self.net.parameters(), 1e-3), adam(self.head)]

        def training_step(self, batch: Any) -> None:
            optimizers = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.head(self.net(batch[0])), batch[1]))
            for optimizer in optimizers:
                optimizer.step()

    order = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (512,), generator=order)
    words = torch.randint(16, (512, 6), generator=order) + 16 * labels[:, None]
    return Bag(), DataLoader(TensorDataset(words, labels), 32, shuffle=True)


def averaging() -> Any:
    averages = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging", reason="came with Lightning 2.6")
    return averages.EMAWeightAveraging(decay=0.9)


CALLBACKS: dict[Any, list[Callable[[], Any]]] = {averaged: [averaging]}
OPTIONS: dict[Any, dict[str, Any]] = {
    transformer: {"gradient_clip_val": 1.0, "limit_val_batches": 1},
    lstm: {"limit_val_batches": 1},
}


@pytest.mark.parametrize(
    "make",
    [
        *(digits, transformer, lstm, gan, hugging_face, compiled, averaged, autoencoder, manual, two_groups, stream),
        embedding,
    ],
)
def test_a_module_trains_with_one_line(make, make_trainer, tmp_path):
    seed_everything(0, verbose=False)
    module, *loaders = make()
    callback, others = LRSchedulerCallback(), [other() for other in CALLBACKS.get(make, [])]
    logger = TensorBoardLogger(tmp_path)
    trainer = make_trainer(callback, *others, max_steps=STEPS, max_epochs=-1, logger=logger, **OPTIONS.get(make, {}))
    losses: list[Tensor] = []
    backward = trainer.strategy.backward
    trainer.strategy.backward = lambda loss, *args, **kwargs: backward(
        losses.append(loss.detach()) or loss, *args, **kwargs
    )
    trainer.fit(module, *loaders)

    assert trainer.global_step == STEPS
    optimizers = len(callback.schedulers)
    assert [schedule.last_epoch for schedule in callback.schedulers] == [STEPS // optimizers] * optimizers
    for index, result in callback.range_test_results.items():
        peak = max(max(callback.schedulers[index].lr_at(step)) for step in range(STEPS))
        if make is not gan:
            assert peak == pytest.approx(result.bounds()[1])
        else:  # where a test shows nothing, the optimizer's own lr is used
            own = module.configure_optimizers()[index].defaults["lr"]
            assert any(peak == pytest.approx(lr) for lr in (own, result.bounds()[1]))
    if make is not gan:  # whose losses go up and down
        assert float(torch.stack(losses[-10:]).mean()) < 0.8 * float(torch.stack(losses[:10]).mean())
