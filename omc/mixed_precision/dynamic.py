"""The least loss under one budget: dynamic programming with bounds (Dyer, Riha and Walker, 1995).

Allocation under one budget is the multiple-choice knapsack problem. Variable after variable, each
*state* is a choice for the variables so far, with the cost and the loss of them. A state goes

- where another one costs no more and loses no more;
- where its loss and the least that the linear relaxation gives the other variables, under what is
  left of the budget, are above the loss of an allocation that is known.

That relaxation is a convex function of what is left: steps along the variables' convex hulls, the
steepest first; where steps are taken whole it is an allocation, so that better ones become known
on the way. The variables that cost most come first, for the others are then nearly continuous
and the bound nearly exact. Costs are integers, so no budget is exceeded by rounding.
"""

import time

import numpy as np

from omc.mixed_precision.problem import Solution
from omc.mixed_precision.reduction import possible

_MOST_STATES = 1 << 24  # In all, 5 bytes each.
_ROUNDING = 1e-13  # Of the losses: what a bound may be too high by.


def solve(problem, best, deadline):
    """The least loss, where that takes neither too many states nor too long.

    Args:
        problem: `Problem` of one budget.
        best: Choices that fit.
        deadline: `time.monotonic()` at which to give up.

    Returns:
        `Solution`; that of `best`, not called optimal, after giving up.
    """
    (budget,), known = problem.budgets, problem.loss(best)
    allowed, gap = possible(problem, known)
    if not gap:
        return Solution(best, optimal=True)
    spread = np.ptp(np.where(allowed, budget.costs, budget.costs.min(axis=1)[:, None]), axis=1)
    order = np.argsort(-spread, kind="stable").tolist()
    bounds = _relaxations(problem, order)
    margin = _ROUNDING * (abs(known) + np.abs(problem.losses).max(axis=1).sum())
    costs, losses, steps = np.zeros(1, np.int64), np.zeros(1), []
    for variable, (takes, least) in zip(order, bounds):
        formats = np.flatnonzero(allowed[variable])
        cost = (costs[:, np.newaxis] + budget.costs[variable, formats]).ravel()
        loss = (losses[:, np.newaxis] + problem.losses[variable, formats]).ravel()
        left = budget.limit - cost
        low = loss + np.interp(left, takes, least)
        whole = np.searchsorted(takes, left, "right") - 1  # Steps taken whole are an allocation.
        known = np.min((loss + least[whole])[whole >= 0], initial=known)
        kept = np.flatnonzero((whole >= 0) & (low <= known + margin))
        kept = kept[np.lexsort((loss[kept], cost[kept]))]
        fewest = np.minimum.accumulate(loss[kept])
        kept = kept[np.concatenate([[True], loss[kept][1:] < fewest[:-1]])[: len(kept)]]
        if not len(kept):
            return Solution(best, optimal=True)
        costs, losses = cost[kept], loss[kept]
        before, place = np.divmod(kept, len(formats))
        steps.append((variable, before.astype(np.int32), formats[place].astype(np.uint8)))
        states = sum(len(step[1]) for step in steps)
        if states > _MOST_STATES or time.monotonic() > deadline:
            return Solution(best)
    found = _choices(steps, int(losses.argmin()))
    return Solution(min(best, found, key=problem.loss), optimal=True)


def _relaxations(problem, order):
    """For each variable the relaxation of those behind it: (costs, losses), a line of points."""
    (budget,) = problem.budgets
    cost, loss, slopes, widths = 0, 0.0, np.zeros(0), np.zeros(0)
    found = []
    for variable in reversed(order):
        takes = cost + np.concatenate([[0.0], np.cumsum(widths)])
        found.append((takes, loss - np.concatenate([[0.0], np.cumsum(slopes * widths)])))
        first, hull = _hull(budget.costs[variable], problem.losses[variable])
        cost, loss = (
            cost + int(budget.costs[variable, first]),
            loss + problem.losses[variable, first],
        )
        slopes = np.concatenate([slopes, [slope for slope, _ in hull]])
        widths = np.concatenate([widths, [width for _, width in hull]])
        steepest = np.argsort(-slopes, kind="stable")
        slopes, widths = slopes[steepest], widths[steepest]
    return found[::-1]


def _hull(costs, losses):
    """(cheapest format, [(slope, cost) of each step of the lower convex hull from there])."""
    first = current = int(np.lexsort((losses, costs))[0])
    hull = []
    while True:
        dearer = np.flatnonzero((costs > costs[current]) & (losses < losses[current]))
        if not len(dearer):
            return first, hull
        widths = (costs[dearer] - costs[current]).astype(float)
        slopes = (losses[current] - losses[dearer]) / widths
        steepest = int(np.lexsort((widths, -slopes))[0])
        hull.append((slopes[steepest], widths[steepest]))
        current = int(dearer[steepest])


def _choices(steps, state):
    """Choices of a last state, traced back through the steps."""
    choices = [0] * len(steps)
    for variable, before, formats in reversed(steps):
        choices[variable], state = int(formats[state]), int(before[state])
    return tuple(choices)
