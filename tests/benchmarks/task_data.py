"""Data of the benchmarks' tasks: what scikit-learn and Python ship, and what a few lines generate.

Every function returns training inputs and targets, then validation inputs and targets; the same for every seed.
"""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_friedman1
from torch import Tensor

Arrays = tuple[Tensor, Tensor, Tensor, Tensor]

CONTEXT = 64
"""Characters in a window of text."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def split(inputs: Tensor, targets: Tensor, train_rows: int, *, scale: bool = True) -> Arrays:
    """Split into training and validation rows; scale the inputs by the training rows."""
    index = torch.randperm(len(inputs), generator=generator())
    first, rest = index[:train_rows], index[train_rows:]
    if scale:
        inputs = (inputs - inputs[first].mean(0)) / inputs[first].std(0).clamp(min=1e-6)
    return inputs[first], targets[first], inputs[rest], targets[rest]


def turn_labels(data: Arrays, share: float, seed: int) -> Arrays:
    """Give a share of the training rows a label at random."""
    inputs, targets, *held_out = data
    wrong = torch.rand(len(targets), generator=generator(seed)) < share
    labels = torch.randint(int(targets.max()) + 1, (len(targets),), generator=generator(seed + 1))
    return (inputs, torch.where(wrong, labels, targets), *held_out)  # type: ignore[return-value]


# Shipped with scikit-learn and Python ---------------------------------------------------------------------------------


@cache
def digits() -> Arrays:
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    return split(images, torch.tensor(raw.target), 1100, scale=False)


def digits_pixels() -> Arrays:
    """Images as inputs and as targets."""
    train, _, held_out, _ = digits()
    return train.flatten(1), train.flatten(1), held_out.flatten(1), held_out.flatten(1)


def digits_from_0_to_16() -> Arrays:
    """Pixels as the data set has them, not scaled."""
    train, labels, held_out, others = digits()
    return 16 * train, labels, 16 * held_out, others


def some_digits(first: int, end: int) -> Arrays:
    """Only the classes from ``first`` to before ``end``, as 0, 1, ..."""
    train, labels, held_out, others = digits()
    here, there = (labels >= first) & (labels < end), (others >= first) & (others < end)
    return train[here], labels[here] - first, held_out[there], others[there] - first


@cache
def friedman(noise: float = 1.0) -> Arrays:
    inputs, targets = make_friedman1(n_samples=2000, n_features=10, noise=noise, random_state=0)
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32), 1200)


@cache
def diabetes(train_rows: int = 300) -> Arrays:
    raw = load_diabetes()
    targets = torch.tensor(raw.target, dtype=torch.float32)
    return split(torch.tensor(raw.data, dtype=torch.float32), (targets - 152) / 77, train_rows)


@cache
def cancer() -> Arrays:
    raw = load_breast_cancer()
    return split(torch.tensor(raw.data, dtype=torch.float32), torch.tensor(raw.target), 350)


def noisy_cancer(seed: int) -> Arrays:
    """Breast cancer, with 15 % of the training labels turned round."""
    data = cancer()
    flipped = torch.rand(350, generator=generator(seed)) < 0.15
    return data[0], torch.where(flipped, 1 - data[1], data[1]), data[2], data[3]


@cache
def wine() -> Arrays:
    raw = load_wine()
    return split(torch.tensor(raw.data, dtype=torch.float32), torch.tensor(raw.target), 90)


@cache
def iris() -> Arrays:
    raw = load_iris()
    return split(torch.tensor(raw.data, dtype=torch.float32), torch.tensor(raw.target), 90)


@cache
def source_text() -> Arrays:
    """Characters of some modules of the standard library, in windows of 64: predict each next character."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("argparse", "ast", "bdb", "calendar", "cmd", "copy", "csv", "dis", "enum", "heapq", "inspect", "textwrap")
    text = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in names)
    codes = torch.tensor([min(ord(letter), 127) for letter in text])
    windows = codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    windows = windows[torch.randperm(len(windows), generator=generator())]
    held_out, rest = windows[:192], windows[192:]
    parts = (rest[:, :-1], rest[:, 1:], held_out[:, :-1], held_out[:, 1:])
    return tuple(part.contiguous() for part in parts)  # type: ignore[return-value]


