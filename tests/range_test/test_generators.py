"""After a range test the random generators of the data are as before, wherever they are."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader

from lightning_lrsched import LRRangeTestCallback
from tests.kit.modules import Regression, data
from tests.kit.runs import StatefulLoader


def in_a_batch_sampler(generator):
    dataset = data().dataset
    sampler = torch.utils.data.RandomSampler(dataset, generator=generator)
    return torch.utils.data.DataLoader(dataset, batch_sampler=torch.utils.data.BatchSampler(sampler, 8, False))


class InADataModule(LightningDataModule):
    def __init__(self, generator):
        super().__init__()
        self.sampler = torch.utils.data.WeightedRandomSampler([1.0] * 80, 80, generator=generator)

    def train_dataloader(self):
        return data(sampler=self.sampler)


@pytest.mark.parametrize(
    "make",
    [
        lambda generator: data(shuffle=True, generator=generator),
        lambda generator: {"a": [data(shuffle=True, generator=generator)]},
        lambda generator: CombinedLoader({"a": data(shuffle=True, generator=generator)}),
        in_a_batch_sampler,
        InADataModule,
    ],
)
def test_the_datas_generators_are_put_back_wherever_they_are(make_trainer, make):
    class First(Regression):
        def training_step(self, batch, batch_idx):
            while isinstance(batch, dict) or isinstance(batch[0], list):
                batch = batch["a"] if isinstance(batch, dict) else batch[0]
            return self.loss(batch)

    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    make_trainer(LRRangeTestCallback(num_steps=12)).fit(First(), make(generator))
    assert torch.equal(before, generator.get_state())


class Noisy(torch.utils.data.Dataset):
    """Adds noise from generators of its own."""

    def __init__(self):
        self.numpy, self.old = np.random.default_rng(1), np.random.RandomState(1)
        self.python, self.torch = random.Random(1), torch.Generator().manual_seed(1)

    def __len__(self):
        return 80

    def __getitem__(self, index):
        noise = self.numpy.normal() + self.old.normal() + self.python.gauss(0, 1)
        return torch.randn(4, generator=self.torch) + noise, torch.zeros(1)

    def state(self):
        return str(
            (self.numpy.bit_generator.state, self.old.get_state(), self.python.getstate(), self.torch.get_state())
        )


@pytest.mark.parametrize("wrap", [lambda noisy: noisy, lambda noisy: torch.utils.data.Subset(noisy, range(40))])
def test_generators_inside_a_dataset_are_put_back(make_trainer, wrap):
    noisy = Noisy()
    before = noisy.state()
    make_trainer(LRRangeTestCallback(num_steps=12)).fit(Regression(), torch.utils.data.DataLoader(wrap(noisy), 8))
    assert noisy.state() == before


@pytest.mark.parametrize("wrap", [lambda loader: loader, lambda loader: [loader], lambda loader: {"a": loader}])
def test_a_loader_that_keeps_its_position_begins_where_it_was(make_trainer, wrap):
    class Any(Regression):
        def training_step(self, batch, batch_idx):
            return self.loss(batch["a"] if isinstance(batch, dict) else batch[0] if len(batch) == 1 else batch)

    loader = StatefulLoader(5)
    loader.load_state_dict({"next": 2})
    make_trainer(LRRangeTestCallback(num_steps=6)).fit(Any(), wrap(loader))
    assert loader.state_dict() == {"next": 2}
