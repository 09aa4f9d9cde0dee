"""All that knows DeepSpeed's engine: how it counts, what advances a schedule under it, and what a trial changes in it.

The engine owns the optimizer: it accumulates over the epochs, skips steps after an overflow, and calls the optimizer
once for each shard. It calls ``engine.lr_scheduler.step()`` once for each step that it has applied; Lightning leaves
that attribute empty. DeepSpeed itself is not imported.
"""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.optim.hyperparameters import torch_optimizer
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.trainer.protocol import Checkpoint, Guest, TrainerLike, is_a

# The clock ------------------------------------------------------------------------------------------------------------


class TrainerClock:
    """What advances the schedules of a fit, and counts steps: here, each optimizer itself."""

    carries = False
    """Whether a group of accumulated batches that an epoch leaves unfinished goes on in the next one."""

    steps: int | None = None
    """Steps that the optimizer has made, also before a resume, without skipped ones; None: the clock does not count."""

    attempts: int | None = None
    """Steps, also skipped ones; None: the clock does not count."""

    @property
    def skipped(self) -> int:
        """Steps that were skipped, where the clock counts them."""
        return (self.attempts or 0) - (self.steps or 0)

    def follow(self, scheduler: ScheduledLR, amount: Callable[[], int] | None = None) -> None:
        """Have ``scheduler`` advance with each finished step, by ``amount()``; None: by one."""
        scheduler.follow_optimizer(amount)

    def build(
        self, trainer: TrainerLike, optimizer: Optimizer, make: Callable[[], ScheduledLR], *, needs_run: bool = False
    ) -> ScheduledLR:
        """Return the scheduler that ``make`` makes in ``configure_optimizers``, and have it advance.

        Args:
            trainer: the Trainer.
            optimizer: the module's.
            make: makes the scheduler, and has it follow this clock.
            needs_run: whether it depends on the length of the run, which may be known only later.
        """
        return make()


class EngineClock(TrainerClock):
    """A DeepSpeed engine: it calls its scheduler for each step that it has applied.

    Args:
        engine: the engine; None: it is still to be made.
    """

    carries = True

    def __init__(self, engine: Any | None) -> None:
        self._engine = engine

    @property
    def steps(self) -> int | None:
        """The steps that the engine has applied."""
        return None if self._engine is None else int(self._engine.global_steps - self._engine.skipped_steps)

    @property
    def attempts(self) -> int | None:
        """The steps that the engine has counted."""
        return None if self._engine is None else int(self._engine.global_steps)

    def follow(self, scheduler: ScheduledLR, amount: Callable[[], int] | None = None) -> None:
        if self._engine is None:
            return  # EngineAttachment does it
        scheduler.follow_engine(amount)
        self._engine.lr_scheduler = EngineScheduler(scheduler)

    def build(
        self, trainer: TrainerLike, optimizer: Optimizer, make: Callable[[], ScheduledLR], *, needs_run: bool = False
    ) -> ScheduledLR:
        attachment = EngineAttachment(optimizer, make, needs_run=needs_run)
        attachment.scheduler = scheduler = make()
        trainer.callbacks.append(attachment)
        return scheduler


def clock_of(trainer: TrainerLike | None) -> TrainerClock:
    """Return what advances the schedules of a Trainer's fit."""
    if trainer is None or not is_a(getattr(trainer, "strategy", None), "DeepSpeedStrategy"):
        return TrainerClock()
    engine = trainer.strategy.model  # until there is one, the module
    return EngineClock(engine if is_a(engine, "DeepSpeedEngine") else None)


def engine_of(trainer: TrainerLike) -> Any | None:
    """Return the DeepSpeed engine; None with other strategies, and before it exists."""
    clock = clock_of(trainer)
    return clock._engine if isinstance(clock, EngineClock) else None


def check_no_scheduler_section(trainer: TrainerLike | None, owner: str) -> None:
    """Raise ValueError where the configuration of DeepSpeedStrategy itself has a scheduler."""
    strategy = getattr(trainer, "strategy", None)
    section = (getattr(strategy, "config", None) or {}).get("scheduler") if clock_of(trainer).carries else None
    if section:
        name = section.get("type") if isinstance(section, dict) else section
        raise ValueError(
            f"{owner}: the config of DeepSpeedStrategy has a 'scheduler' section ({name}), which would set the same lr;"
            f" keep one: take the section out of the strategy's config, or leave out {owner}"
        )


