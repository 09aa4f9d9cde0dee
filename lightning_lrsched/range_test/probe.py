"""Probe: a peak for 1Cycle from a few steps, and from how far along the optimizer's own update the loss falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Embedding, EmbeddingBag, Module
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_lrsched.optim.hyperparameters import LR, write
from lightning_lrsched.optim.snapshot import reshard
from lightning_lrsched.range_test.loss_watch import device_of, mean_over_ranks
from lightning_lrsched.range_test.record import Findings, for_groups
from lightning_lrsched.range_test.report import (
    COARSE,
    LOSS,
    OWN_UPDATES,
    TAKEN,
    add_legend,
    as_html,
    new_figure,
    scale_lrs,
)
from lightning_lrsched.range_test.suggest import ignores_lr, largest_lr, prior_of, searches_lr
from lightning_lrsched.schedules.fields import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WARM_STEPS = 10
"""[optimizer steps] Between the first search and the one that counts; an Adam's first step has no history yet."""

WARM_SHARE = 1 / 64
"""They are made with this fraction of the lr that the first search found: they change little."""

STEPS = WARM_STEPS + 2
"""[optimizer steps] Length of a probe; about as many forward passes come on top."""

MORE_BATCHES = 2
"""Batches, of a step each, that are searched as well where one shows no fall, or a doubtful one."""

DOUBTFUL = 0.5
"""A lowest loss below this fraction of the prior is doubted: one batch may mislead."""

ROUNDING = 1e-6
"""A fall by less than this fraction of the loss is none: a float32 has seven digits."""

SHORT_RUN = 600
"""[optimizer steps] A shorter run has one small step between the searches: ten cost more there than they show."""

STEPS_OF_SHORT_RUN = 3
"""[optimizer steps] Length of its probe."""

SHORTEST_RUN = 3 * (STEPS_OF_SHORT_RUN + MORE_BATCHES)
"""[optimizer steps] In shorter runs, of which a probe may take more than a third, the peak is the prior."""

MAX_SKIPPED_STEPS = 20
"""The probe ends without a result after this many steps that moved no parameter; a gradient scaler skips a few."""

FURTHEST = 24
"""Doublings or halvings in search of the lowest loss."""

FURTHEST_FROM_FIRST = 12
"""The same, once a first search has set the scale."""

LOW = 0.1
"""1Cycle's low bound, as a fraction of its peak."""

FIXED = 0.3
"""A good lr for schedules that hold it, as a fraction of 1Cycle's peak."""

MOST_PRIORS = 4.0
"""Upper bound of the peak, as a multiple of the prior."""

MOST_BY_DEPTH = 32.0
"""With n trained weight matrices, the bound is this / n where that is less: the first steps do not show depth."""

MOST_OF_PRETRAINED = 0.5**0.5
"""Upper bound of a pretrained net's peak, as a multiple of the lr of the lowest loss; not of SGD's."""

MOST_OF_SGD = 2.0
"""Upper bound of SGD's peak, as a multiple of the lr of the lowest loss: curvature grows during training."""

MOST_OF_PLAIN_SGD = 1.0
"""The same without momentum: on a quadratic, momentum m makes SGD stable up to an lr 1 + m times as high."""

LEAST_OF_SGD = 1 / 32
"""Lower bound of it, as a fraction of that lr: if the prior is far below, the loss has another scale than usual."""

WITHOUT_PRIOR = 0.75
"""For an optimizer without a prior, the peak is this fraction of the lr of the lowest loss."""


KEEPS_OWN = f"the optimizer's own lr, because {OWN_UPDATES}"
"""Why a probe leads to no other peak than that."""

# Searching ------------------------------------------------------------------------------------------------------------


