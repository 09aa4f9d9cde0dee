"""new_figure: matplotlib's figure, or the word on how to install matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib is optional
    except ImportError:
        raise ImportError("a picture needs matplotlib: pip install 'lightning-lrsched[plots]'") from None
    return Figure(figsize=(width, height), layout="constrained")