class EngineScheduler:
    """Stands where a DeepSpeed engine has its scheduler, and advances ours with each step that was applied."""

    def __init__(self, scheduler: ScheduledLR) -> None:
        self._scheduler = scheduler
        # DeepSpeed's part of a checkpoint then resumes in DeepSpeed alone, too; Lightning restores ours itself.
        self.state_dict, self.load_state_dict = scheduler.state_dict, scheduler.load_state_dict

    def step(self, *_: object) -> None:
        """Advance the scheduler, unless it was detached."""
        if self._scheduler.is_following:
            self._scheduler.advance()


class EngineAttachment(Guest):
    """Has a scheduler from the module's ``configure_optimizers`` follow the engine, which is made from it only then.

    Args:
        optimizer: the module's.
        make: makes the scheduler for that optimizer.
        needs_run: make it again once a checkpoint is loaded, which DeepSpeed does late, for its lengths depend on that.
    """

    def __init__(self, optimizer: Optimizer, make: Callable[[], ScheduledLR], *, needs_run: bool) -> None:
        self._optimizer, self._make, self._needs_run = optimizer, make, needs_run
        keys = ("lr", "initial_lr", "momentum", "betas")
        self._own_values = [
            {key: deepcopy(group[key]) for key in keys if key in group} for group in optimizer.param_groups
        ]
        self.scheduler: Any = None

    def on_fit_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        if not self._is_in_use(trainer):  # an LR range test has taken its place
            return
        engine = engine_of(trainer)
        inner = None if engine is None else torch_optimizer(engine.optimizer)
        if inner is not self._optimizer or len(inner.param_groups) != len(self._own_values):
            raise ValueError(
                f"{self.scheduler.name} was made for the {type(self._optimizer).__name__} that the module"
                f" returned, but DeepSpeed trains with another one ({type(inner).__name__} of"
                f" {len(inner.param_groups) if inner is not None else 0} param groups): use LRSchedulerCallback, which"
                " takes the engine's own, or return no param group without parameters"
            )
        clock_of(trainer).follow(self.scheduler)

    def on_load_checkpoint(self, trainer: TrainerLike, pl_module: LightningModule, checkpoint: Checkpoint) -> None:
        if engine_of(trainer) is None or not self._needs_run or not self._is_in_use(trainer):
            return
        earlier = self.scheduler
        earlier.unfollow_optimizer()
        for group, values in zip(self._optimizer.param_groups, self._own_values, strict=True):
            group.pop("initial_lr", None)
            group.update(deepcopy(values))
        self.scheduler = self._make()  # follows the engine, which there is now
        for config in trainer.lr_scheduler_configs:
            if config.scheduler is earlier:
                config.scheduler = self.scheduler

    def _is_in_use(self, trainer: TrainerLike) -> bool:
        return any(config.scheduler is self.scheduler for config in trainer.lr_scheduler_configs)


# A trial run -------------------------------------------------------------------------------------------------------


PARTIAL_GRADIENTS = ("averaged_gradients", "all_grad_tensors")
"""Where ZeRO keeps, for each param group, the gradients of batches whose step is still to come, or None."""


class EngineState:
    """All that optimizer steps change in an engine besides the module's own tensors: copies in host memory.

    These are the shards of weights (ZeRO 3), the 32-bit master weights, the states and options of the optimizer, the
    loss scale and the counters. Weights are never gathered. Restored in place, so that the same engine can go on.
    """

    def __init__(self, engine: Any, module: Module) -> None:
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
                parameter.partition()  # type: ignore[attr-defined]

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

    def _parts(self) -> Iterator[object]:
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


def _numbers(part: object) -> dict[str, float]:
    """Return the counters, flags and scales among the attributes of an object."""
    return {name: value for name, value in vars(part).items() if isinstance(value, (bool, int, float))}


def _host_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _deepcopy_to_host(state: dict[str, object]) -> dict[str, object]:
    """Return a copy of what an optimizer keeps for one parameter, its tensors in host memory."""
    return {name: _host_copy(value) if isinstance(value, Tensor) else deepcopy(value) for name, value in state.items()}


def _refuse_states_on_disk(optimizer: object, module: Module) -> None:
    swapped = bool(getattr(optimizer, "swap_optimizer", False))
    swapped = swapped or any(getattr(parameter, "nvme_swapper", None) for parameter in module.parameters())
    if swapped:
        raise ValueError(
            "the LR range test puts weights and optimizer states back from copies in memory, and DeepSpeed keeps them"
            " on disk here: for the test, use DeepSpeedStrategy without the device 'nvme'"
        )
