"""FitState: what a trial run changes in a fit, and how it goes back: Trainer, callbacks, module, data."""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from os import PathLike
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.nn import Module
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from lightning_lrsched.optim.snapshot import ModelSnapshot, generator_states, global_states, loaders_in
from lightning_lrsched.trainer.deepspeed import EngineState, engine_of
from lightning_lrsched.trainer.protocol import (
    Checkpoint,
    TrainerLike,
    autologs,
    is_a,
    mark_as_fresh,
    pause_autolog,
)

BATCH_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)
"""Where a callback takes part in the work of a batch: it may prepare the batch, or change loss and gradients."""

LIGHTNING = ("lightning.", "pytorch_lightning.")
KEPT = ("GradientAccumulationScheduler", "LambdaCallback")
"""Lightning's own callbacks write, show, stop or change weights and lr, but for these."""

OURS = ("LRSchedulerCallback", "LRRangeTestCallback", "RunReport", "EngineAttachment")
SILENT = (*OURS, "Checkpoint", "EarlyStopping", "ProgressBar", "LearningRateMonitor", "DeviceStatsMonitor", "Timer",
          "ThroughputMonitor", "LearningRateFinder", "BatchSizeFinder")  # fmt: skip
"""What these do in a batch has no influence on it: that they are set aside is no news."""

LOOP_LIMITS = ("max_epochs", "min_epochs")
EPOCH_LOOP_LIMITS = ("max_steps", "min_steps")
TRAINER_LIMITS = ("limit_val_batches",)
DATA = ("_combined_loader", "_data_fetcher", "max_batches", "_last_train_dl_reload_epoch")
"""Attributes of the fit loop that belong to the data it has loaded."""


# Callbacks ------------------------------------------------------------------------------------------------------------


def takes_part(callback: Callback) -> bool:
    """Return whether a callback takes part in a trial: all do, but ours and Lightning's own and what inherits these."""
    own = [cls.__name__ for cls in type(callback).__mro__ if cls.__module__.startswith(LIGHTNING)]
    return not is_a(callback, *OURS) and (is_a(callback, *KEPT) or own[:1] in ([], ["Callback"]))


def hooks_of(callback: Callback, hooks: Iterable[str]) -> list[str]:
    """Return those of ``hooks`` that a callback overrides: its class, or itself, as LambdaCallback does."""
    return [
        hook
        for hook in hooks
        if hook in getattr(callback, "__dict__", ()) or getattr(type(callback), hook) is not getattr(Callback, hook)
    ]


class Participant(Callback):
    """A callback of the fit in a trial inside it: it prepares and handles batches, and hears nothing of an end.

    Args:
        callback: the callback.
        started: whether its ``on_train_start`` has run already.
    """

    def __init__(self, callback: Callback, *, started: bool) -> None:
        for hook in (*BATCH_HOOKS, "on_train_epoch_start", *([] if started else ["on_train_start"])):
            setattr(self, hook, getattr(callback, hook))


class First(Callback):
    """Stands before all other callbacks, and calls ``start_batch`` before anything is done with a batch."""

    def __init__(self, start_batch: Callable[[], object]) -> None:
        self._start_batch = start_batch

    def on_train_batch_start(
        self, trainer: TrainerLike, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        self._start_batch()


# Loggers --------------------------------------------------------------------------------------------------------------


class Silent:
    """Stands for the experiment of a muted logger, and for what it holds: to call or to change it does nothing.

    Args:
        thing: what it stands for; its texts and numbers, such as the path of a folder, can be read.
    """

    def __init__(self, thing: object) -> None:
        self.__dict__["_thing"] = thing

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name, None)
        return value if isinstance(value, (str, int, float, PathLike)) else Silent(value)

    def __setattr__(self, name: str, value: object) -> None:
        """Change nothing."""

    def __call__(self, *_: object, **__: object) -> Silent:
        return Silent(None)

    def __getitem__(self, key: object) -> Silent:
        return Silent(None)

    def __setitem__(self, key: object, value: object) -> None:
        """Change nothing."""

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def muted(logger: Logger) -> Logger:
    """Return a logger of the same class, with the same name and folder, that writes nothing."""
    cls = type(logger)
    writes = [name for name in dir(cls) if name.startswith("log_") or name in ("save", "finalize", "watch")]
    nothing = {name: _do_nothing for name in writes if callable(getattr(cls, name))}
    experiment = property(lambda _: Silent(logger.experiment))  # type: ignore[attr-defined]
    try:
        silent: Logger = object.__new__(type(cls.__name__, (cls,), {**nothing, "experiment": experiment}))
        silent.__dict__ = vars(logger)  # what is set later, too
    except TypeError:  # a class that is not made in Python
        return logger
    return silent


