"""What is known of a good peak of 1Cycle before any test: one number for each family of optimizers."""

from __future__ import annotations

from torch.optim import Optimizer

ADAM = 0.006
SGD = 0.15
"""At momentum 0.9. What counts is lr / (1 - momentum), the sum of all that one gradient moves."""

FAMILIES = {
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam", "RMSprop"), ADAM),
    **dict.fromkeys(("FusedAdam", "DeepSpeedCPUAdam", "Adam8bit", "AdamW8bit", "PagedAdamW", "StableAdamW"), ADAM),
    "Lion": ADAM / 3,
    "Adafactor": 0.05,
    "Muon": 0.03,
}
"""By class, also of a parent."""


def prior_of(optimizer: Optimizer) -> float | None:
    """Return the peak that is likely for an optimizer of this kind; None: nothing is known of it."""
    names = [cls.__name__ for cls in type(optimizer).__mro__]
    if "SGD" in names:
        momentum = float(optimizer.param_groups[0]["momentum"])
        return SGD * (1.0 - momentum) / 0.1
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)
