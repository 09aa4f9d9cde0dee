"""1Cycle's peak in nets as people have them: a pretrained transformer of 26 million weights, and wide language models.

    pip install --no-deps antiberty==0.1.3 antpack==0.4     (weights and sequences are in the wheels; transformers too)
    python tests/benchmarks/real_nets.py [--tasks NAMES]    (adds what is not stored yet)
    python tests/benchmarks/real_nets.py --report           (prints the table)

*antibodies*: AntiBERTy, a BERT of 8 blocks that is 512 wide, trained on antibody sequences. It classifies genes by
family from mutated sequences (all weights, low-rank adapters, a head), fills gaps in receptors of T cells, which it has
not seen, or predicts how greasy a sequence is.
*letters*: GPTs from scratch on source texts of Python, by width and number of blocks.

One seed. Regret as in peak_rules.py, of the validation loss, interpolated between the stored peaks in log lr.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import inspect
import json
import math
import re
import shutil
import subprocess
import tarfile
import typing
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak_probe import find
from peak_study import cycle
from tasks import Task
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the customary name

from lightning_lrsched.range_test.probe import Weights, peak_of
from lightning_lrsched.range_test.suggest import ADAM, WIDE

STORE = Path(__file__).with_name("real_nets.json")
SEED = 1

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
TOKENS = {letter: 5 + number for number, letter in enumerate(LETTERS)}
PAD, CLS, SEP, MASK = 0, 2, 3, 4
LENGTH, FAMILIES, MUTATED = 32, 16, 0.45
GREASY = dict(
    zip(
        "ARNDCQEGHILKMFPSTWYV",
        (
            1.8,
            -4.5,
            -3.5,
            -3.5,
            2.5,
            -3.5,
            -3.5,
            -0.4,
            -3.2,
            4.5,
            3.8,
            -3.9,
            1.9,
            2.8,
            -1.6,
            -0.8,
            -0.7,
            -0.9,
            -1.3,
            4.2,
        ),
        strict=True,
    )
)
"""Kyte and Doolittle's scale of hydropathy."""


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps antiberty==0.1.3 antpack==0.4")
    return Path(spec.origin).parent


def genes() -> list[tuple[str, str, str]]:
    """Return species, gene and sequence of the V genes of humans and mice."""
    found = []
    for path in sorted((folder_of("antpack") / "vj_tools" / "consensus_data").glob("*V_*.gz")):
        species, name = path.name.split("_")[0], ""
        if species not in ("human", "mouse"):
            continue
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            if line.startswith(">"):
                name = line[1:]
            elif len(sequence := line.replace("-", "")) > 70:
                found.append((species, name, sequence))
    return found


def encoded(sequence: str) -> list[int]:
    tokens = [CLS, *(TOKENS.get(letter, 1) for letter in sequence[: LENGTH - 2]), SEP]
    return tokens + [PAD] * (LENGTH - len(tokens))


def mutated(sequence: str, generator: np.random.Generator, share: float) -> str:
    letters = (LETTERS[generator.integers(20)] if generator.random() < share else letter for letter in sequence)
    return "".join(letters)


