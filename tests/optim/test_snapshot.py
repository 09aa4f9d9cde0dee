"""What a snapshot finds and puts back; tests/integration/test_no_trace.py has whole tests."""

from __future__ import annotations

import random
from collections import ChainMap, OrderedDict, UserList, defaultdict, deque
from functools import partial
from queue import Queue
from types import SimpleNamespace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, proxy

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    Subset,
    WeightedRandomSampler,
)

from lightning_lrsched.optim.snapshot import ModelSnapshot, generator_states
from tests.kit.modules import data
from tests.kit.runs import StatefulLoader
from tests.kit.traces import Everything, Noisy, noisy_data, trace

# The model ------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_put_back_twice_and_equal_copies_are_kept_once():
    module = Everything()
    optimizer, loader = module.configure_optimizers(), noisy_data()

    def train() -> None:
        for number, batch in enumerate(loader):
            module.training_step(batch, number).backward()
            optimizer.step()

    train()
    module.zero_grad()
    before = trace(module, optimizer)
    first = ModelSnapshot(module, [optimizer])
    module.batches, module.net[0].weight.data[0] = 7, 9.0
    marked, second = trace(module, optimizer), ModelSnapshot(module, [optimizer], earlier=first)
    assert sum(second.copies[key]._value is not copy._value for key, copy in first.copies.items()) == 1
    for snapshot, keep, expected in ((second, True, marked), (second, True, marked), (first, False, before)):
        train()
        snapshot.restore(keep=keep)
        assert trace(module, optimizer) == expected


class OwnLinear(nn.Linear):
    """A module of the user's package, of which only the objects are looked into."""


class OwnList(list):
    """Counts what is added to it."""

    added = 0

    def append(self, item: Any) -> None:
        super().append(item)
        self.added += 1

    def clear(self) -> None:
        raise RuntimeError("nothing is removed from this list")

    def __repr__(self) -> str:
        return f"{super().__repr__()}, {self.added} added"


class OwnDict(dict):
    """Has its keys as attributes, and no others."""

    __getattr__ = dict.__getitem__


class OwnOrder(OrderedDict):
    def update(self, *_: Any) -> None:
        raise RuntimeError("this order is fixed")


class Own(SimpleNamespace):
    """Says less of itself in its state than it holds."""

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]

    def count(self) -> None:
        self.steps += 1


class AsksForAPrefix(Own):
    def state_dict(self, prefix: str) -> dict[str, Any]:
        return {prefix: self.value}


class Pair(NamedTuple):
    mean: torch.Tensor
    items: list[int]


def inferred() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(2)


