"""OptimizerClock: ticks whenever an optimizer has really stepped, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class OptimizerClock:
    """Calls ``tick`` after each step that ``optimizer`` has really made.

    Accumulated micro-batches, steps that a gradient scaler skipped and the other optimizers of a manual loop do not
    count.

    Args:
        optimizer: whose steps are counted.
        name: who counts them, for messages.
        tick: what to do after a step.
        writes_on_cuda: whether ``tick`` writes tensors on a CUDA device.

    Raises:
        ValueError: if the optimizer has a clock already.
    """

    name: str

    def __init__(
        self, optimizer: Optimizer, name: str, tick: Callable[[], object], writes_on_cuda: Callable[[], bool]
    ) -> None:
        for hook in optimizer._optimizer_step_post_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, OptimizerClock):
                raise ValueError(
                    f"{name} cannot follow this {type(optimizer).__name__}: {other.name} follows it already, and both"
                    " would set its lr; keep one of them (or give the stepping back with unfollow_optimizer())"
                )
        self.name = name
        self._tick = tick
        self._writes_on_cuda = writes_on_cuda
        # A compiled optimizer step would compile its hooks too, and anew for every step: a step is a number.
        self._outside_compiler: Callable[[Optimizer], None] = torch.compiler.disable(self.after_step)  # type: ignore[no-untyped-call]
        self._hook = optimizer.register_step_post_hook(self._on_step)

    def stop(self) -> None:
        """Tick no longer."""
        self._hook.remove()

    def _on_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            self._outside_compiler(optimizer)
        else:
            self.after_step(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """Tick, unless a gradient scaler has made the step do nothing."""
        if self._writes_on_cuda() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{self.name} follows an optimizer whose step is being captured in a CUDA graph: a replay runs no"
                " hooks, so the schedule would stand still. Call unfollow_optimizer() before capturing, and step()"
                " after each replay."
            )
        # A fused optimizer under a gradient scaler is always called and skips inside its kernel. The scaler leaves the
        # verdict on the device: reading it is the one unavoidable wait.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not found_inf:
            self._tick()
