"""StepLoss: the loss of one optimizer step, from the losses of its micro-batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class StepLoss:
    """Sums up the losses of accumulated micro-batches, on their device."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._micro_batches = 0

    def add(self, outputs: Any, divided_by: int) -> None:
        """Add what ``training_step`` returned, undoing Lightning's division by the number of micro-batches."""
        loss = outputs if isinstance(outputs, Tensor) else (outputs or {}).get("loss")
        if loss is not None:
            loss = loss.detach() if divided_by == 1 else loss.detach() * divided_by
            self._sum = loss if self._sum is None else self._sum + loss
            self._micro_batches += 1

    def take(self) -> Tensor | None:
        """Return the mean since the last call and begin anew; None where no loss came."""
        total, micro_batches = self._sum, self._micro_batches
        self._sum, self._micro_batches = None, 0
        return total if total is None or micro_batches == 1 else total / micro_batches
