"""A schedule for every Trainer, by an environment variable and without a line of code."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lightning_lrsched.config.files import VARIABLE

if TYPE_CHECKING:
    from lightning_lrsched.trainer.scheduler_callback import LRSchedulerCallback


def callbacks() -> list[LRSchedulerCallback]:
    """Return the callback with the schedule in the file that ``LIGHTNING_LRSCHED_CONFIG`` names; unset: none.

    It is an entry point of the groups ``lightning.pytorch.callbacks_factory`` and
    ``pytorch_lightning.callbacks_factory``: each Trainer calls it when it is made.

    Raises:
        ValueError: if the file cannot be read, or something in it is wrong.

    Example:
        >>> callbacks()
        []
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return []
    # Only now: the installed package must not slow down those who do not use it.
    from lightning.pytorch.utilities import rank_zero_info  # noqa: PLC0415

    from lightning_lrsched.trainer.scheduler_callback import LRSchedulerCallback  # noqa: PLC0415

    try:
        callback = LRSchedulerCallback(path)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"environment variable {VARIABLE}: {error} (unset it to train without this file)") from error
    rank_zero_info(f"environment variable {VARIABLE}: this Trainer gets LRSchedulerCallback({path!r})")
    return [callback]
