"""The allocation problem: one format a variable, the least loss, every budget kept."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np


class Budget(NamedTuple):
    """One limit that an allocation keeps, in integers, so that keeping it is no matter of rounding.

    Attributes:
        name: Argument of `omc.allocate` that set it.
        costs: int64 [variables, formats].
        limit: Most that the costs may sum up to (int).
    """

    name: str
    costs: np.ndarray
    limit: int


class Solution(NamedTuple):
    """What a strategy found.

    Attributes:
        choices: Tuple with the index of a format for each variable.
        optimal: Whether it is proven that no allocation in the budgets has a smaller loss.
    """

    choices: tuple
    optimal: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Choose a format k_l for each variable l:

        min sum_l losses[l, k_l]   subject to   sum_l costs_b[l, k_l] <= limit_b  for each budget b

    A strategy is a function Problem -> Solution.

    Attributes:
        formats: Tuple of Format, narrowest first.
        counts: Tuple with the weights of each variable.
        losses: float64 [variables, formats].
        budgets: Tuple of Budget, at least one.
    """

    formats: tuple
    counts: tuple
    losses: np.ndarray
    budgets: tuple

    @property
    def rows(self):
        """Index of every variable, to pick one element a row."""
        return np.arange(len(self.counts))

    def loss(self, choices):
        """Loss of an allocation (float), summed without error."""
        return math.fsum(self.losses[self.rows, list(choices)])

    def used(self, choices):
        """What an allocation takes of each budget: tuple of ints."""
        return tuple(int(b.costs[self.rows, list(choices)].sum()) for b in self.budgets)

    def fits(self, choices):
        """Whether an allocation keeps every budget."""
        return all(used <= b.limit for used, b in zip(self.used(choices), self.budgets))

    @functools.cached_property
    def price(self):
        """One cost for several budgets, float64 [variables, formats]: their shares of the limits.

        sum_b costs_b / limit_b (ours): what is scarce counts more.
        """
        return sum(budget.costs / max(budget.limit, 1) for budget in self.budgets)

    @functools.cached_property
    def least(self):
        """Choices that fit if the cheapest do: of the lowest price, or of the lowest cost of one.

        Of equally cheap formats the one of the smaller loss.
        """
        found = [self._cheapest(costs) for costs in (self.price, *(b.costs for b in self.budgets))]
        return next(filter(self.fits, found), found[0])

    def _cheapest(self, costs):
        order = np.lexsort((self.losses, costs), axis=1)
        return tuple(order[:, 0].tolist())

    def bound(self, multipliers):
        """A loss that no allocation in the budgets is below, by Lagrangian relaxation (float).

            sum_l min_k (losses[l, k] + sum_b mu_b costs_b[l, k]) - sum_b mu_b limit_b

        Args:
            multipliers: mu_b >= 0 of each budget; any give a bound, the best give the tightest.
        """
        relaxed = math.fsum(self.relaxed(multipliers).min(axis=1))
        return relaxed - math.fsum(mu * b.limit for mu, b in zip(multipliers, self.budgets))

    def relaxed(self, multipliers):
        """losses + sum_b mu_b costs_b, float64 [variables, formats]."""
        return self.losses + sum(mu * b.costs for mu, b in zip(multipliers, self.budgets))
