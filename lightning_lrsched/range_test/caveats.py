"""Reasons to doubt the suggestions of a range test, each as a sentence with its remedy."""

from __future__ import annotations

from lightning_lrsched.range_test.suggestions import EDGE_LAG, MAX_LAG_FACTOR, Curve

HARDLY_FELL = 0.01
"""Fraction of the loss; a smaller fall is a plateau, where a test that stopped itself has stopped too early."""

SURE_LOSSES = 30


def caveats(curve: Curve) -> list[str]:
    """Return, as sentences, what makes the suggestions from this record less certain."""
    if curve.is_flat:
        return [
            f"The loss never fell: the suggestions are what is known of the optimizer (prior {curve.prior:.3g}), or"
            " half the lr at which the test ended. Look for the cause in the module or its data, or begin at a lower lr"
            " (lr_range_test_min_lr)."
        ]
    checks = (_stopped_early, _not_turned, _noisy, _coarse, _short)
    return [caveat for check in checks if (caveat := check(curve)) is not None]


def _stopped_early(curve: Curve) -> str | None:
    hardly_fell = curve.fall < HARDLY_FELL * abs(curve.start)
    if not curve.stopped_itself or (curve.climb() is not None and not hardly_fell):
        return None
    return (
        f"The test stopped itself at lr {curve.lrs[-1]:.3g}, after a fall of the loss by only {curve.fall:.3g}:"
        f" {_follow(curve, 'the suggestions may be far too low')}. Let only a loss that is not finite stop it"
        " (divergence_factor=float('inf'))."
    )


def _not_turned(curve: Curve) -> str | None:
    if curve.climb() is not None or curve.stopped_itself:
        return None
    return (
        f"The loss had not turned upwards when the test ended at lr {curve.lrs[-1]:.3g}:"
        f" {_follow(curve, 'the suggestions are lower bounds')}. Raise max_lr, or let the lr grow faster."
    )


def _noisy(curve: Curve) -> str | None:
    if curve.fall >= curve.noise:
        return None
    return (
        f"The loss fell by {curve.fall:.3g}, less than the noise of a single loss ({curve.noise:.3g}):"
        f" {_follow(curve, 'the suggestions are uncertain')}. Take larger batches, or combine several tests"
        " (RangeTestResult.combine)."
    )


def _follow(curve: Curve, without_prior: str) -> str:
    """Return what a record that says little means for the suggestions."""
    if curve.prior is None:
        return without_prior
    return f"the suggestions follow mostly what is known of the optimizer (prior {curve.prior:.3g})"


def _coarse(curve: Curve) -> str | None:
    lag, spacing = curve.lag_and_spacing()
    if max(lag, spacing) <= MAX_LAG_FACTOR:
        return None
    if spacing > lag:
        return (
            f"The lr grew by a factor of {spacing:.2g} from one recorded loss to the next: the suggestions are"
            " uncertain by as much. Validate more often (Trainer(val_check_interval=...)), or raise num_steps."
        )
    return (
        f"The lr grew by a factor of {lag:.2g} in the {EDGE_LAG} optimizer steps that the loss needs to show it: the"
        " sweep is too coarse to say where the loss turned. Raise num_steps."
    )


def _short(curve: Curve) -> str | None:
    if len(curve.losses) < SURE_LOSSES:
        return (
            f"The suggestions rest on only {len(curve.losses)} losses. Make the test longer (num_steps); with monitor,"
            " validate more often (Trainer(val_check_interval=...))."
        )
    if curve.edge() < 10.0 * curve.lowest:
        return (
            f"The loss turned less than a decade above the lowest lr, {curve.lowest:.3g}: the test is too short to show"
            " where it fell. Begin at a lower lr (lr_range_test_min_lr)."
        )
    return None
