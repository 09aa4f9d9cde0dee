"""Data of the tasks by which 1Cycle's peak is studied, beside those in task_data.py.

Every function returns training inputs and targets, then validation inputs and targets; the same for every seed.
"""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import task_data as d
import torch
from task_data import Arrays, generator, split
from torch import Tensor

LENGTH = 32
"""Characters in a window of text."""

NODES, COMMUNITIES = 400, 4
WORDS = 2000
HORIZON = 10


def without_targets(inputs: Tensor, train_rows: int) -> Arrays:
    return split(inputs, torch.zeros(len(inputs)), train_rows, scale=False)


# Text -----------------------------------------------------------------------------------------------------------------


def _texts(source: str) -> str:
    """Return Python code, other Python code, English (Python's own help), or C headers."""
    library, include = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("include"))
    files = {
        "code": [library / f"{name}.py" for name in ("argparse", "ast", "calendar", "copy", "csv", "enum", "inspect")],
        "more code": [library / f"{name}.py" for name in ("tarfile", "zipfile", "typing", "uuid", "shutil", "difflib")],
        "english": [library / "pydoc_data" / "topics.py"],
        "headers": sorted((include / "cpython").glob("*.h")),
    }[source]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    return text.replace("\\n", "\n")[:250_000]


@cache
def letters(source: str, rows: int = 6000) -> Arrays:
    """Windows of 32 characters: predict each next one. The validation rows are the same, however many ``rows``."""
    codes = torch.tensor([min(ord(letter), 127) for letter in _texts(source)])
    windows = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    windows = windows[torch.randperm(len(windows), generator=generator())]
    held_out, rest = windows[:300], windows[300 : 300 + rows]
    parts = (rest[:, :-1], rest[:, 1:], held_out[:, :-1], held_out[:, 1:])
    return tuple(part.contiguous() for part in parts)  # type: ignore[return-value]


@cache
def which_source(rows: int = 1200) -> Arrays:
    """Windows of text: from code, English or headers?"""
    parts = [letters(source) for source in ("code", "english", "headers")]
    inputs = torch.cat([part[0][:800] for part in parts])
    train, labels, held_out, others = split(inputs, torch.arange(3).repeat_interleave(800), rows, scale=False)
    return train, labels, held_out[-700:], others[-700:]


@cache
def copied_letter() -> Arrays:
    """Sequences of 16 letters; the class is the letter that follows the only zero."""
    codes = torch.randint(1, 8, (4000, 16), generator=generator(40))
    place = torch.randint(15, (4000,), generator=generator(41))
    codes[torch.arange(4000), place] = 0
    return split(codes, codes[torch.arange(4000), place + 1] - 1, 3200, scale=False)


# Images ---------------------------------------------------------------------------------------------------------------


def few(data: Arrays, rows: int) -> Arrays:
    return data[0][:rows], data[1][:rows], data[2], data[3]


@cache
def two_views() -> Arrays:
    """Pairs of views of one image: shifted by up to a pixel, with noise."""
    train, _, held_out, _ = d.digits()
    source = generator(42)

    def view(images: Tensor) -> Tensor:
        down, right = torch.randint(-1, 2, (2,), generator=source).tolist()
        return images.roll((down, right), (2, 3)) + 0.2 * torch.randn(images.shape, generator=source)

    def pairs(images: Tensor, repeats: int) -> Tensor:
        return torch.cat(
            [torch.stack([view(part), view(part)], 1) for part in images.split(50) for _ in range(repeats)]
        )

    inputs, others = pairs(train, 4), pairs(held_out, 1)
    return inputs, torch.zeros(len(inputs)), others, torch.zeros(len(others))


