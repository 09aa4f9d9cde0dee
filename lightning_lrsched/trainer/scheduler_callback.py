"""LRSchedulerCallback: add it to a Trainer, and lr and momentum follow a schedule, step by step."""

# The hooks take the Trainer that is used, TrainerLike. Lightning's annotations of its own Trainer lack four attributes
# that other classes set (callbacks, datamodule, fast_dev_run, log_every_n_steps); a test compares them with it instead.
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.range_test.probe import ProbeResult
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.report import hyperparameters
from lightning_lrsched.schedules.fields import FROM_RANGE_TEST
from lightning_lrsched.schedules.length import Horizon
from lightning_lrsched.trainer.attach import (
    NEVER,
    Given,
    GroupRatios,
    Idle,
    Scheduled,
    Written,
    detach,
    ignore,
    pick_optimizer,
)
from lightning_lrsched.trainer.checkpoint import SavedSchedules, mark
from lightning_lrsched.trainer.conflicts import (
    check_callbacks,
    check_optimizer,
    check_second_schedulers,
    same_optimizer,
    take_over,
    warn_of_epoch_interval,
)
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.findings import RangeTestsInFit, schedule_from_range_test
from lightning_lrsched.trainer.horizon import Start, ended_early, horizon_of, steps_before, steps_made, train_loaders
from lightning_lrsched.trainer.loggers import CurveLogger
from lightning_lrsched.trainer.progress import BatchCounter, StepCounter, make_counters
from lightning_lrsched.trainer.protocol import TrainerLike, callbacks_named, is_automatic, loaded_checkpoint
from lightning_lrsched.trainer.range_test_callback import LRRangeTestCallback
from lightning_lrsched.trainer.reporting import RunReport, log, log_trainer_arguments, log_unused, report_end

Result = TypeVar("Result", RangeTestResult, ProbeResult)


