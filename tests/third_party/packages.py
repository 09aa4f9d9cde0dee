"""Trainings of seconds with other people's packages; each gives its Trainer our callbacks where its users can."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}


@dataclass(frozen=True)
class Package:
    """A package, and a training with it.

    Args:
        name: as it is called in the index.
        train: trains with some callbacks, in a folder; returns the Trainer.
        has_scheduler: whether its module returns a scheduler of its own.
        metric: name of what it logs in validation, if it does; else the mean of the last ten training losses is taken.
    """

    name: str
    train: Callable[[Sequence[Any], Path], Any]
    has_scheduler: bool = False
    metric: str | None = None

    @property
    def version(self) -> str:
        """The version that is installed."""
        return importlib.metadata.version(self.name)

    @property
    def is_installed(self) -> bool:
        """Whether there is one."""
        try:
            return bool(self.version)
        except importlib.metadata.PackageNotFoundError:
            return False


def trainer_of(callbacks: Sequence[Any], folder: Path, **options: Any) -> Any:
    from lightning.pytorch import Trainer

    return Trainer(**{**QUIET, "default_root_dir": folder, "max_epochs": 10, **options}, callbacks=list(callbacks))


def chemprop(callbacks: Sequence[Any], folder: Path) -> Any:
    """A message passing network of chemprop, which always returns a scheduler of its own, on hydrocarbons."""
    from chemprop import data, models
    from chemprop import nn as layers

    molecules = [("C" * n, float(n)) for n in range(2, 18)] + [("C" * n + "O", n + 0.5) for n in range(2, 18)]
    points = [data.MoleculeDatapoint.from_smi(text, [size / 18]) for text, size in molecules]
    loader = data.build_dataloader(data.MoleculeDataset(points), batch_size=8, num_workers=0)
    module = models.MPNN(
        layers.BondMessagePassing(d_h=32), layers.MeanAggregation(), layers.RegressionFFN(input_dim=32)
    )
    trainer = trainer_of(callbacks, folder, max_epochs=25)
    trainer.fit(module, loader)
    return trainer


def series() -> Any:
    """Eight waves of 60 steps, as a frame with the columns ``unique_id``, ``ds`` and ``y``."""
    import pandas as pd

    steps = torch.arange(60.0)
    return pd.concat(
        pd.DataFrame({"unique_id": f"wave {k}", "ds": range(60), "y": torch.sin(steps / (2 + k / 2)).numpy()})
        for k in range(8)
    ).reset_index(drop=True)


def neuralforecast(callbacks: Sequence[Any], folder: Path) -> Any:
    """NHITS of neuralforecast, which gives its Trainer copies of the callbacks."""
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS

    model = NHITS(
        h=4, input_size=12, max_steps=100, mlp_units=3 * [[32, 32]], scaler_type="identity", random_seed=1,
        callbacks=list(callbacks), default_root_dir=str(folder), **QUIET,
    )  # fmt: skip
    forecast = NeuralForecast([model], freq=1)
    forecast.fit(series())
    used = forecast.models[0]  # a copy
    return SimpleNamespace(callbacks=used.trainer_kwargs["callbacks"], callback_metrics=used.metrics)


def pytorch_forecasting(callbacks: Sequence[Any], folder: Path, optimizer: str = "adam") -> Any:
    """A network of pytorch-forecasting, which returns ReduceLROnPlateau."""
    from pytorch_forecasting import DecoderMLP, TimeSeriesDataSet

    frame = series()
    frame["later"] = frame["y"].shift(1).fillna(0.0)
    data = TimeSeriesDataSet(
        frame, time_idx="ds", target="y", group_ids=["unique_id"], max_encoder_length=8, max_prediction_length=4,
        time_varying_known_reals=["later"], time_varying_unknown_reals=["y"],
    )  # fmt: skip
    module = DecoderMLP.from_dataset(data, hidden_size=32, learning_rate=0.03, optimizer=optimizer)
    trainer = trainer_of(callbacks, folder, max_epochs=10, gradient_clip_val=0.1)
    loader = data.to_dataloader(train=True, batch_size=32, num_workers=0)
    trainer.fit(module, loader, data.to_dataloader(train=False, batch_size=64, num_workers=0))
    return trainer


def scvi(callbacks: Sequence[Any], folder: Path, **plan: Any) -> Any:
    """A variational autoencoder of scvi-tools, whose TrainRunner makes the Trainer."""
    import scvi as package

    cells = package.data.synthetic_iid(batch_size=100, n_genes=40)
    package.model.SCVI.setup_anndata(cells, batch_key="batch")
    model = package.model.SCVI(cells, n_hidden=32, n_latent=4)
    # The default is 400 epochs, at whose end the loss is the ELBO: here too, what it is measured by is what it trains.
    plan = {"n_epochs_kl_warmup": 15, **plan}
    model.train(
        max_epochs=30, batch_size=64, accelerator="cpu", train_size=0.8, check_val_every_n_epoch=1, plan_kwargs=plan,
        enable_progress_bar=False, callbacks=list(callbacks),
    )  # fmt: skip
    return model.trainer


def scvi_with_plateau(callbacks: Sequence[Any], folder: Path) -> Any:
    """The same with ReduceLROnPlateau."""
    return scvi(callbacks, folder, reduce_lr_on_plateau=True, lr_scheduler_metric="elbo_validation")


def darts(callbacks: Sequence[Any], folder: Path, **model: Any) -> Any:
    """N-BEATS of darts, whose Trainer is made from ``pl_trainer_kwargs``."""
    from darts import TimeSeries
    from darts.models import NBEATSModel

    wave = torch.sin(torch.arange(200.0) / 3).numpy().astype("float32")
    network = NBEATSModel(
        12, 4, num_stacks=2, num_blocks=1, layer_widths=32, n_epochs=10, batch_size=16, random_state=1,
        work_dir=str(folder), pl_trainer_kwargs={**QUIET, "callbacks": list(callbacks)}, **model,
    )  # fmt: skip
    network.fit(TimeSeries.from_values(wave))
    return network.trainer


def darts_with_scheduler(callbacks: Sequence[Any], folder: Path) -> Any:
    """The same with a scheduler of torch's, which darts makes."""
    return darts(
        callbacks, folder, lr_scheduler_cls=torch.optim.lr_scheduler.ExponentialLR, lr_scheduler_kwargs={"gamma": 0.9}
    )


