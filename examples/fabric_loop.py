"""A training loop of one's own with Lightning Fabric: range test, 1Cycle, checkpoints, on one device or several.

The loop is as in any Fabric script, in plain torch it would be nearly the same. What this package adds to it: RangeTest
finds the learning rates, SchedulerConfig.build makes a schedule that follows the optimizer, and the schedule goes into
the checkpoint. Stop it (Ctrl+C) and start it again with --resume: it goes on where the last whole epoch ended.

    python examples/fabric_loop.py [--epochs 12] [--devices 1] [--precision 32-true] [--resume]
                                   [--out demo_output/fabric]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import RangeTest, RangeTestResult, SchedulerConfig

BATCH_SIZE = 32
TEST_IMAGES = 450


def load() -> tuple[DataLoader, list[torch.Tensor]]:
    """Return the batches to train on, and images and labels to test with."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(digits.target)[order]
    train = TensorDataset(images[TEST_IMAGES:], labels[TEST_IMAGES:])
    return DataLoader(train, BATCH_SIZE, shuffle=True, drop_last=True), [images[:TEST_IMAGES], labels[:TEST_IMAGES]]


def make_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def train_step(fabric: Fabric, model: Any, optimizer: Any, batch: Any) -> torch.Tensor:
    images, labels = batch
    loss = nn.functional.cross_entropy(model(images), labels)
    fabric.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def find_lrs(fabric: Fabric, model: Any, optimizer: Any, loader: Any) -> RangeTestResult:
    """Run a range test; afterwards everything is as it was before."""
    with RangeTest(model, optimizer) as test:
        for batch in test.batches(loader):
            test.record(train_step(fabric, model, optimizer, batch))
    return test.result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--precision", default="32-true", help="16-mixed, bf16-mixed, bf16-true ...")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("demo_output/fabric"))
    options = parser.parse_args()

    fabric = Fabric(devices=options.devices, precision=options.precision)
    fabric.launch()
    seed_everything(1, verbose=False)
    loader, (images, labels) = load()
    model, optimizer = fabric.setup(*make_model())
    loader = fabric.setup_dataloaders(loader)

    record, checkpoint = options.out / "range_test.json", options.out / "last.ckpt"
    if options.resume:
        result = RangeTestResult.load(record)
    else:
        result = find_lrs(fabric, model, optimizer, loader)
        low, high = result.bounds()
        fabric.print(f"LR range test: {len(result.steps)} steps; 1Cycle from {low:.2g} to {high:.2g}\n")
        if fabric.is_global_zero:
            result.save(record, overwrite=True)
    config = SchedulerConfig.from_dict(result.one_cycle())
    schedule = config.build(optimizer, total_steps=options.epochs * len(loader), follow=True)
    progress = {"model": model, "optimizer": optimizer, "schedule": schedule, "epoch": 0}
    if options.resume:
        fabric.load(checkpoint, progress)

    for epoch in range(progress["epoch"], options.epochs):
        for batch in loader:
            loss = train_step(fabric, model, optimizer, batch)
        lr, momentum = schedule.get_last_lr()[0], schedule.momentum_at(schedule.last_epoch)[0]
        fabric.print(f"epoch {epoch:>2}  loss {loss:.4f}  lr {lr:.5f}  momentum {momentum:.3f}")
        progress["epoch"] = epoch + 1
        fabric.save(checkpoint, progress)

    model.eval()
    with torch.no_grad():
        correct = model(fabric.to_device(images)).argmax(1) == fabric.to_device(labels)
    fabric.print(f"\nTest accuracy {100 * correct.float().mean():.1f}%")


if __name__ == "__main__":
    main()
