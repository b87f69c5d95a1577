"""Allocations under the peak bytes of a training step, which somebody has to measure."""

import dataclasses

from omc.mixed_precision.allocation import BudgetUse
from omc.mixed_precision.limits import refuse_peak
from omc.mixed_precision.measuring import counted

_TRIES = 8


def within_peak(limit, step_peak, least, solve):
    """An allocation whose step keeps to a peak, and of those measured the one of the least loss.

        peak = stored bytes + overhead

    The overhead (activations, a layer's dense kernel and gradient, slots) is measured: it hardly
    depends on the formats, but not exactly not. So (ours) the narrowest allocation is measured, and
    the one that nothing but the other budgets holds; if that exceeds the limit, the stored bytes at
    which a straight line between the two reaches it, and so on between the last that kept it and
    the last that did not, up to 8 times.

    Args:
        limit: Most bytes.
        step_peak: Function of a Policy: peak bytes of a training step.
        least: Stored bytes of the narrowest allocation.
        solve: Function of a limit of stored bytes, or None, -> `Allocation`.

    Returns:
        `Allocation`, with the measured peak among its budgets. It is called optimal, and has a
        bound, only by what holds without the limit of stored bytes.

    Raises:
        InputError: The narrowest allocation's peak is above the limit, or `step_peak` returns no
            count of bytes.
    """
    low = _measured(solve(least), limit, step_peak)
    if _peak(low) > limit:
        refuse_peak(limit, _peak(low))
    free = high = _measured(solve(None), limit, step_peak)
    if _peak(free) <= limit:
        return free
    for _ in range(_TRIES):
        share = (limit - _peak(low)) / (_peak(high) - _peak(low))
        stored = low.stored_bytes + int(share * (high.stored_bytes - low.stored_bytes))
        tried = _measured(solve(max(stored, low.stored_bytes)), limit, step_peak)
        if tried.stored_bytes in (low.stored_bytes, high.stored_bytes):
            break
        if _peak(tried) <= limit:
            low = tried
        else:
            high = tried
    return dataclasses.replace(low, optimal=low.loss <= free.bound, bound=free.bound)


def _measured(allocation, limit, step_peak):
    use = BudgetUse("peak_bytes", limit, counted("step_peak", step_peak(allocation)))
    return dataclasses.replace(allocation, budgets=(*allocation.budgets, use))


def _peak(allocation):
    return allocation.budgets[-1].used
