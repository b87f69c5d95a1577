"""Allocations under the peak bytes of a training step, which somebody has to measure."""

import dataclasses

from omc.mixed_precision.allocation import BudgetUse
from omc.mixed_precision.limits import refuse_peak

_TRIES = 8


def within_peak(limit, step_peak, least, solve):
    """An allocation whose step keeps to a peak.

        peak = stored bytes + overhead

    The overhead (activations, a layer's dense kernel and gradient, slots) is measured: it hardly
    depends on the formats, but not exactly not. So the narrowest allocation's overhead says how
    many bytes may be stored; the allocation for that is measured itself, and while it is above the
    limit, its own overhead takes the place of the other, smaller one (ours). After 8 tries the
    narrowest allocation has to do.

    Args:
        limit: Most bytes.
        step_peak: Function of a Policy: peak bytes of a training step.
        least: Stored bytes of the narrowest allocation.
        solve: Function of a limit of stored bytes -> `Allocation`.

    Returns:
        `Allocation`, with the measured peak among its budgets.

    Raises:
        InputError: The narrowest allocation's peak is above the limit.
    """
    narrowest = tried = _measured(solve(least), limit, step_peak)
    if narrowest.budgets[-1].used > limit:
        refuse_peak(limit, narrowest.budgets[-1].used)
    for _ in range(_TRIES):
        overhead = tried.budgets[-1].used - tried.stored_bytes
        tried = _measured(solve(max(int(limit) - overhead, least)), limit, step_peak)
        if tried.budgets[-1].used <= limit:
            return tried
    return narrowest


def _measured(allocation, limit, step_peak):
    use = BudgetUse("peak_bytes", limit, int(step_peak(allocation)))
    return dataclasses.replace(allocation, budgets=(*allocation.budgets, use))