class LowRank(nn.Module):
    def __init__(self, linear: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + 2 * self.up(self.down(x))


class Antibodies(nn.Module):
    """AntiBERTy with the head of a task; ``trains``: "all", "low rank" or "head"."""

    def __init__(self, outputs: int | None, trains: str = "all") -> None:
        super().__init__()
        from transformers import BertConfig, BertModel
        from transformers.models.bert.modeling_bert import BertLMPredictionHead

        folder = folder_of("antiberty") / "trained_models" / "AntiBERTy_md_smooth"
        config = BertConfig.from_json_file(folder / "config.json")
        state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        self.bert = BertModel(config, add_pooling_layer=False)
        self._load(self.bert, "bert.", state)
        self.fills_gaps = outputs is None
        if outputs is None:
            self.head = BertLMPredictionHead(config)
            self._load(self.head, "cls.predictions.", state)
        else:
            self.head = nn.Linear(config.hidden_size, outputs)
        self.bert.requires_grad_(trains == "all")
        if trains == "low rank":
            for layer in self.bert.encoder.layer:
                layer.attention.self.query = LowRank(layer.attention.self.query)
                layer.attention.self.value = LowRank(layer.attention.self.value)

    def _load(self, part: nn.Module, prefix: str, state: dict[str, Tensor]) -> None:
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        missing = [name for name in part.load_state_dict(own, strict=False).missing_keys if "position_ids" not in name]
        assert not missing, missing

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.bert(tokens, attention_mask=(tokens != PAD).long())[0]
        if self.fills_gaps:
            return self.head(hidden)
        real = (tokens != PAD).unsqueeze(-1).float()
        return self.head((hidden * real).sum(1) / real.sum(1)).squeeze(-1)


class Letters(nn.Module):
    """A GPT of single letters, initialised as GPT-2 is."""

    def __init__(self, width: int, blocks: int, length: int = 64, letters: int = 128) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(letters, width), nn.Embedding(length, width)
        for table in (self.embed, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, width // 64, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        for name, weight in self.blocks.named_parameters():
            if weight.dim() == 2:
                deep = "linear2" in name or "out_proj" in name
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * blocks) if deep else 0.02)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, letters, bias=False)
        nn.init.normal_(self.out.weight, std=0.02)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens) + self.places.weight
        for block in self.blocks:
            hidden = block(hidden, src_mask=self.mask, is_causal=True)
        return self.out(self.norm(hidden))


def of_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-100)


def adamw(decay: float) -> Callable[[Any, float], torch.optim.Optimizer]:
    return lambda parameters, lr: torch.optim.AdamW([p for p in parameters if p.requires_grad], lr, weight_decay=decay)


def task(
    model: Callable[[], nn.Module],
    inputs: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    generator: np.random.Generator,
    *,
    steps: int = 60,
    validated: int = 100,
    batch_size: int = 8,
    decay: float = 0.01,
) -> Task:
    order = generator.permutation(len(inputs))
    inputs, targets = inputs[order], targets[order]
    data = (inputs[validated:], targets[validated:], inputs[:validated], targets[:validated])
    torch.manual_seed(SEED)
    return Task("", SEED, model(), adamw(decay), data, loss, batch_size, steps, classifies=False)


def families(trains: str) -> Task:
    """Which family is this gene of?"""
    generator = np.random.default_rng(SEED)
    named = [(species + re.match(r"[A-Z]+[0-9]+", gene)[0], sequence) for species, gene, sequence in genes()]  # type: ignore[index]
    largest = [name for name, _ in sorted(Counter(n for n, _ in named).items(), key=lambda f: (-f[1], f[0]))[:FAMILIES]]
    rows = [(mutated(s, generator, MUTATED), largest.index(name)) for name, s in named if name in largest for _ in "12"]
    inputs, targets = torch.tensor([encoded(s) for s, _ in rows]), torch.tensor([number for _, number in rows])
    return task(lambda: Antibodies(FAMILIES, trains), inputs, targets, F.cross_entropy, generator)


def gaps() -> Task:
    """Which letters are missing in this receptor?"""
    generator = np.random.default_rng(SEED)
    inputs, targets = [], []
    for sequence in [s for _, gene, s in genes() if gene.startswith("TR")]:
        for _ in range(3):
            begin = generator.integers(0, max(1, len(sequence) - LENGTH + 2))
            tokens = encoded(sequence[begin : begin + LENGTH - 2])
            hidden = [token > MASK and generator.random() < 0.2 for token in tokens[:-1]]
            inputs.append([MASK if hides else token for token, hides in zip(tokens, [*hidden, False], strict=True)])
            targets.append([token if hides else -100 for token, hides in zip(tokens, [*hidden, False], strict=True)])
    return task(lambda: Antibodies(None), torch.tensor(inputs), torch.tensor(targets), of_tokens, generator)


