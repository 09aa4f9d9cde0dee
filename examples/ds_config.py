"""A DeepSpeed configuration, used as it is in Lightning: a small Transformer learns scikit-learn's handwritten digits.

ds_config.json is a file as written for DeepSpeed and Hugging Face's Trainer, with comments and "auto" values. Its
sections optimizer and scheduler are used, the others (fp16, zero_optimization ...) are ignored: precision,
accumulation and clipping are arguments of Lightning's Trainer (lightning_lrsched.trainer_arguments reads them from such
a file). DeepSpeed itself is not needed.

    python examples/ds_config.py [--config ds_config.json] [--epochs 20] [--out demo_output/ds_config]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import digits, make_trainer, quieten, say, show_curves
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_lrsched import configure_optimizers

BATCH_SIZE = 32
ACCUMULATE = 2


class DigitsTransformer(LightningModule):
    """Reads an image as eight tokens, one for each row of pixels."""

    def __init__(self, config: str, learning_rate: float = 3e-3, weight_decay: float = 0.01, width: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()  # "auto" finds learning_rate and weight_decay here
        self.rows = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.zeros(8, width))
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(width, 10)
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.rows(images.squeeze(1)) + self.positions).mean(dim=1))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log("test_accuracy", self.accuracy)

    def configure_optimizers(self) -> dict:
        return configure_optimizers(self, self.hparams.config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).with_name("ds_config.json")))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("demo_output/ds_config"), help="folder for logs")
    args = parser.parse_args()
    quieten(tables=True)
    seed_everything(0, verbose=False)

    module, (train_data, test_data) = DigitsTransformer(args.config), digits(BATCH_SIZE)
    trainer = make_trainer(
        args.out,
        "digits_transformer",
        LearningRateMonitor("step", log_momentum=True),
        max_epochs=args.epochs,
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, train_data)  # logs what "auto" has become
    accuracy = trainer.test(module, test_data, verbose=False)[0]["test_accuracy"]

    schedule = trainer.lr_scheduler_configs[0].scheduler
    total = trainer.global_step
    say(f"\n{Path(args.config).name}: {type(schedule).__name__}, {total} steps")
    say(f"({args.epochs} epochs of {len(train_data)} batches, {ACCUMULATE} to a step)\n\n  step   learning rate")
    for step in sorted({0, 1, total // 20, total // 10, total // 2, total - 1}):
        say(f"{step:>6}        {schedule.lr_at(step)[0]:.6f}")
    say(f"\nTest accuracy {accuracy:.1%}")
    show_curves(args.out)


if __name__ == "__main__":
    main()
