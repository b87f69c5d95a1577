"""Compressed tensors: codes, transform and format; compress, decompress, update in place.

One variable is one byte buffer (uint8, flat):

    planes of codes (omc.packing), padding included | scale, float32 LE | offset, float32 LE

Without a transform the last 8 bytes are absent; an FP32 buffer is the raw little-endian float32.
The buffer is what a device stores, what crosses the wire, and what `nbytes` counts.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from omc import kernels, packing, transforms
from omc.errors import InputError, InputTypeError
from omc.formats import FP32, Format

_TRAILER_BYTES = 8  # scale and offset
_XLA_FROM = 1 << 16  # Weights from which compiling a codec pays within a few steps.


@dataclasses.dataclass(frozen=True)
class Codec:
    """Turns float32 tensors of one shape into buffers of one format and back, in TensorFlow ops.

    Attributes:
        format: Format of the codes.
        shape: Shape of the dense tensor, a tuple of ints.
        transform: Whether a per-variable transform (PVT) surrounds the codes.
    """

    format: Format
    shape: tuple
    transform: bool = True

    @property
    def count(self):
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self):
        """Length of a buffer, in bytes."""
        if self.format.is_fp32:
            return 4 * self.count
        planes = packing.packed_nbytes(self.count, self.format.bits)
        return planes + (_TRAILER_BYTES if self.transform else 0)

    @property
    def natively_added(self):
        """Whether native ops, where they are usable, serve `add`."""
        return kernels.can_add(self.format, self.transform) and self.count > 0

    def encode(self, values, seed=None):
        """Buffer (uint8 [nbytes]) of dense values, with a freshly fitted transform.

        Args:
            values: float32 tensor of `shape`. Values that are not finite count as 0 here, in graph
                code (FP32 keeps them); `compress` rejects them.
            seed: int32 [2], drawn from a generator, for stochastic rounding; None for
                round-to-nearest-even.
        """
        if self.format.is_fp32:
            return to_bytes(values)
        values = _finite(tf.reshape(values, [self.count]))
        if not self.transform:
            return self._join(self._planes(self._matrix(self._round(values, seed))))
        codes, *transform = transforms.fit(values, self.format, self._noise(seed, values.shape))
        return self._join(self._planes(self._matrix(codes)), to_bytes(tf.stack(transform)))

    def zeros(self):
        """Buffer of zeros that takes the range of the first values added to it.

        Its scale is the smallest there is, from where it grows at once to what is needed; a fitted
        one would be 1, and lose everything below its first code.
        """
        buffer = self.encode(tf.zeros(self.shape))
        if not self.transform:
            return buffer
        trailer = to_bytes(tf.constant([transforms.MIN_SCALE, 0.0]))
        return tf.concat([buffer[: self.nbytes - _TRAILER_BYTES], trailer], axis=0)

    def decode(self, buffer):
        """Dense float32 tensor of `shape`: scale * u' + offset for every code."""
        if not self.format.is_fp32 and kernels.usable():
            return kernels.decode(buffer, self.format, self.shape, self.transform)
        return _compiled(self, "_decode")(buffer)

    def add(self, buffer, delta, seed=None, sign=1.0):
        """Buffer after `values += sign * delta`, under the kept transform.

        The sum is formed in the format's own units, u' + delta/scale, so a delta of 0 gives back
        the very same code. Only when a sum leaves the range does the scale grow. Elements of delta
        that are not finite change nothing.

        Args:
            buffer: uint8 [nbytes].
            delta: float32 tensor of `shape`.
            seed: As in `encode`.
            sign: Factor of delta, float or float32 []; saves the caller a scaled copy of it.
        """
        sign = tf.convert_to_tensor(sign, tf.float32)
        if self.format.is_fp32:
            values, delta = from_bytes(buffer), _finite(tf.reshape(delta, [self.count])) * sign
            # -0 + 0 is +0, and TensorFlow flushes subnormals: what does not move keeps its bits.
            return to_bytes(tf.where(tf.equal(delta, 0.0), values, values + delta))
        if self.natively_added and kernels.usable():
            return kernels.add(buffer, delta, sign, seed, self.format)
        if self.format.bits == 32 or not self.count:  # No room for a mark.
            return self._widened(buffer, delta, sign, seed)
        # One pass rounds under the transform as it is and marks what does not fit; that is rare.
        codes = _compiled(self, "_moved_codes")(buffer, delta, sign, seed)
        codes = tf.reshape(codes, [-1])  # Here: inside, XLA would write worse loops.
        if not self.transform:
            return self._join(_compiled(self, "_planes")(codes))
        return tf.cond(
            tf.reduce_max(codes) < 2**self.format.bits,
            lambda: self._join(_compiled(self, "_planes")(codes), buffer),
            lambda: self._widened(buffer, delta, sign, seed),
        )

    def assign(self, buffer, values, seed=None):
        """Buffer of new dense values; the transform is kept while its range fits them.

        It fits when the largest magnitude lies between half the range and the whole of it, so that
        re-assigning what was decoded keeps every code.

        Args:
            buffer: uint8 [nbytes], whose transform is tried.
            values: float32 tensor of `shape`.
            seed: As in `encode`.
        """
        if self.format.is_fp32 or not self.transform or not self.count:
            return self.encode(values, seed)
        flat = _finite(tf.reshape(values, [self.count]))
        scale, offset = self.transform_of(buffer)
        units = transforms.to_units(flat, scale, offset)
        largest = tf.reduce_max(tf.abs(units))
        held = (largest <= self.format.limit) & (largest >= self.format.max / 2)
        if not self.format.sign_bits:
            held &= tf.reduce_min(units) >= -self.format.step / 2
        return tf.cond(
            held,
            lambda: self._join(self._planes(self._matrix(self._round(units, seed))), buffer),
            lambda: self.encode(values, seed),
        )

    def codes(self, buffer):
        """Codes of a buffer, int32 tensor of `shape`; not for FP32."""
        return tf.reshape(self._flat_codes(buffer), self.shape)

    def transform_of(self, buffer):
        """(scale, offset) of a buffer, float32 scalars; (1, 0) where there is no transform."""
        if self.format.is_fp32 or not self.transform:
            return tf.constant(1.0), tf.constant(0.0)
        trailer = tf.reshape(buffer[self.nbytes - _TRAILER_BYTES :], [2, 4])
        return tuple(tf.unstack(tf.bitcast(trailer, tf.float32)))

    def _decode(self, buffer):
        if self.format.is_fp32:
            return tf.reshape(from_bytes(buffer), self.shape)
        values = transforms.values_of_codes(self._flat_codes(buffer), self.format)
        if self.transform:
            scale, offset = self.transform_of(buffer)
            # The check of what is finite anyway keeps XLA from fusing product and sum into one
            # operation, which would round once where every other path rounds twice.
            values = _finite(values * scale) + offset
        return tf.reshape(values, self.shape)

    def _moved_codes(self, buffer, delta, sign, seed):
        """Codes of the sums as small integers, with one bit more where a sum leaves the range."""
        units, bits = self._sum(buffer, delta, sign), self.format.bits
        codes = tf.bitwise.bitwise_and(self._round(units, seed), 2**bits - 1)
        if self.transform:
            outside = transforms.is_outside(units, self.format)
            codes += tf.cast(outside, tf.int32) * 2**bits
        return tf.cast(codes, tf.uint8 if bits < 8 else tf.uint16 if bits < 16 else tf.int32)

    def _widened(self, buffer, delta, sign, seed):
        """`add` for sums that leave the range: the scale grows, or a sign-less format fits anew."""
        if not self.transform:
            return self._join(self._planes(self._round(self._sum(buffer, delta, sign), seed)))
        factor = _compiled(self, "_growth")(buffer, delta, sign)
        if not self.format.sign_bits:
            lowest = tf.reduce_min(self._sum(buffer, delta, sign))
            moved = sign * _finite(tf.reshape(delta, self.shape))
            return tf.cond(
                lowest >= -self.format.step / 2,
                lambda: self._grown(buffer, delta, sign, factor, seed),
                lambda: self.encode(self._decode(buffer) + moved, seed),
            )
        return self._grown(buffer, delta, sign, factor, seed)

    def _growth(self, buffer, delta, sign):
        scale, _ = self.transform_of(buffer)
        return transforms.growth(self._sum(buffer, delta, sign), scale, self.format)

    def _grown(self, buffer, delta, sign, factor, seed):
        scale, offset = self.transform_of(buffer)
        codes = tf.reshape(_compiled(self, "_grown_codes")(buffer, delta, sign, factor, seed), [-1])
        trailer = to_bytes(tf.stack([scale * factor, offset]))
        return self._join(_compiled(self, "_planes")(codes), trailer)

    def _grown_codes(self, buffer, delta, sign, factor, seed):
        return self._round(self._sum(buffer, delta, sign) * (1.0 / factor), seed)

    def _sum(self, buffer, delta, sign):
        """u' + sign * delta / scale, as a matrix of `packing.ROWS` rows, padded with zeros."""
        units = transforms.values_of_codes(self._code_matrix(buffer), self.format, stored=True)
        scale, _ = self.transform_of(buffer)
        shift = _finite(self._matrix(delta) * (sign / scale))
        if self.transform:
            return units + shift
        return tf.where(tf.equal(shift, 0.0), units, units + shift)  # -0 + 0 is +0.

    def _code_matrix(self, buffer):
        columns = packing.padded_count(self.count) // packing.ROWS
        return packing.unpack(buffer, columns, self.format.bits)

    def _flat_codes(self, buffer):
        return tf.reshape(self._code_matrix(buffer), [-1])[: self.count]

    def _matrix(self, flat):
        """A value for each weight as a matrix of rows, which compiles to far better loops."""
        flat, padded = tf.reshape(flat, [self.count]), packing.padded_count(self.count)
        if padded != self.count:
            flat = tf.pad(flat, [[0, padded - self.count]])
        return tf.reshape(flat, [packing.ROWS, padded // packing.ROWS])

    def _planes(self, codes):
        """Planes (list of uint8, flat) of padded codes."""
        return packing.pack(tf.reshape(codes, [packing.ROWS, -1]), self.format.bits)

    def _join(self, planes, trailer=None):
        """Buffer of planes and, under a transform, the last bytes of `trailer`."""
        if not self.transform:
            return tf.concat(planes, axis=0)
        return tf.concat([*planes, trailer[-_TRAILER_BYTES:]], axis=0)

    def _round(self, units, seed):
        # With an offset -0 means nothing of its own, and -0 + 0 would turn it into +0 in `add`.
        return transforms.round_to_codes(
            units, self.format, self._noise(seed, units.shape), symmetric=self.transform
        )

    def _noise(self, seed, shape):
        if seed is None:
            return None
        return transforms.random_bits(shape, seed)


@dataclasses.dataclass(frozen=True)
class PartialCodec:
    """A codec whose buffers may also be raw FP32; their length tells which (partial quantization).

    Has the part of `Codec` that a variable needs, in graph code with buffers of uint8 [None].

    Attributes:
        codec: The `Codec` of quantized buffers.

    Raises:
        InputError: Quantized buffers would not be shorter than raw ones.
    """

    codec: Codec

    def __post_init__(self):
        if self.codec.nbytes >= 4 * self.codec.count:
            raise InputError(
                "codec",
                "buffers shorter than raw float32",
                f"{self.codec.nbytes} bytes for {self.codec.count} weights",
            )

    @property
    def shape(self):
        """Shape of the dense tensor, a tuple."""
        return self.codec.shape

    @property
    def count(self):
        """Number of weights."""
        return self.codec.count

    def decode(self, buffer):
        """As `Codec.decode`."""
        return self._either(buffer, lambda codec: codec.decode(buffer))

    def add(self, buffer, delta, seed=None, sign=1.0):
        """As `Codec.add`."""
        return self._either(buffer, lambda codec: codec.add(buffer, delta, seed, sign))

    def assign(self, buffer, values, seed=None):
        """As `Codec.assign`."""
        return self._either(buffer, lambda codec: codec.assign(buffer, values, seed))

    def _either(self, buffer, method):
        raw = Codec(FP32, self.codec.shape, transform=False)
        quantized = tf.equal(tf.size(buffer), self.codec.nbytes)
        return tf.cond(quantized, lambda: method(self.codec), lambda: method(raw))


@functools.lru_cache(maxsize=1024)
def _compiled(codec, method):
    """The codec's method as it is, or as one XLA program where the variable is large.

    TFF's worker has no XLA and runs the same function op by op.
    """
    function = getattr(codec, method)
    if codec.format.is_fp32 or codec.count < _XLA_FROM:
        return function
    return tf.function(function, jit_compile=True, autograph=False)


def to_bytes(values):
    """Raw little-endian bytes of a tensor, uint8, flat: an FP32 buffer."""
    return tf.reshape(tf.bitcast(values, tf.uint8), [-1])


def from_bytes(buffer):
    """float32, flat, of raw bytes; the inverse of `to_bytes`."""
    return tf.bitcast(tf.reshape(buffer, [-1, 4]), tf.float32)


def _finite(values):
    return tf.where(tf.math.is_finite(values), values, 0.0)


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
