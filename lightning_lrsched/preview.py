"""A configuration file on its own, without a module: checked, converted, and its values as a table, CSV or picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch.optim import AdamW

from lightning_lrsched.config.deepspeed import Sections, lr_of, trainer_arguments
from lightning_lrsched.config.files import read_mapping
from lightning_lrsched.config.optimizers import check_optimizer, optimizer_numbers
from lightning_lrsched.config.scheduler_config import SchedulerConfig, section_path
from lightning_lrsched.optim.hyperparameters import numbers_of
from lightning_lrsched.optim.scheduled_lr import ScheduledLR, check_names
from lightning_lrsched.range_test.report import new_figure
from lightning_lrsched.schedules.errors import ParameterError, ParameterValueError
from lightning_lrsched.schedules.fields import Params
from lightning_lrsched.schedules.length import STEPS, Horizon, Unit
from lightning_lrsched.schedules.schedule import Own_

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_BASE_LR = 1e-3
NO_LENGTH = "it is not known here: give --steps (and --steps-per-epoch), or write a number of optimizer steps"

Row = tuple[int, dict[str, list[float]]]
"""(step, name of a hyperparameter -> its value in each param group)."""

MAX_POINTS = 2000
TABLE_ROWS = 20
FIRST_STEPS = 5
"""The first steps of a warmup are where schedules differ most from what people expect."""


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file, its two sections, and the length of the run as the command line gives it.

    Args:
        path: where it was read from.
        content: the whole file.
        sections: its sections.
        horizon: how long the run is.
        base_lr: the optimizer's own lr, where the file does not give it; None: not known.
    """

    path: Path
    content: Params
    sections: Sections
    horizon: Horizon
    base_lr: float | None = None

    @classmethod
    def read(
        cls,
        path: str | Path,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        base_lr: float | None = None,
    ) -> ConfigFile:
        """Read a file; the other arguments are what a Trainer and a module would provide."""
        content = read_mapping(path)
        horizon = Horizon(steps, steps_per_epoch, NO_LENGTH, NO_LENGTH)
        return cls(Path(path), content, Sections.find(content), horizon, base_lr)

    def schedule(self) -> SchedulerConfig:
        """Return the schedule that the file asks for."""
        return SchedulerConfig.from_dict(self.content)

    def known_lr(self) -> float | None:
        """Return the optimizer's own lr: as given, else from the file; None if neither has it."""
        return lr_of(self.sections.optimizer) if self.base_lr is None else self.base_lr

    def _own(self, schedule: SchedulerConfig) -> Own_:
        """Return the optimizer's own values, for as many param groups as the lists in the schedule are for."""
        lists = [value for _, _, value in schedule.schedule.leaves() if isinstance(value, tuple)]
        groups, known = max(map(len, lists), default=1), self.known_lr()
        needed = schedule.schedule.own_names - {"lr"}
        # Only where they are needed: to make an optimizer loads torch's compiler, a second.
        numbers = {**(self._numbers() if needed else {}), "lr": DEFAULT_BASE_LR if known is None else known}
        for name in needed - set(numbers):
            raise ParameterValueError(
                "", f": {name} begins with the optimizer's own value; the optimizer here has {', '.join(numbers)}"
            )
        return {name: [number] * groups for name, number in numbers.items()}

    def _numbers(self) -> dict[str, float]:
        """Return the hyperparameters of the optimizer in the file; without one, of AdamW, which then has no decay."""
        if self.sections.optimizer is None:
            return numbers_of(AdamW([torch.zeros(1)], weight_decay=0.0).param_groups[0])
        return optimizer_numbers(_module(), self.sections.optimizer, self.sections.prefix)

    def resolved(self) -> SchedulerConfig:
        """Return the schedule with numbers for everything that depends on the run.

        What a range test would find is taken to be ``"auto"``; :attr:`placeholders` says which keys these are.

        Raises:
            ValueError: if the run's length is not known.
        """
        return self.schedule().without_range_test().resolve(None, self.horizon)

    @property
    def placeholders(self) -> str:
        """Which values are not those of a training, because only a range test there finds them; empty: none."""
        keys = ", ".join(self.schedule().needs_range_test)
        return f"placeholder for {keys}, which a range test finds when training starts" if keys else ""

    def rows(self, steps: Sequence[int]) -> list[Row]:
        """Return the values at some positions, in rising order.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if a value is out of range, or the run's length is not known.
        """
        schedule = self.resolved()
        with section_path():
            values = schedule.schedule.completed().values(self._own(schedule))
        return [(step, values.of_groups(step)) for step in steps]

    def turns(self) -> list[int]:
        """Return the steps at which the parts of the schedule end; none for a scheduler of torch's own."""
        return self.resolved().schedule.completed().turns

    def converted(self) -> tuple[Params, list[str]]:
        """Return the file's content with numbers where they are known, and the keys of the schedule without one."""
        schedule = self.schedule().resolve(None, self.horizon, leave_unknown=True)
        if self.known_lr() is not None:
            schedule = schedule.with_own(self._own(schedule))
        section = schedule.to_dict()
        left = schedule.needs_run + schedule.needs_optimizer + schedule.needs_range_test
        if self.sections.scheduler is self.content:
            return section, left
        if self.sections.prefix:
            return {**self.content, "deepspeed": {**self.content["deepspeed"], "scheduler": section}}, left
        return {**self.content, "scheduler": section}, left

    def check(self) -> list[str]:
        """Return a short description of the file, and a line for each suspicious setting.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if something is wrong, or the file holds neither a scheduler nor an optimizer.
        """
        if self.sections.scheduler is None and self.sections.optimizer is None:
            self.schedule()  # raises
        found, remarks, optimizer, has_momentum = ["no scheduler"], [], None, True
        if self.sections.optimizer is not None:
            optimizer, has_momentum = check_optimizer(_module(), self.sections.optimizer, self.sections.prefix)
        if self.sections.scheduler is not None:
            schedule = self.schedule()
            if self.sections.optimizer is not None:
                check_names(schedule.schedule, optimizer or "", [self._numbers()])
            later = schedule.needs_run + schedule.needs_optimizer + schedule.needs_range_test
            unit = "" if schedule.unit == STEPS else f" in {schedule.unit}s"
            found = [
                f"scheduler {schedule.type}{unit}" + (f" ({', '.join(later)}: when training starts)" if later else "")
            ]
            # As far as the run need not be known.
            known = self.known_lr()
            told = schedule.schedule.remarks([] if known is None else [known], None if has_momentum else optimizer)
            remarks = [f"warning: {remark}" for remark in told]
        if optimizer is not None:
            found.append(f"optimizer {optimizer}")
        return ["ok: " + ", ".join(found), *remarks, *self._trainer_arguments()]

    def _trainer_arguments(self) -> list[str]:
        try:
            arguments = trainer_arguments(self.content)
        except ParameterError as error:
            return [f"warning: {error}"]  # the schedule can be used all the same
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return [f"set Trainer({listed})"] if listed else []