def greasy() -> Task:
    """How greasy are the seven neighbours that are most so?"""
    generator = np.random.default_rng(SEED)
    sequences = [mutated(s, generator, 0.1)[: LENGTH - 2] for _, _, s in genes()]
    values = np.array([max(sum(GREASY[c] for c in s[i : i + 7]) for i in range(len(s) - 7)) for s in sequences])
    targets = torch.tensor((values - values.mean()) / values.std(), dtype=torch.float32)
    inputs = torch.tensor([encoded(s) for s in sequences])
    return task(lambda: Antibodies(1), inputs, targets, F.mse_loss, generator, decay=0.0)


def letters(width: int, blocks: int, steps: int) -> Task:
    modules = (argparse, ast, typing, subprocess, shutil, tarfile, zipfile, inspect)
    text = "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules)
    tokens = torch.tensor([min(127, ord(letter)) for letter in text])
    rows = tokens[: len(tokens) // 65 * 65].view(-1, 65)
    return task(
        lambda: Letters(width, blocks),
        rows[:, :-1].contiguous(),
        rows[:, 1:].contiguous(),
        of_tokens,
        np.random.default_rng(SEED),
        steps=steps,
        validated=60,
        batch_size=4,
        decay=0.1,
    )


TASKS: dict[str, Callable[[], Task]] = {
    "antibodies, families, all weights": lambda: families("all"),
    "antibodies, families, low rank": lambda: families("low rank"),
    "antibodies, families, head": lambda: families("head"),
    "antibodies, gaps, all weights": gaps,
    "antibodies, greasy, all weights": greasy,
    "letters, width 384, 6 blocks": lambda: letters(384, 6, 80),
    "letters, width 512, 2 blocks": lambda: letters(512, 2, 100),
    "letters, width 768, 2 blocks": lambda: letters(768, 2, 80),
}


def known(make: Callable[[], Task]) -> dict[str, Any]:
    weights = Weights.of(make().model)
    return {
        "untrained": make().validate()["loss"],
        "lowest": find(make(), ADAM),
        "weights": [weights.trained_share, weights.matrices, weights.width, weights.pretrained],
        "grid": {},
    }


def peak_in(run: dict[str, Any]) -> float:
    weights = Weights(*run["weights"])
    return peak_of(run["lowest"], ADAM * min(1.0, WIDE / weights.width), weights)[0]


def regret(run: dict[str, Any], peak: float) -> float:
    points = sorted((math.log(float(lr)), loss) for lr, loss in run["grid"].items())
    best = min(loss for _, loss in points)
    loss = float(np.interp(math.log(peak), *zip(*points, strict=True)))
    return min(1.0, (loss - best) / (run["untrained"] - best))


def report(runs: dict[str, Any]) -> str:
    lines = [
        "| net and task | width | lowest | best peak | peak of the probe | its regret | regret of 0.006 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        best, peak = min(run["grid"], key=lambda lr: run["grid"][lr]), peak_in(run)
        lines.append(
            f"| {name} | {run['weights'][2]:.0f} | {run['lowest']:.2g} | {float(best):.2g} | {peak:.2g}"
            f" | {regret(run, peak):.2f} | {'' if f'{ADAM:.3g}' in run['grid'] else 'above '}{regret(run, ADAM):.2f} |"
        )
    return "\n".join(lines)


def complete(runs: dict[str, Any], names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in names:
        make = TASKS[name]
        run = runs.setdefault(name, known(make))
        powers = (-6, -5, -4, -3, -2, 0) if run["weights"][0] > 0.5 else (-2, -1, 0, 1, 2)
        for peak in (*(ADAM * 2.0**power for power in powers), peak_in(run)):
            key = f"{peak:.3g}"
            if key not in run["grid"]:
                one = make()
                losses = cycle(one, peak, one.num_steps, one.batches(one.num_steps))
                run["grid"][key] = one.validate()["loss"] if math.isfinite(losses[-1]) else run["untrained"]
                STORE.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
                print(name, key, run["grid"][key], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--report", action="store_true", help="print the table of what is stored, and train nothing")
    args = parser.parse_args()
    runs = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    if not args.report:
        complete(runs, args.tasks)
    print(report(runs))


if __name__ == "__main__":
    main()
