"""Findings: the LR range tests and probes at the start of a fit, for learning rates that wait for them."""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"

from __future__ import annotations

import inspect
import logging
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.optim.hyperparameters import momentum_kind, torch_optimizer
from lightning_lrsched.optim.snapshot import global_states
from lightning_lrsched.range_test.probe import SHORTEST_RUN, Probe, ProbeResult, of_the_prior
from lightning_lrsched.range_test.record import Findings, RangeTestResult, one_cycle
from lightning_lrsched.range_test.report import OWN_UPDATES, has_own_schedule, why_nothing_among_several
from lightning_lrsched.range_test.suggest import OWN_SCHEDULE
from lightning_lrsched.range_test.sweep import SHARE_OF_RUN, SHORTEST
from lightning_lrsched.schedules.fields import FROM_RANGE_TEST
from lightning_lrsched.trainer.attach import Scheduled
from lightning_lrsched.trainer.checkpoint import Found, saved_findings, saved_rates
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.fit_state import FitState, RandomStates, set_limits
from lightning_lrsched.trainer.horizon import horizon_of
from lightning_lrsched.trainer.loggers import show_probe
from lightning_lrsched.trainer.protocol import Checkpoint, TrainerLike, is_a, is_automatic, loaded_checkpoint, loss_in
from lightning_lrsched.trainer.range_test_callback import SET_ASIDE, LRRangeTestCallback
from lightning_lrsched.trainer.reporting import add_note, log, of_optimizer

AS_PLANNED = (
    '{"type": "WarmupDecayLR", "params": {"warmup_max_lr": "auto", "warmup_num_steps": 0, "total_num_steps": "auto"}}'
)
"""A schedule that needs no test, and no step of a warmup that a resumed run has behind it."""


def schedule_from_range_test(optimizer: Optimizer) -> SchedulerConfig:
    """Return the schedule of an optimizer for which none is given: the 1Cycle that a range test leads to."""
    cycle_momentum = momentum_kind(torch_optimizer(optimizer)) == "momentum"
    return SchedulerConfig.from_dict(one_cycle(FROM_RANGE_TEST, FROM_RANGE_TEST, None, cycle_momentum))


