"""Tasks: a name, data split over clients, a model and a metric."""

from tff_sims.tasks.base import Task
from tff_sims.tasks.digits import digits

TASKS = {"digits": digits}
"""Name -> function (seed=0, split=None, alpha=0.5, clients=None, domain=None) -> Task.

None stands for the task's default. The function's attributes `splits` and `domains` are tuples of
the names that it allows, the default first; empty where there is nothing to choose.
"""

__all__ = ["TASKS", "Task"]
