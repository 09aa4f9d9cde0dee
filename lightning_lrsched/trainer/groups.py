"""Param groups that come and go while a schedule is attached, as callbacks that unfreeze layers add them."""

from __future__ import annotations

import math
from typing import Any

from lightning_lrsched.optim.hyperparameters import LR
from lightning_lrsched.optim.scheduled_lr import SCALE, ScheduledLR


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
        self._known = set(map(_identity, self._groups))

    @property
    def have_changed(self) -> bool:
        """Whether others may have come or gone since the last look; cheap enough for every step."""
        groups = self._schedule.optimizer.param_groups
        return groups is not self._groups or len(groups) != self._size or groups[-1] is not self._last

    def update(self, *, finetuned: bool) -> str | None:
        """Look at the groups, let the schedule write those that there are now, and return what has changed.

        Args:
            finetuned: whether a callback goes on to set the lr of groups that it has added.
        """
        known = self._known
        self._note()
        groups = self._groups
        added = [group for group in groups[1:] if _identity(group) not in known]
        gone = len(known - self._known)
        ratios = [self._keep_ratio(group) for group in added]
        if finetuned:
            self._follow_callback([group for group in groups[1:] if _identity(group) in known])
        self._schedule.rebind()
        if not added and not gone:
            return None
        kept = f"; those added keep the ratio of their lr to that of the first: {_listed(ratios)}" if added else ""
        return f"{len(added)} param groups were added and {gone} removed{kept}"

    def _keep_ratio(self, group: dict[str, Any]) -> float:
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

    def _follow_callback(self, groups: list[dict[str, Any]]) -> None:
        """Take over the ratios of groups whose lr a callback has set since the last step."""
        lrs = self._schedule.lr_at(self._schedule.last_epoch)
        written = dict(zip(map(_identity, self._groups), lrs, strict=True))
        for group in groups:
            before, now = written[_identity(group)], float(group[LR])
            if before > 0 and not math.isclose(before, now, rel_tol=1e-6):
                group[SCALE] = float(group.get(SCALE, 1.0)) * now / before


def _identity(group: dict[str, Any]) -> int:
    return id(group["params"][0]) if group["params"] else id(group)


def _listed(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.3g}" for ratio in dict.fromkeys(ratios))