def lowest_along(
    loss_at: Callable[[float], float], start: float, furthest: int = FURTHEST
) -> tuple[float | None, dict[float, float]]:
    """Return where a loss is lowest along a line that begins at 0, and the loss at all places that were tried.

    Far out a loss may have other valleys, so the search begins where it is lower than at 0. None: that is nowhere.

    Args:
        loss_at: the loss at a place.
        start: the first place beside 0.
        furthest: how often it is doubled or halved at most.

    >>> lowest, tried = lowest_along(lambda place: (place - 2.5) ** 2, start=1.0)
    >>> round(lowest, 2), sorted(tried)
    (2.5, [0.0, 1.0, 2.0, 4.0])
    """
    tried: dict[float, float] = {}

    def at(place: float) -> float:
        if place not in tried:
            loss = loss_at(place)
            tried[place] = loss if math.isfinite(loss) else math.inf
        return tried[place]

    place, most, least = start, start * 2.0**furthest, start * 2.0**-furthest
    beginning = at(0.0)
    rounding = ROUNDING * abs(beginning) if math.isfinite(beginning) else 0.0
    has_risen = False
    while not at(place) < beginning - rounding:
        has_risen |= at(place) > beginning + rounding
        place = place / 2 if has_risen else place * 2
        if not least <= place <= most:
            return None, tried
    while place < most and at(2 * place) < at(place):
        place *= 2
    while place > least and at(place / 2) <= at(place):
        place /= 2
    return place * lowest_of_parabola(at(place / 2), at(place), at(2 * place)), tried


def lowest_of_parabola(half: float, one: float, two: float) -> float:
    """Return where a parabola through the values at 1/2, 1 and 2 is lowest; 1 where it has no lowest place."""
    falling, rising = (one - half) / 0.5, two - one
    bend = (rising - falling) / 1.5
    place = 0.75 - falling / (2 * bend) if math.isfinite(bend) and bend > 0 else 1.0
    return min(max(place, 2**-0.5), 2**0.5)