def add_in_inference(tensor: torch.Tensor) -> None:
    with torch.inference_mode():
        tensor.add_(1)


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (OwnList([1]), lambda x: x.append(2)),
        ([OwnDict(a=1, b=[1])], lambda x: x[0].update(a=2, b=[*x[0].b, 2])),
        (OwnOrder(a=1, b=2), lambda x: x.move_to_end("a")),
        (UserList([1]), lambda x: x.append(2)),
        (ChainMap({}, {"a": 1}), lambda x: x.__setitem__("a", 2)),
        (WeakKeyDictionary({OwnList: 1}), lambda x: x.__setitem__(OwnDict, 2)),
        (bytearray(b"a"), lambda x: x.append(2)),
        (Pair(torch.zeros(1), []), lambda x: (x.mean.add_(1), x.items.append(1))),
        (Own(value=1, steps=0), lambda x: x.count()),
        (AsksForAPrefix(value=1, steps=0), lambda x: x.count()),
        (Own(value=1, steps=0).count, lambda x: x()),
        (partial(Own.count, Own(value=1, steps=0)), lambda x: x()),
        (torch.eye(2).to_sparse(), lambda x: x._values().add_(1)),
        (torch.zeros(1).expand(3), lambda x: x[0].add_(1)),
        (inferred(), add_in_inference),
        ([1, [2]], lambda x: x[1].append(3)),
        (list(range(1000)), lambda x: x.append(1)),
        (deque([1], maxlen=3), lambda x: x.append(2)),
        ({1, 2}, lambda x: x.add(3)),
        (defaultdict(list, {"a": [1]}), lambda x: x["b"].append(1)),
        ((1, [2]), lambda x: x[1].append(3)),
        (torch.ones(3), lambda x: x.add_(1)),
        (np.ones(3), lambda x: x.__iadd__(1)),
        (SimpleNamespace(steps=0), lambda x: setattr(x, "steps", 5)),
        (np.random.default_rng(0), lambda x: x.random()),
        (random.Random(0), lambda x: x.random()),
        ({"a": {"b": torch.zeros(1)}}, lambda x: x["a"]["b"].add_(1)),
        (torch.optim.SGD([torch.zeros(1)], 0.1), lambda x: x.param_groups[0].update(lr=1.0)),
        ([nn.Linear(1, 1)], lambda x: x[0].weight.data.add_(1)),
    ],
)
def test_what_an_attribute_holds_is_put_back_into_the_same_object(value: Any, change: Any):
    def text(thing: Any) -> str:
        if isinstance(thing, random.Random):
            return str(thing.getstate())
        if isinstance(thing, np.random.Generator):
            return str(thing.bit_generator.state)
        if isinstance(thing, WeakKeyDictionary):
            return str(dict(thing))
        modules = isinstance(thing, list) and isinstance(thing[0], nn.Module)
        return repr([part.state_dict() for part in thing] if modules else thing)

    module = OwnLinear(1, 1)
    module.value, before = value, text(value)
    snapshot = ModelSnapshot(module, [])
    change(value)
    assert text(value) != before
    module.value, module.made_later, module._made_later = None, 1, 2
    snapshot.restore()
    assert module.value is value
    assert text(value) == before
    assert not hasattr(module, "made_later")
    assert not hasattr(module, "_made_later")


def test_what_has_no_value_that_could_be_written_is_left_as_it_is():
    module = OwnLinear(1, 1)
    module.register_buffer("meta", torch.zeros(2, device="meta"))
    module.register_buffer("graph", torch.eye(2).to_sparse())
    module.register_buffer("table", torch.zeros(1).expand(3))
    module.queue, module.chain, module.gone = Queue(), None, [proxy(OwnLinear(1, 1))]
    for _ in range(3000):
        module.chain = Own(value=module.chain)
    first = ModelSnapshot(module, [])
    snapshot = ModelSnapshot(module, [], earlier=first)
    module.graph._values().add_(1)
    module.queue.put(1)
    module.chain.value = None
    snapshot.restore()
    assert torch.equal(module.graph.to_dense(), torch.eye(2))
    assert module.queue.empty()
    assert module.chain.value.value.value


def test_what_an_optimizer_trains_beside_the_module_is_put_back():
    beside = [nn.Parameter(torch.zeros(1)) for _ in range(101)]
    snapshot = ModelSnapshot(nn.Linear(1, 1), [torch.optim.SGD(beside, 0.1)])
    for parameter in beside:
        parameter.data.add_(1)
    snapshot.restore()
    assert not any(beside)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_values_of_a_script_are_put_back():
    module = nn.Sequential(torch.jit.script(nn.BatchNorm1d(1)))
    snapshot, before = ModelSnapshot(module, []), {name: part.clone() for name, part in module.state_dict().items()}
    module(torch.randn(4, 1))
    snapshot.restore()
    assert all(torch.equal(part, before[name]) for name, part in module.state_dict().items())


def test_a_module_that_is_no_part_may_know_the_one_that_is_trained_and_itself():
    module, teacher = nn.Linear(1, 1), nn.Linear(1, 1)
    module.teachers, teacher.students, teacher.steps = [teacher], [module, teacher], 0
    snapshot, weight = ModelSnapshot(module, []), teacher.weight.clone()
    teacher.steps = 5
    teacher.weight.data.add_(1)
    snapshot.restore()
    assert (teacher.steps, teacher.weight) == (0, weight)


