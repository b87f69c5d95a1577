"""Aggregator for secure summation: of the clients' codes the server sees the sum, and no more."""

import collections
import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc import checks
from omc.errors import InputError, InputTypeError
from omc.learning.aggregators.base import Aggregated, Aggregator
from omc.learning.uplinks.base import fold_in
from omc.learning.uplinks.grid import Grid

_COUNT = 2**30  # Modulus of the count of clients.


@dataclasses.dataclass(frozen=True)
class SecureMean(Aggregator):
    """The mean of what clients send on a common grid, through TFF's modular secure sum.

    The codes are summed modulo 2 clients (2^(bits - 1) - 1) + 1, which no sum of so many reaches.
    It needs `uplinks.Grid`. Every client with data counts once. What a client sends is never seen,
    so that it cannot be rejected: the grid's bound, applied where it trains, is all that limits it.
    In `local_runtime` the sum is TFF's stand-in for the protocol, which has the same results; a
    deployment's runtime has the protocol.

    Attributes:
        clients: Most clients of a round, an int from 1. Of more the sum could wrap around: such a
            round moves nothing, and its metrics say "overflowed".
        secure: False sums the same residues in the open, for comparison: the same bits come out.

    Raises:
        InputTypeError, InputError: Other settings.
    """

    clients: int
    secure: bool = True

    def __post_init__(self):
        super().__post_init__()
        clients = checks.integer("clients", self.clients, "an int of at least 1", 1)
        object.__setattr__(self, "clients", clients)
        if not isinstance(self.secure, (bool, np.bool_)):
            raise InputTypeError("secure", "True or False", self.secure)

    def sum_factories(self, grid):
        """TFF's aggregation factories: of the "codes" of a `Grid`, and of the clients "heard".

        The count has a modulus of its own, which no round reaches: it has to be right above all
        where the codes' sum has wrapped around.
        """
        if not self.secure:
            return {name: tff.aggregators.SumFactory() for name in ("codes", "heard")}
        secure = tff.aggregators.SecureModularSumFactory
        return {"codes": secure(self._largest(grid) + 1, True), "heard": secure(_COUNT, True)}

    def _largest(self, grid):
        return grid.most * self.clients

    def check(self, uplink, widths):
        """As `Aggregator.check`.

        Raises:
            InputError: Another uplink than the grid, allocated widths, which clients report, or
                sums beyond int32.
        """
        if not isinstance(uplink, Grid):
            tip = "omc.learning.uplinks.Grid(bound=0.1): only codes of one grid can be summed."
            raise InputError("uplink", "a Grid with SecureMean", uplink, tip)
        if widths is not None and widths.allocates:
            tip = "the server would have to see each client's report of its widths."
            raise InputError("aggregator", "another one where widths are allocated", self, tip)
        # TFF's stand-in adds residues of 2 largest + 1 in int32 before it reduces them.
        if self.clients * (2 * self._largest(uplink) + 1) >= 2**31:
            expected = f"clients^2 2^bits within int32, with {uplink.bits} bits"
            raise InputError("clients", expected, self.clients, "fewer bits of the grid make room.")

    def zero(self, federation):
        """As `Aggregator.zero`: codes of each variable, and the clients heard."""
        codes = [tf.zeros(spec.shape[0] - 2, tf.int32) for spec in _specs(federation)]
        return [*codes, tf.constant(0)]

    def codes(self, federation, answer, weight):
        """What a client hands to the sum: a list of int32 tensors as of `zero`.

        Args:
            federation: `Federation`.
            answer: List of tensors, what it would send.
            weight: Its examples, float32; without any it adds nothing.
        """
        heard = tf.cast(weight > 0.0, tf.int32)
        tensors = answer[: len(federation.plan.trainable)]
        return [*(tensor[2:] * heard for tensor in tensors), heard]

    def add(self, federation, totals, admitted, bounds):
        """Nobody's answer is looked at by itself here."""
        raise NotImplementedError

    def finish(self, federation, totals, state, round_number):
        """As `Aggregator.finish`."""
        grid, plan = federation.uplink, federation.plan
        *sums, heard = totals
        fits = heard <= self.clients  # Else the sums may have wrapped around.
        clients = tf.where(fits, tf.cast(heard, tf.float32), 0.0)
        words = federation.common_seed(round_number)
        mean = []
        for variable, codes in zip(plan.trainable, sums):
            seed = fold_in(words, variable.index)
            mean.append(grid.mean_of(variable, codes, clients, seed))
        measurements = collections.OrderedDict(overflowed=~fits)
        return Aggregated(mean, clients, state, measurements)


def _specs(federation):
    return federation.uplink.specs(federation.plan.trainable)
