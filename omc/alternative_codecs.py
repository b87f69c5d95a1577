"""Codecs of several formats for one variable: the length of a buffer tells which one wrote it."""

import dataclasses

import tensorflow as tf

from omc import kernels, transforms
from omc.codecs import (
    TRAILER_BYTES,
    Codec,
    extremes,
    from_bytes,
    natively_packed,
    shared,
    to_bytes,
)
from omc.errors import InputError
from omc.formats import FP32


@dataclasses.dataclass(frozen=True)
class AlternativeCodec:
    """Codecs of one shape whose buffers differ in length: which one wrote a buffer, that tells.

    So a variable may come at several widths, or, with `raw_codec`, be left in float32 (partial
    quantization). It has the part of `Codec` that a variable needs, in graph code with buffers of
    uint8 [None]; a length that is none of the codecs' raises TensorFlow's InvalidArgumentError.

    Attributes:
        codecs: Tuple of two `Codec`s or more.

    Raises:
        InputError: Fewer codecs, or other shapes; two codecs have buffers of equal length.
    """

    codecs: tuple

    def __post_init__(self):
        object.__setattr__(self, "codecs", tuple(self.codecs))
        names = ", ".join(codec.format.name for codec in self.codecs)
        if len(self.codecs) < 2 or len({codec.shape for codec in self.codecs}) > 1:
            raise InputError("codecs", "two codecs or more, of one shape", names or "none")
        lengths = [codec.nbytes for codec in self.codecs]
        if len(set(lengths)) < len(lengths):
            raise InputError(
                "codecs",
                "buffers of different lengths, which tell them apart",
                f"{names}, of {', '.join(map(str, lengths))} bytes for {self.count} weights",
                "keep so small a variable in one format, with an override.",
            )

    @property
    def codec(self):
        """The first of the codecs."""
        return self.codecs[0]

    @property
    def shape(self):
        """Shape of the dense tensor, a tuple."""
        return self.codec.shape

    @property
    def count(self):
        """Number of weights."""
        return self.codec.count

    def index(self, buffer):
        """Position of the codec that wrote a buffer, int32 []; the last where none did."""
        lengths = tf.constant([codec.nbytes for codec in self.codecs])
        places = tf.range(len(self.codecs))
        own = tf.equal(lengths, tf.size(buffer))
        return tf.reduce_min(tf.where(own, places, len(self.codecs) - 1))

    @property
    def natively_decoded(self):
        """As `Codec.natively_decoded`: where the codes have a transform all, or none of them."""
        return len({codec.transform for codec in self._coded}) == 1

    @property
    def natively_added(self):
        """As `Codec.natively_added`."""
        return bool(self._coded) and all(codec.natively_added for codec in self._coded)

    @property
    def _coded(self):
        """All but raw float32."""
        return [codec for codec in self.codecs if not codec.format.is_fp32]

    def decode(self, buffer):
        """As `Codec.decode`."""
        if self.natively_decoded and kernels.usable():
            return kernels.decode(buffer, self.codecs)
        return shared(self, "_decode", buffer)

    def decode_variable(self, handle):
        """As `Codec.decode_variable`."""
        return kernels.decode_variable(handle, self.codecs)

    def add(self, buffer, delta, seed=None, sign=1.0):
        """As `Codec.add`."""
        sign = tf.convert_to_tensor(sign, tf.float32)
        if self.natively_added and kernels.usable():
            return kernels.add(buffer, delta, sign, seed, self.codecs)
        return shared(self, "_add", buffer, delta, sign, seed)

    def update_variable(self, handle, delta, sign, seed):
        """As `Codec.update_variable`."""
        return kernels.update_variable(handle, delta, sign, seed, self.codecs)

    def assign(self, buffer, values, seed=None):
        """As `Codec.assign`."""
        return self.switch(buffer, lambda codec, own: codec.assign(own, values, seed))

    def encode_as(self, buffer, values, seed=None):
        """As `Codec.encode`, by the codec that wrote a buffer."""
        plain = self.natively_added and not any(c.format.feedback_bits for c in self._coded)
        if seed is None or not plain or not kernels.usable():
            return self.switch(buffer, lambda codec, _: codec.encode(values, seed))
        if len(self._coded) == len(self.codecs):
            return self._natively_encoded_as(buffer, values, seed)
        return tf.cond(
            tf.equal(tf.size(buffer), raw_codec(self.shape).nbytes),
            lambda: to_bytes(values),
            lambda: self._natively_encoded_as(buffer, values, seed),
        )

    def _natively_encoded_as(self, buffer, values, seed):
        """The same, for a buffer of codes."""
        own = self._coded
        place = AlternativeCodec(own).index(buffer) if len(own) > 1 else 0
        scale = transforms.prescales(*extremes(values), [codec.format for codec in own])[place]
        planes = natively_packed(own, values, scale, seed, place)
        return tf.concat([planes, to_bytes(tf.stack([scale, 0.0]))], axis=0)

    def transform_of(self, buffer):
        """As `Codec.transform_of`."""
        if all(codec.transform for codec in self.codecs):
            return tuple(tf.unstack(from_bytes(buffer[-TRAILER_BYTES:]), 2))
        found = self.switch(buffer, lambda codec, own: tf.stack(codec.transform_of(own)))
        return tuple(tf.unstack(found))

    def switch(self, buffer, function):
        """What a function gives for the codec that wrote a buffer.

        Args:
            buffer: uint8 [None].
            function: (codec, the buffer with its length known) -> tensor.
        """

        # A slice of all of it. From the length that a branch needs TensorFlow's optimizer concludes
        # that the tensor has it, and then folds the choice itself; it does not look through slices.
        # And of no known length, which would contradict the other branches where it is traced.
        own = tf.raw_ops.PlaceholderWithDefault(input=buffer[: tf.size(buffer)], shape=[None])

        def branch(codec):
            return lambda: function(codec, tf.ensure_shape(own, [codec.nbytes]))

        return tf.switch_case(self.index(buffer), [branch(codec) for codec in self.codecs])

    def _decode(self, buffer):
        return self.switch(buffer, lambda codec, own: codec.decode(own))

    def _add(self, buffer, delta, sign, seed):
        return self.switch(buffer, lambda codec, own: codec.add(own, delta, seed, sign))


def raw_codec(shape):
    """The codec of raw float32 buffers of a shape (tuple)."""
    return Codec(FP32, shape, transform=False)
