"""Greedy: the cheapest formats first, then the step that saves most loss for its price."""

import heapq

from omc.mixed_precision.problem import Solution


def greedy(problem):
    """Upgrades along each variable's convex hull of (price, loss), the steepest step first.

    With one budget the steps are those of the linear relaxation, so that the loss is above the
    least by no more than what the step saves at which the budget ends. A variable whose next step
    does not fit stays as it is; smaller steps of others are still taken.

    Args:
        problem: `Problem` whose `least` choices fit.

    Returns:
        `Solution`.
    """
    choices, used = list(problem.least), list(problem.used(problem.least))
    steps = []

    def offer(variable):
        step = _steepest(problem.price[variable], problem.losses[variable], choices[variable])
        if step is not None:
            heapq.heappush(steps, (-step[0], variable, step[1]))

    for variable in range(len(choices)):
        offer(variable)
    while steps:
        _, variable, wider = heapq.heappop(steps)
        rows = [budget.costs[variable] for budget in problem.budgets]
        after = [u + int(row[wider] - row[choices[variable]]) for u, row in zip(used, rows)]
        if all(u <= budget.limit for u, budget in zip(after, problem.budgets)):
            choices[variable], used = wider, after
            offer(variable)
    return Solution(tuple(choices))


def _steepest(price, loss, current):
    """(slope, format) of the next point of the lower convex hull, or None at its end."""
    slopes = [
        ((loss[current] - loss[k]) / (price[k] - price[current]), -price[k], k)
        for k in range(len(price))
        if price[k] > price[current] and loss[k] < loss[current]
    ]
    return max(slopes)[::2] if slopes else None
