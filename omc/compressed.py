"""Compressed tensors: an array as codes, transform and format; compress and decompress."""

import numpy as np
import tensorflow as tf

from omc.codecs import Codec
from omc.errors import InputError, InputTypeError
from omc.formats import Format


class CompressedTensor:
    """A tensor stored as codes; made by `compress`, read by `decompress`.

    Attributes:
        buffer: uint8 tensor [nbytes]: all that is stored.
        codec: The `Codec` that wrote it.
    """

    def __init__(self, buffer, codec):
        self.buffer = buffer
        self.codec = codec

    @property
    def nbytes(self):
        """Stored bytes: the length of the buffer."""
        return int(self.buffer.shape[0])

    @property
    def shape(self):
        """Shape of the dense tensor, a tuple."""
        return self.codec.shape

    @property
    def format(self):
        """The number format."""
        return self.codec.format

    @property
    def codes(self):
        """Codes, int32 tensor of `shape` (not for FP32)."""
        return self.codec.codes(self.buffer)

    @property
    def scale(self):
        """Scale of the transform (float); 1 without one."""
        return float(self.codec.transform_of(self.buffer)[0])

    @property
    def offset(self):
        """Offset of the transform (float); 0 without one."""
        return float(self.codec.transform_of(self.buffer)[1])

    def __repr__(self):
        size = f"{self.nbytes} of {4 * self.codec.count} bytes"
        return f"CompressedTensor({self.format.name}, shape={self.shape}, {size})"


def compress(array, format, transform="pvt", seed=None):
    """Compresses an array of real numbers.

    Defined for every finite input: empty and 0-d arrays keep their shape; a constant array (zeros
    too) comes back as that constant to float precision; float32 subnormals may come back as 0;
    magnitudes up to float32's largest are fine, for the transform scales them.

    Args:
        array: Array-like or tensor, converted to float32.
        format: `Format` or its name, for example "S1E3M7".
        transform: "pvt" (per-variable scale and offset, 8 bytes) or None, also "none" (bare codes:
            values beyond the format's range saturate).
        seed: None for round-to-nearest-even; an int for unbiased stochastic rounding.

    Returns:
        `CompressedTensor`.

    Raises:
        FormatError: Unknown format.
        InputError: NaN or Inf in `array`, or an unknown `transform`.
        InputTypeError: `array` is not numeric.
    """
    fmt = Format.parse(format)
    transformed = parse_transform(transform) is not None
    values = _as_float32(array)
    codec = Codec(fmt, tuple(values.shape), transformed and not fmt.is_fp32)
    words = None
    if seed is not None:
        words = tf.constant([seed & 0x7FFFFFFF, 0], tf.int32)
        words = tf.random.experimental.stateless_fold_in(words, 0, alg="philox")
    return CompressedTensor(codec.encode(values, words), codec)


def decompress(compressed):
    """Dense float32 tensor of a `CompressedTensor`.

    Raises:
        InputTypeError: The argument is something else.
    """
    if not isinstance(compressed, CompressedTensor):
        raise InputTypeError(
            "compressed",
            "a CompressedTensor",
            type(compressed).__name__,
            "make it with omc.compress.",
        )
    return compressed.codec.decode(compressed.buffer)


def parse_transform(transform):
    """The transform that a user named: "pvt", or None for bare codes.

    Args:
        transform: "pvt", None or "none".

    Raises:
        InputError: Anything else.
    """
    if transform is None or (isinstance(transform, str) and transform == "none"):
        return None
    if isinstance(transform, str) and transform == "pvt":
        return transform
    raise InputError("transform", "'pvt' or None", transform)


def _as_float32(array):
    try:
        host = np.asarray(array)
    except ValueError as error:
        raise InputTypeError("array", "real numbers, no ragged rows", str(error)) from error
    if host.dtype.kind not in "fiub" and host.dtype.name != "bfloat16":
        raise InputTypeError("array", "real numbers", f"an array of dtype {host.dtype}")
    with np.errstate(over="ignore"):
        host = host.astype(np.float32)
    if not np.isfinite(host).all():
        bad = int(host.size - np.isfinite(host).sum())
        raise InputError(
            "array",
            "finite float32 values",
            f"{bad} NaN or Inf of {host.size}",
            "a diverged model cannot be compressed; lower the learning rate.",
        )
    return tf.constant(host)
