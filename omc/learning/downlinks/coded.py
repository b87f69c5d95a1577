"""Downlink "coded": the same codes, entropy coded."""

import tensorflow as tf

from omc.coding import graph as coding
from omc.learning.downlinks.codes import Codes


class Coded(Codes):
    """A client gets what `Codes` sends it, coded without loss (`omc.coding`); the rest is the same.

    Variables in float32 are sent as they are. Needs the native ops where clients train and where
    the server packs.
    """

    def offer(self, plan, values):
        """As `Downlink.offer`."""
        offers, distortion = super().offer(plan, values)
        coded = [
            [coding.encode_buffer(buffer, codec) for buffer, codec in zip(buffers, codecs)]
            if codecs
            else buffers
            for buffers, codecs in zip(offers, plan.alternatives)
        ]
        return coded, distortion

    def specs(self, plan):
        """As `Downlink.specs`."""
        return [
            tf.TensorSpec([None], tf.uint8) if codecs else spec
            for spec, codecs in zip(super().specs(plan), plan.alternatives)
        ]

    def receive(self, plan, payload, choices):
        """As `Downlink.receive`."""
        return [
            _decoded(data, codecs, choice) if codecs else data
            for data, codecs, choice in zip(payload, plan.alternatives, choices)
        ]


def _decoded(data, codecs, choice):
    if len(codecs) == 1:
        return coding.decode_buffer(data, codecs[0])
    return tf.switch_case(choice, [lambda c=c: coding.decode_buffer(data, c) for c in codecs])