# What follows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbeResult:
    """What a probe has found: the peak of 1Cycle, and why.

    The peak is the geometric mean of ``lowest`` and ``prior``, at most four priors, and less in deep nets and in
    pretrained ones. For SGD it is the prior, within 1/32 of ``lowest`` and twice ``lowest``.

    Args:
        peak: 1Cycle's highest lr; with several param groups, the largest of theirs.
        because: how it follows, in words.
        prior: the peak that is likely for this kind of optimizer, in a net of this width; None: it has no prior.
        lowest: the lr at which the loss of a batch is lowest along the update that the optimizer makes of it; None: it
            falls nowhere along it, or there was no probe.
        lrs: the learning rates at which the search computed that loss; 0 is before the update.
        losses: the loss at each of these.
        group_ratios: each param group's lr as a fraction of the largest.
        steps: optimizer steps of the probe.
        forwards: forward passes beside these steps [micro-batches].
    """

    peak: float
    because: str
    prior: float | None
    lowest: float | None = None
    lrs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    group_ratios: list[float] = field(default_factory=lambda: [1.0])
    steps: int = 0
    forwards: int = 0

    @property
    def keeps_own_lr(self) -> bool:
        """Whether the peak is the optimizer's own lr, because its updates did not follow the lr."""
        return self.because == KEEPS_OWN

    def learning_rates(self) -> Findings:
        """Return the two bounds of 1Cycle and a good fixed lr, each with one lr per param group.

        One float where all groups have the same.
        """
        found: dict[Finding, float] = {"low": LOW * self.peak, "high": self.peak, "suggestion": FIXED * self.peak}
        return {name: for_groups(lr, self.group_ratios) for name, lr in found.items()}

    def __str__(self) -> str:
        cost = f"; {self.steps} steps and {self.forwards} forward passes" if self.steps else ""
        number = self.group_ratios.index(max(self.group_ratios)) + 1
        whose = f" (of param group {number})" if len(set(self.group_ratios)) > 1 else ""
        return f"peak {self.peak:.3g}{whose}: {self.because}{cost}"

    def _repr_html_(self) -> str:
        """Show the numbers in a notebook."""
        lrs = [("peak of 1Cycle", self.peak), ("prior of the optimizer", self.prior), ("lowest loss at", self.lowest)]
        rows = [(name, f"{lr:.4g}") for name, lr in lrs if lr is not None]
        cost = [("cost", f"{self.steps} steps, {self.forwards} forward passes")] if self.steps else []
        return as_html("LR probe", [rows[0], ("because", self.because), *rows[1:], *cost])

    def hyperparameters(self) -> dict[str, Any]:
        """Return what a logger keeps of it."""
        return {name: value for name, value in self.to_dict().items() if name not in ("lrs", "losses")}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by their names."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ProbeResult:
        """Read what :meth:`to_dict` returned."""
        return cls(**content)

    def plot(self) -> Figure:
        """Return a matplotlib figure: the loss of one batch against the lr of the step along its update.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        figure = new_figure(4.5, 3.6)
        axes = figure.add_subplot()
        rows = sorted(zip(self.lrs, self.losses, strict=True))
        if rows:
            before = rows[0][1]
            axes.plot(*zip(*rows[1:], strict=True), "o-", color=LOSS, linewidth=2.2, label="loss after the step")
            axes.axhline(before, color=LOSS, linewidth=0.8, alpha=0.6)
            axes.annotate(
                "before\nthe step",
                (1, before),
                xytext=(4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
            lowest = min(self.losses)
            shown = [loss for loss in self.losses if loss <= max(2 * before - lowest, before)]
            margin = 0.15 * (max(shown) - lowest)
            if margin:
                axes.set_ylim(lowest - margin, max(shown) + margin)
        marks = (
            ("lowest", self.lowest, {"color": LOSS, "linestyle": ":"}),
            ("prior", self.prior, {"color": COARSE, "linestyle": "-."}),
            ("peak", self.peak, {"color": TAKEN, "linestyle": "--", "linewidth": 2.2}),
        )
        for name, lr, style in marks:
            if lr is not None:
                axes.axvline(lr, **style, label=f"{name} {lr:.2g}")
        scale_lrs(axes)
        axes.set_title("One batch along the optimizer's update", fontsize=11)
        axes.set_xlabel("learning rate of the step")
        axes.set_ylabel("loss")
        axes.grid(color="0.3", alpha=0.15)
        add_legend(figure)
        return figure


@dataclass(frozen=True)
class Weights:
    """What the trained weights of a module say of the peak.

    Args:
        trained_share: trained parameters, as a fraction of all: a small one means adapters, or a head.
        matrices: number of trained weights of linear layers, convolutions and the like; embeddings do not count.
        width: geometric mean, by size, of the smaller side of these matrices; 1 where there is none.
        pretrained: whether the weights of a trained norm differ: they begin with one value, 1 or 0.
    """

    trained_share: float = 1.0
    matrices: int = 1
    width: float = 1.0
    pretrained: bool = False

    @classmethod
    def of(cls, module: Module) -> Weights:
        """Read them from a module.

        >>> Weights.of(torch.nn.Linear(4, 8))
        Weights(trained_share=1.0, matrices=1, width=4.0, pretrained=False)
        """
        parameters = [weight for weight in module.parameters() if not is_lazy(weight)]
        trained = [weight for weight in parameters if weight.requires_grad]
        tables = {id(part.weight) for part in module.modules() if isinstance(part, (Embedding, EmbeddingBag))}
        matrices = [w for w in trained if id(w) not in tables and sum(size > 1 for size in w.shape) > 1]
        sizes = [(weight.numel(), min(len(weight), weight.numel() // len(weight))) for weight in matrices]
        logs = sum(number * math.log(max(1, side)) for number, side in sizes)
        return cls(
            sum(weight.numel() for weight in trained) / max(1, sum(weight.numel() for weight in parameters)),
            len(matrices),
            round(math.exp(logs / max(1, sum(number for number, _ in sizes))), 1),
            any(_has_learnt(part) for part in module.modules()),
        )

    @property
    def is_whole(self) -> bool:
        """Whether most of the module is trained: the depth and the beginning of adapters and heads say little."""
        return self.trained_share > 0.5


def _has_learnt(part: Module) -> bool:
    """Return whether the part is a norm, of torch or of a package, whose trained weights are not all the same.

    All of them begin at 1, or at 0.
    """
    weight = getattr(part, "weight", None)
    if "norm" not in type(part).__name__.lower() or not isinstance(weight, Tensor) or is_lazy(weight):
        return False
    values = _local(weight.detach())
    return weight.requires_grad and values.dim() == 1 and bool((values != values[:1]).any())


def peak_of(
    lowest: float | None,
    prior: float | None,
    weights: Weights,
    *,
    is_sgd: bool = False,
    most_of_sgd: float = MOST_OF_SGD,
) -> tuple[float, str]:
    """Return the peak of 1Cycle and how it follows.

    Args:
        lowest: the lr at which the loss is lowest along the update; None: nowhere.
        prior: the peak that is likely for this kind of optimizer, in a net of this width; None: it has no prior.
        weights: the module's.
        is_sgd: whether steps grow with the gradients.
        most_of_sgd: upper bound of its peak, as a multiple of ``lowest``.

    Raises:
        ValueError: if neither ``lowest`` nor ``prior`` is known.

    >>> peak_of(0.0015, 0.006, Weights(matrices=4))
    (0.003, 'between the prior 0.006 and 0.0015, where the loss of a batch is lowest along the update')
    """
    if lowest is None:
        if prior is None:
            raise ValueError(
                "the loss of a batch falls nowhere along the update, and this kind of optimizer has no prior"
            )
        return prior, f"the prior {prior:.3g}, because the loss falls nowhere along the update"
    where = f"{lowest:.3g}, where the loss of a batch is lowest along the update"
    if prior is None:
        return WITHOUT_PRIOR * lowest, f"{WITHOUT_PRIOR:g} times {where}; this kind of optimizer has no prior"
    if is_sgd:
        return _peak_of_sgd(lowest, prior, where, most_of_sgd)
    peak, cap, why = math.sqrt(prior * lowest), MOST_PRIORS, ""
    if weights.is_whole and MOST_PRIORS * weights.matrices > MOST_BY_DEPTH:
        cap, why = MOST_BY_DEPTH / weights.matrices, f" with {weights.matrices} weight matrices"
    if weights.is_whole and weights.pretrained and MOST_OF_PRETRAINED * lowest < min(peak, cap * prior):
        return MOST_OF_PRETRAINED * lowest, f"{MOST_OF_PRETRAINED:.2g} times {where}: the limit of a pretrained net"
    if peak > cap * prior:
        return cap * prior, f"{cap:.2g} times the prior {prior:.3g}, which is the limit{why}; above it is {where}"
    return peak, f"between the prior {prior:.3g} and {where}"


def _peak_of_sgd(lowest: float, prior: float, where: str, most: float) -> tuple[float, str]:
    if most * lowest < prior:
        times = "twice " if most == MOST_OF_SGD else ""
        return most * lowest, f"{times}{where}, which is less than the prior {prior:.3g}"
    if LEAST_OF_SGD * lowest > prior:
        return LEAST_OF_SGD * lowest, f"1/32 of {where}, which is far above the prior {prior:.3g}"
    return prior, (
        f"the prior {prior:.3g}; the loss of a batch is lowest at {lowest:.3g}, but SGD's first steps do not show how"
        " high an lr later steps bear"
    )


Move = tuple[Tensor, Tensor, Tensor]
"""A parameter, where it was before a step, and how far the step has moved it."""


# The probe ------------------------------------------------------------------------------------------------------------


class Probe:
    """Finds the lr at which the loss of a batch is lowest along the update that the optimizer itself makes of it.

    An optimizer moves its parameters by the lr times a direction. One step shows the direction; some forward passes of
    the same batch show how far along it the loss falls. That lr has seen optimizer, width, initialisation and the scale
    of the loss. A first search sets the scale, and its step is undone. Ten small steps follow, in a short run only one,
    and then the search that counts. Where a search shows no fall, or one far below the prior, two more batches are
    searched, and the median counts.

    A loop drives it: :meth:`before_step` before each step, :meth:`after_step` after it, until :attr:`is_over`.
    Whatever the probe changes, the loop puts back.

    Args:
        module: the module that is trained.
        optimizer: its optimizer.
        run: length of the training [optimizer steps]; None: not known.

    Attributes:
        is_over: whether all steps have been made.
        rewinds: whether the first search is over, and its step is to be undone before the next batch.
        forwards: forward passes so far, beside those of the steps.
        lr: the largest lr of the step that is being made, or was made last.
        growth: the power of the lr with which the size of the updates grows; None: not measured.
        refused: the first lr in a search at which the module raised an error, and the error; None: it raised none.
    """

    def __init__(self, module: Module, optimizer: Optimizer, run: float | None = None) -> None:
        # The last step is the search that counts; first come one that sets the scale, and small ones.
        self._last = (STEPS if run is None or run >= SHORT_RUN else STEPS_OF_SHORT_RUN) - 1
        self._device = device_of(optimizer)
        weights = Weights.of(module)
        learnt = mean_over_ranks(torch.tensor(float(weights.pretrained), device=self._device))
        weights = replace(weights, pretrained=float(learnt) > 0)  # the shard of one rank may be too small to show it
        self._module, self._optimizer, self._weights = module, optimizer, weights
        self._own_lr, self._ratios = largest_lr(optimizer)
        self.prior = prior_of(optimizer, self._weights.width)
        self.lr = self._guess = self.prior or self._own_lr or 1e-3
        self._before: list[tuple[Tensor, Tensor]] = []
        self._found: list[tuple[float | None, dict[float, float]]] = []
        self._steps = self._made = self._skipped = self.forwards = 0
        self.is_over = self.rewinds = False
        self.refused: tuple[float, Exception] | None = None
        self._small: Tensor | None = None
        self.growth = 0.0 if searches_lr(optimizer) else None

    def before_step(self) -> None:
        """Set the lr of the step that is about to be made, and remember where the parameters are."""
        searches = self.searches
        self.lr = self._guess if searches else WARM_SHARE * self._guess
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=False):
            write(LR, group, ratio * self.lr)
        if (
            searches or self._measures
        ) and not self._before:  # an optimizer may ask for the gradients several times in a step
            groups = self._optimizer.param_groups
            self._before = [(each, each.detach().clone()) for group in groups for each in group["params"]]

    @property
    def searches(self) -> bool:
        """Whether losses will be computed again after the step that is being made."""
        return self._steps in (0, self._last)

    @property
    def _measures(self) -> bool:
        """Whether the size of this small step is to be compared with that of the next one."""
        return self._steps == self._last - 1

    def after_step(self, loss: Callable[[], Tensor]) -> None:
        """Search along the step that has been made.

        Args:
            loss: computes the loss of the step's batches again, with the same random numbers.
        """
        before, self._before = self._before, []
        moves = [(parameter, start, parameter.detach() - start) for parameter, start in before]
        if self.searches and not (moves and self._have_moved(moves)):
            self._skipped += 1
            self.is_over = self._skipped == MAX_SKIPPED_STEPS
            return
        self._made += 1
        if not self.searches:
            if moves:  # measured even where it may be lost in rounding
                self._small = _size(moves)
            self._steps += 1
            return
        if self._small is not None and self.growth is None:
            sizes = [float(size) for size in (self._small, _size(moves))]
            self.growth = math.log(sizes[1] / sizes[0]) / -math.log(WARM_SHARE) if all(sizes) else None
        self._search(moves, loss)

    def _have_moved(self, moves: list[Move]) -> bool:
        counts = [_local(move).count_nonzero().float() for _, _, move in moves]
        total = torch.stack([count.to(self._device) for count in counts]).sum()
        return float(mean_over_ranks(total)) > 0

    def _search(self, moves: list[Move], loss: Callable[[], Tensor]) -> None:
        def loss_at(place: float) -> float:
            reshard(self._module)
            with torch.no_grad():
                for parameter, start, move in moves:
                    parameter.copy_(start + move * (place / self.lr))
            self.forwards += 1
            return float(mean_over_ranks(self._loss_or_infinity(loss, place)))

        is_first = self._steps == 0
        lowest, tried = lowest_along(loss_at, self.lr, FURTHEST if is_first else FURTHEST_FROM_FIRST)
        reshard(self._module)
        self._found.append((lowest, tried))
        self.rewinds = is_first
        if is_first and lowest is not None:
            self._guess, self._found, self._steps = lowest, [], 1
            return
        is_sure = lowest is not None and (self.prior is None or lowest >= DOUBTFUL * self.prior)
        self.is_over = is_sure if len(self._found) == 1 else len(self._found) > MORE_BATCHES
        if not is_first and not self.is_over:
            with torch.no_grad():
                for parameter, start, _ in moves:
                    parameter.copy_(start)

    def _loss_or_infinity(self, loss: Callable[[], Tensor], place: float) -> Tensor:
        """Return a loss, infinity where the module refuses the parameters: it may check what it computes."""
        try:
            return loss().detach().float()
        except Exception as error:  # modules raise errors of all kinds where a number is not finite
            if place == 0.0 or "OutOfMemory" in type(error).__name__:
                raise
            self.refused = self.refused or (place, error)
            return torch.tensor(torch.inf, device=self._device)

    def _median(self) -> tuple[float | None, dict[float, float]]:
        """Return the search with the median of the lowest losses' lrs; of an even number, the lower of the two."""
        known = sorted([(lowest, number) for number, (lowest, _) in enumerate(self._found) if lowest is not None])
        if known:
            return self._found[known[(len(known) - 1) // 2][1]]
        return self._found[-1] if self._found else (None, {})

    def result(self) -> ProbeResult:
        """Return what was found.

        Raises:
            ValueError: if that is nothing, and this kind of optimizer has no prior.
        """
        lowest, tried = self._median()
        is_sgd = any(cls.__name__ == "SGD" for cls in type(self._optimizer).__mro__)
        most = MOST_OF_SGD if is_sgd and self._optimizer.param_groups[0]["momentum"] else MOST_OF_PLAIN_SGD
        peak, because = peak_of(lowest, self.prior, self._weights, is_sgd=is_sgd, most_of_sgd=most)
        if tried and math.isinf(tried[0.0]):
            because = f"the prior {peak:.3g}, because the loss is not finite; look for the cause in module or data"
        elif tried and len(set(tried.values())) == 1:
            because = f"the prior {peak:.3g}, because the loss is constant; does it depend on the trained parameters?"
        if ignores_lr(self.growth):
            peak, because = self._own_lr, KEEPS_OWN
        lrs = sorted(tried)
        losses = [tried[lr] for lr in lrs]
        return ProbeResult(peak, because, self.prior, lowest, lrs, losses, self._ratios, self._made, self.forwards)


def of_the_prior(
    module: Module, optimizer: Optimizer, why: str, others: Iterable[Optimizer] = ()
) -> ProbeResult | None:
    """Return the result without a probe: the prior; None for an optimizer without one.

    Of several optimizers none gets more than its prior, and the ratio of their own learning rates stays.
    """
    width = Weights.of(module).width
    prior, (own, ratios) = prior_of(optimizer, width), largest_lr(optimizer)
    if prior is None:
        return None
    known = [(prior_of(other, width), largest_lr(other)[0]) for other in others]
    peak = min([prior, *(own * limit / lr for limit, lr in known if limit and lr and own)])
    because = f"the prior of this kind of optimizer, {why}"
    if peak < prior:
        because = f"less than {because}: the optimizers keep the ratio of their learning rates"
    return ProbeResult(peak, because, prior, group_ratios=ratios)


def _size(moves: list[Move]) -> Tensor:
    sizes = torch.stack([_local(move).abs().float().norm().cpu() for _, _, move in moves])  # of complex ones, too
    size: Tensor = torch.linalg.vector_norm(sizes)
    return size


def _local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor that may be sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