def images(folder: Path) -> Path:
    """Write a few pictures of noise, half of them with a bright square."""
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    for kind in ("good", "bad"):
        (folder / "pictures" / kind).mkdir(parents=True, exist_ok=True)
        for number in range(16):
            pixels = torch.randint(0, 80, (64, 64, 3), generator=draw, dtype=torch.uint8)
            if kind == "bad":
                pixels[20:40, 20:40] = 255
            Image.fromarray(pixels.numpy()).save(folder / "pictures" / kind / f"{number}.png")
    return folder / "pictures"


def anomalib(callbacks: Sequence[Any], folder: Path) -> Any:
    """DRAEM of anomalib, whose Engine makes the Trainer, and adds callbacks that prepare the batch."""
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Draem

    root = images(folder)
    data = Folder(
        "noise", root=root, normal_dir="good", abnormal_dir="bad", train_batch_size=4, eval_batch_size=4,
        num_workers=0, augmentations=None,
    )  # fmt: skip
    # The pictures stand for the textures that it would download.
    pre_processor = Draem.configure_pre_processor((64, 64))
    model = Draem(root / "bad", pre_processor=pre_processor, evaluator=False, visualizer=False, post_processor=False)
    engine = Engine(  # of 97 million parameters: a few steps
        max_epochs=2, default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        limit_val_batches=0, num_sanity_val_steps=0, callbacks=list(callbacks),
    )  # fmt: skip
    engine.fit(model, datamodule=data)
    return engine.trainer


