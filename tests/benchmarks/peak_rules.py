"""Evaluates rules for 1Cycle's peak on what peak_study.py has stored.

    python tests/benchmarks/peak_rules.py [--half choosing|reported|old|all]

*Regret*: as in range_test_quality.py, (metric - best) / (untrained - best), at most 1; the best is that of the stored
grid. Between two peaks of the grid it is interpolated in log lr.
*Equal steps*: the steps that finding takes are taken off the training. What that costs was measured at two or three
peaks with the whole budget off, and is charged in proportion.
*All* prints one table, by kind of task, at equal steps: that of the documentation.
Means and standard errors are by task; *minus the prior*: mean over tasks of a rule's regret minus the prior's.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from peak_study import STORE, UNKNOWN, budget
from peak_tasks import CHOOSING, OLD, REPORTED, SCRATCH

from lightning_lrsched import RangeTestResult
from lightning_lrsched.range_test import probe
from lightning_lrsched.range_test.probe import (
    LEAST_OF_SGD,
    MOST_BY_DEPTH,
    MOST_OF_SGD,
    MOST_PRIORS,
    SHORTEST_RUN,
    Weights,
    peak_of,
)
from lightning_lrsched.range_test.suggest import ANY_WIDTH, SGD, WIDE

PROBE_STEPS, ONE_PROBE_STEPS, SHORT_PROBE_STEPS = 20, 14, 5
"""What the steps and the forward passes of a probe cost, in training steps: of three batches, of one, with one small
step before."""

SHORT_RUN = 300
"""Shorter runs probe one batch only."""

PROBE_OF_RUN = "10 at 1/64"
TRIAL_LOSS, HELD_BACK_LOSS, VALIDATION_LOSS = range(3)


@dataclass
class Run:
    """One stored task and seed; lrs are given as powers of two times the prior."""

    task: str
    stored: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.stored[name]

    @property
    def is_sgd(self) -> bool:
        return bool(self.optimizer == "SGD")

    @property
    def prior(self) -> float | None:
        """What the package takes for the prior."""
        if self.optimizer in UNKNOWN:
            return None
        by_width = not self.is_sgd and self.optimizer not in ANY_WIDTH
        return float(self.base) * (min(1.0, WIDE / self.weights.width) if by_width else 1.0)

    @property
    def weights(self) -> Weights:
        module = self.module
        return Weights(module["trained share"], module["weight matrices"], module["width"], module["pretrained"])

    @cached_property
    def metrics(self) -> dict[int, float]:
        return {int(power): math.inf if value is None else value for power, value in self.grid.items()}

    @cached_property
    def regrets(self) -> dict[int, float]:
        best = min(self.metrics.values())
        return {
            power: min(1.0, (value - best) / (self.untrained - best)) if math.isfinite(value) else 1.0
            for power, value in sorted(self.metrics.items())
        }

    def regret(self, power: float) -> float:
        return float(np.interp(power, list(self.regrets), list(self.regrets.values())))

    @cached_property
    def best(self) -> int:
        return min(self.regrets, key=lambda power: self.regrets[power])

    @cached_property
    def price(self) -> float:
        """What the whole budget costs when it is taken off the training; the median of some peaks."""
        best = min(self.metrics.values())
        prices = [
            (value - self.metrics[int(power)]) / (self.untrained - best)
            for power, value in self.shorter.items()
            if value is not None and math.isfinite(self.metrics[int(power)])
        ]
        return median(prices) if prices else 0.0

    def bounds(self) -> float | None:
        """Return the peak by the package's own reading of the record."""
        result = None
        for sweep in self.record["sweeps"]:
            losses = [math.inf if loss is None else loss for loss in sweep["losses"]]
            lrs = [float(lr) for lr in np.geomspace(sweep["from"], sweep["to"], sweep["steps"])][: len(losses)]
            steps = list(range(len(losses)))
            result = RangeTestResult(
                steps, lrs, losses, losses, sweep["ended"], "exponential", [1.0], None, coarse=result, prior=self.base
            )
        assert result is not None
        try:
            return math.log2(result.bounds()[1] / self.base)
        except ValueError:
            return None

    @property
    def record_steps(self) -> int:
        return sum(len(sweep["losses"]) for sweep in self.record["sweeps"])

    def probed(self, which: str = PROBE_OF_RUN, batches: int = 3) -> float | None:
        """Return the lr at which a batch's loss is lowest along the optimizer's update; the median of some batches."""
        found = [power for power in self.probe[which][:batches] if power is not None]
        return median(found) if found else None


