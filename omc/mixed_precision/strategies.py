"""The strategies by name; any function Problem -> Solution is one."""

from omc.errors import InputError
from omc.mixed_precision.exact import Exact
from omc.mixed_precision.fixed import fixed
from omc.mixed_precision.greedy import greedy
from omc.mixed_precision.lagrangian import lagrangian
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
    if not callable(strategy):
        raise InputError("strategy", f"one of {tuple(STRATEGIES)} or a function", strategy)
    for name, known in STRATEGIES.items():
        if strategy == known or type(strategy) is type(known) is not type(fixed):
            return name, strategy
    return getattr(strategy, "__name__", type(strategy).__name__), strategy