# Generated ------------------------------------------------------------------------------------------------------------


@cache
def least_squares() -> Arrays:
    """Linear regression on 20 inputs whose scales span a factor of 30, with noise."""
    inputs = torch.randn(1500, 20, generator=generator(1)) * torch.logspace(-1.5, 0, 20)
    weights = torch.randn(20, generator=generator(2)) / torch.logspace(-1.5, 0, 20)
    targets = inputs @ weights / 4 + 0.3 * torch.randn(1500, generator=generator(3))
    return split(inputs, targets, 1000, scale=False)


@cache
def spirals() -> Arrays:
    """Three spiral arms in a plane, with noise."""
    radius = torch.rand(1500, generator=generator(4)).sqrt()
    arm = torch.randint(3, (1500,), generator=generator(5))
    angle = 7 * radius + arm * 2.0944 + 0.15 * torch.randn(1500, generator=generator(6))
    return split(torch.stack([radius * angle.cos(), radius * angle.sin()], 1) * 2, arm, 1000, scale=False)


@cache
def parity() -> Arrays:
    """Whether an even number of the first three of 12 signs is negative: nothing to see for a linear model."""
    signs = torch.randint(2, (3000, 12), generator=generator(7)) * 2 - 1
    return split(signs.float(), (signs[:, :3].prod(1) > 0).long(), 2000, scale=False)


@cache
def adding(length: int = 20) -> Arrays:
    """The adding problem: the sum of the two marked numbers of a sequence."""
    values = torch.rand(2500, length, generator=generator(8))
    marks = torch.zeros(2500, length)
    for row, places in enumerate(torch.rand(2500, length, generator=generator(9)).topk(2).indices):
        marks[row, places] = 1.0
    return split(torch.stack([values, marks], 2), (values * marks).sum(1) - 1, 2000, scale=False)


@cache
def sines(train_rows: int = 1000, noise: float = 0.1) -> Arrays:
    """The next value of a sum of two sines with noise, after 24 of them."""
    time = torch.arange(25) * 0.3
    frequency = 0.5 + 1.5 * torch.rand(train_rows + 500, 2, 1, generator=generator(10))
    phase = 6.28 * torch.rand(train_rows + 500, 2, 1, generator=generator(11))
    series = (frequency * time + phase).sin().sum(1)
    series = series + noise * torch.randn(series.shape, generator=generator(12))
    return split(series[:, :24].unsqueeze(2), series[:, 24], train_rows, scale=False)


@cache
def ratings() -> Arrays:
    """What 200 users think of 150 things: user, thing -> rating, from 6 hidden features, with noise."""
    users, things = torch.randn(200, 6, generator=generator(13)), torch.randn(150, 6, generator=generator(14))
    pairs = torch.stack(
        [torch.randint(200, (9000,), generator=generator(15)), torch.randint(150, (9000,), generator=generator(16))], 1
    )
    liked = (users[pairs[:, 0]] * things[pairs[:, 1]]).sum(1) / 2.5
    return split(pairs, liked + 0.3 * torch.randn(9000, generator=generator(17)), 7000, scale=False)