Choice = tuple[float | None, float]
"""Peak (None: the rule gives none) and steps that it took to find."""

Rule = Callable[[Run], Choice]


def load(path: Path, names: list[str]) -> list[Run]:
    stored = json.loads(path.read_text(encoding="utf-8"))
    return [Run(key.split("/")[0], run) for key, run in stored.items() if key.split("/")[0] in names]


# Rules ----------------------------------------------------------------------------------------------------------------


def priors(power: float) -> Rule:
    return lambda run: (power, 0)


def range_test(run: Run) -> Choice:
    return run.bounds(), run.record_steps


def forbidding(most: float) -> Rule:
    """The prior, or the record's peak where that is lower; at most ``most`` above the prior where it is higher."""

    def rule(run: Run) -> Choice:
        peak = run.bounds()
        return (0 if peak is None else min(max(peak, -9), most)), run.record_steps

    return rule


PROBE_SHARE, PROBE_FACTOR = 0.5, 1.0
SGD_OF_NORMS = 1 / 128


def sgd_prior(run: Run, power: float) -> float:
    """The prior; where the probe says more than 32 times as much, the loss has another scale, and this follows it."""
    return max(0.0, power + math.log2(LEAST_OF_SGD))


def sgd_prior_of_norms(run: Run, power: float) -> float:
    """A prior that goes with 1 / c of a loss times c: norm of the weights by norm of the mean gradient of 8 batches."""
    norms = run.probe["gradient"]
    by_momentum = run.base / SGD  # (1 - momentum) / 0.1
    return math.log2(SGD_OF_NORMS * norms["weights"] / norms["mean"] * by_momentum / run.base)


def probing(
    share: float = PROBE_SHARE,
    factor: float = PROBE_FACTOR,
    sgd_factor: float = MOST_OF_SGD,
    *,
    sgd_most: Callable[[Run, float], float] = sgd_prior,
    most: float = MOST_PRIORS,
    by_depth: float = MOST_BY_DEPTH,
    batches: int | None = None,
) -> Rule:
    """What the probe says, drawn to the prior in log lr, and at most some priors. Of SGD, the probe may only forbid.

    SGD's curvature grows while it trains, so a high lr in the first steps promises nothing. Only where the probe says
    more than 32 times the prior, the loss must have another scale than usual, and the peak follows it.

    In a net of many layers the highest lr is not seen in the first steps: the more weight matrices are trained from
    one end to the other, the fewer priors are allowed. Adapters and heads are not counted as layers.
    """

    def rule(run: Run) -> Choice:
        number = batches or (1 if run.steps < SHORT_RUN else 3)
        power = run.probed(batches=number)
        steps = PROBE_STEPS if number > 1 else ONE_PROBE_STEPS
        if power is None:
            return 0, steps
        if run.is_sgd:
            return min(power + math.log2(sgd_factor), sgd_most(run, power)), steps
        cap = most
        if run.module["trained share"] > 0.5:
            cap = min(most, by_depth / max(1, run.module["weight matrices"]))
        return min(math.log2(cap), share * (power + math.log2(factor))), steps

    return rule


def of_the_package(run: Run) -> Choice:
    """The rule that the package has: of one batch, after one small step in runs of fewer than 600, else after ten."""
    return _after_small_steps(run, short=run.steps < probe.SHORT_RUN)


def after_ten_steps(run: Run) -> Choice:
    return _after_small_steps(run, short=False)


def after_one_step(run: Run) -> Choice:
    return _after_small_steps(run, short=True)


