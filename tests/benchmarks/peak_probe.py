"""The probe: the lr at which the loss of a batch is lowest along the update that the optimizer makes of it.

    python tests/benchmarks/peak_probe.py    (what a factor of the loss, a constant in it and the user's lr change)

An optimizer moves the weights by lr times a direction. One step shows the direction; a few forward passes of the same
batch show how far along it the loss falls. The lr of a step to its lowest place has seen optimizer, width,
initialisation and the scale of the loss. This is the probe of ``lightning_lrsched.range_test.probe`` in a plain loop,
of any number of batches.
"""

from __future__ import annotations

import math
from statistics import median

import torch
from peak_tasks import make_task
from tasks import Task
from torch import Tensor

from lightning_lrsched.range_test.probe import WARM_SHARE, WARM_STEPS, lowest_along


def loss_of(task: Task, batch: tuple[Tensor, Tensor]) -> Tensor:
    return task.loss(task.model(batch[0]), batch[1])


def probe(
    task: Task, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer, lr: float, step_lr: float
) -> float | None:
    """Make one step at ``step_lr`` on a batch; return the lr that would have lowered its loss most."""
    parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in parameters]
    noise = torch.get_rng_state()  # dropout and sampling are to be the same at each place
    loss = loss_of(task, batch)
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    moves = [parameter.detach() - start for parameter, start in zip(parameters, before, strict=True)]

    @torch.no_grad()
    def go_to(multiple: float) -> None:
        for parameter, start, move in zip(parameters, before, moves, strict=True):
            parameter.copy_(start + multiple * move)

    def loss_at(place: float) -> float:
        go_to(place / lr)
        torch.set_rng_state(noise)
        return loss_of(task, batch).item()

    found, _ = lowest_along(loss_at, lr)
    go_to(step_lr / lr)
    return found


def find(task: Task, guess: float, number: int = 1) -> float | None:
    """Return the median over some batches, after ten steps at a small fraction of what the first batch says."""
    optimizer = task.optimizer(guess)
    first, *batches = task.batches(WARM_STEPS + number)
    state = {name: value.clone() for name, value in task.model.state_dict().items()}
    found = probe(task, first, optimizer, guess, 0.0)
    task.model.load_state_dict(state)
    if found is None:
        return None
    optimizer = task.optimizer(WARM_SHARE * found)
    for batch in [first, *batches[: WARM_STEPS - 1]]:
        loss = loss_of(task, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probes = [probe(task, batch, optimizer, found, WARM_SHARE * found) for batch in batches[WARM_STEPS - 1 :]]
    return median(kept) if (kept := [value for value in probes if value is not None]) else None


def main() -> None:
    torch.set_num_threads(1)
    cases = {"as it is": (1.0, 0.0, 1.0), "loss x 1000": (1e3, 0.0, 1.0), "loss x 0.001": (1e-3, 0.0, 1.0)}
    cases |= {"loss + 10": (1.0, 10.0, 1.0), "user's lr x 100": (1.0, 0.0, 100.0), "user's lr / 100": (1.0, 0.0, 0.01)}
    names = (
        "residual_12_layers_longer_sgd",
        "wide_friedman_sgd",
        "headers_low_rank_long_sgd",
        "focal_adam",
        "documents_adagrad",
    )
    for name in names:
        found = {}
        for case, (factor, constant, user) in cases.items():
            task = make_task(name, 300)
            own = task.loss
            task.loss = lambda outputs, targets, own=own, f=factor, c=constant: f * own(outputs, targets) + c
            found[case] = find(task, (0.15 if "sgd" in name else 0.006) * user)
        base = found["as it is"] or math.nan
        print(name, f"{base:.3g}", {case: round((value or math.nan) / base, 4) for case, value in found.items()})


if __name__ == "__main__":
    main()