class RangeTestsInFit:
    """The range tests of one fit, one for each optimizer whose schedule waits for its findings.

    Args:
        owner: the name of the callback that attaches the schedules, for messages.
        settings: a callback with the settings of the tests; None: its defaults.
        one_line: whether no schedule is given; then a probe is enough, where one can be made, unless there are
            settings of a test.
        log: whether the trainer's loggers show a probe.

    Attributes:
        results: what the tests have found; on a resume, what the checkpoint holds.
        rates: how many steps each optimizer has made, in its test or probe, for each that Lightning was due to make;
            under manual optimization, per batch.
    """

    def __init__(self, owner: str, settings: LRRangeTestCallback | None, *, one_line: bool, log: bool) -> None:
        self._owner, self._settings, self._log = owner, settings, log
        self._one_line, self._may_probe = one_line, one_line and settings is None
        self.results: Found = {}
        self.rates: dict[int, float] = {}
        self._start: RandomStates | None = None
        self._tested: list[int] = []
        self._told = False

    def begin(self, trainer: TrainerLike, configs: Mapping[int, SchedulerConfig]) -> None:
        """Note where the fit begins; before the data is loaded to see how long the run is.

        Args:
            trainer: whose fit it is.
            configs: the schedules, by the index of their optimizer.
        """
        checkpoint = loaded_checkpoint(trainer)
        if checkpoint:
            self.load(checkpoint)
        self._tested = [index for index, config in configs.items() if config.needs_range_test]
        if self._tested:
            self._start = RandomStates()
            self._start.add_data(trainer)

    def load(self, checkpoint: Checkpoint) -> None:
        """Take the results from a checkpoint, which may be loaded after :meth:`begin`."""
        self.results, self.rates = saved_findings(checkpoint), saved_rates(checkpoint)

    def is_to_come(self, trainer: TrainerLike, scheduled: Scheduled) -> bool:
        """Return whether a schedule must wait for its test."""
        needed = bool(scheduled.written.config.needs_range_test)
        return needed and scheduled.index not in self.results and not loaded_checkpoint(trainer)

    def run(
        self,
        trainer: TrainerLike,
        pl_module: LightningModule,
        waiting: Sequence[Scheduled],
        started: Sequence[Callback],
    ) -> None:
        """Make the tests for these schedules, when training starts and these callbacks have heard of it."""
        for scheduled in waiting:
            if trainer.fast_dev_run:
                keys = ", ".join(scheduled.written.config.needs_range_test)
                test = "LR probe" if self._may_probe and obstacle(trainer) is None else "LR range test"
                what = "1Cycle goes up to the optimizer's own lr" if self._one_line else f'{keys} means "auto"'
                log(
                    trainer,
                    f"{self._owner}: a fast_dev_run makes no {test}{of_optimizer(trainer, scheduled.index)}; {what}",
                )
            else:
                several, index = len(waiting) > 1, scheduled.index
                self.results[index] = self._run_one(trainer, pl_module, index, started, several=several)
        self._start = None

    def _run_one(
        self,
        trainer: TrainerLike,
        pl_module: LightningModule,
        index: int,
        started: Sequence[Callback],
        *,
        several: bool,
    ) -> RangeTestResult | ProbeResult:
        """Run the fit loop once with a test's limits, and restore the fit."""
        assert self._start is not None
        if self._may_probe:
            steps, probes = horizon_of(trainer).total, obstacle(trainer) is None
            if steps is not None and steps < (SHORTEST_RUN if probes else SHORTEST / SHARE_OF_RUN):
                why = f"in a run of only {steps} steps"
                others = [trainer.optimizers[other] for other in self._tested if other != index]
                known = of_the_prior(pl_module, trainer.optimizers[index], why, others)
                if known is not None:
                    log(trainer, f"LR probe{of_optimizer(trainer, index)}: {known}")
                    return known
            if probes:
                probe = LRProbe(self._start, started, steps)
                result = probe.run(trainer, pl_module, log_result=self._log)
                self.rates[index] = probe.rate
                return result
        test = LRRangeTestCallback(log=self._log) if self._settings is None else copy(self._settings)
        test.use_inside_fit(index, self._start, several=several, started=started)
        try:
            test.setup(trainer, pl_module, "fit")
            test.on_fit_start(trainer, pl_module)
            trainer.fit_loop.run()
            test.on_fit_end(trainer, pl_module)
        except BaseException as error:
            test.on_exception(trainer, pl_module, error)
            raise
        sweeps = [sweep for sweep in (test.result.coarse, test.result) if sweep is not None]
        self.rates[index] = sum(len(sweep.steps) for sweep in sweeps) / max(1, test.due)
        return test.result

    def regroup(self, index: int, places: Sequence[int]) -> bool:
        """Give what a test has found to other param groups; return whether it had found an lr for each.

        Args:
            index: of the optimizer.
            places: which of the former groups' lr each group gets.
        """
        result = self.results.get(index)
        if result is None or len(set(result.group_ratios)) == 1:
            return False
        ratios = [result.group_ratios[place] for place in places]
        self.results[index] = replace(result, group_ratios=ratios)
        return True

    def made(self, index: int) -> str | None:
        """Return whether steps of an optimizer were made in a ``"probe"`` or a ``"range test"``; None: in neither."""
        result = self.results.get(index)
        if isinstance(result, ProbeResult):
            return "probe" if result.steps else None
        return None if result is None else "range test"

    def source(self, trainer: TrainerLike, index: int) -> str | None:
        """Return where the bounds of 1Cycle come from, where nobody has written the word ``"lr_range_test"``."""
        result = self.results.get(index)
        if not self._one_line:
            return None
        if result is None or self._nothing(trainer):
            return "own lr"
        if isinstance(result, RangeTestResult):
            return "from the test"
        if result.keeps_own_lr:
            return "own lr"
        return "from the probe" if result.steps else "the prior"

    def findings(self, trainer: TrainerLike, scheduled: Scheduled) -> Findings | None:
        """Return the learning rates that the test of a schedule has found; None: the optimizer's own lr counts.

        It does where there was no test, and where the updates did not follow the lr. Of several optimizers all keep
        their own where the test of one shows nothing: to raise only the others would upset their balance.

        Raises:
            ValueError: if the test of the only optimizer shows no learning rate; or, on a resume, if the checkpoint was
                saved without a test.
        """
        index, keys = scheduled.index, ", ".join(scheduled.written.config.needs_range_test)
        if not keys:
            return None
        result = self.results.get(index)
        if result is None:
            if loaded_checkpoint(trainer) and self._one_line:
                raise ValueError(
                    f"{self._owner}: the checkpoint was saved by a fit without {self._owner}, so it holds no peak for"
                    " 1Cycle, and in the middle of a training none is looked for. Give a schedule, such as"
                    f" {self._owner}({AS_PLANNED}), whose lr falls from the optimizer's own to 0. Or begin a new run"
                    " with these weights: load them into the module, and fit without ckpt_path"
                )
            if loaded_checkpoint(trainer):
                raise ValueError(
                    f'{self._owner}: {keys} of optimizer {index} is "{FROM_RANGE_TEST}", but the checkpoint was saved'
                    " without a test, so the value is not known: write numbers (LRRangeTestCallback finds them in a"
                    " fit of its own)"
                )
            return None
        if self._nothing(trainer):
            self._tell(trainer)
            return None
        ratios, groups = result.group_ratios, len(trainer.optimizers[index].param_groups)
        if len(ratios) != groups:  # some had come or gone before the checkpoint was saved
            result = replace(result, group_ratios=[*ratios, *ratios[:1] * groups][:groups])
        try:
            return result.learning_rates()
        except ValueError as reason:
            raise ValueError(f"{self._owner}: the LR range test shows no learning rate: {reason}") from None

    def _nothing(self, trainer: TrainerLike) -> dict[int, str]:
        """Return which tests have shown nothing that could be used, by the index of the optimizer, and why."""
        found = {index: self.results.get(index) for index in self._tested}
        tests = {index: each for index, each in found.items() if isinstance(each, RangeTestResult)}
        if len(trainer.optimizers) == 1:
            return {index: OWN_UPDATES for index, each in tests.items() if has_own_schedule(each)}
        reasons = {index: why_nothing_among_several(each) for index, each in tests.items()}
        return {index: why for index, why in reasons.items() if why is not None}

    def _tell(self, trainer: TrainerLike) -> None:
        """Log once which tests have shown nothing, and what follows from that."""
        if self._told:
            return
        self._told = True
        several = len(trainer.optimizers) > 1
        reasons = [
            f"the LR range test{of_optimizer(trainer, index)} shows no learning rate, because {why}"
            for index, why in self._nothing(trainer).items()
        ]
        usual = " This is usual where the losses of several optimizers oppose each other." if several else ""
        who = "The optimizer keeps its own lr"
        if len(self._tested) > 1:
            who = f"All {len(self._tested)} optimizers keep their own lr, and with it the balance between them"
        what = "1Cycle goes up to it" if self._one_line else f'"{FROM_RANGE_TEST}" means "auto"'
        log(trainer, f"{self._owner}: {'; '.join(reasons)}.{usual} {who}: {what}", logging.WARNING)


