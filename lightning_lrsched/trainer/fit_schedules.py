"""FitSchedules: the schedules of one fit, as they are attached, restored, kept in step with the fit, and reported."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.range_test.probe import ProbeResult
from lightning_lrsched.schedules.length import Horizon
from lightning_lrsched.trainer.attach import (
    NEVER,
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
    other_lr,
    same_optimizer,
    take_over,
    warn_of_epoch_interval,
)
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.findings import RangeTestsInFit, schedule_from_range_test
from lightning_lrsched.trainer.horizon import Start, horizon_of, steps_before, steps_made, train_loaders
from lightning_lrsched.trainer.progress import StepCounter, Tokens, make_counters
from lightning_lrsched.trainer.protocol import (
    Checkpoint,
    TrainerLike,
    callbacks_named,
    is_automatic,
    loaded_checkpoint,
)
from lightning_lrsched.trainer.range_test_callback import LRRangeTestCallback
from lightning_lrsched.trainer.reporting import RunReport, log, log_trainer_arguments, log_unused, report_end


@dataclass(frozen=True)
class Order:
    """What LRSchedulerCallback was asked for; its docstring describes the fields.

    Args:
        owner: name of the callback, for messages.
        written: the schedules; None: 1Cycle up to the peak that is found, for every optimizer.
        optimizer_index: which optimizer the only one is for.
        one_for_each: whether there is one for each optimizer.
        range_test: settings of the range tests.
        tokens: what a sample or a batch counts.
        take_over: whether schedulers of the module give way.
        log: whether loggers show what is found.
        hyperparameters: what goes beside 1Cycle where no schedule is given; it is in ``written`` where one is.
    """

    owner: str
    written: Sequence[Written | None] | None
    optimizer_index: int | None
    one_for_each: bool
    range_test: LRRangeTestCallback | None
    tokens: Tokens | None
    take_over: bool
    log: bool
    hyperparameters: Mapping[str, Any] | None = None

    @property
    def configs(self) -> list[SchedulerConfig]:
        """The schedules that are given."""
        return [each.config for each in self.written or () if each is not None]


class FitSchedules:
    """The schedules of one fit; the callback tells it what happens.

    Args:
        order: what was asked for.

    Attributes:
        scheduled: the optimizers that have a schedule, and it.
        tests: the range tests and probes.
        is_attached: whether the schedules are attached.
    """

    def __init__(self, order: Order) -> None:
        self._order, self._owner = order, order.owner
        self.tests = RangeTestsInFit(order.owner, order.range_test, one_line=order.written is None, log=order.log)
        self.scheduled: list[Scheduled] = []
        self.is_attached = self._began = False
        self._counters = make_counters({config.unit for config in order.configs}, order.tokens)
        self._report: RunReport | None = None
        self._start = Start()
        self._steps_before = 0
        self._batches: float = 0
        self._told: set[int] = set()

    # Attaching --------------------------------------------------------------------------------------------------------

    def join(self, trainer: TrainerLike) -> None:
        """Refuse callbacks that set the lr too; report with the other schedules of the fit."""
        check_callbacks(trainer, self._owner)
        self._report = RunReport.join(trainer)

    def attach(self, trainer: TrainerLike) -> None:
        """Attach the schedules to the Trainer's optimizers; those that wait for a range test, as placeholders."""
        targets = self._targets(trainer)
        for index, _ in targets:
            check_optimizer(trainer, index, self._owner, take_over=self._order.take_over)
        self._start = Start.of(trainer)
        self.tests.begin(trainer, {index: written.config for index, written in targets})
        needs_run = any(written.config.needs_run for _, written in targets)
        with train_loaders(trainer) if needs_run else nullcontext():  # made once for all
            for index, written in targets:
                self._attach(trainer, index, written)
        for content in {id(written.content): written.content for _, written in targets}.values():
            if content:
                log_trainer_arguments(trainer, self._owner, content)
        self.is_attached = True
        warn_of_epoch_interval(trainer)
        self._restore(trainer)

    def _targets(self, trainer: TrainerLike) -> list[tuple[int, Written]]:
        """Return each optimizer that gets a schedule, by its index, and the schedule."""
        optimizers, written, index = trainer.optimizers, self._order.written, self._order.optimizer_index
        indices: Iterable[int] = range(len(optimizers))
        if not self._order.one_for_each and (written is not None or index is not None or len(optimizers) < 2):
            indices = [pick_optimizer(trainer, index, self._owner)[0]]
        elif written is not None and len(written) != len(optimizers):
            raise ValueError(
                f"scheduler lists {len(written)} schedules, but the module has {len(optimizers)} optimizers"
            )
        if written is None:
            return [
                (index, Written(schedule_from_range_test(optimizers[index])).beside(self._order.hyperparameters))
                for index in indices
            ]
        return [(index, each) for index, each in zip(indices, written, strict=True) if each is not None]

    def _attach(self, trainer: TrainerLike, index: int, written: Written) -> None:
        optimizer, batches = trainer.optimizers[index], self._counters.get(written.config.unit)
        scheduled = Scheduled(written, index, optimizer, None if batches is None else StepCounter(batches))
        scheduled.run, scheduled.axis = self._run(trainer, scheduled), steps_before(trainer)
        waits = self.tests.is_to_come(trainer, scheduled)
        if waits and trainer.limit_train_batches and trainer.num_training_batches:  # else there is nothing to train
            self._check_lengths(scheduled)
        self.scheduled.append(scheduled)
        if self._order.take_over:
            scheduled.scheduler, names = take_over(trainer, index)
            if names:
                what = f"takes the place of the module's {names} for optimizer {index}, which is not used"
                log(trainer, f"{self._owner}: {what}")
        if waits:
            # Others look at the schedulers before training starts.
            scheduled.scheduler = scheduled.scheduler or Idle(optimizer)
            _list(trainer, scheduled.scheduler, scheduled.scheduler)
            if self._report is not None:
                self._report.wait_for_range_test()
        else:
            self._build(trainer, scheduled)
        if written.optimizer_section is not None:
            number = index if len(trainer.optimizers) > 1 else None
            log_unused(trainer, self._owner, written.optimizer_section, optimizer, number)

    def _check_lengths(self, scheduled: Scheduled) -> None:
        """Raise ValueError where a length needs to know the run, and nobody does: before a range test, not after it."""
        if self._order.written is not None:
            scheduled.config.without_range_test().resolve(scheduled.optimizer, scheduled.run)
        elif scheduled.run.total is None:
            why = scheduled.run.why_no_total.replace("write a number", "give it a schedule whose lengths are numbers")
            raise ValueError(f"{self._owner}: 1Cycle ends with the run, whose length is not known: {why}")

    def _run(self, trainer: TrainerLike, scheduled: Scheduled) -> Horizon:
        """Return the length of the run in the unit of a schedule, if it is needed."""
        if not scheduled.config.needs_run:
            return horizon_of(None)
        checkpoint = loaded_checkpoint(trainer)
        saved = SavedSchedules(checkpoint, trainer.optimizers) if checkpoint else None
        position = 0 if saved is None else saved.position(scheduled.index)
        rate = self.tests.rates.get(scheduled.index) if is_automatic(trainer) else None
        return self._horizon(trainer, scheduled, self._start, position=position, rate=rate)

    def _horizon(
        self, trainer: TrainerLike, scheduled: Scheduled, start: Start, *, position: int = 0, rate: float | None = None
    ) -> Horizon:
        unit, tokens = scheduled.config.unit, self._order.tokens
        return horizon_of(trainer, unit, start=start, position=position, tokens=tokens, rate=rate)

    def _build(self, trainer: TrainerLike, scheduled: Scheduled, position: int | None = None) -> None:
        """Attach the schedule with all its numbers, in place of one that was attached before; at a position."""
        index, earlier, found = scheduled.index, scheduled.scheduler, self.tests.results.get(scheduled.index)
        findings = self.tests.findings(trainer, scheduled)
        config = scheduled.config if findings is not None else scheduled.config.without_range_test()
        scheduled.build(config, trainer.optimizers[index], clock_of(trainer), findings)
        _list(trainer, scheduled.schedule, earlier)
        if self._report is not None:
            self._report.add(trainer, scheduled, source=self.tests.source(trainer, index))
            if scheduled.config.needs_range_test and found is not None:
                name = "lr_probe" if isinstance(found, ProbeResult) else "lr_range_test"
                name = f"{name}_{index}" if index else name
                self._report.add_hyperparameters(trainer, name, found.hyperparameters())
        if position is not None:
            scheduled.schedule.set_position(position)
            scheduled.groups = GroupRatios(scheduled.schedule)  # training has begun: not those of the earlier schedule

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def load(self, trainer: TrainerLike, checkpoint: Checkpoint) -> None:
        """Build the schedules again where a checkpoint, loaded only now, changes their lengths or findings."""
        self.tests.load(checkpoint)
        self._start = Start.of(trainer)
        for scheduled in self.scheduled:
            scheduled.axis = 0
            if scheduled.config.needs_run or scheduled.config.needs_range_test:
                scheduled.run = self._run(trainer, scheduled)
                self._build(trainer, scheduled)
        self._restore(trainer)

    def _restore(self, trainer: TrainerLike) -> None:
        """Pass each scheduler's state to Lightning, which restores them by their order; once for all our callbacks."""
        checkpoint = loaded_checkpoint(trainer)
        if not checkpoint:
            return
        fits: list[FitSchedules] = [each._fit for each in callbacks_named(trainer, "LRSchedulerCallback")]
        if fits[-1] is not self:
            return
        saved = SavedSchedules(checkpoint, trainer.optimizers)
        saved.check_optimizers(groups_may_come=bool(callbacks_named(trainer, "BaseFinetuning")))
        if "lr_schedulers" in checkpoint:  # else only weights, which Lightning refuses
            schedules = {index: scheduler for fit in fits for index, scheduler in fit.schedulers().items()}
            steps = clock_of(trainer).steps
            checkpoint["lr_schedulers"] = saved.states_for(trainer.lr_scheduler_configs, schedules, steps)

    def save(self, trainer: TrainerLike, checkpoint: Checkpoint) -> None:
        """Record in a checkpoint which schedulers are ours, and what was found."""
        mark(checkpoint, self.schedulers(), trainer.lr_scheduler_configs, self.tests.results, self.tests.rates)

    def schedulers(self) -> dict[int, LRScheduler]:
        """Return what stands for each scheduled optimizer, by its index: its schedule, or a placeholder."""
        return {each.index: each.scheduler for each in self.scheduled if each.scheduler is not None}

    # Training ---------------------------------------------------------------------------------------------------------

    def begin(self, trainer: TrainerLike, pl_module: LightningModule, started: Sequence[Callback]) -> None:
        """Make the range tests and probes, build what has waited for them, and note where training starts.

        Args:
            trainer: the Trainer.
            pl_module: its module.
            started: the callbacks whose ``on_train_start`` has run.
        """
        waiting = [scheduled for scheduled in self.scheduled if scheduled.resolved is None]
        self.tests.run(trainer, pl_module, waiting, started)
        for scheduled in waiting:
            self._correct_length(trainer, scheduled)
            self._build(trainer, scheduled)
        check_second_schedulers(trainer, list(self.schedulers().values()), self._owner)
        self._steps_before = steps_made(trainer)
        for counter in self._counters.values():
            counter.begin(trainer)
        for scheduled in self.scheduled:
            if scheduled.counter is not None:
                scheduled.axis = steps_before(trainer)  # the position does not tell, and all is restored by now
            scheduled.begin()
        self._began, self._batches = True, trainer.num_training_batches

    def _correct_length(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        """Let lengths follow from how often the range test or probe has seen the optimizer step."""
        rate, before = self.tests.rates.get(scheduled.index), scheduled.run.total
        if rate and before is not None:
            scheduled.run = self._horizon(trainer, scheduled, self._start, rate=rate)
            if scheduled.run.total != before:
                where = self.tests.made(scheduled.index)
                per = "step that was due" if is_automatic(trainer) else "batch"
                what = f"optimizer {scheduled.index} made {rate:.3g} steps per {per} in its {where}"
                log(trainer, f"{self._owner}: {what}: the run is {scheduled.run.total} steps long, not {before}")

    def follow_loaders(self, trainer: TrainerLike) -> None:
        """Let lengths follow from loaders that were made again with another number of batches."""
        batches, before = trainer.num_training_batches, self._batches
        if batches == before:
            return
        self._batches = batches
        for scheduled in self.scheduled:
            if scheduled.config.needs_run:
                position, epochs = scheduled.schedule.last_epoch, trainer.fit_loop.epoch_progress.current.processed
                start = Start(position, trainer.global_step, epochs, first=self._start.first)
                total = scheduled.run.total
                rate = self.tests.rates.get(scheduled.index)
                scheduled.run = self._horizon(trainer, scheduled, start, position=position, rate=rate)
                self._build(trainer, scheduled, position)
                log(
                    trainer,
                    f"{self._owner}: the train dataloader has {batches} batches now, not {before}:"
                    f" {scheduled.config.type} is now made for {scheduled.run.total}, not {total}",
                )

    def start_batch(self, trainer: TrainerLike, batch: object, *, first: bool) -> None:
        """Look whether others have changed an optimizer or its groups, and count what the batch holds.

        Args:
            trainer: the Trainer.
            batch: what its loader has yielded.
            first: whether it is the first of an epoch.
        """
        for scheduled in self.scheduled if first else ():
            if not same_optimizer(scheduled.schedule, trainer.optimizers[scheduled.index]):
                self._take_new_optimizer(trainer, scheduled)
            else:
                self._tell_what_is_overwritten(trainer, scheduled)
        self.follow_groups(trainer, always=first)  # at the start of an epoch layers are unfrozen, or an lr is set
        for counter in self._counters.values():
            counter.add(trainer, batch)

    def follow_groups(self, trainer: TrainerLike, *, always: bool = False) -> None:
        """Look at the param groups, where some may have come or gone."""
        for scheduled in self.scheduled:
            if always or scheduled.groups.have_changed:
                changes = scheduled.groups.update(
                    finetuned=bool(callbacks_named(trainer, "BaseFinetuning")),
                    rebuild=partial(self._rebuild, trainer, scheduled),
                )
                if changes:
                    by = self.tests.made(scheduled.index)
                    unseen = f"; the {by} did not train them" if by else ""
                    log(trainer, f"{self._owner}: optimizer {scheduled.index}: {changes}{unseen}")

    def _rebuild(self, trainer: TrainerLike, scheduled: Scheduled, places: list[int]) -> bool:
        """Build the schedule again for other param groups if a test has found an lr for each; return whether it did."""
        if not self.tests.regroup(scheduled.index, places):
            return False
        self._build(trainer, scheduled, scheduled.schedule.last_epoch)
        return True

    def check_lrs(self, trainer: TrainerLike, optimizer: Optimizer) -> None:
        """Raise ValueError where a step is about to be made with another lr than its schedule has set."""
        if callbacks_named(trainer, "BaseFinetuning"):  # sets those of the groups that it has added
            return
        for scheduled in self.scheduled:
            if same_optimizer(scheduled.schedule, optimizer) and not clock_of(trainer).carries:
                found = other_lr(scheduled.schedule, optimizer)
                if found is not None:
                    number, held, own = found
                    raise ValueError(
                        f"{self._owner}: something else has set the lr of param group {number} to {held:g}, where"
                        f" {scheduled.config.type} had set {own:g}: leave it out (a warmup in the module, a scheduler"
                        " that it steps itself), or leave this callback out"
                    )

    def _tell_what_is_overwritten(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        """Say once that an lr which something else has set since the last step gives way to the schedule's."""
        regular = not (scheduled.groups.have_changed or callbacks_named(trainer, "BaseFinetuning"))
        if regular and scheduled.index not in self._told and not clock_of(trainer).carries:
            found = other_lr(scheduled.schedule, trainer.optimizers[scheduled.index])
            if found is not None:
                number, held, own = found
                self._told.add(scheduled.index)
                log(
                    trainer,
                    f"{self._owner}: something else has set the lr of param group {number} to {held:g} before the"
                    f" epoch, and {scheduled.config.type} sets it to {own:g} again, each time: leave out one of them",
                    logging.WARNING,
                )

    def _take_new_optimizer(self, trainer: TrainerLike, scheduled: Scheduled) -> None:
        name, index, position = scheduled.config.type, scheduled.index, scheduled.schedule.last_epoch
        self._build(trainer, scheduled, position)
        what = f"optimizer {index} has been replaced; {name} goes on from step {position} with the new one"
        log(trainer, f"{self._owner}: {what}")

    # The end ----------------------------------------------------------------------------------------------------------

    def end(self, trainer: TrainerLike, *, early: bool) -> None:
        """End counting, and report schedules that have not come to their end."""
        for counter in self._counters.values():
            counter.end()
        self.report_end(trainer, early=early)

    def report_end(self, trainer: TrainerLike, *, early: bool) -> None:
        """Report schedules that have not come to their end, once training has begun; ``early``: nor has the run."""
        if self._began:
            report_end(trainer, self.scheduled, steps_made(trainer) - self._steps_before, early=early)

    def detach(self) -> None:
        """Detach the schedules: a module may return the same optimizers for the next fit."""
        self._report, self.is_attached, self._began = None, False, False
        for scheduled in self.scheduled:
            detach(scheduled.scheduler)


def _list(trainer: TrainerLike, scheduler: LRScheduler, earlier: LRScheduler | None) -> None:
    """List a schedule among the Trainer's, in place of an earlier one: Lightning saves and restores it there."""
    configs = trainer.strategy.lr_scheduler_configs
    scheduler.step = ignore  # type: ignore[method-assign]  # a module may ask for it and step it, even with a metric
    place = next((place for place, other in enumerate(configs) if other.scheduler is earlier), len(configs))
    name = configs[place].name if place < len(configs) else None
    configs[place : place + 1] = [LRSchedulerConfig(scheduler, interval="step", frequency=NEVER, name=name)]
