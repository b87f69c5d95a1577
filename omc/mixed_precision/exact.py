"""Exact: the least loss of all allocations in the budgets, proven."""

import dataclasses
import time

from omc import checks
from omc.mixed_precision import dynamic, programme
from omc.mixed_precision.fixed import widest_uniform
from omc.mixed_precision.greedy import greedy
from omc.mixed_precision.lagrangian import lagrangian
from omc.mixed_precision.pruning_growing import PruningGrowing


@dataclasses.dataclass(frozen=True)
class Exact:
    """The allocation of the least loss; never worse than another strategy's.

    It starts from the best of the others. Under one budget it is found by dynamic programming
    (`dynamic`), without a solver's tolerances; under several, or where that takes too many states,
    by the integer programme (`programme`, with scipy).

    Attributes:
        time_limit: Seconds after which the best allocation so far has to do; it is then not called
            optimal.

    Raises:
        InputTypeError, InputError: `time_limit` is no number from 0.
    """

    time_limit: float = 30.0

    def __post_init__(self):
        checks.real("time_limit", self.time_limit, "seconds, from 0", lambda v: v >= 0)

    def __call__(self, problem):
        """`Solution` of a `Problem`.

        Raises:
            InputError: No allocation keeps all budgets together; or scipy is needed and absent.
        """
        deadline = time.monotonic() + self.time_limit
        best = incumbent(problem)
        if best is not None and len(problem.budgets) == 1:
            solution = dynamic.solve(problem, best, deadline)
            if solution.optimal:
                return solution
        return programme.solve(problem, best, deadline)


def incumbent(problem):
    """The best of the other strategies' allocations that fits, or None.

    Args:
        problem: `Problem`.
    """
    if not problem.fits(problem.least):
        return None
    others = (greedy, lagrangian, PruningGrowing())
    found = [problem.least, *(strategy(problem).choices for strategy in others)]
    uniform = widest_uniform(problem)
    return min(found + [uniform] * (uniform is not None), key=problem.loss)
