"""Models, losses and optimizers of the tasks by which 1Cycle's peak is studied, beside those in task_models.py."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import peak_data as p
import task_models as m
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name

# Transformers ---------------------------------------------------------------------------------------------------------


class PostNormBlock(m.Block):
    """As in the first transformers: the norm stands behind each sum."""

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = self.norm1(x + self.out(attended.transpose(1, 2).reshape(rows, length, width)))
        return self.norm2(x + self.mlp(x))


class LanguageModel(nn.Module):
    """Predicts each next character; ``classes``: classifies the whole window instead."""

    def __init__(
        self,
        blocks: int,
        width: int = 32,
        *,
        post: bool = False,
        codes: int = 128,
        length: int = p.LENGTH,
        classes: int = 0,
    ) -> None:
        super().__init__()
        kind = PostNormBlock if post else m.Block
        self.letters, self.places = nn.Embedding(codes, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(kind(width, 4, causal=not classes) for _ in range(blocks)))
        self.norm = nn.Identity() if post else nn.LayerNorm(width)
        self.classes, self.head = classes, nn.Linear(width, classes or codes)

    def features(self, codes: Tensor) -> Tensor:
        return self.norm(self.blocks(self.letters(codes) + self.places.weight))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.features(codes)
        return self.head(x.mean(1) if self.classes else x)


class WithHead(nn.Module):
    """A pretrained language model with a new head that classifies the whole window."""

    def __init__(self, body: LanguageModel, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(body.head.in_features, classes)

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.body.features(codes).mean(1))


class LowRank(nn.Module):
    """LoRA: a linear layer that stays as it is, plus a product of two small matrices that begins at zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * (x @ self.down.T) @ self.up.T


def with_low_rank(model: nn.Module, rank: int) -> nn.Module:
    """Freeze a model and put low-rank adapters beside all linear layers of its blocks."""
    model.requires_grad_(False)
    for block in model.blocks:  # type: ignore[union-attr]
        block.qkv, block.out = LowRank(block.qkv, rank), LowRank(block.out, rank)
        block.mlp[0], block.mlp[2] = LowRank(block.mlp[0], rank), LowRank(block.mlp[2], rank)
    return model


class Bottleneck(nn.Module):
    """A frozen block with a small network behind it that begins as the identity."""

    def __init__(self, block: nn.Module, width: int, narrow: int) -> None:
        super().__init__()
        self.block = block.requires_grad_(False)
        self.net = nn.Sequential(nn.Linear(width, narrow), nn.GELU(), nn.Linear(narrow, width))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x + self.net(x)


def with_bottlenecks(model: nn.Module, width: int, narrow: int) -> nn.Module:
    model.requires_grad_(False)
    model.blocks = nn.Sequential(*(Bottleneck(block, width, narrow) for block in model.blocks))  # type: ignore[union-attr]
    model.head.requires_grad_(True)
    return model


def only_biases_and_norms(model: nn.Module) -> nn.Module:
    """BitFit: of a pretrained model, only vectors are trained."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.dim() == 1)
    return model


# Other networks -------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def residual_mlp(inputs: int, outputs: int, blocks: int, width: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), *(Residual(width) for _ in range(blocks)), nn.Linear(width, outputs)
    )


def with_dropout(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.4)]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


class OnPairs(nn.Module):
    """Encodes both halves of each pair, by one network or by two; unit vectors."""

    def __init__(self, first: nn.Module, second: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, pairs: Tensor) -> Tensor:
        second = self.second or self.first
        return F.normalize(torch.stack([self.first(pairs[:, 0]), second(pairs[:, 1])], 1), dim=-1)


class Solution(nn.Module):
    """A network that is to solve a differential equation: its residuals in training, its error in validation."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.net = m.mlp(1, 32, 32, 32, 1, activation=nn.Tanh)
        self.equation = equation

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return (self.net(x) - self.exact(x)).squeeze(1)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            u = self.net(x)
            slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
            bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
            if self.equation == "poisson":  # u'' = -(2 pi)^2 sin(2 pi x), zero at both ends
                ends = self.net(x.new_tensor([[-1.0], [1.0]]))
                residual = (bend + 39.48 * (6.2832 * x).sin()) / 10
                return torch.cat([residual, 10 * ends.expand(2, 1)]).squeeze(1)
            start = torch.zeros(1, 1, requires_grad=True)  # a damped oscillator that begins at 1 at rest
            value = self.net(start)
            speed = torch.autograd.grad(value.sum(), start, create_graph=True)[0]
            residual = (bend + 2 * slope + 37 * u) / 10
            return torch.cat([residual, 10 * (value - 1), 2 * speed]).squeeze(1)

    def exact(self, x: Tensor) -> Tensor:
        if self.equation == "poisson":
            return (6.2832 * x).sin()
        return (-x).exp() * ((6 * x).cos() + (6 * x).sin() / 6)