@cache
def shapes(noise: float = 0.5) -> Arrays:
    """Images of 12 x 12 pixels with one of four shapes somewhere in the noise."""
    forms = torch.zeros(4, 5, 5)
    forms[0, 0], forms[0, 4], forms[0, :, 0], forms[0, :, 4] = 1, 1, 1, 1  # a square
    forms[1, 2], forms[1, :, 2] = 1, 1  # a plus
    forms[2] = torch.eye(5).maximum(torch.eye(5).flip(0))  # a cross
    forms[3, 4] = 1
    for row in range(5):
        forms[3, row, 2 - row // 2], forms[3, row, 2 + row // 2] = 1, 1  # a triangle
    labels = torch.randint(4, (2400,), generator=generator(18))
    images = noise * torch.randn(2400, 1, 12, 12, generator=generator(19))
    for row, (top, left) in enumerate(torch.randint(8, (2400, 2), generator=generator(20)).tolist()):
        images[row, 0, top : top + 5, left : left + 5] += forms[labels[row]]
    return split(images, labels, 1600, scale=False)


def shapes_pixels() -> Arrays:
    """Images as inputs, the same as targets."""
    train, _, held_out, _ = shapes(0.1)
    return train.flatten(1), train.flatten(1), held_out.flatten(1), held_out.flatten(1)


@cache
def first_token(length: int = 12) -> Arrays:
    """Sequences of ten letters: which was the first? It stands behind eleven others."""
    codes = torch.randint(10, (3000, length), generator=generator(22))
    return split(codes, codes[:, 0], 2400, scale=False)


@cache
def counts() -> Arrays:
    """Poisson counts whose log rate is a smooth function of eight inputs."""
    inputs = torch.randn(2000, 8, generator=generator(23))
    log_rate = (inputs[:, :3].sin().sum(1) + inputs[:, 3] * inputs[:, 4] / 2).clamp(-3, 3)
    return split(inputs, torch.poisson(log_rate.exp(), generator=generator(24)), 1400)


@cache
def teacher() -> Arrays:
    """What a fixed random network of 16 inputs makes of them."""
    source = generator(25)
    first, second = torch.randn(16, 32, generator=source) / 4, torch.randn(32, 32, generator=source) / 4
    inputs = torch.randn(3000, 16, generator=source)
    targets = ((inputs @ first).tanh() @ second).tanh() @ torch.randn(32, generator=source) / 3
    return split(inputs, targets, 2400, scale=False)


def noisy_pixels() -> Arrays:
    """Images with noise as inputs, without as targets."""
    train, clean, held_out, other = digits_pixels()
    noise = generator(26)
    return (
        *(train + 0.3 * torch.randn(train.shape, generator=noise), clean),
        *(held_out + 0.3 * torch.randn(held_out.shape, generator=noise), other),
    )


def digits_rows() -> Arrays:
    """Images as sequences of their eight rows."""
    train, labels, held_out, others = digits()
    return train.squeeze(1), labels, held_out.squeeze(1), others


@cache
def moons() -> Arrays:
    """Two half circles that reach into each other, with noise."""
    angle = 3.14159 * torch.rand(1200, generator=generator(27))
    kind = torch.randint(2, (1200,), generator=generator(28))
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    points = torch.where(kind.unsqueeze(1) == 0, upper, lower)
    return split(points + 0.2 * torch.randn(1200, 2, generator=generator(29)), kind, 800, scale=False)


@cache
def blobs() -> Arrays:
    """Six clouds of points in ten dimensions that overlap."""
    centers = torch.randn(6, 10, generator=generator(30))
    kind = torch.randint(6, (2400,), generator=generator(31))
    return split(centers[kind] + 1.2 * torch.randn(2400, 10, generator=generator(32)), kind, 1600, scale=False)


@cache
def majority() -> Arrays:
    """Whether most of 11 signs are positive; six more are noise."""
    signs = torch.randint(2, (2400, 17), generator=generator(33)) * 2 - 1
    return split(signs.float(), (signs[:, :11].sum(1) > 0).long(), 1600, scale=False)


@cache
def next_letters() -> Arrays:
    """Eight characters and the one that follows."""
    inputs, _, held_out, _ = source_text()
    windows, others = inputs[:2000, : 9 * 7].reshape(-1, 9), held_out[:, : 9 * 7].reshape(-1, 9)
    return windows[:, :8], windows[:, 8], others[:, :8], others[:, 8]


@cache
def outliers() -> Arrays:
    """Linear regression with every tenth target far off."""
    inputs = torch.randn(1500, 12, generator=generator(34))
    targets = inputs @ torch.randn(12, generator=generator(35)) + 0.2 * torch.randn(1500, generator=generator(36))
    far = torch.rand(1500, generator=generator(37)) < 0.1
    far[1000:] = False
    data = torch.where(far, targets + 15 * torch.randn(1500, generator=generator(38)), targets)
    return inputs[:1000], data[:1000], inputs[1000:], data[1000:]
