"""DeepSpeed's engine: the clock of a schedule under DeepSpeedStrategy, how it counts, and what a trial changes in it.

The engine owns the optimizer: it accumulates over the epochs, skips steps after an overflow, and calls the optimizer
once for each shard. It calls ``engine.lr_scheduler.step()`` once for each step that it has applied; Lightning leaves
that attribute empty. DeepSpeed itself is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.schedulers import ClosedFormLR
from lightning_lrsched.schedulers.param_groups import torch_optimizer
from lightning_lrsched.trainer.protocol import is_a

# The engine --------------------------------------------------------------------------------------------------------


def uses_engine(trainer: Any) -> bool:
    """Return whether a DeepSpeed engine will own, or owns, the optimizer."""
    return is_a(getattr(trainer, "strategy", None), "DeepSpeedStrategy")


def engine_of(trainer: Any) -> Any | None:
    """Return the DeepSpeed engine; None with other strategies, and before it exists."""
    engine = trainer.strategy.model if uses_engine(trainer) else None
    return engine if is_a(engine, "DeepSpeedEngine") else None


def check_no_scheduler_section(trainer: Any, owner: str) -> None:
    """Raise ValueError where the configuration of DeepSpeedStrategy itself has a scheduler."""
    section = (trainer.strategy.config or {}).get("scheduler") if uses_engine(trainer) else None
    if section:
        name = section.get("type") if isinstance(section, dict) else section
        raise ValueError(
            f"{owner}: the config of DeepSpeedStrategy has a 'scheduler' section ({name}), which would set the same lr;"
            f" keep one: take the section out of the strategy's config, or leave out {owner}"
        )


# Counting ----------------------------------------------------------------------------------------------------------


def applied_steps(engine: Any) -> int:
    """Return the optimizer steps that the engine has made, also before a resume, without those that it skipped."""
    return int(engine.global_steps - engine.skipped_steps)


def batches_for_steps(steps: int, batches: int, accumulate: int, done: int) -> int | None:
    """Return how many batches Lightning runs until its own count has grown by ``steps``: so ``max_steps`` ends a fit.

    Under DeepSpeed, Lightning counts the full groups of each epoch, while the engine's groups run across epochs.

    Args:
        steps: of Lightning's count, still to come.
        batches: of an epoch.
        accumulate: batches in a group.
        done: batches of the present epoch that have been run.

    Returns:
        The number of batches; None if there is no full group in an epoch, so that Lightning's count stands still.
    """
    if steps <= 0:
        return 0
    of_an_epoch, before = batches // accumulate, done // accumulate
    if not of_an_epoch:
        return None
    if before + steps <= of_an_epoch:
        return (before + steps) * accumulate - done
    full_epochs, rest = divmod(before + steps - 1, of_an_epoch)
    return full_epochs * batches + (rest + 1) * accumulate - done


# The clock ---------------------------------------------------------------------------------------------------------


class EngineClock:
    """Stands where a DeepSpeed engine has its scheduler, and advances ours with each step that was applied."""

    def __init__(self, scheduler: LRScheduler) -> None:
        self._scheduler = scheduler

    def step(self, *_: Any) -> None:
        """Advance the scheduler, unless it was detached."""
        scheduler = self._scheduler
        if not isinstance(scheduler, ClosedFormLR):
            scheduler.step()
        elif scheduler.is_following:
            scheduler.advance()

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state: DeepSpeed's part of a checkpoint then resumes in DeepSpeed alone, too."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` has returned; Lightning restores the scheduler itself."""
        self._scheduler.load_state_dict(state)


def follow_engine(scheduler: LRScheduler, engine: Any, amount: Callable[[], int] | None = None) -> None:
    """Have ``scheduler`` advance with the steps that ``engine`` applies, each by ``amount()``; None: by one."""
    if isinstance(scheduler, ClosedFormLR):
        scheduler.follow_engine(amount)
    engine.lr_scheduler = EngineClock(scheduler)


# A trial run -------------------------------------------------------------------------------------------------------


PARTIAL_GRADIENTS = ("averaged_gradients", "all_grad_tensors")
"""Where ZeRO keeps, for each param group, the gradients of batches whose step is still to come, or None."""