def test_data_that_a_module_holds_are_not_copied():
    module = nn.Linear(1, 1)
    module.data_of_mine, module.loader = Subset(list(range(10)), [1]), data()
    assert ModelSnapshot(module, [])._contents._resets == []


def test_a_tensor_that_has_shrunk_or_belongs_to_a_graph_is_put_back():
    module = nn.Linear(2, 1)
    module.kept = module(torch.ones(2))
    kept, snapshot = module.kept, ModelSnapshot(module, [])
    weight = module.weight.clone()
    module.weight.data, module.kept = torch.zeros(1, 1), None
    snapshot.restore()
    assert torch.equal(module.weight, weight)
    assert module.kept is kept
    kept.backward()


def test_what_a_wrapper_has_set_up_stays_set_up():
    class FullyShardedDataParallel(nn.Module):
        """As torch's: at its first forward pass it finds out whether it is the outermost one."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self._is_root = module, None

    wrapper = FullyShardedDataParallel(nn.Linear(1, 1))
    wrapper.module.steps = 0
    snapshot = ModelSnapshot(wrapper, [])
    wrapper._is_root, wrapper.module.steps = False, 5
    snapshot.restore()
    assert (wrapper._is_root, wrapper.module.steps) == (False, 0)


def test_a_second_module_is_loaded_with_its_versions():
    average, loaded = nn.BatchNorm1d(1), []
    average._register_load_state_dict_pre_hook(lambda state, *args: loaded.append(state._metadata))
    before = average.state_dict()
    ModelSnapshot(nn.Linear(1, 1), [average]).restore()
    assert loaded == [before._metadata]


def test_a_lazy_module_is_refused_with_what_to_do():
    module = nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(1))
    with pytest.raises(ValueError, match=r"0\.weight of Sequential is a lazy parameter.*before fit, call the module"):
        ModelSnapshot(module, [])
    module(torch.ones(2))
    ModelSnapshot(module, [])


# Random numbers and positions -----------------------------------------------------------------------------------------


class Sampled(LightningDataModule):
    def __init__(self, loader: DataLoader) -> None:
        super().__init__()
        self.sampler = loader.sampler


def stateful(wrap: Any) -> tuple[Any, Any, Any]:
    loader = StatefulLoader(5)
    loader.load_state_dict({"next": 2})
    return wrap(loader), lambda: list(zip(range(1), loader, strict=False)), loader.state_dict


def generator_in(wrap: Any) -> tuple[Any, Any, Any]:
    loader = data(shuffle=True, generator=torch.Generator().manual_seed(3))
    return wrap(loader), lambda: list(loader), lambda: loader.generator.get_state().tolist()


def in_a_batch_sampler(loader: DataLoader) -> DataLoader:
    sampler = BatchSampler(RandomSampler(loader.dataset, generator=loader.generator), 8, False)
    return DataLoader(loader.dataset, batch_sampler=sampler)


def in_a_dataset(wrap: Any) -> tuple[Any, Any, Any]:
    noisy = Noisy()

    def state() -> str:
        numbers = noisy.numpy.bit_generator.state, noisy.old.get_state(), noisy.python.getstate()
        return str((numbers, noisy.torch.get_state().tolist()))

    return DataLoader(wrap(noisy), 8), lambda: noisy[0], state


def distributed() -> tuple[Any, Any, Any]:
    sampler = DistributedSampler(data().dataset, num_replicas=2, rank=0)
    return DataLoader(data().dataset, sampler=sampler), lambda: sampler.set_epoch(5), lambda: sampler.epoch


GENERATOR = np.random.default_rng(0)


def weighted() -> tuple[Any, Any, Any]:
    sampler = WeightedRandomSampler(torch.ones(80), 80)
    return DataLoader(data().dataset, sampler=sampler), lambda: sampler.weights.mul_(2), sampler.weights.sum


class Counting:
    """Counts its passes, shuffles a list in place, and remembers what it has drawn."""

    def __init__(self, batch: bool = False) -> None:
        self.passes, self.rate, self.order, self.drawn, self.batch = 0, 1.0, list(range(20)), {}, batch
        self.pools = {"first": [[1, 2, 3]], "second": [[]]}
        self.part = SimpleNamespace(noise=random.Random(1))
        self.handle: Any = None

    def __iter__(self) -> Any:
        self.passes, self.rate, self.handle = self.passes + 1, 0.9 * self.rate, "open"
        random.Random(self.passes).shuffle(self.order)
        self.drawn[self.passes] = random.random()
        self.part.noise.random()
        self.pools["first"][0].reverse()
        self.pools["second"][0].append(GENERATOR.integers(100))
        return iter([self.order[:2]] if self.batch else self.order)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        iter(self)
        return torch.ones(1)

    def __call__(self, samples: Any) -> Any:
        iter(self)
        return torch.stack([first for first, _ in samples])


class CountingSampler(Counting, Sampler):
    def __init__(self) -> None:
        super().__init__()
        self.array = np.arange(4)

    def __iter__(self) -> Any:
        self.array += 1
        self.array = self.array.copy()
        return super().__iter__()


class CountingDataset(Counting, Dataset):
    def __init__(self) -> None:
        super().__init__()
        self.transform = Counting()

    def __iter__(self) -> Any:
        iter(self.transform)
        return super().__iter__()


def counting(make: Any, where: str) -> tuple[Any, Any, Any]:
    thing = make()
    loader = thing if where == "loader" else DataLoader(
        thing if where == "dataset" else data().dataset, **({} if where == "dataset" else {where: thing})
    )  # fmt: skip
    source = Sampled(loader) if where == "sampler" else loader
    return source, lambda: next(iter(loader)), lambda: state_of(thing)


def state_of(thing: Any) -> str:
    inner = state_of(thing.transform) if hasattr(thing, "transform") else ""
    counts = thing.passes, thing.rate, thing.order, thing.drawn, thing.pools, GENERATOR.bit_generator.state
    return str((*counts, getattr(thing, "array", None), inner))


def test_what_data_have_opened_or_hold_in_large_numbers_stays():
    thing = CountingDataset()
    thing.large = list(range(10**6 + 1))
    resets = generator_states(DataLoader(thing))
    iter(thing)
    thing.large.append(1)
    for reset in resets:
        reset()
    assert (thing.passes, thing.handle, len(thing.large)) == (0, "open", 10**6 + 2)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda wrap=wrap: generator_in(wrap) for wrap in (
            lambda loader: loader, lambda loader: {"a": [loader]}, lambda loader: CombinedLoader({"a": loader}),
            in_a_batch_sampler, Sampled, lambda loader: SimpleNamespace(held=loader),
        )),
        *(lambda wrap=wrap: in_a_dataset(wrap) for wrap in (lambda noisy: noisy, lambda noisy: Subset(noisy, [0]))),
        *(lambda wrap=wrap: stateful(wrap) for wrap in (lambda it: it, lambda it: [it], lambda it: {"a": it})),
        distributed,
        weighted,
        lambda: counting(Counting, "loader"),
        lambda: counting(CountingSampler, "sampler"),
        lambda: counting(lambda: Counting(batch=True), "batch_sampler"),
        lambda: counting(CountingDataset, "dataset"),
        lambda: counting(Counting, "collate_fn"),
    ],
)  # fmt: skip
def test_the_generators_and_positions_of_data_are_found_and_put_back(make: Any):
    source, use, state = make()
    before = state()
    resets = generator_states(source)
    use()
    assert state() != before
    for reset in resets:
        reset()
    assert state() == before