def _module() -> object:
    """Return where "auto" in an optimizer section takes its lr from."""
    return SimpleNamespace(lr=DEFAULT_BASE_LR)


# What is shown --------------------------------------------------------------------------------------------------------


def rows_of(schedule: ScheduledLR, steps: Sequence[int]) -> list[Row]:
    """Return (step, name -> value of each param group) at some optimizer steps.

    >>> import torch
    >>> from lightning_lrsched import WarmupLR
    >>> schedule = WarmupLR(torch.optim.SGD([torch.zeros(1)], lr=0.001), warmup_num_steps=4)
    >>> rows_of(schedule, [0, 2, 10])
    [(0, {'lr': [0.0]}), (2, {'lr': [0.0005]}), (10, {'lr': [0.001]})]
    """
    return [(step, schedule.values_at(step)) for step in steps]


def table_steps(total_steps: int, turns: Sequence[int] = (), unit: Unit = STEPS) -> list[int]:
    """Return about twenty steps that show a run, those at which its parts end, and the first optimizer steps."""
    steps = {round(total_steps * row / TABLE_ROWS) for row in range(TABLE_ROWS + 1)}
    ends = {turn for turn in turns if turn <= total_steps}
    first = set(range(min(FIRST_STEPS, total_steps) + 1)) if unit == STEPS else set()
    return sorted(steps | ends | first)


def picture_steps(total_steps: int) -> list[int]:
    """Return as many steps of a run as a picture can show."""
    return sorted({round(total_steps * point / MAX_POINTS) for point in range(MAX_POINTS + 1)})


def table(rows: Sequence[Row], unit: Unit = STEPS) -> str:
    """Return the values as a plain-text table."""
    lines = [_columns(rows[0], unit)] + [
        [str(step), *(f"{value:.6g}" for of_groups in values.values() for value in of_groups)] for step, values in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def to_csv(rows: Sequence[Row], unit: Unit = STEPS) -> str:
    """Return the values as CSV, every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(rows[0], unit))
    writer.writerows([step, *(value for of_groups in values.values() for value in of_groups)] for step, values in rows)
    return text.getvalue()


def _columns(row: Row, unit: Unit) -> list[str]:
    names, groups = row[1], len(row[1]["lr"])
    numbers = [""] if groups == 1 else [f"/pg{number}" for number in range(1, groups + 1)]
    return [unit, *(f"{name}{number}" for name in names for number in numbers)]


def _curves(values: Sequence[Sequence[float]]) -> dict[tuple[float, ...], str]:
    """Return each different curve with the param groups that have it: of equal lines only the last would be seen.

    >>> _curves([[0.0, 0.0, 1.0], [0.5, 0.5, 1.0]])
    {(0.0, 0.5): 'param groups 1, 2', (1.0, 1.0): 'param group 3'}
    """
    groups: dict[tuple[float, ...], list[str]] = {}
    for number, curve in enumerate(zip(*values, strict=True), start=1):
        groups.setdefault(curve, []).append(str(number))
    return {curve: f"param group{'s' * (len(n) > 1)} {', '.join(n)}" for curve, n in groups.items()}


def draw(title: str, rows: Sequence[Row], turns: Sequence[int] = (), unit: Unit = STEPS) -> Figure:
    """Return a matplotlib figure of lr (and what else is scheduled) over the position.

    Args:
        title: the type of the schedule.
        rows: what :func:`rows_of` returns.
        turns: positions at which the parts of the schedule end, marked by dotted lines.
        unit: what the position counts.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    curves = {name: [values[name] for _, values in rows] for name in rows[0][1]}
    figure = new_figure(7.0, 2.4 * len(curves))
    for row, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(len(curves), 1, row)
        for curve, groups in _curves(values).items():
            axes.plot([step for step, _ in rows], curve, linewidth=2.0, label=groups)
        if len(values[0]) > 1:
            axes.legend()
        for turn in turns:
            if turn <= rows[-1][0]:
                axes.axvline(turn, color="grey", linestyle=":", linewidth=1.0)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.set_xlabel("optimizer steps finished" if unit == STEPS else f"{unit}s")
    figure.suptitle(title)
    return figure