# The probe ------------------------------------------------------------------------------------------------------------


def obstacle(trainer: TrainerLike) -> str | None:
    """Return why a loss cannot be computed again outside its step; None: it can."""
    if not is_automatic(trainer):
        return "a module with manual optimization steps within training_step"
    if clock_of(trainer).carries:
        return "DeepSpeed's engine makes the steps"
    if "dataloader_iter" in inspect.signature(trainer.lightning_module.training_step).parameters:
        return "training_step takes its batches itself"
    if any(is_a(part, "FullyShardedDataParallel") for part in trainer.strategy.model.modules()):
        return "FSDPStrategy holds the parameters flat and in parts"
    return None


class LRProbe(Callback):
    """Makes one probe at the start of a fit that is already under way.

    Args:
        start: the random states with which the fit began.
        started: the callbacks whose ``on_train_start`` has run.
        length: of the fit [optimizer steps]; None: not known.

    Attributes:
        rate: how many steps the optimizer has made for each that Lightning was due to make; 1 unless the module skips
            some in its ``optimizer_step``.
    """

    def __init__(self, start: RandomStates, started: Sequence[Callback], length: int | None) -> None:
        self._start, self._started, self._length = start, started, length
        self.rate = 1.0
        self._probe: Any = None
        self._calls: list[tuple[Any, list[Callable[[], object]]]] = []
        self._stepped = False
        self._due, self._made_at = 0, list[int]()

    def run(self, trainer: TrainerLike, pl_module: LightningModule, *, log_result: bool) -> ProbeResult:
        """Make the probe and put everything back.

        Raises:
            ValueError: if it finds nothing, and the optimizer has no prior.
        """
        self._state = FitState(trainer, self._start)
        try:
            left_out = self._state.set_aside(self, self._start_batch, self._started)
            # Others undo at the end of a batch what they have set for it: its loss is computed again before.
            trainer.callbacks.insert(0, trainer.callbacks.pop())
            if left_out:
                log(trainer, f"LR probe: {SET_ASIDE}: {', '.join(left_out)}")
            self._state.capture(pl_module)
            self._state.set_data_aside()
            set_limits(trainer, min_epochs=None, min_steps=None, max_epochs=-1, max_steps=-1, limit_val_batches=0)
            self._probe, self._marked = Probe(pl_module, trainer.optimizers[0], self._length), False
            self._training_step = trainer.strategy.training_step
            trainer.strategy.training_step = self._note_call  # type: ignore[method-assign]
            trainer.fit_loop.run()
        except Exception as error:
            if self._probe is not None:
                add_note(trainer, error, f"This was in the LR probe, in a step at lr {self._probe.lr:.3g}.")
            raise
        finally:
            vars(trainer.strategy).pop("training_step", None)  # the class has it
            self._state.restore()
            self._state.put_back()
        if len(self._made_at) > 1:
            self.rate = (len(self._made_at) - 1) / (self._made_at[-1] - self._made_at[0])
        result: ProbeResult = self._probe.result()
        if self._probe.refused:
            lr, refusal = self._probe.refused
            what = f"at lr {lr:.3g} the module raised {type(refusal).__name__} ({str(refusal)[:200]})"
            log(trainer, f"LR probe: {what}, which counts as a loss that is not finite")
        if self._state.refused:
            log(trainer, f"LR probe: {self._state.refused}, and no validation was made: this had no effect")
        if result.keeps_own_lr:
            log(trainer, f"LR probe: {OWN_SCHEDULE}", logging.WARNING)
        log(trainer, f"LR probe: {result}; weights, optimizers and Trainer restored.")
        if log_result:
            show_probe(trainer, result)
        return result

    def _start_batch(self) -> None:
        if not self._marked:
            self._state.mark()
            self._marked = True
        elif self._probe.rewinds:
            self._probe.rewinds = False
            self._state.rewind()

    def _note_call(self, *args: object) -> object:
        """Call the module's training_step, and remember with what: Lightning passes what its signature asks for."""
        if self._probe.searches:
            self._calls.append((copy_of_batch(args), global_states()))
        return self._training_step(*args)

    def on_before_optimizer_step(self, trainer: TrainerLike, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._stepped = True
        self._probe.before_step()

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._due += not trainer.fit_loop._should_accumulate()
        if self._stepped:
            self._made_at.append(self._due)
            self._probe.after_step(lambda: self._loss(trainer))
            self._calls, self._stepped = [], False
        trainer.should_stop = self._probe.is_over

    def _loss(self, trainer: TrainerLike) -> Tensor:
        """Compute the loss of the step's batches again.

        With gradients: a module may need them in its forward pass.
        """
        losses = []
        with torch.enable_grad():
            for args, states in self._calls:
                for reset in states:
                    reset()
                loss = loss_in(self._training_step(*copy_of_batch(args)))
                if loss is not None:
                    losses.append(loss.detach().float())
        return torch.stack(losses).mean() if losses else torch.tensor(torch.nan, device=trainer.strategy.root_device)


def copy_of_batch(batch: Any) -> Any:
    """Return a copy of a batch, which a ``training_step`` may use up or change in place; of what has none, itself."""
    if isinstance(batch, Tensor):
        return batch.clone()
    try:
        if isinstance(batch, (dict, UserDict)):
            copied = copy(batch)
            copied.update((key, copy_of_batch(value)) for key, value in batch.items())
            return copied
        if isinstance(batch, (list, tuple)):
            parts = map(copy_of_batch, batch)
            return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
        return batch if isinstance(batch, Module) else deepcopy(batch)
    except Exception:  # noqa: BLE001 - what it is made of is the user's
        return batch
