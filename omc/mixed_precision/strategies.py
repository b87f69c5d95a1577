"""The strategies by name; any function Problem -> Solution is one."""

from omc import checks
from omc.errors import InputError, InputTypeError
from omc.mixed_precision.exact import Exact
from omc.mixed_precision.fixed import fixed
from omc.mixed_precision.greedy import greedy
from omc.mixed_precision.lagrangian import lagrangian
from omc.mixed_precision.problem import Solution
from omc.mixed_precision.pruning_growing import PruningGrowing

STRATEGIES = {
    "fixed": fixed,
    "pruning_growing": PruningGrowing(),
    "greedy": greedy,
    "lagrangian": lagrangian,
    "exact": Exact(),
}


def named(strategy):
    """(name, function) of a strategy that a user named or brought.

    Args:
        strategy: Key of `STRATEGIES` ("-" for "_" is fine), or a function Problem -> Solution.

    Raises:
        InputError: Another name, or something else.
    """
    if isinstance(strategy, str) and strategy.replace("-", "_") in STRATEGIES:
        name = strategy.replace("-", "_")
        return name, STRATEGIES[name]
    if isinstance(strategy, type) or not callable(strategy):
        tip = f"{strategy.__name__}(), say." if isinstance(strategy, type) else ""
        raise InputError("strategy", f"one of {tuple(STRATEGIES)} or a function", strategy, tip)
    for name, known in STRATEGIES.items():
        if strategy == known or type(strategy) is type(known) is not type(fixed):
            return name, strategy
    return getattr(strategy, "__name__", type(strategy).__name__), strategy


def checked(solution, problem):
    """What a strategy returned, if it is a `Solution` of the problem; a caller's may not be.

    Whether it is optimal is the strategy's own word.

    Args:
        solution: What came.
        problem: `Problem`.

    Raises:
        InputError: It is none, or exceeds a budget.
    """
    count, last = len(problem.counts), len(problem.formats) - 1
    expected = f"a function that returns a Solution of {count} places of formats, 0 to {last}"
    if not isinstance(solution, Solution):
        got = f"one that returned {type(solution).__name__}"
        raise InputError("strategy", expected, got)
    try:
        places = [checks.integer("strategy", place, "", 0, last) for place in solution.choices]
    except (InputError, InputTypeError, TypeError):
        places = []
    if len(places) != count:
        raise InputError("strategy", expected, f"one that returned {solution.choices!r}")
    for budget, used in zip(problem.budgets, problem.used(places)):
        if used > budget.limit:
            got = f"one that takes {used:,} of `{budget.name}`'s {budget.limit:,}"
            raise InputError("strategy", "a function that keeps every budget", got)
    return Solution(tuple(places), bool(solution.optimal))
