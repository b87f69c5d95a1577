"""Lagrangian: every variable for itself, at one price of a byte for all (as llama.cpp's)."""

import numpy as np

from omc.mixed_precision.problem import Solution

_HALVINGS = 100


def lagrangian(problem):
    """For each variable argmin_k losses[l, k] + mu * price[l, k], with the least mu that fits.

    mu is found by bisection. What is left of the budget below the next allocation of this kind is
    not used, which among equal variables may be much: they all move at once. (llama.cpp's
    `--target-size`, ggml-org/llama.cpp#15550, searches mu likewise.)

    Args:
        problem: `Problem` whose `least` choices fit.

    Returns:
        `Solution`.
    """
    return Solution(_search(problem)[0])


def multiplier(problem):
    """The mu of `lagrangian` (float), a multiplier of the price; 0 where no budget binds."""
    return _search(problem)[1]


def _search(problem):
    losses, price = problem.losses, problem.price
    order = np.argsort(price, axis=1, kind="stable")  # Of equals the cheapest.
    ordered = np.take_along_axis(losses, order, 1), np.take_along_axis(price, order, 1)

    def choose(mu):
        best = np.argmin(ordered[0] + mu * ordered[1], axis=1)
        return tuple(order[problem.rows, best].tolist())

    low, choices = 0.0, choose(0.0)
    if problem.fits(choices):
        return choices, low
    steps = np.diff(ordered[1], axis=1)
    if not steps.any():
        return problem.least, low
    high = 2.0 * np.ptp(losses) / steps[steps > 0].min()  # More than any step can save.
    choices = choose(high)
    if not problem.fits(choices):  # What is cheapest in sum need not keep each of the budgets.
        return problem.least, low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = choose(middle)
        if problem.fits(tried):
            high, choices = middle, tried
        else:
            low = middle
    return choices, high
