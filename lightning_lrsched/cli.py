"""LRSchedulerCLI: Lightning's command line with a ``scheduler:`` section and an ``lr_range_test`` subcommand."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

if find_spec("jsonargparse") is None:
    raise ImportError("LRSchedulerCLI needs jsonargparse: pip install 'lightning-lrsched[cli]'")

from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from lightning_lrsched.config.arguments import describe_schedules
from lightning_lrsched.config.files import dump_mapping, read_mapping
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.range_test.report import count_steps
from lightning_lrsched.schedulers import ONE_CYCLE, WARMUP_DECAY_LR, ClosedFormLR
from lightning_lrsched.schedulers.checks import choice, count, to_number
from lightning_lrsched.schedulers.durations import Duration, resolve_steps
from lightning_lrsched.trainer.deepspeed_engine import uses_engine
from lightning_lrsched.trainer.engine_attachment import build_for_trainer
from lightning_lrsched.trainer.range_test_callback import LRRangeTestCallback
from lightning_lrsched.trainer.run_length import run_length_of
from lightning_lrsched.trainer.scheduler_callback import LRSchedulerCallback

TOTAL = "total_num_steps"
MIN_STEPS = 10
"""[optimizer steps] Shorter trainings have no room for the phases of a schedule."""

SCHEDULER_HELP = (
    "the schedule: type and params in DeepSpeed's form, or the path of a JSON or YAML file that has them. Values may be"
    ' overridden one by one (--scheduler.params.warmup_num_steps 100); lengths may be "auto", a fraction of the run, or'
    ' epochs ("2ep").'
)


class LRSchedulerCLI(LightningCLI):
    """LightningCLI whose schedules run per optimizer step, with the module and its YAML free of scheduler code.

    In addition to what LightningCLI offers:

    * a section ``scheduler:`` at the top, ``{type, params}`` or the path of a file (a DeepSpeed configuration, for
      example); an :class:`~lightning_lrsched.LRSchedulerCallback` applies it;
    * a scheduler in Lightning's own section ``lr_scheduler:`` advances after every optimizer step, not every epoch
      (ReduceLROnPlateau excepted: it follows a metric);
    * the subcommand ``lr_range_test``, which writes a ``scheduler.yaml`` for ``fit --config scheduler.yaml``.

    Args:
        *args: as for LightningCLI.
        trainer_class: as for LightningCLI, but it must be a class.
        **kwargs: as for LightningCLI.

    Raises:
        TypeError: if ``trainer_class`` is not a class.
        ValueError: if the section is wrong.

    Example:
        >>> # LRSchedulerCLI(MyModule, MyData)  # then: python train.py fit --config config.yaml --scheduler ds.json
        >>> "lr_range_test" in LRSchedulerCLI.subcommands()
        True
    """

    def __init__(self, *args: Any, trainer_class: type[Trainer] = Trainer, **kwargs: Any) -> None:
        if not isinstance(trainer_class, type):
            raise TypeError(f"trainer_class must be a class, to get the method lr_range_test; got {trainer_class!r}")
        if not hasattr(trainer_class, "lr_range_test"):
            said = {"__doc__": trainer_class.__doc__, "__module__": trainer_class.__module__}  # in --help
            trainer_class = type(trainer_class.__name__, (LRRangeTestTrainer, trainer_class), said)
        super().__init__(*args, **{**kwargs, "trainer_class": trainer_class})

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, and for each the arguments that are not on the command line."""
        return {**LightningCLI.subcommands(), "lr_range_test": {"model", "train_dataloaders", "datamodule"}}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose help keeps the lines of the schedules' description."""
        return super().init_parser(**{"formatter_class": _LineKeepingFormatter, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the section ``scheduler``."""
        group = parser.add_argument_group("Learning rate and momentum, per optimizer step", describe_schedules())
        group.add_argument("--scheduler", type=SchedulerConfig | str | None, default=None, help=SCHEDULER_HELP)

    def before_instantiate_classes(self) -> None:
        """Check the section and the range test like any other argument: an error message, no traceback."""
        try:
            self._scheduler = self._read_scheduler()
            if self.subcommand == "lr_range_test":
                arguments = self.config[self.subcommand]
                names = self._subcommand_method_arguments[self.subcommand]
                _RangeTest.of(**{name: arguments[name] for name in names})
        except (OSError, TypeError, ValueError) as error:
            self.parser.error(str(error))

    def _read_scheduler(self) -> SchedulerConfig | Mapping[str, Any] | None:
        """Return the section, read once; the saved configuration gets its content, not the path of a file."""
        config = self.config if self.subcommand is None else self.config[self.subcommand]
        section = config.get("scheduler")
        if section is None:
            return None
        content = read_mapping(section) if isinstance(section, str) else section
        content = content.as_dict() if isinstance(content, Namespace) else content
        checked = _check(content, f"{section}: " if isinstance(section, str) else "")
        if checked.unit == "token":
            raise ValueError(
                'scheduler.unit: "token" needs to know the tokens of a batch: in place of this section, list'
                " lightning_lrsched.LRSchedulerCallback in trainer.callbacks, with scheduler and tokens"
            )
        config["scheduler"] = Namespace(checked.to_dict())  # type: ignore[no-untyped-call]
        return content

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make the Trainer, with a callback for the section ``scheduler``."""
        if self.subcommand == "lr_range_test":
            self.save_config_callback = None  # the test writes one file: its result
        trainer: Any = super().instantiate_trainer(**kwargs)
        # The value of a link between arguments is known only now.
        linked = self._get(self.config_init, "scheduler")
        scheduler = linked if self._scheduler is None else self._scheduler
        if scheduler is not None:
            trainer.callbacks.insert(0, LRSchedulerCallback(scheduler))
        return trainer

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "lr_range_test":
            _show_only(parser, self._subcommand_method_arguments[subcommand])
        return parser

    @staticmethod
    def configure_optimizers(lightning_module: Any, optimizer: Optimizer, lr_scheduler: Any = None) -> Any:
        """Return optimizer and scheduler as Lightning wants them, the scheduler stepped per optimizer step."""
        if lr_scheduler is None or isinstance(lr_scheduler, ReduceLROnPlateau):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        trainer = lightning_module.trainer
        if isinstance(lr_scheduler, ClosedFormLR):
            build_for_trainer(trainer, optimizer, lambda: lr_scheduler)
            if not uses_engine(trainer):
                lr_scheduler.follow_optimizer()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}


class LRRangeTestTrainer(Trainer):
    """The settings of the training.

    Lightning's Trainer, with the method that the subcommand ``lr_range_test`` calls. ``--help`` shows the first line.
    """

    def lr_range_test(
        self,
        model: Any,
        train_dataloaders: Any = None,
        datamodule: Any = None,
        output: str = "scheduler.yaml",
        schedule: Literal["OneCycle", "WarmupDecayLR"] = "OneCycle",
        total_num_steps: int | float | str = "auto",
        **range_test: Any,
    ) -> RangeTestResult:
        """Runs an LR range test and writes the schedule that it suggests.

        Args:
            model: the module.
            train_dataloaders: its data.
            datamodule: or its datamodule.
            output: file to write, missing folders are made; ``fit --scheduler`` takes it, or ``fit --config``.
            schedule: which schedule to write.
            total_num_steps: length of the training to come [optimizer steps]; also a fraction of the run that the
                Trainer's settings describe, epochs (``"2ep"``), or ``"auto"``: that whole run.
            **range_test: as for :class:`~lightning_lrsched.LRRangeTestCallback`.

        Raises:
            ValueError: if a value is wrong, or the test shows no learning rate; the message says what to change.
        """
        test = _RangeTest.of(output, schedule, total_num_steps, **range_test)
        if self.is_global_zero:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        trainer: Any = self
        trainer.callbacks += [test.length, test.callback]
        try:
            self.fit(model, train_dataloaders=train_dataloaders, datamodule=datamodule)
        finally:
            for added in (test.length, test.callback):
                trainer.callbacks.remove(added)
        result = test.callback.result
        assert result is not None
        total = test.length.total
        section = result.one_cycle(total) if schedule == ONE_CYCLE else result.warmup_decay(total)
        if self.is_global_zero:
            wrote = "replaced" if Path(output).exists() else "wrote"
            Path(output).write_text(_describe(result, total) + dump_mapping({"scheduler": section}, "yaml"), "utf-8")
            low, high = result.bounds()
            rank_zero_info(
                f"LR range test: learning rates {low:.3g} to {high:.3g} for {schedule} over {total} steps; {wrote}"
                f" {output}. To train with it, add --scheduler {output} to the arguments of fit"
            )
        return result


@dataclass(frozen=True)
class _RangeTest:
    """What a range test on the command line needs; checked first: a mistake found later would lose the result."""

    callback: LRRangeTestCallback
    length: _Length

    @classmethod
    def of(cls, output: str, schedule: str, total_num_steps: int | float | str, **range_test: Any) -> _RangeTest:
        choice("schedule", schedule, (ONE_CYCLE, WARMUP_DECAY_LR))
        if Path(output).is_dir():
            raise ValueError(f"output must be the name of a file, and {output} is a folder")
        return cls(LRRangeTestCallback(**range_test), _Length(total_num_steps))


class _Length(Callback):
    """Reads how long the later training is, before the range test lifts the trainer's limits."""

    def __init__(self, value: int | float | str) -> None:
        super().__init__()
        self._value = value
        self.total = 0
        if Duration.of(value, auto=1.0) is None:
            self._resolve(None)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._resolve(trainer)

    def _resolve(self, trainer: Any) -> None:
        asked = trainer if Duration.of(self._value, auto=1.0) is not None else None
        steps = resolve_steps(TOTAL, self._value, run_length_of(asked))
        spelled = to_number(steps) if isinstance(steps, str) else None
        self.total = count(TOTAL, steps if spelled is None else spelled, at_least=MIN_STEPS)


def _describe(result: RangeTestResult, total: int) -> str:
    low, high = result.bounds()
    return (
        f"# From an LR range test of {count_steps(result)} steps (ended by: {result.stop_reason}): its bounds for"
        f" 1Cycle are the lrs {low:.3g} and {high:.3g}.\n# For a training of {total} optimizer steps.\n"
    )


def _check(content: Any, prefix: str) -> SchedulerConfig:
    try:
        return SchedulerConfig.of(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{prefix}{error}") from None


def _show_only(parser: LightningArgumentParser, names: list[str]) -> None:
    """Leave all but these arguments, and the general ones, out of the help: there are hundreds, the same as for fit."""
    general, *groups = parser._action_groups[1:]
    general.description = "all options of fit, which its --help describes, and:"
    shown = [*general._group_actions, *(action for action in parser._actions if action.dest in names)]
    hidden = [action for action in parser._actions if action not in shown]
    for group in groups:
        if not any(action in shown for action in group._group_actions):
            group.description = None
    format_all = parser.format_help

    def format_shown() -> str:
        # Only while formatting: for jsonargparse an argument without help is not part of a configuration.
        helps = [action.help for action in hidden]
        try:
            for action in hidden:
                action.help = SUPPRESS
            return format_all()
        finally:
            for action, text in zip(hidden, helps, strict=True):
                action.help = text

    vars(parser)["format_help"] = format_shown


class _LineKeepingFormatter(DefaultHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        lines = text.split("\n")
        # argparse would merge the list of schedules into one paragraph.
        return "\n".join(fill(line, width, indent + " " * (len(line) - len(line.lstrip()))) for line in lines)