@cache
def two_halves() -> Arrays:
    """Two noisy non-linear images of one hidden vector: which of the others belongs to it?"""
    hidden = torch.randn(4000, 6, generator=generator(43))
    sides = []
    for seed in (44, 45):
        source = generator(seed)
        first, second = torch.randn(6, 24, generator=source), torch.randn(24, 20, generator=source) / 5
        sides.append((hidden @ first / 2).tanh() @ second + 0.2 * torch.randn(4000, 20, generator=source))
    return without_targets(torch.stack(sides, 1), 3500)


def noised(clean: Tensor, train_rows: int, repeats: int, seed: int) -> Arrays:
    """Diffusion: a mixture of clean data and noise, and how much of it is noise -> the noise."""
    order = torch.randperm(len(clean), generator=generator(seed))
    source = generator(seed + 1)

    def mix(rows: Tensor) -> tuple[Tensor, Tensor]:
        time = torch.rand(len(rows), 1, generator=source)
        noise = torch.randn(rows.shape, generator=source)
        angle = time * 1.5
        return torch.cat([angle.cos() * rows + angle.sin() * noise, time], 1), noise

    inputs, noise = mix(clean[order[:train_rows]].repeat(repeats, 1))
    others, other_noise = mix(clean[order[train_rows:]].repeat(2, 1))
    return inputs, noise, others, other_noise


@cache
def noised_spirals() -> Arrays:
    inputs, _, others, _ = d.spirals()
    return noised(torch.cat([inputs, others]), 1000, 8, 46)


@cache
def noised_digits() -> Arrays:
    train, _, held_out, _ = d.digits_pixels()
    return noised(2 * torch.cat([train, held_out]) - 1, 1100, 6, 48)


@cache
def picture() -> Arrays:
    """A picture as a function of the place: some of its pixels, then the others."""
    axis = torch.linspace(-1, 1, 48)
    places = torch.cartesian_prod(axis, axis)
    x, y = places.T
    values = (9 * x * y).sin() + (7 * (x**2 + y**2).sqrt()).cos() * (x > y)
    return split(places, values, 1500, scale=False)


# Equations, policies, graphs, sets ------------------------------------------------------------------------------------


@cache
def places_on_a_line(low: float, high: float) -> Arrays:
    inputs = low + (high - low) * torch.rand(2500, 1, generator=generator(50))
    return without_targets(inputs, 2000)


@cache
def starts() -> Arrays:
    """Place and speed at which a mass begins that is to be brought to rest at 0."""
    return without_targets(2 * torch.randn(4400, 2, generator=generator(51)), 4000)


@cache
def contexts() -> Arrays:
    """What a policy sees before it pulls one of ten arms."""
    return without_targets(torch.randn(5000, 16, generator=generator(52)), 4000)


