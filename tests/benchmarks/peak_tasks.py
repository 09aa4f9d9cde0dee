"""The tasks by which 1Cycle's peak is studied: what users train, made small.

They are in the order of ``TASKS``; every second one, from the first on, belongs to the choosing half, the others are
reported. Nets of the fine-tuning tasks are pretrained here, on a related task, once in a process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import peak_data as p
import peak_models as n
import task_data as d
import task_models as m
import tasks
import torch
from task_data import Arrays
from tasks import Task, train
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the customary name

SCRATCH, FULL, ADAPTERS, FROZEN = "from scratch", "fine-tuning in full", "adapters", "frozen backbone"


class Parts(NamedTuple):
    data: Arrays
    model: nn.Module
    optimizer: Any
    batch_size: int
    num_steps: int
    loss: Any = None
    """None: the task classifies."""
    kind: str = SCRATCH


# Pretrained nets ------------------------------------------------------------------------------------------------------


def _pretrain(parts: Parts, lr: float) -> nn.Module:
    """Return the trained model; the same whatever random numbers were drawn before."""
    train(_task("pretraining", 0, parts), lr, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, parts.num_steps))
    return parts.model


@cache
def _pretrained(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        code = p.letters("code")
        nets: dict[str, Callable[[], nn.Module]] = {
            "language model": lambda: _pretrain(
                Parts(code, n.LanguageModel(3), m.adamw, 16, 1500, m.letters_loss), 3e-3
            ),
            "deep language model": lambda: _pretrain(
                Parts(code, n.LanguageModel(6, 24), m.adamw, 16, 1200, m.letters_loss), 2e-3
            ),
            "post-norm language model": lambda: _pretrain(
                Parts(code, n.LanguageModel(3, post=True), m.adamw, 16, 1500, m.letters_loss), 2e-3
            ),
            "recurrent language model": lambda: _pretrain(
                Parts(code, m.Recurrent(nn.GRU, 32, 128, codes=128, every=True), m.adam, 16, 1000, m.letters_loss), 5e-3
            ),
            "digits net": lambda: _pretrain(Parts(d.some_digits(0, 5), m.cnn(8, 5), m.adam, 32, 300), 3e-3),
            "normed digits net": lambda: _pretrain(
                Parts(d.some_digits(0, 5), m.cnn(8, 5, norm=True), m.sgd, 32, 300), 0.05
            ),
            "patches": lambda: _pretrain(Parts(d.some_digits(0, 5), m.Classifier(4, 5), m.adamw, 32, 400), 2e-3),
            "shapes net": lambda: _pretrain(Parts(d.shapes(0.3), m.cnn(12, 4, norm=True), m.adam, 32, 400), 3e-3),
            "autoencoder": lambda: _pretrain(
                Parts(
                    d.noisy_pixels(),
                    nn.Sequential(m.mlp(64, 64, 24), nn.ReLU(), m.mlp(24, 64, 64)),
                    m.adam,
                    32,
                    600,
                    m.pixels_loss,
                ),
                3e-3,
            ),
            "friedman": lambda: _pretrain(Parts(d.friedman(), m.mlp(10, 64, 64, 1), m.adam, 32, 1000, m.squares), 3e-3),
            "pair encoder": lambda: _pretrain(
                Parts(p.two_views(), n.OnPairs(m.mlp(64, 64, 32)), m.adam, 64, 500, n.contrast), 3e-3
            ),
            "digits mlp": lambda: _pretrain(Parts(d.digits(), m.mlp(64, 64, 64, 10), m.adam, 32, 500), 3e-3),
        }
        return nets[name]()


def pretrained(name: str) -> Any:
    return copy.deepcopy(_pretrained(name))


def new_head(model: nn.Sequential, outputs: int | None = None) -> nn.Sequential:
    """Give a net a last layer that has learnt nothing yet."""
    last = model[-1]
    model[-1] = nn.Linear(last.in_features, outputs or last.out_features)  # type: ignore[arg-type, union-attr]
    return model


def head_on(features: nn.Module, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(features.requires_grad_(False), nn.Linear(width, outputs))


def patches_for_new_digits() -> m.Classifier:
    model = pretrained("patches")
    model.head[1] = nn.Linear(32, 5)
    return model


def encoder() -> nn.Sequential:
    return pretrained("autoencoder")[0]


@cache
def softened_digits() -> Arrays:
    """What a trained net makes of images: the probabilities that a smaller one is to learn."""
    teacher = pretrained("digits mlp")
    train_rows, _, held_out, _ = d.digits()
    with torch.no_grad():
        return train_rows, (teacher(train_rows) / 3).softmax(1), held_out, (teacher(held_out) / 3).softmax(1)


def distilled(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.kl_div(outputs.log_softmax(1), targets, reduction="batchmean")


# Tasks ----------------------------------------------------------------------------------------------------------------

english, headers, code = (
    lambda rows=6000, source=source: p.letters(source, rows) for source in ("english", "headers", "code")
)
letters_loss = m.letters_loss

TASKS: dict[str, Callable[[], Parts]] = {
    # Fine-tuning in full.
    "english_language_model_adamw": lambda: Parts(
        english(), pretrained("language model"), m.adamw, 8, 200, letters_loss, FULL
    ),
    "headers_language_model_adamw": lambda: Parts(
        headers(), pretrained("language model"), n.adamw_with_decay, 8, 150, letters_loss, FULL
    ),
    "headers_language_model_adafactor": lambda: Parts(
        headers(), pretrained("language model"), m.adafactor, 8, 200, letters_loss, FULL
    ),
    "english_deep_language_model_adafactor": lambda: Parts(
        english(), pretrained("deep language model"), m.adafactor, 8, 150, letters_loss, FULL
    ),
    "english_postnorm_adam": lambda: Parts(
        english(), pretrained("post-norm language model"), m.adam, 8, 300, letters_loss, FULL
    ),
    "headers_deep_language_model_lion": lambda: Parts(
        headers(), pretrained("deep language model"), m.lion, 8, 150, letters_loss, FULL
    ),
    "english_recurrent_rmsprop": lambda: Parts(
        english(), pretrained("recurrent language model"), m.rmsprop, 8, 200, letters_loss, FULL
    ),
    "few_headers_language_model_sgd": lambda: Parts(
        headers(400), pretrained("language model"), m.sgd, 8, 300, letters_loss, FULL
    ),
    "new_digits_batchnorm_sgd": lambda: Parts(
        d.some_digits(5, 10), new_head(pretrained("normed digits net")), m.sgd, 32, 120, None, FULL
    ),
    "few_new_digits_cnn_adam": lambda: Parts(
        p.few(d.some_digits(5, 10), 60), new_head(pretrained("digits net")), m.adam, 16, 100, None, FULL
    ),
    "few_new_digits_patches_adamw": lambda: Parts(
        p.few(d.some_digits(5, 10), 150), patches_for_new_digits(), m.adamw, 16, 150, None, FULL
    ),
    "classified_text_adamw": lambda: Parts(
        p.which_source(600), n.WithHead(pretrained("language model"), 3), m.adamw, 16, 100, None, FULL
    ),
    "digits_from_autoencoder_nadam": lambda: Parts(
        p.few(d.digits(), 300),
        nn.Sequential(encoder(), nn.ReLU(), nn.Linear(24, 10)),
        m.nadam,
        16,
        250,
        None,
        FULL,
    ),
    "changed_friedman_adam": lambda: Parts(
        p.changed_friedman(300), pretrained("friedman"), m.adam, 16, 400, m.squares, FULL
    ),
    # Adapters.
    "english_low_rank_adamw": lambda: Parts(
        english(), n.with_low_rank(pretrained("language model"), 4), m.adamw, 8, 250, letters_loss, ADAPTERS
    ),
    "headers_low_rank_adam": lambda: Parts(
        headers(), n.with_low_rank(pretrained("deep language model"), 8), m.adam, 8, 200, letters_loss, ADAPTERS
    ),
    "new_digits_bottlenecks_adamw": lambda: Parts(
        d.some_digits(5, 10), n.with_bottlenecks(patches_for_new_digits(), 32, 8), m.adamw, 16, 150, None, ADAPTERS
    ),
    "english_biases_adamw": lambda: Parts(
        english(), n.only_biases_and_norms(pretrained("language model")), m.adamw, 8, 250, letters_loss, ADAPTERS
    ),
    "headers_low_rank_long_sgd": lambda: Parts(
        headers(), n.with_low_rank(pretrained("language model"), 8), m.sgd, 8, 600, letters_loss, ADAPTERS
    ),
    "english_low_rank_long_adamw": lambda: Parts(
        english(), n.with_low_rank(pretrained("post-norm language model"), 4), m.adamw, 4, 900, letters_loss, ADAPTERS
    ),
    # A head on a frozen backbone.
    "new_digits_head_sgd": lambda: Parts(
        d.some_digits(5, 10), head_on(pretrained("digits net")[:-1], 64, 5), m.sgd, 32, 200, None, FROZEN
    ),
    "digits_head_on_pairs_adam": lambda: Parts(
        d.digits(), head_on(pretrained("pair encoder").first, 32, 10), m.adam, 32, 300, None, FROZEN
    ),
    "text_head_adamw": lambda: Parts(
        p.which_source(),
        n.WithHead(pretrained("language model").requires_grad_(False), 3),
        m.adamw,
        16,
        200,
        None,
        FROZEN,
    ),
    "digits_head_on_autoencoder_sgd": lambda: Parts(
        p.few(d.digits(), 400), head_on(encoder(), 24, 10), m.sgd, 16, 400, None, FROZEN
    ),
    # Deep nets.
    "postnorm_12_blocks_adamw": lambda: Parts(
        code(), n.LanguageModel(12, 24, post=True), m.adamw, 8, 150, letters_loss
    ),
    "prenorm_8_blocks_adam": lambda: Parts(english(), n.LanguageModel(8, 24), m.adam, 8, 200, letters_loss),
    "copied_letter_prenorm_8_adamw": lambda: Parts(
        p.copied_letter(), n.LanguageModel(8, 24, codes=8, length=16, classes=7), m.adamw, 16, 250
    ),
    "copied_letter_postnorm_6_adam": lambda: Parts(
        p.copied_letter(), n.LanguageModel(6, 24, post=True, codes=8, length=16, classes=7), m.adam, 16, 300
    ),
    "prenorm_10_blocks_lion": lambda: Parts(code(), n.LanguageModel(10, 24), m.lion, 8, 150, letters_loss),
    "residual_20_layers_sgd": lambda: Parts(d.digits(), n.residual_mlp(64, 10, 20), m.sgd_with_decay, 32, 200),
    "plain_10_layers_adam": lambda: Parts(d.friedman(), m.mlp(10, *[32] * 10, 1), m.adam, 32, 500, m.squares),
    "residual_12_layers_adamw": lambda: Parts(p.digits_by_a_quarter(), n.residual_mlp(64, 10, 12), m.adamw, 64, 150),
    # Contrastive, diffusion, variational, distilled, implicit.
    "two_views_adam": lambda: Parts(p.two_views(), n.OnPairs(m.mlp(64, 64, 32)), m.adam, 64, 300, n.contrast),
    "two_halves_adamw": lambda: Parts(
        p.two_halves(), n.OnPairs(m.mlp(20, 64, 16), m.mlp(20, 64, 16)), m.adamw, 32, 400, n.contrast
    ),
    "diffusion_digits_adam": lambda: Parts(p.noised_digits(), m.mlp(65, 128, 128, 64), m.adam, 64, 500, m.pixels_loss),
    "diffusion_spirals_adamw": lambda: Parts(
        p.noised_spirals(), m.mlp(3, 64, 64, 2, activation=nn.SiLU), m.adamw, 64, 1500, m.pixels_loss
    ),
    "variational_digits_adam": lambda: Parts(d.digits_pixels(), n.Variational(), m.adam, 32, 400, n.variational),
    "distilled_digits_adamw": lambda: Parts(softened_digits(), m.cnn(8, 10, width=4), m.adamw, 32, 300, distilled),
    "picture_sines_adam": lambda: Parts(p.picture(), n.Sines(), m.adam, 128, 500, m.squares),
    "experts_adamw": lambda: Parts(p.tags(), n.Experts(12, 6), m.adamw, 32, 400, n.tags_loss),
    # Equations, policies, graphs, sets.
    "poisson_equation_adam": lambda: Parts(
        p.places_on_a_line(-1, 1), n.Solution("poisson"), m.adam, 64, 1500, n.mean_of_squares
    ),
    "oscillator_adamw": lambda: Parts(
        p.places_on_a_line(0, 1.5), n.Solution("oscillator"), m.adamw, 64, 1000, n.mean_of_squares
    ),
    "policy_of_mover_adam": lambda: Parts(p.starts(), n.Mover(), m.adam, 64, 200, n.mean),
    "policy_of_bandit_rmsprop": lambda: Parts(p.contexts(), n.Bandit(), m.rmsprop, 64, 500, n.mean),
    "graph_adamw": lambda: Parts(p.nodes(80), n.GraphNet(), m.adamw, 80, 200),
    "graph_4_layers_sgd": lambda: Parts(p.nodes(120), n.GraphNet(4, 32), m.sgd, 120, 300),
    "deep_sets_nadam": lambda: Parts(p.bags_of_numbers(), n.DeepSet(4), m.nadam, 32, 400, m.squares),
    "median_set_transformer_adam": lambda: Parts(p.medians(), n.SetTransformer(1), m.adam, 32, 400, m.squares),
    # Sparse, heavy-tailed, unbalanced, few, noisy.
    "documents_adagrad": lambda: Parts(p.documents(), n.bag_of_words(), n.adagrad, 32, 600),
    "documents_adam": lambda: Parts(p.documents(4000, 62), n.bag_of_words(8), m.adam, 64, 400),
    "far_tails_sgd": lambda: Parts(p.far_tails(), m.mlp(8, 32, 1), m.sgd, 32, 300, m.squares),
    "far_tails_adamw": lambda: Parts(p.far_tails(63), m.mlp(8, 64, 1), m.adamw, 16, 400, m.squares),
    "focal_adam": lambda: Parts(p.rare_class(), m.mlp(10, 48, 2), m.adam, 64, 400, n.focal),
    "focal_nesterov": lambda: Parts(p.rare_class(64), m.mlp(10, 32, 32, 2), m.nesterov, 64, 500, n.focal),
    "200_noisy_rows_adamw": lambda: Parts(p.few_noisy(200), m.mlp(20, 64, 3), m.adamw, 16, 200),
    "80_noisy_rows_sgd": lambda: Parts(p.few_noisy(80, 65), m.mlp(20, 32, 3), m.sgd, 16, 150),
    # Large batches and few steps; long trainings.
    "large_batches_cnn_adamw": lambda: Parts(d.digits(), m.cnn(8, 10, width=4), m.adamw, 256, 60),
    "large_batches_batchnorm_sgd": lambda: Parts(
        d.digits(), m.normed_mlp(nn.BatchNorm1d, 64, 64, 64, 10), m.sgd_with_decay, 256, 60
    ),
    "friedman_long_adamw": lambda: Parts(d.friedman(), m.mlp(10, 32, 1), m.adamw, 16, 5000, m.squares),
    "turned_digits_long_sgd": lambda: Parts(
        d.turn_labels(d.digits(), 0.3, 7), m.mlp(64, 48, 10), m.sgd_with_decay, 32, 3000
    ),
    "documents_long_sgd": lambda: Parts(p.documents(3000, 66), n.bag_of_words(8), m.sgd, 32, 3000),
    "spirals_long_adam": lambda: Parts(d.spirals(), m.mlp(2, 32, 32, 3, activation=nn.GELU), m.adam, 32, 4000),
    # Other optimizers.
    "autoencoder_muon": lambda: Parts(
        d.digits_pixels(), m.mlp(64, 48, 12, 48, 64, bias=False), m.muon, 64, 300, m.pixels_loss
    ),
    "tags_muon": lambda: Parts(p.tags(), m.mlp(12, 64, 64, 6, bias=False), m.muon, 64, 400, n.tags_loss),
    "digits_cnn_adadelta": lambda: Parts(d.digits(), m.cnn(8, 10), n.adadelta, 32, 300),
    "sines_adadelta": lambda: Parts(d.sines(), m.Signal(), n.adadelta, 32, 400, m.squares),
    "ratings_adagrad": lambda: Parts(d.ratings(), m.Factors(), n.adagrad, 64, 1500, m.squares),
    "tags_adafactor": lambda: Parts(p.tags(), m.mlp(12, 64, 6), m.adafactor, 32, 500, n.tags_loss),
    # Wider nets.
    "wide_digits_adam": lambda: Parts(d.digits(), m.mlp(64, 768, 768, 10), m.adam, 32, 200),
    "wide_tags_adamw": lambda: Parts(p.tags(), m.mlp(12, 1024, 512, 6), m.adamw, 32, 300, n.tags_loss),
    "wide_transformer_adamw": lambda: Parts(code(), n.LanguageModel(2, 128), m.adamw, 4, 150, letters_loss),
    "wide_copied_letter_adam": lambda: Parts(
        p.copied_letter(), n.LanguageModel(3, 96, codes=8, length=16, classes=7), m.adam, 16, 200
    ),
    "wide_friedman_sgd": lambda: Parts(d.friedman(), m.mlp(10, 1024, 1), m.sgd, 32, 400, m.squares),
    "wide_cnn_sgd": lambda: Parts(d.shapes(), m.cnn(12, 4, width=32), m.nesterov, 32, 150),
    # Fine-tuning to almost the same.
    "few_more_code_language_model_adam": lambda: Parts(
        p.letters("more code", 400), pretrained("language model"), m.adam, 8, 150, letters_loss, FULL
    ),
    "few_shifted_digits_adamw": lambda: Parts(
        p.shifted_digits(200), pretrained("digits mlp"), m.adamw, 16, 150, None, FULL
    ),
    "noisier_shapes_batchnorm_sgd": lambda: Parts(
        p.few(d.shapes(0.6), 300), pretrained("shapes net"), m.sgd, 32, 150, None, FULL
    ),
    "more_code_recurrent_rmsprop": lambda: Parts(
        p.letters("more code", 800), pretrained("recurrent language model"), m.rmsprop, 8, 150, letters_loss, FULL
    ),
    "few_more_code_deep_language_model_adamw": lambda: Parts(
        p.letters("more code", 800), pretrained("deep language model"), m.adamw, 8, 120, letters_loss, FULL
    ),
    "more_code_low_rank_adamw": lambda: Parts(
        p.letters("more code", 800),
        n.with_low_rank(pretrained("language model"), 4),
        m.adamw,
        8,
        150,
        letters_loss,
        ADAPTERS,
    ),
    # Longer, of every kind.
    "two_halves_longer_adamw": lambda: Parts(
        p.two_halves(), n.OnPairs(m.mlp(20, 48, 16), m.mlp(20, 48, 16)), m.adamw, 32, 2000, n.contrast
    ),
    "tags_longer_muon": lambda: Parts(p.tags(), m.mlp(12, 48, 48, 6, bias=False), m.muon, 32, 1500, n.tags_loss),
    "digits_head_on_pairs_longer_adam": lambda: Parts(
        d.digits(), head_on(pretrained("pair encoder").first, 32, 10), m.adam, 16, 2000, None, FROZEN
    ),
    "changed_friedman_longer_adamw": lambda: Parts(
        p.changed_friedman(1000), pretrained("friedman"), m.adamw, 32, 2000, m.squares, FULL
    ),
    "new_digits_bottlenecks_longer_adamw": lambda: Parts(
        d.some_digits(5, 10), n.with_bottlenecks(patches_for_new_digits(), 32, 8), m.adamw, 16, 1200, None, ADAPTERS
    ),
    "new_digits_low_rank_longer_adam": lambda: Parts(
        d.some_digits(5, 10), n.with_low_rank(patches_for_new_digits(), 4), m.adam, 16, 1200, None, ADAPTERS
    ),
    "residual_12_layers_longer_sgd": lambda: Parts(
        p.digits_by_a_quarter(), n.residual_mlp(64, 10, 12), m.nesterov, 32, 1000
    ),
    "diffusion_digits_longer_adam": lambda: Parts(
        p.noised_digits(), m.mlp(65, 96, 96, 64), m.adam, 32, 2500, m.pixels_loss
    ),
    "new_digits_cnn_longer_sgd": lambda: Parts(
        d.some_digits(5, 10), new_head(pretrained("digits net")), m.sgd, 16, 1000, None, FULL
    ),
    "deep_sets_longer_rmsprop": lambda: Parts(p.bags_of_numbers(), n.DeepSet(4), m.rmsprop, 32, 1500, m.squares),
    "copied_letter_longer_adamw": lambda: Parts(
        p.copied_letter(), n.LanguageModel(3, 32, codes=8, length=16, classes=7), m.adamw, 16, 1000
    ),
    "patches_6_blocks_longer_adam": lambda: Parts(d.digits(), m.Classifier(4, 10, blocks=6), m.adam, 32, 1000),
    # Deep and wider; with dropout.
    "wide_postnorm_8_blocks_adam": lambda: Parts(
        code(), n.LanguageModel(8, 64, post=True), m.adam, 4, 150, letters_loss
    ),
    "wide_prenorm_8_blocks_adamw": lambda: Parts(
        english(), n.LanguageModel(8, 64), n.adamw_with_decay, 4, 150, letters_loss
    ),
    "digits_dropout_adamw": lambda: Parts(d.digits(), n.with_dropout(64, 128, 128, 10), m.adamw, 32, 400),
    "majority_dropout_sgd": lambda: Parts(d.majority(), n.with_dropout(17, 64, 64, 2), m.sgd, 32, 800),
}
CHOOSING, REPORTED = list(TASKS)[::2], list(TASKS)[1::2]

LONGEST_OLD = 2000
OLD = [name for name in tasks.TASKS if tasks.TASKS[name](0)[4] <= LONGEST_OLD]
"""The tasks of range_test_quality.py, which had no part in the study until its first report had failed."""


def _task(name: str, seed: int, parts: Parts) -> Task:
    classifies = parts.loss is None
    return Task(
        name,
        seed,
        parts.model,
        parts.optimizer,
        parts.data,
        parts.loss or F.cross_entropy,
        parts.batch_size,
        parts.num_steps,
        classifies,
    )


def make_task(name: str, seed: int) -> Task:
    """Return a fresh task; two with the same seed are equal."""
    if name not in TASKS:
        return tasks.make_task(name, seed)
    torch.manual_seed(seed)
    return _task(name, seed, TASKS[name]())


def kind_of(name: str) -> str:
    if name not in TASKS:
        return FULL if "finetuned" in name else SCRATCH
    return TASKS[name]().kind
