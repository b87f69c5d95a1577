"""Tasks: a name, data split over clients, a model and a metric."""

from tff_sims.tasks.base import Task
from tff_sims.tasks.digits import digits

TASKS = {"digits": digits}
"""Name -> function (seed, alpha) -> Task."""

__all__ = ["TASKS", "Task"]