def lightly(callbacks: Sequence[Any], folder: Path) -> Any:
    """SimCLR with lightly's head, loss and LARS, in a module as its documentation writes one."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.utils.lars import LARS
    from lightning.pytorch import LightningModule

    class SimCLR(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
            self.head, self.criterion = SimCLRProjectionHead(32, 32, 16), NTXentLoss()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            first, second = (batch[0] + 0.3 * torch.randn_like(batch[0]) for _ in range(2))
            return self.criterion(self.head(self.backbone(first)), self.head(self.backbone(second)))

        def configure_optimizers(self) -> Any:
            return LARS(self.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-6)

    trainer = trainer_of(callbacks, folder, max_epochs=15)
    trainer.fit(SimCLR(), DataLoader(TensorDataset(torch.randn(256, 1, 8, 8)), 32, shuffle=True, drop_last=True))
    return trainer


def texts() -> DataLoader:
    """Rows of numbers; the label is the one that they have most often."""
    labels = torch.randint(4, (256,))
    rows = torch.randint(4, 16, (256, 12))
    rows[:, ::2] = labels[:, None]
    return DataLoader(TensorDataset(rows, labels), 32, shuffle=True)


def bert() -> Any:
    """A small BERT of transformers, made from its configuration."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=16, num_labels=4,
        )
    )  # fmt: skip


def classifier(network: Any) -> Any:
    from lightning.pytorch import LightningModule
    from transformers import get_linear_schedule_with_warmup

    class Classifier(LightningModule):
        """As the examples of transformers write it: with a linear warmup and decay, by step."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.network(input_ids=batch[0], labels=batch[1]).loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW([each for each in self.parameters() if each.requires_grad], 1e-3)
            scheduler = get_linear_schedule_with_warmup(optimizer, 10, int(self.trainer.estimated_stepping_batches))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Classifier()


def peft(callbacks: Sequence[Any], folder: Path) -> Any:
    """LoRA of peft on that BERT."""
    from peft import LoraConfig, get_peft_model

    network = get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))
    trainer = trainer_of(callbacks, folder, max_epochs=12)
    trainer.fit(classifier(network), texts(), texts())
    return trainer


def finetuning_scheduler(callbacks: Sequence[Any], folder: Path) -> Any:
    """The head of that BERT first, then more of it, by the callback of finetuning-scheduler."""
    from finetuning_scheduler import FinetuningScheduler
    from finetuning_scheduler.fts_supporters import FTSCheckpoint, FTSEarlyStopping
    from lightning.pytorch import LightningModule

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = bert()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.network(input_ids=batch[0], labels=batch[1]).loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([each for each in self.parameters() if each.requires_grad], 1e-3)

    schedule = folder / "phases.yaml"
    schedule.write_text("0:\n  params: [network.classifier.*]\n1:\n  params: [network.bert.*]\n")
    tuning = FinetuningScheduler(ft_schedule=str(schedule), max_depth=1)
    own = [FTSEarlyStopping("val_loss", patience=3), FTSCheckpoint(folder, monitor="val_loss", save_top_k=1), tuning]
    trainer = trainer_of([*own, *callbacks], folder, max_epochs=12, enable_checkpointing=True)
    trainer.fit(Classifier(), texts(), texts())
    return trainer


PACKAGES = {
    "chemprop": Package("chemprop", chemprop, has_scheduler=True),
    "neuralforecast": Package("neuralforecast", neuralforecast, has_scheduler=True),
    "pytorch-forecasting": Package("pytorch-forecasting", pytorch_forecasting, True, "val_loss"),
    "scvi-tools": Package("scvi-tools", scvi, metric="elbo_validation"),
    "scvi-tools, ReduceLROnPlateau": Package("scvi-tools", scvi_with_plateau, True, "elbo_validation"),
    "darts": Package("darts", darts),
    "darts, ExponentialLR": Package("darts", darts_with_scheduler, True),
    "anomalib": Package("anomalib", anomalib, has_scheduler=True),
    "lightly": Package("lightly", lightly),
    "transformers and peft": Package("peft", peft, True, "val_loss"),
    "finetuning-scheduler": Package("finetuning-scheduler", finetuning_scheduler, metric="val_loss"),
}
