"""Fixed: one format throughout, the widest that fits (AQFL's way in FedMPQ, CVPR 2024)."""

from omc.errors import InputError
from omc.mixed_precision.problem import Solution


def fixed(problem):
    """The widest uniform allocation in the budgets; of equally wide formats that of less loss.

    Args:
        problem: `Problem`.

    Returns:
        `Solution`.

    Raises:
        InputError: No single format fits, although a mixture does.
    """
    choices = widest_uniform(problem)
    if choices is None:
        budget = problem.budgets[0]
        least = min(problem.used(_uniform(problem, k))[0] for k in range(len(problem.formats)))
        raise InputError(
            budget.name,
            "budgets that one format throughout can keep",
            f"a limit of {budget.limit:,} for its variables, of which it takes {least:,} or more",
            "another strategy mixes formats.",
        )
    return Solution(choices)


def widest_uniform(problem):
    """Choices of the widest format that fits everywhere, or None."""
    fitting = [
        (-fmt.bits, problem.loss(_uniform(problem, index)), index)
        for index, fmt in enumerate(problem.formats)
        if problem.fits(_uniform(problem, index))
    ]
    return _uniform(problem, min(fitting)[2]) if fitting else None


def _uniform(problem, index):
    return (index,) * len(problem.counts)
