"""The recommended rule as a user would have it: probe, then a training that is shorter by what the probe cost.

    python tests/benchmarks/peak_end_to_end.py [--shortest 300] [--seconds 20]

Regret against the stored grid of trainings of full length; beside it the prior, which trains for all steps.
"""

from __future__ import annotations

import argparse
import json
import math
from statistics import fmean

import torch
from peak_probe import find
from peak_rules import ONE_PROBE_STEPS, PROBE_STEPS, SHORT_RUN, Run, by_task
from peak_study import STORE, Study, cycle

from lightning_lrsched.range_test.probe import SHORTEST_RUN, Weights, peak_of


def peak_of_run(study: Study, run: Run, batches: int) -> float:
    """Return the peak by the package's rule."""
    model = study.fresh().model
    peak, _ = peak_of(find(study.fresh(), study.base, batches), run.prior, Weights.of(model), is_sgd=run.is_sgd)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=1, help="of a probe, in runs of 300 steps and more")
    parser.add_argument("--shortest", type=int, default=SHORTEST_RUN, help="shorter runs are left out [steps]")
    parser.add_argument("--seconds", type=float, default=20.0, help="leave out tasks that took longer to store")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    differences, regrets, priors = [], [], []
    for key, stored in json.loads(STORE.read_text(encoding="utf-8")).items():
        name, seed = key.split("/")
        run = Run(name, stored)
        if stored["seconds"] > args.seconds or run.steps < args.shortest:
            continue
        study = Study(name, int(seed))
        batches = 1 if run.steps < SHORT_RUN else args.batches
        peak = peak_of_run(study, run, batches)
        steps = run.steps - (ONE_PROBE_STEPS if batches == 1 else PROBE_STEPS)
        task = study.fresh()
        losses = cycle(task, peak, steps, task.batches(steps))
        metric = task.validate()[study.metric] if math.isfinite(losses[-1]) else math.inf
        best = min(run.metrics.values())
        regrets.append(min(1.0, (metric - best) / (run.untrained - best)))
        priors.append(run.regret(0))
        differences.append(regrets[-1] - priors[-1])
        print(
            f"{name} {run.steps} peak/prior {peak / study.base:.3g} regret {regrets[-1]:.3f} prior {priors[-1]:.3f}",
            flush=True,
        )
    below = fmean(regret < 0.1 for regret in regrets)
    print(f"{len(regrets)} tasks: {by_task(regrets)}, below 10 % {below:.0%}, prior {by_task(priors)}", end=", ")
    print(f"difference {by_task(differences)}")


if __name__ == "__main__":
    main()
