"""A schedule on an optimizer of a fit: how it is attached, detached, and follows param groups that come and go."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lrsched.config.deepspeed import Sections
from lightning_lrsched.config.scheduler_config import SchedulerConfig, in_file, read_content, section_path
from lightning_lrsched.optim.clock import follower_of
from lightning_lrsched.optim.hyperparameters import LR, MOMENTUM, Group, read_lrs, read_number, torch_optimizer, write
from lightning_lrsched.optim.scheduled_lr import SCALE, ScheduledLR
from lightning_lrsched.range_test.record import Findings, RangeTestResult
from lightning_lrsched.schedules.length import Horizon
from lightning_lrsched.trainer.deepspeed import TrainerClock
from lightning_lrsched.trainer.progress import StepCounter
from lightning_lrsched.trainer.protocol import TrainerLike

NEVER = sys.maxsize
"""[batches] Between two calls of ``step`` by Lightning."""

if TYPE_CHECKING:
    Given = SchedulerConfig | RangeTestResult | Mapping[str, Any] | str | Path
else:  # a command line would offer to make a result from flags
    Given = SchedulerConfig | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class Written:
    """A schedule as the user gave it, and the whole configuration around it.

    Args:
        config: the schedule.
        optimizer_section: the optimizer section beside it, which is not used.
        content: the whole configuration; empty where there is only the schedule.
    """

    config: SchedulerConfig
    optimizer_section: object = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Given) -> Written:
        """Read what a user may pass: a configuration, a dict, or the path of a file."""
        if isinstance(given, RangeTestResult):
            given = SchedulerConfig.from_dict(given.one_cycle())
        if isinstance(given, SchedulerConfig):
            return cls(given)
        content = read_content(given)
        with in_file(given):
            sections = Sections.find(content)
            rest = content if set(content) - {"type", "params", "unit"} else {}
            return cls(SchedulerConfig.of_section(sections), sections.optimizer, rest)

    def beside(self, hyperparameters: Mapping[str, Any] | None) -> Written:
        """Return the same with hyperparameters beside the schedule."""
        return self if hyperparameters is None else replace(self, config=self.config.beside(hyperparameters))


class Idle(LRScheduler):
    """Stands in a Trainer's list where no schedule is, or not yet; whoever steps it changes nothing.

    Args:
        optimizer: the optimizer whose scheduler it stands for.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.last_epoch = torch_optimizer(optimizer), 0  # torch's own would wrap the optimizer's step
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups if "lr" in group]

    def step(self, *_: object, **__: object) -> None:
        """Do nothing."""

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the learning rates that the optimizer's groups hold now."""
        return read_lrs(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, object]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Load nothing."""


class Scheduled:
    """One optimizer of the current fit, and the schedule that is attached to it.

    Args:
        written: the schedule as the user gave it.
        index: of the optimizer, counted from 0.
        optimizer: the optimizer.
        counter: what advances a schedule that counts samples or tokens; None: it counts optimizer steps.

    Attributes:
        run: the length of the run that it is built for.
        own_momenta: the momentum of each param group before the schedule was attached.
        axis: step 0 of the schedule on the trainer's step axis; not 0 in a second fit.
        scheduler: what was built; until a range test has found its lrs, a placeholder that changes nothing.
        groups: its param groups; once training has begun.
        resolved: the configuration with the numbers that it was built from; None for the placeholder.
        began_at: position when training started.
        logged: finished steps up to which the curves are logged.
    """

    def __init__(self, written: Written, index: int, optimizer: Optimizer, counter: StepCounter | None = None) -> None:
        self.written, self.config, self.index, self.counter = written, written.config, index, counter
        self.optimizer = optimizer
        self.own_momenta = [read_number(MOMENTUM, group) for group in optimizer.param_groups]
        self.run = Horizon()
        self.axis = self.began_at = self.logged = 0
        self.scheduler: LRScheduler | None = None
        self.resolved: SchedulerConfig | None = None
        self.groups: GroupRatios

    @property
    def schedule(self) -> ScheduledLR:
        """The schedule, once it is built."""
        assert isinstance(self.scheduler, ScheduledLR)
        return self.scheduler

    def build(
        self,
        config: SchedulerConfig,
        optimizer: Optimizer,
        clock: TrainerClock,
        findings: Findings | None = None,
    ) -> None:
        """Build the schedule for ``optimizer`` and have it follow ``clock``, in place of one that was built before.

        A schedule left by an earlier fit is detached. One that has not advanced yet belongs to the current fit, and two
        for one optimizer are refused.

        Args:
            config: the schedule; as it was written, or without the words that a range test would have replaced.
            optimizer: the optimizer whose lr it sets.
            clock: what advances it.
            findings: what a range test has found, for ``"lr_range_test"``.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is wrong, or another schedule drives the optimizer.
        """
        detach(self.scheduler)
        if self.resolved is not None:  # built before: its momentum is not the optimizer's own
            for group, momentum in zip(optimizer.param_groups, self.own_momenta, strict=False):
                if momentum is not None:
                    write(MOMENTUM, group, momentum)
        earlier = follower_of(optimizer)
        if earlier is not None and not _is_left_over(earlier):
            raise ValueError(
                f"{config.type} cannot follow this {type(optimizer).__name__}: {earlier.name} follows it"
                " already, and both would set its lr; keep one of them (or call unfollow_optimizer() of the other)"
            )
        numbered = config.resolve(None, self.run, findings=findings)
        with section_path():
            resolved, scheduler = numbered.with_own_of(optimizer), numbered.bind(optimizer)
        release(optimizer)  # last: a wrong configuration leaves the earlier schedule active
        clock.follow(scheduler, self.counter)
        setattr(scheduler, BEGAN_AT, scheduler.last_epoch)
        self.scheduler, self.resolved = scheduler, resolved

    def begin(self) -> None:
        """Note where training starts."""
        self.began_at, self.logged = self.schedule.last_epoch, self.finished
        self.groups = GroupRatios(self.schedule)

    @property
    def finished(self) -> int:
        """Finished steps of the optimizer."""
        return self.schedule.last_epoch if self.counter is None else self.counter.steps

    @property
    def position_before(self) -> int:
        """The position with which the last finished step was made."""
        return self.schedule.last_epoch - (1 if self.counter is None else self.counter.latest)


BEGAN_AT = "attached_at"
"""Attribute of a schedule: the position at which it was attached here."""


def _is_left_over(schedule: LRScheduler) -> bool:
    """Return whether a schedule was attached here for an earlier fit: it has moved since."""
    began_at = vars(schedule).get(BEGAN_AT)
    return began_at is not None and schedule.last_epoch != began_at


def release(optimizer: Optimizer) -> None:
    """Detach the schedule of an earlier fit, if the module has kept its optimizer since."""
    earlier = follower_of(optimizer)
    if earlier is not None and _is_left_over(earlier):
        detach(earlier)


def detach(scheduler: LRScheduler | None) -> None:
    """Stop ``scheduler`` from following its optimizer."""
    if isinstance(scheduler, ScheduledLR):
        scheduler.unfollow_optimizer()
        vars(scheduler).pop("step", None)


def ignore(*_: object, **__: object) -> None:
    """Stand where a schedule has its ``step``, for a module that steps what the Trainer lists: it moves nothing."""


def pick_optimizer(trainer: TrainerLike, index: int | None, owner: str) -> tuple[int, Optimizer]:
    """Return the index and the optimizer that ``optimizer_index`` means; it may be None when there is only one."""
    optimizers = trainer.optimizers
    # Lightning puts an optimizer without param groups where a module returns none.
    if not any(optimizer.param_groups for optimizer in optimizers):
        raise ValueError(f"{owner}: the module's configure_optimizers returned no optimizer")
    if index is None and len(optimizers) > 1:
        raise ValueError(
            f"{owner}: the module has {len(optimizers)} optimizers; choose one with"
            f" optimizer_index=0..{len(optimizers) - 1}, or give a list with one scheduler for each"
        )
    index = 0 if index is None else index
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(optimizers):
        raise ValueError(f"{owner}: optimizer_index must be 0..{len(optimizers) - 1}, got {index!r}")
    return index, optimizers[index]


# Param groups that come and go, as callbacks that unfreeze layers add them -------------------------------------------


class GroupRatios:
    """Keeps the ratio of lrs that whoever adds a param group gives it, to the lr of the first group.

    Args:
        schedule: the schedule of the optimizer.
    """

    def __init__(self, schedule: ScheduledLR) -> None:
        self._schedule = schedule
        self._note()

    def _note(self) -> None:
        self._groups = self._schedule.optimizer.param_groups
        self._size, self._last = len(self._groups), self._groups[-1]
        self._scales = [group.get(SCALE) for group in self._groups]
        self._known = list(map(_identity, self._groups))

    @property
    def have_changed(self) -> bool:
        """Whether others may have come or gone since the last look; cheap enough for every step."""
        groups = self._schedule.optimizer.param_groups
        return groups is not self._groups or len(groups) != self._size or groups[-1] is not self._last

    def update(self, *, finetuned: bool, rebuild: Callable[[list[int]], bool]) -> str | None:
        """Look at the groups, let the schedule write those that there are now, and return what has changed.

        Args:
            finetuned: whether a callback goes on to set the lr of groups that it has added.
            rebuild: builds the schedule again if it has an lr for each group that a test has found, and returns whether
                it did; it gets the place that each group had before, 0 for those that are new.
        """
        known, before, scales = self._known, self._groups, self._scales
        lrs = self._schedule.written_lrs
        self._note()
        groups = self._groups
        added = [group for group in groups[1:] if _identity(group) not in known]
        gone = len(set(known) - set(self._known))
        ratios = [self._keep_ratio(group) for group in added]
        if finetuned:
            self._follow_callback(dict(zip(known, lrs, strict=False)))
        now = [group.get(SCALE) for group in groups]
        if added or gone or groups is not before or now != scales:
            self._scales = now
            places = [known.index(each) if each in known else 0 for each in self._known]
            if not ((added or gone) and rebuild(places)):
                self._schedule.rebind()
        else:
            self._schedule.set_position(self._schedule.last_epoch)
        if not added and not gone:
            return None
        kept = f"; those added keep the ratio of their lr to that of the first: {_listed(ratios)}" if added else ""
        return f"{len(added)} param groups were added and {gone} removed{kept}"

    def _keep_ratio(self, group: Group) -> float:
        """Set the scale of a new group's lr, and return its ratio to the lr of the first group."""
        first, optimizer, given = self._schedule.optimizer.param_groups[0], self._schedule.optimizer, float(group[LR])
        own = float(first.get("initial_lr", first[LR]))
        # A group without an lr of its own gets the optimizer's.
        reference = own if given == optimizer.defaults.get(LR) else float(first[LR])
        ratio = given / reference if reference > 0 else 1.0
        scale = ratio * float(first.get(SCALE, 1.0))
        if LR in self._schedule.schedule.own_names and given > 0:
            scale *= own / given  # the schedule multiplies the lr that the group came with
        if SCALE not in group and not math.isclose(scale, 1.0):
            group[SCALE] = scale
        return ratio

    def _follow_callback(self, written: Mapping[int, float]) -> None:
        """Take over the ratios of groups whose lr a callback has set since the last step."""
        for group in self._groups[1:]:
            before, now = written.get(_identity(group), 0.0), float(group[LR])
            if before > 0 and not math.isclose(before, now, rel_tol=1e-6):
                group[SCALE] = float(group.get(SCALE, 1.0)) * now / before


def _identity(group: Group) -> int:
    return id(group["params"][0]) if group["params"] else id(group)


def _listed(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.3g}" for ratio in dict.fromkeys(ratios))
