"""LRSchedulerCallback: add it to a Trainer, and lr and momentum follow a schedule, step by step."""

# The hooks take the Trainer that is used, TrainerLike. Lightning's annotations of its own Trainer lack four attributes
# that other classes set (callbacks, datamodule, fast_dev_run, log_every_n_steps); a test compares them with it instead.
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.range_test.probe import ProbeResult
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.schedules.errors import names_arguments
from lightning_lrsched.schedules.fields import FROM_RANGE_TEST
from lightning_lrsched.trainer.attach import Given, Written
from lightning_lrsched.trainer.fit_schedules import FitSchedules, Order
from lightning_lrsched.trainer.horizon import ended_early
from lightning_lrsched.trainer.loggers import CurveLogger
from lightning_lrsched.trainer.protocol import Checkpoint, TrainerLike
from lightning_lrsched.trainer.range_test_callback import LRRangeTestCallback

Result = TypeVar("Result", RangeTestResult, ProbeResult)


@names_arguments
class LRSchedulerCallback(Callback):
    """Schedules lr and momentum of a module's optimizer; the module itself needs no scheduler code.

    Without arguments it finds the peak of the lr too: at the start of the fit a probe of 12 optimizer steps, or of 3
    in a run of fewer than 600, finds how far along the optimizer's own update the loss of a batch falls
    (:class:`ProbeResult` has the rule). Everything is put back, and the training follows 1Cycle from a tenth of the
    peak up to it, until the run ends. In runs of fewer than 15 steps the peak is the prior, the usual peak for this
    kind of optimizer. Where a loss cannot be computed
    again outside its step (manual optimization, DeepSpeed's engine, FSDPStrategy), an LR range test takes the place of
    the probe, with at most a third of the run's steps; in runs of fewer than 270 steps the peak is the prior,
    and several optimizers keep the ratio of their own.

    An LR range test (``range_test=LRRangeTestCallback()``, up to 300 steps) trains between the bounds that it finds.
    Each of several optimizers gets a test and a schedule of its own. Where the test of one shows no learning rate, as
    happens in a GAN, whose losses oppose each other, all of them keep their own lr, and a warning says so. The same in
    any configuration: the word ``"lr_range_test"`` for a learning rate stands for what the test finds.

    Before the first batch the schedule's first values are set; after every finished optimizer step the next ones. Not
    counted are accumulated micro-batches and steps that a gradient scaler skipped; under manual optimization each
    schedule counts its own optimizer's steps. The position is saved in Lightning's checkpoints and restored from them.

    On a resume the current configuration is used, and a warning shows what has changed. From a checkpoint that was
    saved without the schedule, it continues from the number of steps that the optimizer has counted itself, else (with
    one optimizer) from ``trainer.global_step``, and a warning reports it; where neither is known, give
    ``last_batch_iteration`` among the schedule's params. A param group that is added during training, as layers are
    unfrozen, follows the schedule too, and keeps the ratio of its lr to that of the first group. Groups may also be
    removed.

    The curves go to every logger of the trainer under the tags of Lightning's LearningRateMonitor (``lr-SGD``,
    ``lr-SGD-momentum``, ``lr-SGD/pg1`` ...), against the optimizer step, every ``log_every_n_steps``. With a
    LearningRateMonitor on the same trainer it logs none. TensorBoard's tab Custom Scalars shows the lr of all param
    groups in one chart and their momentum in another.

    Lengths may be given as a fraction of the run (0.1), in epochs (``"2ep"``) or as ``"auto"``: when training starts
    they become optimizer steps, which are logged as a table. On a resume the run is the steps in the checkpoint plus
    those still to come. The loggers store the schedule with its numbers among the hyperparameters. A schedule that is
    much shorter or longer than the run is reported in the log, with both numbers, and so is a run that time, a callback
    or the user ends before its schedule. Under manual optimization an optimizer is taken to step once per batch until a
    range test, or the run that is resumed, has shown otherwise. Loaders that are made again with another number of
    batches change the lengths from there on.

    With ``"unit": "sample"`` or ``"token"`` in the configuration, position and lengths count the samples or tokens in
    the batches of all devices up to the last finished optimizer step, and the position is one more curve
    (``lr-SGD-samples``). A resume with another batch size, accumulation or number of devices then goes on at the same
    lr per sample.

    In a probe and in a range test the module's own hooks run as in training (except ``on_fit_start``, which has run
    already), and so do those hooks of your own callbacks that take part in the work of a batch; of Lightning's
    callbacks, GradientAccumulationScheduler and LambdaCallback. What the module logs does not reach the loggers. They
    get the figure of the probe, or the curves, the figure and the table of the test, then the curves of the training,
    in one run. The batches come from the training data; a stream that cannot begin again loses these batches. On a
    resume there is no second one: what was found is in the checkpoint. In a ``fast_dev_run`` there is none either, and
    ``"lr_range_test"`` means the same as ``"auto"``.

    A class of ``torch.optim.lr_scheduler`` is possible as type too, and follows the optimizer in the same way. An
    ``optimizer`` section beside the schedule is not used, and the log reports that;
    :func:`configure_optimizers` reads it.

    Args:
        scheduler: the schedule: a ``{"type", "params"}`` dictionary, the path of a JSON or YAML file, or a
            :class:`SchedulerConfig`, or the :class:`RangeTestResult` whose 1Cycle is meant; or a list of these, one for
            each of the module's optimizers (None: leave that optimizer alone). None: 1Cycle up to the peak that is
            found, for every optimizer.
        optimizer_index: which of several optimizers to schedule, counted from 0; needed when there are several and one
            ``scheduler``.
        range_test: an :class:`LRRangeTestCallback` with the settings of the range test; None: its defaults, or a probe.
        tokens: for schedules with ``"unit": "token"``: the tokens of each sample, or a function that returns the number
            of tokens in a batch; called on every rank, for every batch.
        take_over: use the schedule in place of what the module returns for the same optimizer, and say so in the log.
            The optimizer's own lr and momentum are put back, and if the module steps its schedulers, nothing moves.
        log: send the lr and momentum curves to the trainer's loggers.
        hyperparameters: other numbers in the optimizer's param groups that go beside the schedule, such as
            ``{"weight_decay": {"follows": "lr"}}``; the same as the key ``hyperparameters`` in the schedule's params
            (:class:`SchedulerConfig` has the forms). With several schedules, beside each of them.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if the configuration is wrong (at construction); or, when training starts: if the module returns a
            scheduler for the same optimizer and ``take_over`` is False, if StochasticWeightAveraging,
            LearningRateFinder or a scheduler in the config of DeepSpeedStrategy is in use, if a value depends on the
            length of a run that the Trainer does not know, if the samples of a batch cannot be seen, if the range test
            shows no learning rate (the message says what to change); or, on a resume, if the checkpoint has another
            number of optimizers, of param groups or of the module's own schedulers, or no range test where one is asked
            for.

    Example:
        >>> callback = LRSchedulerCallback({"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}})
        >>> callback.schedulers  # made when training starts
        []
    """

    def __init__(
        self,
        scheduler: Given | Sequence[Given | None] | None = None,
        *,
        optimizer_index: int | None = None,
        range_test: LRRangeTestCallback | None = None,
        tokens: int | Callable[[Any], int] | None = None,
        take_over: bool = False,
        log: bool = True,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        one_for_each = isinstance(scheduler, Sequence) and not isinstance(scheduler, str)
        if one_for_each and optimizer_index is not None:
            raise ValueError("optimizer_index: not together with a list of schedulers, whose order already decides")
        listed: Any = scheduler if one_for_each else [scheduler]
        written = None if scheduler is None else [None if each is None else Written.read(each) for each in listed]
        if written is not None and hyperparameters is not None:
            written = [None if each is None else each.beside(hyperparameters) for each in written]
        self._order = Order(
            type(self).__name__,
            written,
            optimizer_index,
            one_for_each,
            range_test,
            tokens,
            take_over,
            log,
            hyperparameters,
        )
        _check_range_test(self._order)
        self._fit = FitSchedules(self._order)  # it checks tokens
        self._log, self._curves = log, CurveLogger()

    @property
    def schedulers(self) -> list[LRScheduler]:
        """The schedules of the current fit, in the order of ``scheduler``; afterwards, those of the last fit.

        After a fit they no longer follow their optimizers. A fit in child processes (ddp_spawn, ddp_fork, ddp_notebook)
        makes optimizers and schedules there, and this list stays as it was before; the position is in the checkpoint.
        """
        return list(self._fit.schedulers().values())

    @property
    def range_test_results(self) -> dict[int, RangeTestResult]:
        """What the range tests at the start of the fit have found, by the index of the optimizer.

        On a resume it comes from the checkpoint. Empty where no learning rate was to be tested, and after a fit in
        child processes (ddp_spawn, ddp_fork, ddp_notebook), which leaves its results there; loggers have them.
        """
        return {index: found for index, found in self._fit.tests.results.items() if isinstance(found, RangeTestResult)}

    @property
    def probe_results(self) -> dict[int, ProbeResult]:
        """What the probes at the start of the fit have found, by the index of the optimizer; as range_test_results."""
        return {index: found for index, found in self._fit.tests.results.items() if isinstance(found, ProbeResult)}

    @property
    def range_test_result(self) -> RangeTestResult:
        """What the range test at the start of the fit has found.

        Raises:
            RuntimeError: if there was none, or one for each of several optimizers.
        """
        return _only(self.range_test_results, "range_test_result", self.probe_results, "probe_result")

    @property
    def probe_result(self) -> ProbeResult:
        """What the probe at the start of the fit has found.

        Raises:
            RuntimeError: if there was none, or one for each of several optimizers.
        """
        return _only(self.probe_results, "probe_result", self.range_test_results, "range_test_result")

    # Before training --------------------------------------------------------------------------------------------------

    def setup(self, trainer: TrainerLike, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._fit = FitSchedules(self._order)
            self._fit.join(trainer)

    def on_fit_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        # Here the optimizers exist and their saved state is not yet restored: Lightning then restores ours as well.
        self._fit.attach(trainer)

    def on_load_checkpoint(self, trainer: TrainerLike, pl_module: LightningModule, checkpoint: Checkpoint) -> None:
        # Before on_fit_start; but with strategies that shard the optimizer, after it.
        if self._fit.is_attached:
            self._fit.load(trainer, checkpoint)

    # During training --------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        # Lightning calls the callbacks in their order, and is at this one.
        self._fit.begin(trainer, pl_module, list(takewhile(lambda other: other is not self, trainer.callbacks)))

    def on_train_epoch_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._fit.follow_loaders(trainer)

    def on_train_batch_start(
        self, trainer: TrainerLike, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        self._fit.start_batch(trainer, batch, first=batch_idx == 0)

    def on_before_optimizer_step(self, trainer: TrainerLike, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._fit.follow_groups(trainer)  # the module may change them in the middle of an epoch
        self._fit.check_lrs(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self._log:
            for scheduled in self._fit.scheduled:
                self._curves.after_batch(trainer, scheduled)

    # Points are written out at the latest with the epoch, validation or checkpoint that they belong to.

    def on_train_epoch_end(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._curves.flush(trainer)

    def on_validation_start(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._curves.flush(trainer)

    def on_save_checkpoint(self, trainer: TrainerLike, pl_module: LightningModule, checkpoint: Checkpoint) -> None:
        self._curves.flush(trainer)
        self._fit.save(trainer, checkpoint)

    # After training ---------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: TrainerLike, pl_module: LightningModule) -> None:
        self._curves.flush(trainer)
        self._fit.end(trainer, early=ended_early(trainer))

    def on_exception(self, trainer: TrainerLike, pl_module: LightningModule, exception: BaseException) -> None:
        self._curves.flush(trainer)
        if isinstance(exception, KeyboardInterrupt):
            self._fit.report_end(trainer, early=True)
        self._fit.detach()

    def teardown(self, trainer: TrainerLike, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._fit.detach()


def _check_range_test(order: Order) -> None:
    test = order.range_test
    if test is None:
        return
    if not isinstance(test, LRRangeTestCallback):
        raise TypeError(f"range_test must be an LRRangeTestCallback, got {type(test).__name__}")
    if test.optimizer_index != 0:
        raise ValueError(
            "range_test: give optimizer_index to LRSchedulerCallback, which tests each optimizer that it schedules"
        )
    if order.written is not None and not any(config.needs_range_test for config in order.configs):
        raise ValueError(
            f'range_test: no learning rate of the schedule is "{FROM_RANGE_TEST}", so there is nothing to test for'
        )


FOUND_BY = {"probe_result": "LR probe", "range_test_result": "LR range test"}
"""Property -> what has made its result; with an s, it has those of several optimizers."""


def _only(results: Mapping[int, Result], name: str, others: Mapping[int, object], other: str) -> Result:
    """Return the only result; where there is another number of them, say where to look."""
    if len(results) == 1:
        return next(iter(results.values()))
    if results:
        raise RuntimeError(f"there are {len(results)} results, one per optimizer: see {name}s")
    made = f"this fit made no {FOUND_BY[name]}"
    if len(others) == 1:
        raise RuntimeError(f"{made}, but an {FOUND_BY[other]}: see {other}")
    if others:
        raise RuntimeError(f"{made}, but {len(others)} {FOUND_BY[other]}s, one per optimizer: see {other}s")
    raise RuntimeError(
        f"{made}; if another package makes the Trainer and has given it a copy of this callback, look among"
        " trainer.callbacks"
    )
