"""The integer programme of an allocation, solved by HiGHS through scipy.optimize.milp.

    min sum losses[l, k] x[l, k]   s.t.   sum_k x[l, k] = 1,   sum costs_b[l, k] x[l, k] <= limit_b,
    x[l, k] in {0, 1}

Floating-point solvers stop at a gap (1e-4 of the optimum in scipy 1.9, which does not hand on
`mip_rel_gap`) and keep rows to a tolerance. So (ours):

- The programme has no x[l, k] that cannot be 1 in any better allocation, see `reduction`.
- The objective is shifted and scaled so that the incumbent is at 0 and the bound at -1e3, and the
  search goes on from each better allocation until no gap above 1e-9 of the first is left.
- What comes back is checked in integers. An allocation that exceeds a budget is cut off by a row of
  its own, and the programme solved again.
"""

import importlib.util
import time

import numpy as np

from omc.errors import InputError
from omc.mixed_precision.problem import Solution
from omc.mixed_precision.reduction import possible

_SPAN = 1e3  # Of the objective, between bound and incumbent.
_CLOSED = 1e-6  # A gap of the objective that HiGHS leaves at the best: its absolute tolerance.


def solve(problem, best, deadline):
    """The least loss, from an incumbent on.

    Args:
        problem: `Problem`.
        best: Choices that fit, or None where none are known.
        deadline: `time.monotonic()` at which the best so far has to do.

    Returns:
        `Solution`.

    Raises:
        InputError: scipy is not installed, or no allocation keeps all budgets together.
    """
    _check_scipy()
    while True:
        core = _Core(problem, best)
        if not len(core.choices):
            return Solution(best, optimal=True)
        found, finished, gap = _found(core, deadline)
        if best is None and found is None:
            _refuse(problem, finished)
        if found is None or (best is not None and problem.loss(found) >= problem.loss(best)):
            return Solution(best, finished)
        best = found
        if not finished or gap <= _CLOSED:
            return Solution(best, finished)


def _check_scipy():
    if importlib.util.find_spec("scipy") is None:
        tip = "pip install scipy, or strategy='greedy', which is seldom far off."
        raise InputError(
            "strategy", "scipy, for 'exact' under several budgets", "no such package", tip
        )


def _refuse(problem, proven):
    names = " and ".join(f"`{budget.name}`" for budget in problem.budgets)
    expected = f"limits that an allocation can keep together: {names}"
    got = "limits that none keeps" if proven else "limits for which none was found in time"
    raise InputError(problem.budgets[0].name, expected, got, "raise one of them.")


class _Core:
    """What is left to decide.

    Attributes:
        problem: The `Problem`.
        choices: int [choices, 2], the (variable, format) that a better allocation may have, of the
            variables that still have several.
        settled: Format of the others, an int a variable.
        objective: float64, one a choice; sums up to 0 over the incumbent.
    """

    def __init__(self, problem, best):
        allowed, span = np.ones(problem.losses.shape, bool), np.ptp(problem.losses)
        if best is not None:
            allowed, span = possible(problem, problem.loss(best))
        several = allowed.sum(axis=1) > 1
        self.problem = problem
        self.settled = allowed.argmax(axis=1)
        self.choices = np.argwhere(allowed & several[:, np.newaxis])
        # From each variable's own, so that little differences stay exact.
        base = self.settled if best is None else np.array(best)
        losses = problem.losses - problem.losses[problem.rows, base][:, np.newaxis]
        self.objective = losses[tuple(self.choices.T)] * (_SPAN / span if span else 1.0)

    def rows(self, cut_off):
        """Constraints of the programme: a format a variable, the budgets, allocations cut off."""
        from scipy.optimize import LinearConstraint

        variables, place = np.unique(self.choices[:, 0], return_inverse=True)
        one = np.arange(len(variables))[:, np.newaxis] == place
        rows = [LinearConstraint(one.astype(float), 1, 1)]
        others = np.setdiff1d(self.problem.rows, variables)
        for budget in self.problem.budgets:
            costs = budget.costs[tuple(self.choices.T)]
            limit = budget.limit - int(budget.costs[others, self.settled[others]].sum())
            unit = int(np.gcd.reduce(costs)) or 1
            rows.append(LinearConstraint(costs[np.newaxis] / unit, -np.inf, limit // unit))
        for chosen in cut_off:
            row = chosen[np.newaxis].astype(float)
            rows.append(LinearConstraint(row, -np.inf, chosen.sum() - 1))
        return rows

    def picked(self, x):
        """bool a choice: the largest x of each variable."""
        table = np.full(self.problem.losses.shape, -np.inf)
        table[tuple(self.choices.T)] = x
        chosen = table.argmax(axis=1)
        return chosen[self.choices[:, 0]] == self.choices[:, 1]

    def complete(self, chosen):
        """Choices of all variables, from a bool a choice of the core."""
        found = self.settled.copy()
        variables, formats = self.choices[chosen].T
        found[variables] = formats
        return tuple(found.tolist())


def _found(core, deadline):
    """What HiGHS finds in time.

    Returns:
        (choices in the budgets or None, whether the search came to its end, gap of the objective
        that it leaves open).
    """
    from scipy.optimize import Bounds, milp

    cut_off = []
    while (left := deadline - time.monotonic()) > 0:
        result = milp(
            core.objective,
            integrality=np.ones(len(core.choices)),
            bounds=Bounds(0, 1),
            constraints=core.rows(cut_off),
            options={"time_limit": left},
        )
        if result.x is None:
            return None, result.status == 2, 0.0  # 2: there is none.
        chosen = core.picked(result.x)
        if core.problem.fits(choices := core.complete(chosen)):
            return choices, result.status == 0, result.fun - result.mip_dual_bound
        cut_off.append(chosen)
    return None, False, 0.0