class EngineState:
    """All that optimizer steps change in an engine besides the module's own tensors: copies in host memory.

    These are the shards of weights (ZeRO 3), the 32-bit master weights, the states and options of the optimizer, the
    loss scale and the counters. Weights are never gathered. Restored in place, so that the same engine can go on.
    """

    def __init__(self, engine: Any, module: Any) -> None:
        """Remember them; to be called before the module's own tensors are copied.

        Raises:
            ValueError: if DeepSpeed keeps weights or optimizer states on disk.
        """
        self._engine, self._module = engine, module
        self._optimizer = torch_optimizer(engine.optimizer)
        _refuse_states_on_disk(engine.optimizer, module)
        self.release_gathered()
        self._numbers = [(vars(part), _numbers(part)) for part in self._parts()]
        self._weights = [(tensor, _host_copy(tensor)) for tensor in self._master_weights()]
        self._states = {key: _deepcopy_to_host(state) for key, state in self._optimizer.state.items()}
        self._options = [
            {key: deepcopy(value) for key, value in group.items() if key != "params"}
            for group in self._optimizer.param_groups
        ]
        self._allow_overflow()

    def _allow_overflow(self) -> None:
        """Let overflow at the smallest loss scale end a trial, with a result, not raise an error."""
        scaler: Any = getattr(self._engine.optimizer, "loss_scaler", None)
        if hasattr(scaler, "raise_error_at_min_scale"):
            scaler.raise_error_at_min_scale = False

    def release_gathered(self) -> None:
        """Leave of each sharded parameter only the shard; to be called before the module's tensors are restored."""
        for parameter in self._module.parameters():
            if hasattr(parameter, "ds_tensor"):
                parameter.partition()

    @torch.no_grad()
    def restore(self, *, keep: bool = False) -> None:
        """Put everything back, after the module's own tensors; with ``keep``, another trial follows."""
        wrapper = self._engine.optimizer
        if wrapper is not self._optimizer:
            wrapper.zero_grad()
        for name in PARTIAL_GRADIENTS:
            gradients = getattr(wrapper, name, {})
            gradients.update(dict.fromkeys(gradients))
        for tensor, value in self._weights:
            tensor.data.copy_(value)
        self._restore_states()
        groups = self._optimizer.param_groups
        del groups[len(self._options) :]
        for group, options in zip(groups, self._options, strict=True):
            for key in [key for key in group if key != "params" and key not in options]:
                del group[key]
            group.update(deepcopy(options))
        for attributes, numbers in self._numbers:
            attributes.update(numbers)
        if hasattr(wrapper, "invalidate_secondary_tensor"):
            wrapper.invalidate_secondary_tensor()
        if keep:
            self._allow_overflow()

    def _restore_states(self) -> None:
        states = self._optimizer.state
        for key in [key for key in states if key not in self._states]:
            del states[key]
        for key, saved in self._states.items():
            state = states[key]
            for name in [name for name in state if name not in saved]:
                del state[name]
            for name, value in saved.items():
                held = state.get(name)
                if isinstance(held, Tensor) and isinstance(value, Tensor) and held.shape == value.shape:
                    held.copy_(value)  # DeepSpeed holds views of it
                else:
                    state[name] = value.to(key.device, copy=True) if isinstance(value, Tensor) else deepcopy(value)

    def _parts(self) -> Iterator[Any]:
        wrapper = self._engine.optimizer
        yield self._engine
        if wrapper is not self._optimizer:
            yield wrapper
            names = ("loss_scaler", "loss_scale_config")
            yield from (getattr(wrapper, name) for name in names if hasattr(wrapper, name))

    def _master_weights(self) -> Iterable[Tensor]:
        """Return the shards of weights, and the tensors that the optimizer itself steps, each once."""
        parameters = list(self._module.parameters())
        stepped = [tensor for group in self._optimizer.param_groups for tensor in group["params"]]
        # ZeRO 3 shows them to the optimizer only while it steps.
        stepped += getattr(self._engine.optimizer, "fp32_partitioned_groups_flat", [])
        shards = [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
        known = {id(parameter) for parameter in parameters}
        return {id(tensor): tensor for tensor in [*shards, *stepped] if id(tensor) not in known}.values()


def _numbers(part: Any) -> dict[str, Any]:
    """Return the counters, flags and scales among the attributes of an object."""
    return {name: value for name, value in vars(part).items() if isinstance(value, (bool, int, float))}


def _host_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _deepcopy_to_host(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of what an optimizer keeps for one parameter, its tensors in host memory."""
    return {name: _host_copy(value) if isinstance(value, Tensor) else deepcopy(value) for name, value in state.items()}


def _refuse_states_on_disk(optimizer: Any, module: Any) -> None:
    swapped = bool(getattr(optimizer, "swap_optimizer", False))
    swapped = swapped or any(getattr(parameter, "nvme_swapper", None) for parameter in module.parameters())
    if swapped:
        raise ValueError(
            "the LR range test puts weights and optimizer states back from copies in memory, and DeepSpeed keeps them"
            " on disk here: for the test, use DeepSpeedStrategy without the device 'nvme'"
        )