@cache
def graph() -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised adjacency, noisy features and communities of a graph."""
    source = generator(53)
    kind = torch.randint(COMMUNITIES, (NODES,), generator=source)
    linked = torch.where(kind[:, None] == kind[None], 0.05, 0.01) > torch.rand(NODES, NODES, generator=source)
    links = (linked.triu(1) | linked.triu(1).T).float() + torch.eye(NODES)
    scale = links.sum(1).rsqrt()
    features = 2.5 * torch.randn(NODES, 32, generator=source)
    features[:, :COMMUNITIES] += 2 * torch.nn.functional.one_hot(kind, COMMUNITIES)
    return scale[:, None] * links * scale, features, kind


@cache
def nodes(labelled: int) -> Arrays:
    """Indexes of nodes, and their communities."""
    kind = graph()[2]
    return split(torch.arange(NODES), kind, labelled, scale=False)


@cache
def bags_of_numbers() -> Arrays:
    """Sets of 12 vectors: the length of their mean, plus the largest first coordinate."""
    items = torch.randn(3000, 12, 4, generator=generator(54)) + torch.randn(3000, 1, 4, generator=generator(55)) / 2
    return split(items, items.mean(1).norm(dim=1) + items[:, :, 0].amax(1) / 2 - 1.5, 2400, scale=False)


@cache
def medians() -> Arrays:
    """Sets of nine numbers: their median."""
    items = 2 * torch.randn(3000, 9, 1, generator=generator(56)) ** 3
    return split(items / 4, items[:, :, 0].median(1).values, 2400, scale=False)


@cache
def documents(train_rows: int = 6000, seed: int = 57) -> Arrays:
    """Bags of 20 of 2000 words, some common and most rare; each word speaks for one of two classes."""
    source = generator(seed)
    frequency = 1.0 / (10 + torch.arange(WORDS))
    words = torch.multinomial(frequency, 20 * (train_rows + 1500), replacement=True, generator=source)
    words = words.view(-1, 20)
    votes = torch.randn(WORDS, generator=source)[words].mean(1) + 0.1 * torch.randn(len(words), generator=source)
    return split(words, (votes > 0).long(), train_rows, scale=False)


@cache
def far_tails(seed: int = 58) -> Arrays:
    """Regression with noise of heavy tails on the training targets, and none on the others."""
    source = generator(seed)
    inputs = torch.randn(2500, 8, generator=source)
    targets = inputs[:, :3].sum(1).sin() + inputs[:, 3] * inputs[:, 4] / 2
    noise = torch.randn(2500, generator=source) / torch.rand(2500, generator=source).clamp(min=1e-3) ** 0.45
    noise[1800:] = 0
    return inputs[:1800], (targets + 0.3 * noise)[:1800], inputs[1800:], targets[1800:]


@cache
def rare_class(seed: int = 59) -> Arrays:
    """One row in 15 belongs to the second class."""
    source = generator(seed)
    inputs = torch.randn(5000, 10, generator=source)
    score = inputs[:, 0] * inputs[:, 1] + inputs[:, 2:5].sum(1) + 0.5 * torch.randn(5000, generator=source)
    return split(inputs, (score > score.quantile(0.933)).long(), 3500, scale=False)


@cache
def few_noisy(rows: int, seed: int = 60) -> Arrays:
    """Three classes in 20 dimensions; a fifth of the few training labels is wrong."""
    source = generator(seed)
    kind = torch.randint(3, (rows + 1500,), generator=source)
    inputs = torch.randn(3, 20, generator=source)[kind] * 0.6 + torch.randn(rows + 1500, 20, generator=source)
    labels = torch.where(torch.rand(len(kind), generator=source) < 0.2, (kind + 1) % 3, kind)
    return inputs[:rows], labels[:rows], inputs[rows:], kind[rows:]


@cache
def changed_friedman(rows: int) -> Arrays:
    """Friedman's function with two of its terms changed."""
    inputs, targets, others, other_targets = d.friedman()
    change = [2 * part[:, 0] * part[:, 1] - 1.5 * part[:, 4] for part in (inputs, others)]
    return inputs[:rows], (targets + change[0])[:rows], others, other_targets + change[1]


@cache
def digits_by_a_quarter() -> Arrays:
    """Which of 10 digits, of images turned by a quarter."""
    train, labels, held_out, others = d.digits()
    return train.rot90(1, (2, 3)).contiguous(), labels, held_out.rot90(1, (2, 3)).contiguous(), others


@cache
def shifted_digits(rows: int) -> Arrays:
    """Images of digits moved by a pixel, with noise: almost what a net knows that was trained on digits."""
    train, labels, held_out, others = d.digits()
    source = generator(67)
    moved = [part.roll(1, 3) + 0.3 * torch.randn(part.shape, generator=source) for part in (train, held_out)]
    return moved[0][:rows], labels[:rows], moved[1], others


@cache
def tags() -> Arrays:
    """Six tags that do not exclude one another, each a function of two of 12 inputs."""
    source = generator(61)
    inputs = torch.randn(4000, 12, generator=source)
    scores = inputs[:, ::2] * inputs[:, 1::2] + inputs[:, ::2] + 0.3 * torch.randn(4000, 6, generator=source)
    return split(inputs, (scores > 0.5).float(), 3000, scale=False)
