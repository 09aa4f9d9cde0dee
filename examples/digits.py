"""One line against a default: LRSchedulerCallback() on scikit-learn's handwritten digits.

For each seed, a small convolutional network is trained three times from the same weights, for the same number of
steps: with LRSchedulerCallback(), which makes a probe of 3 steps at the start of the fit and then follows 1Cycle
(cyclical momentum included); at the learning rate that Lightning's own finder suggests; and at torch's default
learning rate.

    python examples/digits.py [--seeds 5] [--epochs 20] [--out demo_output] [--range-test]

With --range-test, an LR range test of up to 300 steps takes the place of the probe.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from pathlib import Path

import common
import torch
from common import make_trainer, quieten, say, show_curves
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, preview

TORCH_DEFAULT_LR = 1e-3
BATCH_SIZE = 64
NAMES = {"one_line": "LRSchedulerCallback()", "finder": "Lightning's finder", "default": "torch's default"}


class Digits(LightningModule):
    """A small convolutional classifier. Note that it holds no scheduler code."""

    def __init__(self, lr: float = TORCH_DEFAULT_LR) -> None:
        super().__init__()
        self.lr = lr
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
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def loaders(seed: int) -> tuple[DataLoader, DataLoader]:
    """Return the training and the test data: the same split for every seed, in another order."""
    return common.digits(BATCH_SIZE, torch.Generator().manual_seed(seed))


def train(out: Path, name: str, seed: int, epochs: int, *, range_test: bool = False) -> float:
    """Train from scratch, print how it ended, and return the test accuracy in percent."""
    start = time.perf_counter()
    seed_everything(seed, verbose=False)
    module, (train_data, test_data) = Digits(), loaders(seed)
    one_line = LRSchedulerCallback(range_test=LRRangeTestCallback() if range_test else None)
    callbacks = [one_line] if name == "one_line" else []
    trainer = make_trainer(out / "tensorboard", f"{name}_seed{seed}", *callbacks, max_epochs=epochs)
    if name == "finder":
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar would stay
            Tuner(trainer).lr_find(module, train_data)  # sets module.lr
    trainer.fit(module, train_data)
    accuracy = 100 * trainer.test(module, test_data, verbose=False)[0]["test_accuracy"]
    how = f"lr {module.lr:.2g}"
    if callbacks:
        found = (one_line.range_test_result if range_test else one_line.probe_result).learning_rates()
        how = f"1Cycle {found['low']:.2g} .. {found['high']:.2g}"
        if seed == 0:
            save_pictures(out, one_line)
    say(f"{seed:>4}  {NAMES[name]:<21}  {how:<22}  {accuracy:6.2f} %  {time.perf_counter() - start:5.1f} s")
    return accuracy


def save_pictures(out: Path, schedule: LRSchedulerCallback) -> None:
    """Save what the probe or the range test found, its figure, and the schedule that it led to."""
    one_cycle, probes = schedule.schedulers[0], schedule.probe_results
    result = probes[0] if probes else schedule.range_test_result
    name = "probe.json" if probes else "range_test.json"
    (out / name).write_text(json.dumps(result.to_dict()), encoding="utf-8")
    result.plot().savefig(out / "loss_vs_lr.png", dpi=120)
    steps = preview.picture_steps(one_cycle.last_epoch)
    preview.draw("OneCycle", preview.rows_of(one_cycle, steps)).savefig(out / "schedule.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many times the whole is repeated")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for logs and pictures")
    parser.add_argument("--range-test", action="store_true", help="an LR range test in place of the probe")
    args = parser.parse_args()
    quieten()
    steps = args.epochs * len(loaders(0)[0])

    say(f"Handwritten digits, small CNN, SGD with momentum, {steps} steps of {BATCH_SIZE} images\n")
    say("seed  trained with           learning rate           accuracy     time")
    accuracies: dict[str, list[float]] = {name: [] for name in NAMES}
    for seed in range(args.seeds):
        for name in NAMES:
            accuracies[name].append(train(args.out, name, seed, args.epochs, range_test=args.range_test))
    say("\nmedian test accuracy")
    for name, words in NAMES.items():
        say(f"      {words:<45}  {statistics.median(accuracies[name]):6.2f} %")
    say(f"\nWhat was found:  {args.out / 'loss_vs_lr.png'}\nThe schedule:    {args.out / 'schedule.png'}")
    show_curves(args.out / "tensorboard")


if __name__ == "__main__":
    main()