class Mover(nn.Module):
    """A policy that pushes a mass left, right or not at all; REINFORCE in training, the cost in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = m.mlp(2, 32, 3, activation=nn.Tanh)

    def forward(self, starts: Tensor) -> Tensor:
        state, logs, costs = starts, [], []
        for _ in range(p.HORIZON):
            logits = self.net(state).log_softmax(1)
            action = torch.multinomial(logits.detach().exp(), 1) if self.training else logits.argmax(1, keepdim=True)
            logs.append(logits.gather(1, action).squeeze(1))
            speed = state[:, 1] + 0.5 * (action.squeeze(1) - 1)
            state = torch.stack([state[:, 0] + 0.5 * speed, speed], 1)
            costs.append((state**2).sum(1) / 10)
        if not self.training:
            return torch.stack(costs).mean(0)
        to_come = torch.stack(costs).flip(0).cumsum(0).flip(0)
        advantage = (to_come - to_come.mean(1, keepdim=True)) / (to_come.std(1, keepdim=True) + 1e-6)
        return (torch.stack(logs) * advantage).mean(0)


class Bandit(nn.Module):
    """A policy that pulls one of ten arms and sees a noisy reward for it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = m.mlp(16, 64, 10)
        self.register_buffer("worth", torch.randn(16, 10, generator=torch.Generator().manual_seed(70)) / 4)

    def forward(self, contexts: Tensor) -> Tensor:
        reward = torch.sin(2 * contexts @ self.worth)
        logits = self.net(contexts).log_softmax(1)
        if not self.training:
            return -(logits.exp() * reward).sum(1)
        arm = torch.multinomial(logits.detach().exp(), 1)
        got = reward.gather(1, arm).squeeze(1) + 0.3 * torch.randn(len(contexts))
        return -logits.gather(1, arm).squeeze(1) * (got - got.mean())


class GraphNet(nn.Module):
    """Two or more graph convolutions over a whole graph; returns the rows of the nodes that are asked for."""

    def __init__(self, layers: int = 2, width: int = 16) -> None:
        super().__init__()
        links, features, _ = p.graph()
        self.register_buffer("links", links)
        self.register_buffer("features", features)
        widths = [features.shape[1], *[width] * (layers - 1), p.COMMUNITIES]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, nodes: Tensor) -> Tensor:
        x = self.features
        for number, layer in enumerate(self.layers):
            x = self.links @ layer(x if number == 0 else x.relu())
        return x[nodes]


class DeepSet(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.each, self.all = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32)), m.mlp(64, 32, 1)

    def forward(self, sets: Tensor) -> Tensor:
        x = self.each(sets)
        return self.all(torch.cat([x.mean(1), x.amax(1)], 1))


class SetTransformer(nn.Module):
    def __init__(self, inputs: int, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Linear(inputs, 32)
        self.blocks = nn.Sequential(*(m.Block(32, 4, causal=False) for _ in range(blocks)))
        self.head = nn.Linear(32, 1)

    def forward(self, sets: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(sets)).mean(1))


def bag_of_words(width: int = 16, classes: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.EmbeddingBag(p.WORDS, width), nn.Linear(width, classes))


class Variational(nn.Module):
    """A variational autoencoder of 64 pixels: what it makes of them, then mean and log variance of the code."""

    def __init__(self, code: int = 8) -> None:
        super().__init__()
        self.into, self.out = m.mlp(64, 64, 2 * code), m.mlp(code, 64, 64)

    def forward(self, pixels: Tensor) -> Tensor:
        mean, log_variance = self.into(pixels).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return torch.cat([self.out(mean + noise * (log_variance / 2).exp()), mean, log_variance], 1)


class Sines(nn.Module):
    """A network of sines (SIREN) that represents a picture."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 1)
        with torch.no_grad():
            self.layers[0].weight.uniform_(-0.5, 0.5)
            for layer in [*self.layers[1:], self.head]:
                layer.weight.uniform_(-math.sqrt(6 / width) / 10, math.sqrt(6 / width) / 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = (10 * layer(x)).sin()
        return self.head(x)


class Experts(nn.Module):
    """A mixture of four small networks, of which each row uses the two best."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, 4)
        self.experts = nn.ModuleList(m.mlp(inputs, 32, outputs) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        score = self.gate(x)
        weights = score.masked_fill(score < score.topk(2).values[:, 1:], -math.inf).softmax(1)
        return (torch.stack([expert(x) for expert in self.experts], 2) @ weights.unsqueeze(2)).squeeze(2)


# Losses ---------------------------------------------------------------------------------------------------------------


def mean_of_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs**2).mean()


def mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def contrast(outputs: Tensor, targets: Tensor) -> Tensor:
    """InfoNCE, both ways."""
    scores = outputs[:, 0] @ outputs[:, 1].T / 0.1
    own = torch.arange(len(scores))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    loss = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-loss).exp()) ** 2 * loss).mean()


def variational(outputs: Tensor, targets: Tensor) -> Tensor:
    pixels, mean, log_variance = outputs[:, :64], outputs[:, 64:72], outputs[:, 72:]
    extra = (mean**2 + log_variance.exp() - log_variance - 1).sum(1) / 2
    return (F.mse_loss(pixels, targets, reduction="none").sum(1) * 5 + extra).mean()


def tags_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets)


def last_number(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs.flatten(), targets)


# Optimizers -----------------------------------------------------------------------------------------------------------


def adagrad(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=lr)


def adadelta(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adadelta(parameters, lr=lr)


def adamw_with_decay(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """The decay that language models are trained with."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1, fused=True)
