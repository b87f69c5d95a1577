"""Downlink "codes": the weights in the format that a client stores them in."""

import tensorflow as tf

from omc.codecs import to_bytes
from omc.learning.downlinks.base import Downlink
from omc.nested import extract_buffer


class Codes(Downlink):
    """A client gets the buffers that it will store (OMC, 2205.03494).

    Each variable is quantized once a round; lower widths are read out of its codes.
    """

    def offer(self, plan, values):
        """As `Downlink.offer`."""
        offers, error, energy = [], 0.0, 0.0
        for planned, alternatives, value in zip(plan.planned, plan.alternatives, values):
            codec = planned.codec
            if codec is None:
                offers.append([value])
                continue
            packed = codec.encode(value)
            offers.append([_buffer_of(own, value, codec, packed) for own in alternatives])
            error += tf.reduce_sum(tf.square(codec.decode(packed) - value))
            energy += tf.reduce_sum(tf.square(value))
        return offers, tf.math.divide_no_nan(error, energy)

    def specs(self, plan):
        """As `Downlink.specs`."""
        return [variable.buffer_spec for variable in plan.described]

    def receive(self, plan, payload, choices):
        """As `Downlink.receive`."""
        return list(payload)


def _buffer_of(wanted, value, codec, packed):
    """Buffer of one alternative, from the value and its codes in the policy's format."""
    if wanted.format.is_fp32:
        return to_bytes(value)
    return packed if wanted == codec else extract_buffer(packed, codec, wanted.format.bits)
