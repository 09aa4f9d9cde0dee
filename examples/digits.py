"""From scratch to a trained model: LR range test -> suggestion -> 1Cycle, on scikit-learn's handwritten digits.

For each seed, a small convolutional network is trained twice for the same number of steps: with the 1Cycle schedule
(cyclical momentum included) that its range test suggests, and at torch's default fixed learning rate.

    python examples/digits.py [--seeds 5] [--epochs 20] [--out demo_output]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, RangeTestResult, preview

TORCH_DEFAULT_LR = 1e-3
BATCH_SIZE = 64


class Digits(LightningModule):
    """A small convolutional classifier. Note that it holds no scheduler code."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 4 * 4, 10)),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self.accuracy(self.net(images), labels)
        self.log("test_accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=TORCH_DEFAULT_LR, momentum=0.9)


def loaders(seed: int) -> tuple[DataLoader, DataLoader]:
    """Return the training and the test data: 1347 and 450 images, the same split for every seed."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=450, random_state=0, stratify=digits.target)
    order = torch.Generator().manual_seed(seed)
    return (
        DataLoader(TensorDataset(images[train], labels[train]), BATCH_SIZE, shuffle=True, generator=order),
        DataLoader(TensorDataset(images[test], labels[test]), 450),
    )


def trainer(out: Path, name: str, epochs: int, callback: object = None) -> Trainer:
    """Return an ordinary Trainer; the only thing special about it is one callback."""
    return Trainer(
        max_epochs=epochs,
        logger=TensorBoardLogger(out / "tensorboard", name=name, version=""),
        callbacks=[callback] if callback else None,
        log_every_n_steps=5,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def range_test(out: Path, seed: int) -> RangeTestResult:
    """Run an LR range test: one fit that ends by itself and leaves the model as it was."""
    seed_everything(seed, verbose=False)
    callback = LRRangeTestCallback()
    trainer(out, f"range_test_seed{seed}", 1, callback).fit(Digits(), loaders(seed)[0])
    return callback.result


def train(out: Path, name: str, seed: int, epochs: int, callback: LRSchedulerCallback | None) -> float:
    """Train from scratch and return the test accuracy in percent."""
    seed_everything(seed, verbose=False)
    module, (train_data, test_data) = Digits(), loaders(seed)
    run = trainer(out, f"{name}_seed{seed}", epochs, callback)
    run.fit(module, train_data)
    return 100 * run.test(module, test_data, verbose=False)[0]["test_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many times the whole is repeated")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for logs and pictures")
    args = parser.parse_args()
    quieten()
    torch.set_num_threads(1)  # a network this small gains nothing from more
    start = time.perf_counter()
    total_steps = args.epochs * len(loaders(0)[0])

    rows = []
    for seed in range(args.seeds):
        result = range_test(args.out, seed)
        schedule = LRSchedulerCallback(result.one_cycle(total_steps))
        one_cycle = train(args.out, "one_cycle", seed, args.epochs, schedule)
        fixed = train(args.out, "fixed_lr", seed, args.epochs, None)
        rows.append((seed, result, one_cycle, fixed))
        if seed == 0:
            result.save(args.out / "range_test.json", overwrite=True)
            result.plot().savefig(args.out / "loss_vs_lr.png", dpi=120)
            values = preview.rows_of(schedule.schedulers[0], preview.picture_steps(total_steps))
            preview.draw("OneCycle", values).savefig(args.out / "schedule.png", dpi=120)

    device = "GPU" if torch.cuda.is_available() else "CPU"
    print(f"\nHandwritten digits, small CNN, SGD, batch {BATCH_SIZE}, {total_steps} steps, {device}\n")
    print("seed   range test          suggested lr   1Cycle lr             1Cycle    fixed lr 0.001")
    for seed, result, one_cycle, fixed in rows:
        low, high = result.bounds()
        test = f"{len(result.steps)} steps, {result.stop_reason}"
        print(
            f"{seed:>4}   {test:<18}  {result.suggestion():>12.4f}   {low:.4f} .. {high:<10.4f}"
            f" {one_cycle:>6.2f} %         {fixed:>6.2f} %"
        )
    medians = [statistics.median(column) for column in list(zip(*rows, strict=True))[2:]]
    print(f"{'median':<57}  {medians[0]:>6.2f} %         {medians[1]:>6.2f} %   test accuracy")
    print(f"\nPictures:  {args.out / 'loss_vs_lr.png'}  {args.out / 'schedule.png'}")
    print(f"Took {time.perf_counter() - start:.0f} s. See the curves:\n")
    print(f"    tensorboard --logdir {args.out / 'tensorboard'}\n")


def quieten() -> None:
    """Keep Lightning's start-up messages out of a short report; the progress bars stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message)


if __name__ == "__main__":
    main()
