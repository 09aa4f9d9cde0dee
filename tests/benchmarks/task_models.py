"""Models, losses and optimizers of the benchmarks' tasks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from task_data import CONTEXT
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name

# Models ---------------------------------------------------------------------------------------------------------------


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def normed_mlp(norm: type[nn.Module], *widths: int) -> nn.Sequential:
    """Each hidden layer with a norm before its activation."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=False), norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def cnn(side: int, classes: int, *, width: int = 8, norm: bool = False, activation: type[nn.Module] = nn.ReLU) -> Any:
    layers: list[nn.Module] = []
    for before, after in ((1, width), (width, 2 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if norm else [])]
        layers += [activation(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * (side // 4) ** 2, classes))


class Recurrent(nn.Module):
    """An LSTM or GRU over a sequence of numbers or codes; the output is read off its last state, or off all of them."""

    def __init__(
        self, kind: type[nn.Module], inputs: int, outputs: int, *, codes: int = 0, every: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, inputs) if codes else nn.Identity()
        self.net, self.head, self.every = kind(inputs, 32, batch_first=True), nn.Linear(32, outputs), every

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.net(self.embedding(x))
        return self.head(states if self.every else states[:, -1])


class Block(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.norm2(x))


class CharTransformer(nn.Module):
    """Predicts each next character."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(128, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.letters(codes) + self.places.weight
        return self.head(self.blocks(x))


class Classifier(nn.Module):
    """A transformer over a sequence of codes, or over an image in patches of 4 x 4 pixels; one class for the whole."""

    def __init__(self, length: int, classes: int, *, codes: int = 0, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.patches = not codes
        self.embedding = nn.Embedding(codes, width) if codes else nn.Linear(16, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, 4, causal=False) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        if self.patches:
            x = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(1, 3)
        return self.head(self.blocks(self.embedding(x) + self.places).mean(1))


class Factors(nn.Module):
    """The scalar product of two embeddings, and a bias for each."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(200, width + 1), nn.Embedding(150, width + 1)
        for table in (self.users, self.things):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, pairs: Tensor) -> Tensor:
        user, thing = self.users(pairs[:, 0]), self.things(pairs[:, 1])
        return (user[:, 1:] * thing[:, 1:]).sum(1) + user[:, 0] + thing[:, 0]


class DeepFactors(Factors):
    """A network on the two embeddings, not their product."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.net = mlp(2 * width + 2, 32, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.net(torch.cat([self.users(pairs[:, 0]), self.things(pairs[:, 1])], 1))


class Signal(nn.Module):
    """Convolutions along a series."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv1d(1, 16, 5, padding=2), nn.GELU(), nn.AvgPool1d(2)),
            *(nn.Conv1d(16, 16, 5, padding=2), nn.GELU(), nn.Flatten(), nn.Linear(16 * 12, 1)),
        )

    def forward(self, series: Tensor) -> Tensor:
        return self.net(series.transpose(1, 2))


# Losses ---------------------------------------------------------------------------------------------------------------


def letters_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs.squeeze(-1), targets)


def pixels_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets)


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.smooth_l1_loss(outputs.squeeze(-1), targets)


def poisson(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.poisson_nll_loss(outputs.squeeze(-1), targets)


def summed_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Not divided by the number of rows."""
    return F.mse_loss(outputs.squeeze(-1), targets, reduction="sum")


def quantile(outputs: Tensor, targets: Tensor) -> Tensor:
    """The pinball loss of the highest fifth."""
    above = targets - outputs.squeeze(-1)
    return torch.maximum(0.8 * above, -0.2 * above).mean()


def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.multi_margin_loss(outputs, targets)


# Optimizers -----------------------------------------------------------------------------------------------------------


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def sgd_with_decay(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)


def plain_sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def nesterov(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


def adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, fused=True)


def nadam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.NAdam(parameters, lr=lr)


def radam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RAdam(parameters, lr=lr)


def rmsprop(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=lr)


def adafactor(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(parameters, lr=lr)


def lion(parameters: Any, lr: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import Lion

    return Lion(parameters, lr=lr)


def muon(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(parameters, lr=lr)
