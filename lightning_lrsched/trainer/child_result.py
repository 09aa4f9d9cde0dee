"""ChildResult: brings the result of a range test back from the child processes of ddp_spawn, ddp_fork, ddp_notebook.

Lightning brings back weights, metrics and the path of the best checkpoint, but nothing that a callback has learned.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning_lrsched.range_test.record import RangeTestResult
from lightning_lrsched.trainer.protocol import TrainerLike


class ChildResult:
    """A temporary file in which the first child process leaves a result for the process that made the callback.

    Its name is chosen here and known to the children, whether they are forked or get a pickled copy of the callback.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"lightning_lrsched-{uuid4().hex}.json"
        weakref.finalize(self, _remove, self._path, self._owner)

    def __deepcopy__(self, memo: Any) -> ChildResult:
        return ChildResult()  # a copied callback runs tests of its own

    def begin(self, trainer: TrainerLike) -> None:
        """Forget the result of an earlier test."""
        if os.getpid() == self._owner:
            self._path.unlink(missing_ok=True)
        elif self._is_first_child(trainer):
            self._path.write_text("")  # a test has begun, so that none of an earlier one is shown

    def leave(self, trainer: TrainerLike, result: RangeTestResult) -> None:
        """Leave the result for the parent, in the first of its child processes."""
        if self._is_first_child(trainer):
            result.save(self._path, overwrite=True)

    def instead_of(self, own: RangeTestResult | None) -> RangeTestResult | None:
        """Return what a child has left, if the last test ran in one; else this process's own result."""
        if os.getpid() != self._owner or not self._path.exists():
            return own
        # Empty where the test did not come to its end.
        return RangeTestResult.load(self._path) if self._path.stat().st_size else None

    def _is_first_child(self, trainer: TrainerLike) -> bool:
        parent = multiprocessing.parent_process()
        # Of each node: every node's parent has a file of its own.
        return parent is not None and parent.pid == self._owner and trainer.local_rank == 0


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has the same object
        path.unlink(missing_ok=True)
