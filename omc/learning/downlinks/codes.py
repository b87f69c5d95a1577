"""Downlink "codes": the weights in the format that a client stores them in."""

import dataclasses

import tensorflow as tf

from omc.codecs import to_bytes
from omc.learning.downlinks.base import Downlink, Offer


@dataclasses.dataclass(frozen=True)
class Codes(Downlink):
    """A client gets the buffers that it will store (OMC, 2205.03494).

    Each variable is quantized once a round; lower widths are read out of its codes.
    """

    def offer(self, plan, values, memory):
        """As `Downlink.offer`."""
        sent, packed = [], []
        for planned, alternatives, value in zip(plan.planned, plan.alternatives, values):
            codec = planned.codec
            if codec is None:
                sent.append([value])
                continue
            buffer = codec.encode(value)
            sent.append([self._sent(plan, planned, own, value, buffer) for own in alternatives])
            packed.append((value, self._read(planned, buffer)))
        return Offer(sent, [[] for _ in sent], distortion(packed)), memory

    def _sent(self, plan, planned, own, value, buffer):
        """What is sent of a variable to whoever stores it in a codec."""
        if own.format.is_fp32:
            return to_bytes(value)
        return buffer if own == planned.codec else plan.widths.narrowed(buffer, planned.codec, own)

    def _read(self, planned, buffer):
        """What a client of the policy's format reads of a variable."""
        return planned.codec.decode(buffer)

    def specs(self, plan):
        """As `Downlink.specs`."""
        return [variable.buffer_spec for variable in plan.described]

    def receive(self, plan, payload, held, choices):
        """As `Downlink.receive`."""
        return list(payload)


def distortion(pairs):
    """||Q(w) - w||^2 / ||w||^2, a float32 scalar.

    Args:
        pairs: List of (w, Q(w)).
    """
    error, energy = 0.0, 0.0
    for value, read in pairs:
        error += tf.reduce_sum(tf.square(read - value))
        energy += tf.reduce_sum(tf.square(value))
    return tf.math.divide_no_nan(error, energy)
