"""What may still be part of a better allocation, by Lagrangian relaxation.

The relaxation gives a loss B that no allocation is below, and for each choice (l, k) the loss
B + r[l, k] that none with this choice is below:

    r[l, k] = relaxed[l, k] - min_j relaxed[l, j],   relaxed = losses + sum_b mu_b costs_b

Where that is above the loss of a known allocation, the choice is out.
"""

import numpy as np

from omc.mixed_precision.lagrangian import multiplier

ROUNDING = 1e-12  # Of a loss: what sums in another order differ by.


def possible(problem, loss):
    """Which choices may be part of an allocation of less than a loss that is known.

    Args:
        problem: `Problem`.
        loss: Loss of an allocation that fits.

    Returns:
        (bool [variables, formats], how far below `loss` the bound is: 0 where it is the least).
    """
    multipliers = _multipliers(problem)
    gap = loss - problem.bound(multipliers)
    if gap <= ROUNDING * abs(loss):
        gap = -1.0  # Nothing is below; no choice is possible.
    relaxed = problem.relaxed(multipliers)
    reduced = relaxed - relaxed.min(axis=1, keepdims=True)
    return reduced <= gap * (1 + 1e-9) + ROUNDING * abs(loss) * (gap > 0), max(gap, 0.0)


def _multipliers(problem):
    """Lagrange multipliers of the budgets, from the linear relaxation; list of floats >= 0."""
    if len(problem.budgets) == 1:
        return [multiplier(problem) / max(problem.budgets[0].limit, 1)]
    from scipy.optimize import linprog

    variables, formats = problem.losses.shape
    one = np.repeat(np.eye(variables), formats, axis=1)
    scale = max(np.abs(problem.losses).max(), 1e-300)
    result = linprog(
        problem.losses.ravel() / scale,
        A_ub=np.array([b.costs.ravel() / max(b.limit, 1) for b in problem.budgets]),
        b_ub=np.ones(len(problem.budgets)),
        A_eq=one,
        b_eq=np.ones(variables),
        method="highs",
    )
    if result.status != 0:
        return [0.0] * len(problem.budgets)
    duals = np.maximum(-result.ineqlin.marginals, 0.0) * scale
    return [float(mu) / max(b.limit, 1) for mu, b in zip(duals, problem.budgets)]
