"""Pruning-growing: widths of the last round, moved to a client's budget (FedMPQ, CVPR 2024)."""

import dataclasses
from collections.abc import Sequence
from typing import Optional

import numpy as np

from omc import checks
from omc.errors import InputError, InputTypeError
from omc.mixed_precision.fixed import widest_uniform
from omc.mixed_precision.problem import Solution


@dataclasses.dataclass(frozen=True)
class PruningGrowing:
    """Takes bits from the variables of the highest priority, gives bits to those of the lowest.

        pi_l = (n_l / sum n) * delta_l,   delta_l = round(1 + bits that clients dropped in l)

    While the budget is exceeded, the variable of the largest pi gets the next narrower format, down
    to the narrowest, then the one of the next largest pi. Then, while the budget allows, the
    variable of the smallest pi gets the next wider one, up to the widest, and so on. As in the
    official code, which takes the first of equals; but that grows beyond the budget by the last
    step, and here a step that does not fit is not taken (ours). Losses play no part.

    >>> strategy = PruningGrowing(start=(6, 6, 5), dropped=(0, 1, 2))

    Attributes:
        start: Bits of each variable to begin with (averages over clients, say); each stands for the
            widest format of at most so many bits. None for the widest format that fits throughout.
        dropped: Bits that clients dropped of each variable in the last round, averaged; None for 0.

    Raises:
        InputTypeError, InputError: Something else than numbers from 0.
    """

    start: Optional[tuple] = None
    dropped: Optional[tuple] = None

    def __post_init__(self):
        for argument in ("start", "dropped"):
            values = getattr(self, argument)
            if values is None:
                continue
            if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
                raise InputTypeError(argument, "a sequence of numbers, one a variable", values)
            numbers = [checks.real(argument, v, "numbers from 0", lambda v: v >= 0) for v in values]
            object.__setattr__(self, argument, tuple(numbers))

    def __call__(self, problem):
        """`Solution` of a `Problem`.

        Raises:
            InputError: `start` or `dropped` is of another length than the variables.
        """
        choices = self._first(problem)
        priority = np.asarray(problem.counts) / sum(problem.counts) * self._delta(problem)
        last = len(problem.formats) - 1
        for variable in np.argsort(-priority, kind="stable"):
            while choices[variable] > 0 and not problem.fits(choices):
                choices[variable] -= 1
        if not problem.fits(choices):  # Narrowest need not be cheapest, in bytes on the wire.
            choices = list(problem.least)
        for variable in np.argsort(priority, kind="stable"):
            while choices[variable] < last:
                choices[variable] += 1
                if not problem.fits(choices):
                    choices[variable] -= 1
                    break
        return Solution(tuple(choices))

    def _first(self, problem):
        if self.start is None:
            return list(widest_uniform(problem) or problem.least)
        widths = [fmt.bits for fmt in problem.formats]
        wanted = _checked("start", self.start, problem)
        return [max(int(np.searchsorted(widths, bits, "right")) - 1, 0) for bits in wanted]

    def _delta(self, problem):
        if self.dropped is None:
            return 1.0
        return np.round(np.asarray(_checked("dropped", self.dropped, problem), float) + 1)


def _checked(argument, values, problem):
    if len(values) != len(problem.counts):
        expected = f"a number for each of the {len(problem.counts)} allocated variables"
        raise InputError(argument, expected, f"{len(values)}")
    return values
