"""The whole of it: a module, its data, one callback. python examples/minimal.py"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRSchedulerCallback


class Model(LightningModule):
    """A regression, with an optimizer and no scheduler code."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.001, momentum=0.9)


seed_everything(0)
inputs = torch.randn(4096, 8)
targets = torch.sin(inputs).sum(dim=1, keepdim=True)
data = DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True)

schedule = LRSchedulerCallback()  # finds the peak of the lr in a few steps, then trains with 1Cycle
trainer = Trainer(max_epochs=10, callbacks=[schedule], log_every_n_steps=10, enable_checkpointing=False)
trainer.fit(Model(), data)

peak = schedule.probe_result.peak
print(f"1Cycle up to {peak:.2g} and back; final loss {trainer.callback_metrics['train_loss']:.4f}")

# It printed, beside Lightning's own lines:
#
#     1Cycle up to 0.13 and back; final loss 0.0141
#
# Without the callback, at the optimizer's lr of 0.001, the final loss was 0.3792.
