"""Small allocation problems, and all their allocations tried one by one."""

import itertools

import numpy as np
from hypothesis import strategies as st

from omc.formats import Format
from omc.mixed_precision import Budget, Problem

INTEGERS = tuple(Format.parse(f"INT{bits}") for bits in range(2, 9))


def problem(losses, *budgets, formats=None, counts=None):
    """A `Problem` from nested lists; each budget is (costs, limit)."""
    losses = np.array(losses, float)
    formats = formats or INTEGERS[: losses.shape[1]]
    named = (Budget(f"b{i}", np.array(costs), limit) for i, (costs, limit) in enumerate(budgets))
    return Problem(formats, counts or (1,) * len(losses), losses, tuple(named))


def by_bits(losses, counts, bits, formats):
    """A `Problem` under an average width, as `allocate(bits=...)` poses it."""
    costs = np.outer(counts, [fmt.bits for fmt in formats])
    limit = int(np.floor(bits * sum(counts)))
    return problem(losses, (costs, limit), formats=formats, counts=tuple(counts))


def tried(problem):
    """Dict of every allocation that fits -> its loss."""
    width = range(problem.losses.shape[1])
    found = {}
    for choices in itertools.product(width, repeat=len(problem.counts)):
        used = [sum(b.costs[v][k] for v, k in enumerate(choices)) for b in problem.budgets]
        if all(u <= b.limit for u, b in zip(used, problem.budgets)):
            found[choices] = sum(problem.losses[v][k] for v, k in enumerate(choices))
    return found


@st.composite
def problems(draw, most_budgets=2, feasible=True):
    """Problems of any losses and costs, which no real codec would have; few fit by much."""
    variables, formats = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    one = st.lists(st.integers(0, 40), min_size=formats, max_size=formats)
    table = st.lists(one, min_size=variables, max_size=variables)
    losses = draw(table)
    scale = draw(st.sampled_from([1e-9, 1.0, 1e9]))
    budgets = []
    for _ in range(draw(st.integers(1, most_budgets))):
        costs = np.array(draw(table)) + 1
        low, high = int(costs.min(axis=1).sum()), int(costs.max(axis=1).sum())
        budgets.append((costs, draw(st.integers(low, high))))
    found = problem(np.array(losses) * scale, *budgets)
    if feasible and not found.fits(found.least):
        # As much of every budget as one allocation takes.
        budgets = [
            (costs, max(limit, used))
            for (costs, limit), used in zip(budgets, found.used(found.least))
        ]
        found = problem(np.array(losses) * scale, *budgets)
    return found