# The fit --------------------------------------------------------------------------------------------------------------


class RandomStates:
    """The states of the random number generators of Python, NumPy and torch, and of those behind a trainer's data."""

    def __init__(self) -> None:
        self._resets = global_states()

    def add_data(self, trainer: TrainerLike) -> None:
        """Remember the generators of the trainer's data, too; once the module and its data are set up."""
        self._resets = [*generator_states(trainer.fit_loop._data_source.instance), *self._resets]

    def restore(self) -> None:
        """Restore all of them."""
        for reset in self._resets:
            reset()


class FitState:
    """Remembers everything that a trial run changes, and restores it once, however the run ends.

    :meth:`set_aside` begins the trial, :meth:`put_back` ends it; between them lies the training of the trial, from
    :meth:`capture` to :meth:`restore`.

    Args:
        trainer: the trainer that is about to make the trial.
        at_start: the random states with which the fit began, where the trial is made inside the fit that it is for: it
            begins with them, too; None: the trial is a fit of its own.

    Attributes:
        loggers: the trainer's, which write nothing during the trial.
        refused: the first error that the module has raised at the end of an epoch, in words; None: it has raised none.
    """

    def __init__(self, trainer: TrainerLike, at_start: RandomStates | None = None) -> None:
        self._trainer, self._at_start = trainer, at_start
        self._random_states = RandomStates()
        self._callbacks = list(trainer.callbacks)
        self._loops = deepcopy(trainer.fit_loop.state_dict())
        self._limits, self._numbers = _limits_of(trainer), _numbers_of(trainer)
        self._batches_that_stepped = trainer.fit_loop.epoch_loop._batches_that_stepped
        self._data: dict[str, Any] = {}
        self._iterators: list[tuple[DataLoader[object], _BaseDataLoaderIter | None]] = []
        self._participants: list[Callback] = []
        self._before: ModelSnapshot | None = None
        self._marked: ModelSnapshot | None = None
        self._engine: EngineState | None = None
        self._schedulers: list[tuple[LRSchedulerConfig, Checkpoint]] = []
        self.loggers = list(trainer.loggers)
        self._hooks: dict[str, object] = {}
        self.refused: str | None = None
        self.logs_hyperparameters = autologs(trainer)
        self._resume_autolog: Callable[[], None] | None = None

    # The Trainer ------------------------------------------------------------------------------------------------------

    def set_aside(
        self, test: Callback, start_batch: Callable[[], object], started: Iterable[Callback] = ()
    ) -> list[str]:
        """Take what a trial must not run out of the Trainer.

        Args:
            test: the callback that makes the trial; it is last, so that it ends after all others.
            start_batch: called before any other callback sees a batch.
            started: inside a fit, the callbacks whose ``on_train_start`` has run.

        Returns:
            The names of callbacks that do not take part although they do something with a batch.
        """
        trainer, inside = self._trainer, self._at_start is not None
        self._participants = [each for each in self._callbacks if each is not test and takes_part(each)]
        others: list[Callback] = self._participants
        if inside:
            begun = [id(callback) for callback in started]
            self._participants = [c for c in others if hooks_of(c, (*BATCH_HOOKS, "on_train_epoch_start"))]
            others = [
                c if is_a(c, "GradientAccumulationScheduler") else Participant(c, started=id(c) in begun)
                for c in self._participants
            ]
        trainer.callbacks = [First(start_batch), *others, test]
        self._quieten(trainer.lightning_module)
        # Loggers keep the first hyperparameters of a run: at the end of the trial they get them with its findings.
        self._resume_autolog = pause_autolog(trainer)
        # What the module logs, itself or by Lightning, would stand among the values of the training.
        trainer.loggers = list(map(muted, self.loggers))
        trainer._logger_connector.log_metrics = _do_nothing  # type: ignore[method-assign]
        return [
            type(each).__name__
            for each in self._callbacks
            if not takes_part(each) and not is_a(each, *SILENT) and hooks_of(each, BATCH_HOOKS)
        ]

    def _quieten(self, module: LightningModule) -> None:
        """Let epochs of the trial end without a validation; inside a fit, its own end is not that of the training.

        A module may read at the end of an epoch what its validation has found. What it raises for another reason it
        will raise again.
        """
        attributes, epoch_ends = vars(module), module.on_train_epoch_end

        def end_epoch() -> None:
            try:
                epoch_ends()
            except Exception as error:
                if self._trainer.limit_val_batches:
                    raise
                self.refused = self.refused or f"{type(module).__name__}.on_train_epoch_end has raised {error!r}"

        hooks: dict[str, Callable[[], None]] = {"on_train_epoch_end": end_epoch}
        if self._at_start is not None:
            hooks["on_train_end"] = _do_nothing
        self._hooks = {name: attributes.get(name) for name in hooks}
        attributes.update(hooks)

    def _restore_hooks(self) -> None:
        attributes = vars(self._trainer.lightning_module)
        for name, hook in self._hooks.items():
            attributes[name] = hook
            if hook is None:  # the class has it
                del attributes[name]
        self._hooks = {}

    def had_progress_bar(self) -> bool:
        """Return whether the trainer shows a progress bar."""
        return any(
            is_a(callback, "ProgressBar") and getattr(callback, "is_enabled", True) for callback in self._callbacks
        )

    def put_back(self) -> None:
        """Restore callbacks, limits, progress, data and random states."""
        trainer, loop = self._trainer, self._trainer.fit_loop
        if self._before is not None:  # the module's own on_train_end came after the end of the trial
            self._before.restore()
        self._restore_hooks()
        trainer.callbacks, trainer.loggers = self._callbacks, self.loggers
        loop.load_state_dict(self._loops)
        for part in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
            mark_as_fresh(part)
        self._put_back_data()
        loop.epoch_loop._batches_that_stepped = self._batches_that_stepped
        set_limits(trainer, **self._limits)
        for name in [*_numbers_of(trainer)]:  # hooks may change them, and keep a count of their own there
            del vars(trainer)[name]
        vars(trainer).update(self._numbers)
        trainer.should_stop = False
        if self._resume_autolog is not None:
            self._resume_autolog()
        vars(trainer._logger_connector).pop("log_metrics", None)  # the class has it
        trainer._logger_connector.reset_metrics()
        trainer._logger_connector.reset_results()
        self._random_states.restore()

    # The data ---------------------------------------------------------------------------------------------------------

    def set_data_aside(self) -> None:
        """Keep the iterators that the fit has made of its data: the trial makes others; once the data are set up."""
        self._random_states.add_data(self._trainer)
        loop = self._trainer.fit_loop
        combined = loop._combined_loader
        if combined is not None:
            self._data = {name: getattr(loop, name) for name in DATA if hasattr(loop, name)}
            self._data["of the loader"] = dict(vars(combined))  # it may be the user's, which the trial uses too
            loop._combined_loader = None
        for loader in loaders_in([loop._data_source.instance, combined]):
            self._iterators.append((loader, loader._iterator))  # of persistent workers
            loader._iterator = None
        if self._at_start is not None:
            self._at_start.restore()

    def _put_back_data(self) -> None:
        loop, data = self._trainer.fit_loop, self._data
        fetcher = getattr(loop, "_data_fetcher", None)
        if data and fetcher is not None and fetcher is not data.get("_data_fetcher"):
            fetcher.teardown()  # it ends the workers of its loaders; at the end of a fit, Lightning does this
        for loader in loaders_in([loop._data_source.instance, loop._combined_loader]):
            if loader._iterator is not None:
                loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
                loader._iterator = None
        for loader, iterator in self._iterators:
            loader._iterator = iterator
        loop._combined_loader = None
        if data:
            vars(data["_combined_loader"]).update(data.pop("of the loader"))
            for name, value in data.items():
                setattr(loop, name, value)

    # The module, its optimizers and schedulers ------------------------------------------------------------------------

    def capture(self, module: Module) -> None:
        """Remember parameters, buffers, metrics, optimizer states and data; once the optimizers exist.

        Raises:
            ValueError: if the module has lazy parameters, which have no value yet that could be restored.
        """
        trainer, engine = self._trainer, engine_of(self._trainer)
        self._before = self._marked = None  # two copies of it need not fit
        self._engine = None if engine is None else EngineState(engine, module)
        self._module = module
        self._optimizers = list(trainer.optimizers)  # the module may take new ones
        # DeepSpeed's optimizers have shards; the precision plugin has the state of a gradient scaler.
        self._saved = [*([] if engine else trainer.optimizers), trainer.precision_plugin]
        self._before = self._marked = self._snapshot()
        # In a second call the trial's own schedule may be in their place.
        configs = [config for config, _ in self._schedulers] or list(trainer.lr_scheduler_configs)
        self._schedulers = [(config, deepcopy(config.scheduler.state_dict())) for config in configs]

    def _snapshot(self) -> ModelSnapshot:
        beside = [*self._participants, *([self._trainer.datamodule] if self._trainer.datamodule else [])]
        return ModelSnapshot(self._module, self._saved, earlier=self._before, beside=beside)

    def mark(self) -> None:
        """Remember where each sweep begins: the hooks before the first batch have prepared the module."""
        self._marked = self._snapshot()

    def rewind(self) -> None:
        """Go back there; the data go on."""
        self._restore(self._marked, keep=True)

    def restore(self) -> None:
        """Restore weights, buffers, metrics, optimizer states, schedulers and loggers."""
        self._trainer.loggers = self.loggers
        before, self._before, self._marked = self._before, None, None
        # Inside a fit, and under an engine, nothing comes after.
        again = self._at_start is None and self._engine is None and _does_more_at_the_end(self._module)
        self._restore(before, keep=again)
        self._before = before if again else None

    def _restore(self, snapshot: ModelSnapshot | None, *, keep: bool) -> None:
        if self._engine is not None:
            self._engine.release_gathered()
        if snapshot is not None:
            if any(now is not before for now, before in zip(self._trainer.optimizers, self._optimizers, strict=False)):
                self._trainer.optimizers = self._optimizers
            snapshot.restore(keep=keep)
        if self._engine is not None:
            self._engine.restore(keep=keep)
            self._engine = self._engine if keep else None
        if self._schedulers:
            self._trainer.strategy.lr_scheduler_configs[:] = [config for config, _ in self._schedulers]
            for config, state in self._schedulers:
                config.scheduler.load_state_dict(state)


def _does_more_at_the_end(module: Module) -> bool:
    return not getattr(type(module), "on_train_end").__module__.startswith(LIGHTNING)  # noqa: B009


def _limits_of(trainer: TrainerLike) -> dict[str, float | None]:
    return {name: getattr(owner, name) for owner, names in _owners(trainer) for name in names}


def _numbers_of(trainer: TrainerLike) -> dict[str, object]:
    return {
        name: value for name, value in vars(trainer).items() if value is None or isinstance(value, (int, float, str))
    }


def set_limits(trainer: TrainerLike, **limits: float | None) -> None:
    """Set some of the limits that end a fit."""
    for owner, names in _owners(trainer):
        for name in names:
            if name in limits:
                setattr(owner, name, limits[name])


def _owners(trainer: TrainerLike) -> list[tuple[object, tuple[str, ...]]]:
    loop = trainer.fit_loop
    return [(loop, LOOP_LIMITS), (loop.epoch_loop, EPOCH_LOOP_LIMITS), (trainer, TRAINER_LIMITS)]


def _do_nothing(*_: object, **__: object) -> None:
    """Replace what a trial must not do: log metrics, hear of the end of the training."""