def _after_small_steps(run: Run, *, short: bool) -> Choice:
    if run.steps < SHORTEST_RUN and run.prior is not None:
        return math.log2(run.prior / run.base), 0
    power, weights = run.probed("1 at own/64" if short else PROBE_OF_RUN, batches=1), run.weights
    peak, _ = peak_of(None if power is None else run.base * 2.0**power, run.prior, weights, is_sgd=run.is_sgd)
    return math.log2(peak / run.base), SHORT_PROBE_STEPS if short else ONE_PROBE_STEPS


def trying(
    factors: tuple[float, ...],
    judge: int = TRIAL_LOSS,
    *,
    centre: Rule | None = None,
    shortest: int = 20,
    longest: int = 100,
    margin: float = 0.0,
) -> Rule:
    """Short 1Cycles around the peak of another rule, as long as the budget allows; the best is taken.

    The nearest stored peak is looked up: they are a factor of two apart. ``margin``: how much better than the centre,
    as a share of the spread of the trials, another has to be.
    """

    def rule(run: Run) -> Choice:
        middle, steps = centre(run) if centre else (0, 0)
        middle = middle or 0
        left = budget(run.steps) - steps
        lengths = [
            int(n)
            for n in run.stored.get("trials", {})
            if shortest <= int(n) <= longest and int(n) * len(factors) <= left * 1.01
        ]
        if not lengths:
            return middle, steps
        stored = run.trials[str(max(lengths))]
        known = [int(power) for power in stored]
        scores = {}
        for factor in factors:
            nearest = min(known, key=lambda power: abs(power - middle - factor))
            score = stored[str(nearest)][judge]
            scores[factor] = math.inf if score is None else score
        finite = [score for score in scores.values() if math.isfinite(score)]
        best = min(scores, key=lambda factor: (scores[factor], abs(factor)))
        spread = max(finite) - min(finite) if finite else 0.0
        if not finite or scores.get(0, math.inf) - scores[best] <= margin * spread:
            best = 0 if math.isfinite(scores.get(0, math.inf)) else min(factors)
        return middle + best, steps + max(lengths) * len(factors)

    return rule


# Evaluation -----------------------------------------------------------------------------------------------------------


def evaluated(runs: list[Run], rule: Rule, *, equal_steps: bool = False) -> dict[str, list[float]]:
    """Return regrets by task."""
    found: dict[str, list[float]] = {}
    for run in runs:
        peak, steps = rule(run)
        regret = 1.0 if peak is None else run.regret(peak)
        if equal_steps:
            regret = min(1.0, regret + run.price * steps / budget(run.steps))
        found.setdefault(run.task, []).append(regret)
    return found


def by_task(values: list[float]) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{fmean(values):+.3f} ± {error:.3f}"


