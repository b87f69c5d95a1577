"""Downlink "coded": codes of as many bits as one likes, entropy coded."""

import dataclasses
from typing import Optional

import tensorflow as tf

from omc import checks
from omc.codecs import Codec, to_bytes
from omc.coding import graph as coding
from omc.errors import InputError, OmcError
from omc.learning.downlinks.codes import Codes
from omc.nested import extract_buffer, extracted_codec, widen_buffer


@dataclasses.dataclass(frozen=True)
class Coded(Codes):
    """A client gets codes that are coded without loss (`omc.coding`).

    With fewer `bits` than it stores it gets the second rounding of the codes (`omc.nested`) and
    holds its values in its own format: it trains as finely as ever from a start that is coarser.
    Integers are read centred (`omc.nested.extract_buffer`), since nothing else would mend the bias.
    The server's float32 master keeps what was rounded away, so that nothing is lost for good.

    Variables in float32 are sent as they are. Needs the native ops where clients train and where
    the server packs.

    Attributes:
        bits: Bits that are sent of each quantized weight, as in `omc.nested.format_at`; None for
            all that clients store. Overridden variables keep theirs.

    Raises:
        InputTypeError: `bits` is no int.
    """

    bits: Optional[int] = None
    needs_native_ops = True

    def __post_init__(self):
        if self.bits is not None:
            object.__setattr__(self, "bits", checks.integer("bits", self.bits, "an int or None"))

    def check(self, policy, widths):
        """As `Downlink.check`.

        Raises:
            InputError: The policy's format has not so many bits, or cannot be read at fewer.
        """
        if self.bits is None:
            return
        try:
            extracted_codec(Codec(policy.format, (1,), policy.transform is not None), self.bits)
        except OmcError as error:
            raise InputError("downlink", error.expected, self, error.tip) from None

    def specs(self, plan):
        """As `Downlink.specs`."""
        return [
            tf.TensorSpec([None], tf.uint8) if codecs else variable.buffer_spec
            for variable, codecs in zip(plan.described, plan.alternatives)
        ]

    def receive(self, plan, payload, held, choices):
        """As `Downlink.receive`."""
        return [
            self._received(planned, data, codecs, choice) if codecs else data
            for planned, data, codecs, choice in zip(
                plan.planned, payload, plan.alternatives, choices
            )
        ]

    def sent_codec(self, planned, own):
        """Codec of what is sent of a variable, a `Codec`.

        Args:
            planned: `PlannedVariable`.
            own: `Codec` that the client stores it in.
        """
        if self.bits is None or not planned.partial or own.format.is_fp32:
            return own
        return extracted_codec(planned.codec, self.bits) if self.bits < own.format.bits else own

    def _sent(self, plan, planned, own, value, buffer):
        if own.format.is_fp32:
            return coding.encode_buffer(to_bytes(value), own)
        narrow = self.sent_codec(planned, own)
        if narrow == own != planned.codec:  # What is meant to be trained in so few bits.
            return coding.encode_buffer(plan.widths.narrowed(buffer, planned.codec, own), own)
        return coding.encode_buffer(at(narrow, planned.codec, buffer), narrow)

    def _read(self, planned, buffer):
        narrow = self.sent_codec(planned, planned.codec)
        return narrow.decode(at(narrow, planned.codec, buffer))

    def _received(self, planned, data, codecs, choice):
        def decoded(own):
            narrow = self.sent_codec(planned, own)
            return widen_buffer(coding.decode_buffer(data, narrow), narrow, own)

        if len(codecs) == 1:
            return decoded(codecs[0])
        return tf.switch_case(choice, [lambda own=own: decoded(own) for own in codecs])


def at(narrow, codec, buffer):
    """Buffer of what is sent to a client that stores more, of one in the policy's codec.

    Args:
        narrow: `Codec` of what is sent.
        codec: The policy's.
        buffer: uint8 [codec.nbytes].
    """
    if narrow.format == codec.format:
        return buffer
    return extract_buffer(buffer, codec, narrow.format.bits, centred=True)
