"""Aggregator: what the server makes of the clients' answers, read one at a time."""

import abc
import collections
import dataclasses
from typing import Any

import tensorflow as tf

from omc import checks
from omc.learning.aggregators.admission import KINDS


@dataclasses.dataclass(frozen=True)
class Aggregated:
    """What became of a round's answers.

    Attributes:
        mean: List of float32 tensors, one a trainable variable, of changes or of weights as the
            uplink says; and one more of the clients' widths where these are allocated.
        total_weight: float32 scalar; where it is 0 nobody was heard.
        state: The aggregator's next state.
        measurements: OrderedDict of scalars.
    """

    mean: list
    total_weight: tf.Tensor
    state: Any
    measurements: collections.OrderedDict

    def reported(self, rejected):
        """What a round's metrics say of it, an OrderedDict.

        Args:
            rejected: int32 [len(KINDS)], clients by the fault for which they were rejected.
        """
        faults = collections.OrderedDict(zip(KINDS, tf.unstack(rejected, len(KINDS))))
        found = {**self.measurements, "rejected": faults, "total_weight": self.total_weight}
        return collections.OrderedDict(sorted(found.items()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregator(abc.ABC):
    """A way to sum up answers; settings and pure functions of tensors, as an `Uplink` is.

    Every answer is checked before it counts (`omc.learning.aggregators.admission`). What fails is
    rejected whole: it has no part in the sum, and the round's metrics count it by its fault.

    Attributes:
        largest: Largest magnitude that a client may propose for any weight's change (or, with
            uplink "weights", for a weight), a number above 0.
        most_examples: Most examples that a client may say it has, a number above 0.

    Raises:
        InputTypeError, InputError: Not a number above 0.
    """

    largest: float = 1e4
    most_examples: float = 2.0**24

    always_steps = False
    """Whether the server steps where nobody was heard; else weights and optimizer stay."""

    def __post_init__(self):
        check_number("largest", self.largest)
        check_number("most_examples", self.most_examples)

    def check(self, uplink, widths):  # noqa: B027 - Most refuse nothing.
        """Refuses what this aggregator cannot serve; by default nothing.

        Args:
            uplink: `omc.learning.uplinks.Uplink`.
            widths: `omc.learning.widths.ClientWidths`, or None.

        Raises:
            InputError: With the argument and the way out.
        """

    def initial(self):
        """State before the first round, a structure of tensors; () for none."""
        return ()

    def bounds(self, state):
        """What the reading of an answer needs of the state, an OrderedDict of float32 scalars.

        Args:
            state: As of `initial`.
        """
        return collections.OrderedDict()

    @abc.abstractmethod
    def zero(self, federation):
        """Totals of no client, a list of tensors.

        Args:
            federation: `Federation`.
        """

    @abc.abstractmethod
    def add(self, federation, totals, admitted, bounds):
        """Totals with one client more.

        Args:
            federation: `Federation`.
            totals: As of `zero`.
            admitted: `Admitted`; its weight is 0 where it has no part in the sum.
            bounds: As of `bounds`.
        """

    def merge(self, left, right):
        """Totals of two groups of clients."""
        return [a + b for a, b in zip(left, right)]

    @abc.abstractmethod
    def finish(self, federation, totals, state, round_number):
        """The round's `Aggregated`.

        Args:
            federation: `Federation`.
            totals: As of `add`.
            state: As of `initial`.
            round_number: int32 scalar.
        """


def check_number(argument, value, expected="a number above 0"):
    """Raises a typed error unless a value is a number above 0 that float32 holds."""
    checks.real(argument, value, expected, lambda number: number > 0)