def as_markdown(runs: list[Run], rules: dict[str, Rule], reference: str) -> str:
    lines = [
        "| rule | mean regret by task | < 10 % | > 25 % | worst | minus the prior | at equal steps | minus the prior |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = evaluated(runs, rules[reference])
    for name, rule in rules.items():
        cells = []
        for equal in (False, True):
            found = evaluated(runs, rule, equal_steps=equal)
            every = [regret for regrets in found.values() for regret in regrets]
            cells.append(by_task([fmean(regrets) for regrets in found.values()]).lstrip("+"))
            if not equal:
                below, above = fmean(r < 0.1 for r in every), sum(r > 0.25 for r in every)
                cells += [f"{below:.0%}", f"{above} of {len(every)}", f"{max(every):.2f}"]
            cells.append(by_task([fmean(found[task]) - fmean(base[task]) for task in found]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return re.sub(r"(?<=\d)%", " %", "\n".join(lines))


def summary(runs: list[Run]) -> str:
    """Return the documentation's table: by kind of task, the probe of one batch beside its rivals, at equal steps."""
    older, new = [run for run in runs if run.task in OLD], [run for run in runs if run.task not in OLD]
    kinds = {
        "older tasks": older,
        "- SGD": [run for run in older if run.is_sgd],
        "- other optimizers": [run for run in older if not run.is_sgd],
        "- 300 steps and more": [run for run in older if run.steps >= SHORT_RUN],
        "- below 300 steps": [run for run in older if run.steps < SHORT_RUN],
        "new tasks, fine-tuning": [run for run in new if run.kind != SCRATCH],
        "new tasks, from scratch": [run for run in new if run.kind == SCRATCH],
        "- the reported half of the new tasks": [run for run in new if run.task in REPORTED],
        "all": runs,
    }
    names = ("the prior", "half the prior", "twice the prior", "the range test", "probe of one batch")
    lines = [
        f"| tasks | number | {' | '.join(names)} | probe minus prior | below 10 % | above 25 % |",
        f"|{'---|' * 10}",
    ]
    for kind, some in kinds.items():
        found = {name: evaluated(some, RULES[name], equal_steps=True) for name in names}
        regrets = {name: [fmean(values) for values in each.values()] for name, each in found.items()}
        prior, probe = regrets["the prior"], regrets["probe of one batch"]
        cells = [kind, str(len(probe)), *(f"{fmean(regrets[name]):.3f}" for name in names)]
        cells.append(by_task([one - other for one, other in zip(probe, prior, strict=True)]))
        cells += [f"{fmean(regret < 0.1 for regret in probe):.0%}", str(sum(regret > 0.25 for regret in probe))]
        lines.append(f"| {' | '.join(cells)} |")
    return re.sub(r"(?<=\d)%", " %", "\n".join(lines))


PROBE = probing()

RULES: dict[str, Rule] = {
    "the prior": priors(0),
    "a quarter of the prior": priors(-2),
    "half the prior": priors(-1),
    "twice the prior": priors(1),
    "the range test": range_test,
    "the record may only forbid": forbidding(0),
    "the record, at most twice the prior": forbidding(1),
    "the record, at most four priors": forbidding(2),
    "probe": PROBE,
    "probe: the rule of the first report": probing(2 / 3, 0.75, 1.5, sgd_most=lambda _run, _power: 9.0, batches=3),
    "the same, SGD held to the prior": probing(2 / 3, 0.75, batches=3),
    "probe of three batches": probing(batches=3),
    "probe of one batch": of_the_package,
    "the same, always after ten small steps": after_ten_steps,
    "the same, always after one small step": after_one_step,
    "probe of one batch, SGD's prior from norms": probing(batches=1, sgd_most=sgd_prior_of_norms),
    "probe that may only forbid": probing(1.0, most=1.0, by_depth=1e9),
    "probe without a cap": probing(most=1e9, by_depth=1e9),
    "probe without the prior": probing(1.0, 0.75),
    "trials at 1/4, 1, 4": trying((-2, 0, 2)),
    "trials at 1/2, 1, 2": trying((-1, 0, 1)),
    "trials at 1/4, 1, 4, held-back batches": trying((-2, 0, 2), HELD_BACK_LOSS),
    "trials at 1/4, 1, 4, validation": trying((-2, 0, 2), VALIDATION_LOSS),
    "probe, then trials at 1/4, 1, 4": trying((-2, 0, 2), centre=PROBE),
    "probe, then trials at 1/2, 1, 2": trying((-1, 0, 1), centre=PROBE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", default="choosing", choices=("choosing", "reported", "old", "all"))
    parser.add_argument("--store", type=Path, default=STORE)
    args = parser.parse_args()
    halves = {"choosing": CHOOSING, "reported": REPORTED, "old": OLD}
    if args.half == "all":
        print(summary(load(args.store, [name for names in halves.values() for name in names])))
        return
    runs = load(args.store, list(halves[args.half]))
    groups = {
        "All": runs,
        "SGD": [run for run in runs if run.is_sgd],
        "Other optimizers": [run for run in runs if not run.is_sgd],
        "Fine-tuning": [run for run in runs if run.kind != SCRATCH],
        "From scratch": [run for run in runs if run.kind == SCRATCH],
        "Runs of at least 600 steps": [run for run in runs if run.steps >= 600],
    }
    for title, some in groups.items():
        if len({run.task for run in some}) < 2:
            continue
        tasks = {run.task for run in some}
        print(f"\n### {title}: {len(tasks)} tasks, {len(some)} runs\n\n{as_markdown(some, RULES, 'the prior')}")


if __name__ == "__main__":
    main()
