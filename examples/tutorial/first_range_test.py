# %% [markdown]
# ## A module and its data
#
# The data are 1,797 handwritten digits of 8 x 8 pixels. The module has an optimizer and no scheduler code.

# %%
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Digits(LightningModule):
    def __init__(self, lr=0.001):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(512, 10),
        )

    def training_step(self, batch):
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch):
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


digits = load_digits()
order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
images, labels = torch.tensor(digits.images).float()[order, None] / 16, torch.tensor(digits.target)[order]
train_data = DataLoader(TensorDataset(images[450:], labels[450:]), batch_size=64, shuffle=True)
test_data = DataLoader(TensorDataset(images[:450], labels[:450]), batch_size=450)


def train(lr=0.001, callbacks=(), seed=0):
    """Train for 440 steps; return the accuracy on the test data."""
    seed_everything(seed)
    model = Digits(lr)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=20, callbacks=list(callbacks), enable_model_summary=False, **quiet)
    trainer.fit(model, train_data)
    return trainer.validate(model, test_data, verbose=False)[0]["accuracy"]

# %% [markdown]
# ## The test
#
# The test makes two trial runs. In both, the lr grows from step to step, and the test records the loss.
#
# - The **coarse sweep** goes from 1e-6 to 10 in 100 steps, and ends where the loss explodes. Then the test puts everything back.
# - The **fine sweep** goes through the learning rates around that place in up to 200 steps. The suggestions come from it.
#
# The test is one `fit` of at most 300 steps. It ends by itself and leaves the model as it was.

# %%
from lightning_lrsched import LRRangeTestCallback

seed_everything(0)
test = LRRangeTestCallback()
Trainer(max_epochs=20, callbacks=[test], logger=False).fit(Digits(), train_data)
print(test.result)

# %% [markdown]
# ## The plot

# %%
test.result.plot()

# %% [markdown]
# 1. **Flat.** The thin line is the loss of the coarse sweep. It does not move, because the lr is too small. Nothing is wrong.
# 2. **Low bound, 0.019.** This is the left edge of the green band, a tenth of the high bound. 1Cycle starts here.
# 3. **Suggested fixed lr, 0.058.** This is the dashed line, 0.3 of the high bound. It trains fast, and stays well below the lr
#    at which the loss rises.
# 4. **High bound, 0.19.** This is the right edge of the green band, and the peak of 1Cycle. The hatched area begins at 0.39,
#    where the lr begins to harm. The high bound is half of this. With a noisy loss, the prior lowers it.
# 5. **The lowest loss, at 0.43.** It looks like the best place, but it is the wrong one. The smaller learning rates before it
#    made the loss low, and this lr is about to destroy that.
# 6. **The end, at 0.66.** The loss rises, and the test stops.
#
# The **prior** is the usual peak for a kind of optimizer, known before any test: 0.15 for SGD with momentum 0.9, 0.006 for Adam.
# If the loss is noisy, the test lowers a peak that is above the prior. This loss is not noisy: the prior counts for 6 % only.
#
# ## What to pick
#
# We trained the network for 440 steps at each of these places, with five seeds. The table has the median accuracy on the test
# data, and the range.
#
# | trained with | accuracy [%] |
# |---|---|
# | torch's default lr for SGD, 0.001 | 81.1 (68.0 .. 85.3) |
# | 2: the low bound as a fixed lr | 98.2 (98.2 .. 98.7) |
# | 3: the suggested fixed lr | **99.3** (97.3 .. 99.3) |
# | 4: the high bound as a fixed lr | 96.4 (68.7 .. 98.2) |
# | 5: the lr of the lowest loss | 9.1 (8.7 .. 10.9) |
# | 6: the lr at the end | 8.9 (8.7 .. 10.9) |
# | 1Cycle from 2 to 4 and back | 98.7 (98.0 .. 99.1) |
#
# - **Pick** 3 for a fixed lr, or 1Cycle between 2 and 4. Five seeds of one task do not show which of the two is better.
# - **Do not pick** 5 or 6. Do not pick 4 for the whole training.
# - **Read the caveats.** They say when a test shows too little: when the loss hardly fell, or never rose.

# %%
print(test.result.suggestion(), test.result.bounds(), test.result.caveats())

# %% [markdown]
# ## Train with it
#
# Make a schedule from the result. It fits a run of any length:

# %%
from lightning_lrsched import LRSchedulerCallback

schedule = LRSchedulerCallback(test.result.one_cycle())
before, after = train(), train(callbacks=[schedule])
print(f"accuracy before: {before:.1%}, after: {after:.1%}")

# %% [markdown]
# ## In one line
#
# Without arguments, the callback makes a probe of a few steps in place of the range test. Then it follows 1Cycle.
# `LRSchedulerCallback(range_test=LRRangeTestCallback())` makes the same test as above inside the fit.

# %%
callback = LRSchedulerCallback()
print(f"accuracy: {train(callbacks=[callback]):.1%}")
print(callback.probe_result)

# %% [markdown]
# ## Next
#
# - Read how good the suggestions are, and what a test puts back.
# - If you know a learning rate, choose a schedule.
# - For another batch size, optimizer or model, test again.
