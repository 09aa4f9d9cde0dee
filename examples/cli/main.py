"""LightningCLI with the subcommand lr_range_test, on scikit-learn's handwritten digits: README.md has the commands."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_lrsched.cli import LRSchedulerCLI


class Classifier(LightningModule):
    """A small convolutional classifier. Note that it holds no scheduler code.

    Args:
        width: number of channels of the first convolution; the second has twice as many.
        dropout: fraction of the features that are left out in training.
        lr: learning rate of SGD where no schedule sets it.
        momentum: momentum of SGD where no schedule sets it.
    """

    def __init__(self, width: int = 16, dropout: float = 0.25, lr: float = 1e-3, momentum: float = 0.9) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width * 4 * 4, 10)),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self.accuracy(self.net(images), labels)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=self.hparams.momentum)


class Digits(LightningDataModule):
    """1347 images to train with and 450 to validate.

    Args:
        batch_size: images in a batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        train, val = train_test_split(range(len(labels)), test_size=450, random_state=0, stratify=digits.target)
        self.train = TensorDataset(images[train], labels[train])
        self.val = TensorDataset(images[val], labels[val])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 450)


if __name__ == "__main__":
    LRSchedulerCLI(Classifier, Digits)
