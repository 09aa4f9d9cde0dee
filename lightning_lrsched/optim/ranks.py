"""In a run on several processes: one warning, not one from each."""

from __future__ import annotations

import warnings

import torch


def warn(message: str, *, stacklevel: int) -> None:
    """Give a warning, on the first of several ranks only.

    Args:
        message: the warning.
        stacklevel: as for ``warnings.warn`` in the caller.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_rank() == 0:
        warnings.warn(message, stacklevel=stacklevel + 1)
