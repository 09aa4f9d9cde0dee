"""LRProbe: a probe at the start of a fit, which leaves no trace; what it has found goes to log and loggers."""

# The hooks take the Trainer that is used, TrainerLike; see scheduler_callback.py.
# mypy: disable-error-code="override"
from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_lrsched.optim.snapshot import global_states
from lightning_lrsched.range_test.probe import Probe, ProbeResult
from lightning_lrsched.trainer.board import show_probe
from lightning_lrsched.trainer.deepspeed import clock_of
from lightning_lrsched.trainer.fit_state import FitState, RandomStates, set_limits
from lightning_lrsched.trainer.protocol import TrainerLike, is_a, is_automatic
from lightning_lrsched.trainer.reporting import add_note, log


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
    """

    def __init__(self, start: RandomStates, started: Sequence[Any]) -> None:
        self._start, self._started = start, started
        self._probe: Any = None
        self._calls: list[tuple[tuple[Any, ...], list[Callable[[], object]]]] = []
        self._stepped = False

    def run(self, trainer: TrainerLike, pl_module: Any, *, log_result: bool) -> ProbeResult:
        """Make the probe and put everything back.

        Raises:
            ValueError: if it finds nothing, and nothing is known of the optimizer.
        """
        self._state = FitState(trainer, self._start)
        try:
            left_out = self._state.set_aside(self, self._start_batch, self._started)
            if left_out:
                log(trainer, f"LR probe: without {', '.join(left_out)}, which would stop it or change weights or lr")
            self._state.capture(pl_module)
            self._state.set_data_aside()
            set_limits(trainer, min_epochs=None, min_steps=None, max_epochs=-1, max_steps=-1, limit_val_batches=0)
            self._probe, self._marked = Probe(pl_module, trainer.optimizers[0]), False
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
        result: ProbeResult = self._probe.result()
        if self._probe.refused:
            lr, error = self._probe.refused
            what = f"at lr {lr:.3g} the module raised {type(error).__name__} ({str(error)[:200]})"
            log(trainer, f"LR probe: {what}, which counts as a loss that is not finite")
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

    def _note_call(self, *args: Any) -> Any:
        """Call the module's training_step, and remember with what: Lightning passes what its signature asks for."""
        self._calls.append((args, global_states()))
        return self._training_step(*args)

    def on_before_optimizer_step(self, trainer: TrainerLike, pl_module: Any, optimizer: Any) -> None:
        self._stepped = True
        self._probe.before_step()

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._stepped:
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
                returned = self._training_step(*args)
                loss = returned if isinstance(returned, Tensor) else (returned or {}).get("loss")
                if loss is not None:
                    losses.append(loss.detach().float())
        return torch.stack(losses).mean() if losses else torch.tensor(torch.nan, device=trainer.strategy.root_device)
