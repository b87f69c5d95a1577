"""Uplink "weights": whole weights, as the client holds them."""

import dataclasses

import tensorflow as tf

from omc.errors import InputError
from omc.learning.uplinks.base import Answer, Uplink, fit_buffers


@dataclasses.dataclass(frozen=True)
class Weights(Uplink):
    """A client sends its buffers as they are; nothing is rounded for the uplink (OMC, 2205.03494).

    w <- server_optimizer(w, w - mean_k(w_k))
    """

    averages = "weights"

    def check(self, policy, widths):
        """Refuses to average whole weights of narrow clients.

        Whatever narrow clients round away, their weights' mean takes from the server's master,
        round after round: digits at 8, 4 and 2 bits unlearns everything. The mean of changes does
        not.

        Raises:
            InputError: There are widths below the policy's.
        """
        if widths is not None and widths.narrowest < policy.format.bits:
            expected = f"one of changes, such as 'update', with widths {widths.bits} of "
            tip = "a mean of coarser weights would pull the server's to their grid."
            raise InputError("uplink", expected + policy.format.name, "weights", tip)

    def specs(self, variables):
        """As `Uplink.specs`."""
        return [variable.buffer_spec for variable in variables]

    def encode(self, results, seed):
        """As `Uplink.encode`."""
        return Answer([r.stored() for r in results], tf.constant(0.0), tf.constant(0.0))

    def decode(self, variables, tensors):
        """As `Uplink.decode`."""
        return [self.decode_at(variables, tensors, place) for place in range(len(variables))]

    def decode_at(self, variables, tensors, place):
        """As `Uplink.decode_at`."""
        codec = variables[place].codec
        return tensors[place] if codec is None else codec.decode(tensors[place])

    def fitted(self, variables, tensors):
        """As `Uplink.fitted`."""
        return fit_buffers(variables, tensors)
