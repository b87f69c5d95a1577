"""Tasks: a name, data split over clients, a model and a metric."""

from tff_sims.tasks.base import Task
from tff_sims.tasks.digits import digits
from tff_sims.tasks.keywords import keywords
from tff_sims.tasks.pictures import pictures
from tff_sims.tasks.recordings import recordings
from tff_sims.tasks.speech import speech

TASKS = {
    "digits": digits,
    "keywords": keywords,
    "pictures": pictures,
    "recordings": recordings,
    "speech": speech,
}
"""Name -> function (seed=0, split=None, alpha=0.5, clients=None, domain=None) -> Task.

None stands for the task's default. The function's attributes `splits` and `domains` are tuples of
the names that it allows, the default first; empty where there is nothing to choose, None where the
function itself judges what it gets.
"""

__all__ = ["TASKS", "Task"]
