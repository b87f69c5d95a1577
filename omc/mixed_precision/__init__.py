"""Mixed precision: a width for each variable under a client's budgets (FedMPQ, HASB, HAWQ-v2)."""

from omc.mixed_precision.allocation import Allocation, AllocationRow, BudgetUse
from omc.mixed_precision.allocator import FORMATS, Allocator, allocate
from omc.mixed_precision.exact import Exact
from omc.mixed_precision.hasb import hasb
from omc.mixed_precision.hutchinson import traces
from omc.mixed_precision.measuring import entropy_nbytes
from omc.mixed_precision.problem import Budget, Problem, Solution
from omc.mixed_precision.pruning_growing import PruningGrowing
from omc.mixed_precision.sensitivities import SENSITIVITIES
from omc.mixed_precision.strategies import STRATEGIES

__all__ = [
    "FORMATS",
    "SENSITIVITIES",
    "STRATEGIES",
    "Allocation",
    "AllocationRow",
    "Allocator",
    "Budget",
    "BudgetUse",
    "Exact",
    "Problem",
    "PruningGrowing",
    "Solution",
    "allocate",
    "entropy_nbytes",
    "hasb",
    "traces",
]
