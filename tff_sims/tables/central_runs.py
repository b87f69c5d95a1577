"""Runs of central training that a table needs: all from the same FP32 weights of their seed."""

from tff_sims.tables.plan import CENTRAL, Run

START = "FP32"
"""Name of the run that the others start from."""


class CentralRuns:
    """Collects the runs of a table, FP32's first.

    Attributes:
        runs: Dict of name -> `plan.Run`.
    """

    def __init__(self, task, scale, places):
        """Adds FP32.

        Args:
            task: Name of the task.
            scale: How much is run: has epochs (of FP32) and train_examples (None for all).
            places: As of `plan.Run`, of all runs.
        """
        self._scale, self._places = scale, places
        self._common = {"task": task}
        if scale.train_examples:
            self._common["train_examples"] = scale.train_examples
        flags = {**self._common, "method": "fp32", "epochs": scale.epochs}
        self.runs = {START: Run(START, flags, program=CENTRAL, places=places)}

    def add(self, name, weight, flags):
        """Adds a run that starts from FP32's weights, once.

        Args:
            name, weight: As of `plan.Run`.
            flags: Dict of its own flags.

        Returns:
            `name`.
        """
        flags = {**self._common, **flags}
        run = Run(name, flags, START, CENTRAL, weight=weight, places=self._places)
        self.runs.setdefault(name, run)
        return name