class LRSchedulerCallback(Callback):
    """Schedules lr and momentum of a module's optimizer; the module itself needs no scheduler code.

    Without arguments it finds the peak of the lr too: at the start of the fit a probe of 12 optimizer steps finds how
    far along the optimizer's own update the loss of a batch falls (:class:`ProbeResult` has the rule). Everything is
    put back, and the training follows 1Cycle from a tenth of the peak up to it, until the run ends. In runs of fewer
    than 42 steps the peak is what is known of the optimizer. Where a loss cannot be computed again outside its step
    (manual optimization, DeepSpeed's engine, FSDPStrategy), an LR range test takes the place of the probe.

    An LR range test (``range_test=LRRangeTestCallback()``, up to 300 steps) trains between the bounds that it finds.
    Each of several optimizers gets a test and a schedule of its own; where such a test shows no learning rate, as
    happens in a GAN, whose losses oppose each other, the optimizer's own lr is used, and a warning says so. The same in
    any configuration: the word ``"lr_range_test"`` for a learning rate stands for what the test finds.

    Before the first batch the schedule's first values are set; after every finished optimizer step the next ones. Not
    counted are accumulated micro-batches and steps that a gradient scaler skipped; under manual optimization each
    schedule counts its own optimizer's steps. The position is saved in Lightning's checkpoints and restored from them.

    On a resume the current configuration is used, and a warning shows what has changed. From a checkpoint that was
    saved without the schedule, it continues from the number of steps that the optimizer has counted itself, else (with
    one optimizer) from ``trainer.global_step``, and a warning reports it; where neither is known, give
    ``last_batch_iteration`` among the schedule's params. A param group that is added during training, as layers are
    unfrozen, has the schedule's values too, times the ratio of its lr to that of the first group that whoever added it
    gave it; groups may go as well.

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
    in one run. The batches come from the training data; a stream that cannot begin again has lost them. On a resume
    there is no second one: what was found is in the checkpoint. In a ``fast_dev_run`` there is none either, and
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
    ) -> None:
        super().__init__()
        self._one_for_each = isinstance(scheduler, Sequence) and not isinstance(scheduler, str)
        if self._one_for_each and optimizer_index is not None:
            raise ValueError("optimizer_index: not together with a list of schedulers, whose order already decides")
        listed: Any = scheduler if self._one_for_each else [scheduler]
        # None: 1Cycle from a range test, made for each optimizer once there is one.
        self._written = None if scheduler is None else [None if each is None else Written.read(each) for each in listed]
        self._optimizer_index, self._take_over = optimizer_index, take_over
        self._log = log
        self._owner = type(self).__name__
        self._tests = RangeTestsInFit(self._owner, self._check_range_test(range_test), log=log)
        self._tokens = tokens
        self._counters = self._make_counters()  # checks tokens
        self._curves = CurveLogger()
        self._report: RunReport | None = None
        self._scheduled: list[Scheduled] = []
        self._attached = self._began = False
        self._start = Start()
        self._steps_before = 0
        self._batches: float = 0

    def _make_counters(self) -> dict[str, BatchCounter]:
        return make_counters({config.unit for config in self._configs()}, self._tokens)

    def _configs(self) -> list[SchedulerConfig]:
        return [written.config for written in self._written or [] if written is not None]

    def _check_range_test(self, range_test: LRRangeTestCallback | None) -> LRRangeTestCallback | None:
        if range_test is None:  # a probe is enough, where no schedule asks for a range test
            return None if self._written is None else LRRangeTestCallback(log=self._log)
        if not isinstance(range_test, LRRangeTestCallback):
            raise TypeError(f"range_test must be an LRRangeTestCallback, got {type(range_test).__name__}")
        if range_test.optimizer_index != 0:
            raise ValueError(
                "range_test: give optimizer_index to LRSchedulerCallback, which tests each optimizer that it schedules"
            )
        if self._written is not None and not any(config.needs_range_test for config in self._configs()):
            raise ValueError(
                f'range_test: no learning rate of the schedule is "{FROM_RANGE_TEST}", so there is nothing to test for'
            )
        return range_test

    @property
    def schedulers(self) -> list[LRScheduler]:
        """The schedules of the current fit, in the order of ``scheduler``; afterwards, those of the last fit.

        After a fit they no longer follow their optimizers. A fit in child processes (ddp_spawn, ddp_fork, ddp_notebook)
        makes optimizers and schedules there, and this list stays as it was before; the position is in the checkpoint.
        """
        return [scheduled.scheduler for scheduled in self._scheduled]

    @property
    def range_test_results(self) -> dict[int, RangeTestResult]:
        """What the range tests at the start of the fit have found, by the index of the optimizer.

        On a resume it comes from the checkpoint. Empty where no learning rate was to be tested, and after a fit in
        child processes (ddp_spawn, ddp_fork, ddp_notebook), which leaves its results there; loggers have them.
        """
        return {index: found for index, found in self._tests.results.items() if isinstance(found, RangeTestResult)}

    @property
    def probe_results(self) -> dict[int, ProbeResult]:
        """What the probes at the start of the fit have found, by the index of the optimizer; as range_test_results."""
        return {index: found for index, found in self._tests.results.items() if isinstance(found, ProbeResult)}

    @property
    def range_test_result(self) -> RangeTestResult:
        """What the range test at the start of the fit has found.

        Raises:
            RuntimeError: if there was none, or one for each of several optimizers.
        """
        return _only(self.range_test_results, "range_test_results", "LR range test")

    @property
    def probe_result(self) -> ProbeResult:
        """What the probe at the start of the fit has found.

        Raises:
            RuntimeError: if there was none, or one for each of several optimizers.
        """
        return _only(self.probe_results, "probe_results", "LR probe")

    # Before training --------------------------------------------------------------------------------------------------

    def setup(self, trainer: TrainerLike, pl_module: Any, stage: str) -> None:
        self._attached = self._began = False
        if stage == "fit":
            self._scheduled = []
            self._tests.forget()
            check_callbacks(trainer, self._owner)
            self._report = RunReport.join(trainer)

    def on_fit_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        # Here the optimizers exist and their saved state is not yet restored: Lightning then restores ours as well.
        targets = self._targets(trainer)
        for index, _ in targets:
            check_optimizer(trainer, index, self._owner, take_over=self._take_over)
        self._start = Start.of(trainer)
        self._tests.begin(trainer, [written.config for _, written in targets])
        self._scheduled, self._counters = [], self._make_counters()
        needs_run = any(written.config.needs_run for _, written in targets)
        with train_loaders(trainer) if needs_run else nullcontext():  # made once for all
            for index, written in targets:
                self._attach(trainer, index, written)
        for content in {id(written.content): written.content for _, written in targets}.values():
            log_trainer_arguments(trainer, self._owner, content)
        self._attached = True
        warn_of_epoch_interval(trainer)
        self._restore(trainer)

    def _targets(self, trainer: TrainerLike) -> list[tuple[int, Written]]:
        """Return each optimizer that gets a schedule, by its index, and the schedule."""
        optimizers = trainer.optimizers
        several = self._written is None and self._optimizer_index is None and len(optimizers) > 1
        if self._one_for_each or several:
            written = [None] * len(optimizers) if self._written is None else self._written
            if len(written) != len(optimizers):
                raise ValueError(
                    f"scheduler lists {len(written)} schedules, but the module has {len(optimizers)} optimizers"
                )
            indices: Iterable[int] = range(len(optimizers))
        else:
            indices = [pick_optimizer(trainer, self._optimizer_index, self._owner)[0]]
        if self._written is None:
            return [(index, Written(schedule_from_range_test(optimizers[index]))) for index in indices]
        pairs = zip(indices, self._written, strict=True)
        return [(index, written) for index, written in pairs if written is not None]

    def _attach(self, trainer: TrainerLike, index: int, written: Written) -> None:
        optimizer, batches = trainer.optimizers[index], self._counters.get(written.config.unit)
        scheduled = Scheduled(written, index, optimizer, None if batches is None else StepCounter(batches))
        scheduled.run, scheduled.axis = self._run(trainer, scheduled), steps_before(trainer)
        if self._tests.is_to_come(trainer, scheduled) and trainer.limit_train_batches:
            self._check_lengths(scheduled)
        self._scheduled.append(scheduled)
        if self._take_over:
            scheduled.scheduler, names = take_over(trainer, index)
            if names:
                what = f"takes the place of the module's {names} for optimizer {index}, which is not used"
                log(trainer, f"{self._owner}: {what}")
        if self._tests.is_to_come(trainer, scheduled):
            # Others look at the schedulers before training starts.
            scheduled.scheduler = scheduled.scheduler or Idle(optimizer)
            self._list(trainer, scheduled, scheduled.scheduler)
            if self._report is not None:
                self._report.wait_for_range_test()
        else:
            self._build(trainer, scheduled)
        if written.optimizer_section is not None:
            number = index if len(trainer.optimizers) > 1 else None
            log_unused(trainer, self._owner, written.optimizer_section, optimizer, number)

    def _check_lengths(self, scheduled: Scheduled) -> None:
        """Raise ValueError where a length needs to know the run, and nobody does: before a range test, not after it."""
        if self._written is not None:
            scheduled.config.without_range_test().resolve(scheduled.optimizer, scheduled.run)
        elif scheduled.run.total is None:
            why = scheduled.run.why_no_total.replace("write a number", "give it a schedule whose lengths are numbers")
            raise ValueError(f"{self._owner}: 1Cycle is as long as the run, whose length is not known: {why}")

    def _run(self, trainer: TrainerLike, scheduled: Scheduled) -> Horizon:
        """Return the length of the run in the unit of a schedule, if it is needed."""
        config = scheduled.config
        if not config.needs_run:
            return horizon_of(None)
        saved = SavedSchedules(loaded_checkpoint(trainer), trainer.optimizers)
        position = saved.position(scheduled.index)
        rate = self._tests.rates.get(scheduled.index) if is_automatic(trainer) else None
        return horizon_of(trainer, config.unit, start=self._start, position=position, tokens=self._tokens, rate=rate)

    def _build(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        """Attach the schedule with all its numbers, in place of one that was attached before."""
        index, earlier, results = scheduled.index, scheduled.scheduler, self._tests.results
        findings = self._tests.findings(trainer, scheduled)
        config = scheduled.config if findings is not None else scheduled.config.without_range_test()
        scheduled.build(config, trainer.optimizers[index], clock_of(trainer), findings)
        self._list(trainer, scheduled, earlier)
        if self._report is not None:
            self._report.add(trainer, scheduled, by_probe=isinstance(results.get(index), ProbeResult))
            if scheduled.config.needs_range_test and index in results:
                found = results[index]
                if isinstance(found, ProbeResult):
                    name, values = "lr_probe", found.hyperparameters()
                else:
                    name, values = "lr_range_test", hyperparameters(found)
                name = f"{name}_{index}" if index else name
                self._report.add_hyperparameters(trainer, name, values)

    def _list(self, trainer: TrainerLike, scheduled: Scheduled, earlier: Any) -> None:
        """List the schedule among the Trainer's, in place of an earlier one: Lightning saves and restores it there."""
        configs, scheduler = trainer.strategy.lr_scheduler_configs, scheduled.scheduler
        scheduler.step = ignore  # a module may ask for it and step it, even with a metric
        place = next((place for place, other in enumerate(configs) if other.scheduler is earlier), len(configs))
        name = configs[place].name if place < len(configs) else None
        configs[place : place + 1] = [LRSchedulerConfig(scheduler, interval="step", frequency=NEVER, name=name)]

    def on_load_checkpoint(self, trainer: TrainerLike, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # Before on_fit_start; but with strategies that shard the optimizer, after it.
        if not self._attached:
            return
        self._tests.load(checkpoint)
        self._start = Start.of(trainer)
        for scheduled in self._scheduled:
            scheduled.axis = 0
            if scheduled.config.needs_run or scheduled.config.needs_range_test:
                scheduled.run = self._run(trainer, scheduled)
                self._build(trainer, scheduled)
        self._restore(trainer)

    def _restore(self, trainer: TrainerLike) -> None:
        """Pass each scheduler's state to Lightning, which restores them by their order; once for all our callbacks."""
        checkpoint, ours = loaded_checkpoint(trainer), callbacks_named(trainer, "LRSchedulerCallback")
        if not checkpoint or ours[-1] is not self:
            return
        saved = SavedSchedules(checkpoint, trainer.optimizers)
        saved.check_optimizers(groups_may_come=bool(callbacks_named(trainer, "BaseFinetuning")))
        if "lr_schedulers" in checkpoint:  # else only weights, which Lightning refuses
            schedules = {each.index: each.scheduler for callback in ours for each in callback._scheduled}
            steps = clock_of(trainer).steps
            checkpoint["lr_schedulers"] = saved.states_for(trainer.lr_scheduler_configs, schedules, steps)

    # During training --------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        waiting = [scheduled for scheduled in self._scheduled if scheduled.resolved is None]
        self._tests.run(trainer, pl_module, waiting)
        for scheduled in waiting:
            self._correct_length(trainer, scheduled)
            self._build(trainer, scheduled)
        check_second_schedulers(trainer, self.schedulers, self._owner)
        self._steps_before = steps_made(trainer)
        for counter in self._counters.values():
            counter.begin(trainer)
        for scheduled in self._scheduled:
            if scheduled.counter is not None:
                scheduled.axis = steps_before(trainer)  # the position does not tell, and all is restored by now
            scheduled.begin()
            scheduled.groups = GroupRatios(scheduled.scheduler)
        self._began = True
        self._batches = trainer.num_training_batches

    def _correct_length(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        """Let lengths follow from how often the range test or probe has seen the optimizer step."""
        rate, before = self._tests.rates.get(scheduled.index), scheduled.run.total
        if rate and before is not None:
            scheduled.run = horizon_of(
                trainer, scheduled.config.unit, start=self._start, tokens=self._tokens, rate=rate
            )
            if scheduled.run.total != before:
                found = self._tests.results.get(scheduled.index)
                where = "probe" if isinstance(found, ProbeResult) else "range test"
                per = "step that was due" if is_automatic(trainer) else "batch"
                what = f"optimizer {scheduled.index} made {rate:.3g} steps per {per} in its {where}"
                log(trainer, f"{self._owner}: {what}: the run is {scheduled.run.total} steps long, not {before}")

    def on_train_epoch_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        if trainer.num_training_batches != self._batches:
            self._take_new_length(trainer)

    def _take_new_length(self, trainer: TrainerLike) -> None:
        """Let lengths follow from loaders that were made again with another number of batches."""
        before, self._batches = self._batches, trainer.num_training_batches
        loop, name = (
            trainer.fit_loop,
            f"{self._owner}: the train dataloader has {self._batches} batches now, not {before}",
        )
        for scheduled in self._scheduled:
            if scheduled.config.needs_run:
                position, epochs = scheduled.scheduler.last_epoch, loop.epoch_progress.current.processed
                start = Start(position, trainer.global_step, epochs, first=self._start.first)
                rate = self._tests.rates.get(scheduled.index)
                run = horizon_of(
                    trainer, scheduled.config.unit, start=start, position=position, tokens=self._tokens, rate=rate
                )
                total, scheduled.run = scheduled.run.total, run
                self._build(trainer, scheduled)
                scheduled.scheduler.set_position(position)
                log(trainer, f"{name}: {scheduled.config.type} is now made for {run.total}, not {total}")

    def on_train_batch_start(self, trainer: TrainerLike, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            for scheduled in self._scheduled:
                if not same_optimizer(scheduled.scheduler, trainer.optimizers[scheduled.index]):
                    self._take_new_optimizer(trainer, scheduled)
        for scheduled in self._scheduled:
            # Whoever unfreezes layers has added param groups, or set an lr, at the start of the epoch.
            if batch_idx == 0 or scheduled.groups.have_changed:
                self._look_at_groups(trainer, scheduled)
        for counter in self._counters.values():
            counter.add(trainer, batch)

    def on_before_optimizer_step(self, trainer: TrainerLike, pl_module: Any, optimizer: Any) -> None:
        for scheduled in self._scheduled:
            if scheduled.groups.have_changed:  # by the module, in the middle of an epoch
                self._look_at_groups(trainer, scheduled)

    def _look_at_groups(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        changes = scheduled.groups.update(finetuned=bool(callbacks_named(trainer, "BaseFinetuning")))
        if changes:
            unseen = "; the range test has not seen them" if scheduled.index in self._tests.results else ""
            log(trainer, f"{self._owner}: optimizer {scheduled.index}: {changes}{unseen}")

    def _take_new_optimizer(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        name, index, position = scheduled.config.type, scheduled.index, scheduled.scheduler.last_epoch
        self._build(trainer, scheduled)
        scheduled.scheduler.set_position(position)
        scheduled.groups = GroupRatios(scheduled.scheduler)
        what = f"optimizer {index} has been replaced; {name} goes on from step {position} with the new one"
        log(trainer, f"{self._owner}: {what}")

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._log:
            for scheduled in self._scheduled:
                self._curves.after_batch(trainer, scheduled)

    # Points are written out at the latest with the epoch, validation or checkpoint that they belong to.

    def on_train_epoch_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        self._curves.flush(trainer)

    def on_validation_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        self._curves.flush(trainer)

    def on_save_checkpoint(self, trainer: TrainerLike, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._curves.flush(trainer)
        schedules = {scheduled.index: scheduled.scheduler for scheduled in self._scheduled}
        mark(checkpoint, schedules, trainer.lr_scheduler_configs, self._tests.results, self._tests.rates)

    # After training ---------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        self._curves.flush(trainer)
        for counter in self._counters.values():
            counter.end()
        self._report_end(trainer, early=ended_early(trainer))

    def _report_end(self, trainer: TrainerLike, *, early: bool) -> None:
        report_end(trainer, self._scheduled, steps_made(trainer) - self._steps_before, early=early)

    def on_exception(self, trainer: TrainerLike, pl_module: Any, exception: BaseException) -> None:
        self._curves.flush(trainer)
        if isinstance(exception, KeyboardInterrupt) and self._began:
            self._report_end(trainer, early=True)
        self._detach()

    def teardown(self, trainer: TrainerLike, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._detach()

    def _detach(self) -> None:
        """Detach the schedules: a module may return the same optimizers for the next fit."""
        self._report = None
        for scheduler in self.schedulers:
            detach(scheduler)


def _only(results: dict[int, Result], name: str, test: str) -> Result:
    if len(results) == 1:
        return next(iter(results.values()))
    raise RuntimeError(
        f"there are {len(results)} results, one per optimizer: see {name}" if results else f"this fit made no {test}"
    )
