"""LRSchedulerCLI: Lightning's command line with a ``scheduler:`` section and an ``lr_range_test`` subcommand."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

if find_spec("jsonargparse") is None:
    raise ImportError("LRSchedulerCLI needs jsonargparse: pip install 'jsonargparse[signatures]'")

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from lightning_lrsched.config.files import dump_mapping, read_mapping, write_text
from lightning_lrsched.config.scheduler_config import SchedulerConfig
from lightning_lrsched.optim.scheduled_lr import ScheduledLR
from lightning_lrsched.optim.schedulers import ONE_CYCLE, VALID_LR_SCHEDULES, WARMUP_DECAY_LR
from lightning_lrsched.range_test.record import MIN_STEPS, RangeTestResult
from lightning_lrsched.range_test.report import count_steps
from lightning_lrsched.schedules.errors import choice, count
from lightning_lrsched.schedules.length import is_word
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.range_test_callback import LRRangeTestCallback
from lightning_lrsched.trainer.scheduler_callback import LRSchedulerCallback

SCHEDULER_HELP = (
    "the schedule: type and params as in DeepSpeed, or the path of a JSON or YAML file that has them. Flags override"
    " single values of a section in a --config file (--scheduler.params.warmup_num_steps 100). A length is a number of"
    ' optimizer steps, a fraction of the run, epochs ("2ep") or "auto". Types:'
    f" {', '.join(VALID_LR_SCHEDULES)}, and those of torch. If a type does not have a key, the error lists its keys."
)

NO_SCHEDULE = (
    "LRSchedulerCLI: there is no section scheduler, so only the module and its optimizer set the learning rate. To"
    " schedule it, add --scheduler FILE. To find it, too, add lightning_lrsched.LRSchedulerCallback to"
    " trainer.callbacks"
)


class LRSchedulerCLI(LightningCLI):
    """LightningCLI whose schedules run per optimizer step, with the module and its YAML free of scheduler code.

    In addition to what LightningCLI offers:

    * a section ``scheduler:`` at the top, ``{type, params}`` or the path of a file (a DeepSpeed configuration, for
      example); an :class:`~lightning_lrsched.LRSchedulerCallback` applies it;
    * a scheduler in Lightning's own section ``lr_scheduler:`` advances after every optimizer step, not every epoch
      (ReduceLROnPlateau excepted: it follows a metric);
    * the subcommand ``lr_range_test``, which writes a ``scheduler.yaml`` for ``fit --config scheduler.yaml``.

    Where none of these schedules the learning rate, a line says so.

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

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the section ``scheduler``."""
        group = parser.add_argument_group("Learning rate and momentum, per optimizer step")
        group.add_argument("--scheduler", type=SchedulerConfig | str | None, default=None, help=SCHEDULER_HELP)

    def before_instantiate_classes(self) -> None:
        """Check the section and the range test like any other argument: an error message, no traceback."""
        try:
            self._scheduler = self._read_scheduler()
            if self.subcommand == "lr_range_test":
                arguments = self.config[self.subcommand]
                names = self._subcommand_method_arguments[self.subcommand]
                _checked(**{name: arguments[name] for name in names})
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
        elif self.subcommand in (None, "fit") and not self._is_scheduled(trainer):
            rank_zero_info(NO_SCHEDULE)
        return trainer

    def _is_scheduled(self, trainer: Any) -> bool:
        """Return whether a callback, or LightningCLI's own section, schedules the learning rate."""
        ours = any(isinstance(callback, LRSchedulerCallback) for callback in trainer.callbacks)
        return ours or self._get(self.config_init, "lr_scheduler") is not None

    @staticmethod
    def configure_optimizers(lightning_module: Any, optimizer: Optimizer, lr_scheduler: Any = None) -> Any:
        """Return optimizer and scheduler as Lightning wants them, the scheduler stepped per optimizer step."""
        if lr_scheduler is None or isinstance(lr_scheduler, ReduceLROnPlateau):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        trainer = lightning_module.trainer
        if isinstance(lr_scheduler, ScheduledLR):
            clock = clock_of(trainer)
            clock.build(trainer, optimizer, lambda: lr_scheduler)
            clock.follow(lr_scheduler)
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
        total_num_steps: int | str = "auto",
        **range_test: Any,
    ) -> RangeTestResult:
        """Runs an LR range test and writes the schedule that it suggests.

        Args:
            model: the module.
            train_dataloaders: its data.
            datamodule: or its datamodule.
            output: file to write, missing folders are made; ``fit --config`` takes it, also after another ``--config``.
            schedule: which schedule to write.
            total_num_steps: length of the training to come [optimizer steps], at least 10; ``"auto"``: lengths are
                written as fractions of the run, and fit any.
            **range_test: as for :class:`~lightning_lrsched.LRRangeTestCallback`.

        Raises:
            ValueError: if a value is wrong, or the test shows no learning rate; the message says what to change.
        """
        test, total = _checked(output, schedule, total_num_steps, **range_test)
        if self.is_global_zero:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        trainer: Any = self
        callbacks = trainer.callbacks
        # The schedule of the training, as its configuration has it, is what the test replaces.
        others = [callback for callback in callbacks if not isinstance(callback, LRSchedulerCallback)]
        trainer.callbacks = [*others, test]
        try:
            self.fit(model, train_dataloaders=train_dataloaders, datamodule=datamodule)
        finally:
            trainer.callbacks = callbacks
        result = test.result
        assert result is not None
        section = result.one_cycle(total) if schedule == ONE_CYCLE else result.warmup_decay(total)
        if self.is_global_zero:
            wrote = "replaced" if Path(output).exists() else "wrote"
            write_text(output, _describe(result, total) + dump_mapping({"scheduler": section}, "yaml"))
            low, high = result.bounds()
            length = "as long as its run" if total is None else f"over {total} steps"
            rank_zero_info(
                f"LR range test: learning rates {low:.3g} to {high:.3g} for {schedule}, {length}; {wrote} {output}. To"
                f" train with it, add --config {output} to the arguments of fit, as the last --config"
            )
        return result


def _checked(
    output: str, schedule: str, total_num_steps: int | str, **range_test: Any
) -> tuple[LRRangeTestCallback, int | None]:
    """Return test and total; checked first: a mistake found later would lose the result."""
    choice("schedule", schedule, (ONE_CYCLE, WARMUP_DECAY_LR))
    if Path(output).is_dir():
        raise ValueError(f"output must be the name of a file, and {output} is a folder")
    auto = is_word(total_num_steps, "auto")
    total = None if auto else count("total_num_steps", total_num_steps, at_least=MIN_STEPS, or_else=', or "auto"')
    return LRRangeTestCallback(**range_test), total


def _describe(result: RangeTestResult, total: int | None) -> str:
    low, high = result.bounds()
    length = "a training of any length" if total is None else f"a training of {total} optimizer steps"
    return (
        f"# From an LR range test of {count_steps(result)} steps (ended by: {result.stop_reason}): its bounds for"
        f" 1Cycle are the lrs {low:.3g} and {high:.3g}.\n# For {length}.\n"
    )


def _check(content: Mapping[str, object], prefix: str) -> SchedulerConfig:
    try:
        return SchedulerConfig.of(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{prefix}{error}") from None
