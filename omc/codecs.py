"""Codecs: dense float32 values <-> the byte buffer of one variable; encode, decode, add.

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
from omc.formats import Format

TRAILER_BYTES = 8
"""Bytes of scale and offset at a buffer's end."""
_CHUNK = 1 << 19  # Weights that are encoded at a time: what that takes is ten times their size.
_XLA_FROM = 1 << 16  # Weights from which compiling a codec pays within a few steps.


@dataclasses.dataclass(frozen=True)
class Codec:
    """Turns float32 tensors of one shape into buffers of one format and back, in TensorFlow ops.

    Attributes:
        format: Format of the codes.
        shape: Shape of the dense tensor, a tuple of ints.
        transform: Whether a per-variable transform (PVT) surrounds the codes.
        saturates: Whether `add` leaves the scale as it is when a sum goes beyond the range, so that
            the sum becomes the largest value; for scales that are learned (`omc.keras.nesting`).
    """

    format: Format
    shape: tuple
    transform: bool = True
    saturates: bool = False

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
        return planes + (TRAILER_BYTES if self.transform else 0)

    @property
    def columns(self):
        """Length of the `packing.ROWS` rows in which the codes stand, padding included."""
        return packing.padded_count(self.count) // packing.ROWS

    @property
    def natively_decoded(self):
        """Whether native ops, where they are usable, serve `decode`."""
        return not self.format.is_fp32

    @property
    def natively_added(self):
        """Whether native ops, where they are usable, serve `add`."""
        return kernels.can_add(self.format, self.transform) and self.count > 0

    def decode_variable(self, handle):
        """As `decode`, from the variable behind a handle, where that is `natively_decoded`."""
        return kernels.decode_variable(handle, [self])

    def update_variable(self, handle, delta, sign, seed):
        """As `add`, on the variable behind a handle, where that is `natively_added`: an op."""
        return kernels.update_variable(handle, delta, sign, seed, [self])

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
        flat = tf.reshape(values, [self.count])
        if not self.transform or not self.count:
            planes, _ = self._rounded(flat, None, seed)
            return self._join(planes, to_bytes(tf.constant([1.0, 0.0])))
        scale, offset = transforms.prescale(*extremes(flat), self.format)
        fit = seed is None  # It would bias what stochastic rounding keeps unbiased.
        if self.natively_added and not self.format.feedback_bits and kernels.usable():
            planes, sums = self._natively_rounded(flat, scale, seed, fit)
        else:
            planes, sums = self._rounded(flat, (scale, offset), seed, fit)
        if fit:
            scale, offset = transforms.least_squares(scale, offset, sums, self.count, self.format)
        return self._join(planes, to_bytes(tf.stack([scale, offset])))

    def zeros(self, scale=1.0):
        """Buffer of zeros, which takes the range of the first values added to it; see `add`.

        Args:
            scale: The scale until then, which stays where the codec saturates.
        """
        return self._zeros(scale)

    def decode(self, buffer):
        """Dense float32 tensor of `shape`: scale * u' + offset for every code."""
        if self.natively_decoded and kernels.usable():
            return kernels.decode(buffer, [self])
        return shared(self, "_pure_decode", buffer)

    def add(self, buffer, delta, seed=None, sign=1.0):
        """Buffer after `values += sign * delta`, under the kept transform.

        The sum is formed in the format's own units, u' + delta/scale, so a delta of 0 gives back
        the very same code. Only when a sum leaves the range does the scale grow, and only when all
        sums stay below an eighth of it does the scale shrink (`transforms.stretch`), unless the
        codec saturates. Elements of delta that are not finite change nothing.

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
            return kernels.add(buffer, delta, sign, seed, [self])
        return shared(self, "_pure_add", buffer, delta, sign, seed)

    def _pure_add(self, buffer, delta, sign, seed):
        if self.format.bits >= 30 or not self.count:  # No room for a mark.
            return self._stretched(buffer, delta, sign, seed)
        # One pass rounds under the transform as it is and marks what does not fit; that is rare.
        codes = _compiled(self, "_moved_codes")(buffer, delta, sign, seed)
        codes = tf.reshape(codes, [-1])  # Here: inside, XLA would write worse loops.
        if not self._stretches:
            return self._join(_compiled(self, "_planes")(codes), buffer)
        place = tf.bitwise.right_shift(tf.cast(tf.reduce_max(codes), tf.int32), self.format.bits)
        return tf.cond(
            tf.equal(place, transforms.FITS),
            lambda: self._join(_compiled(self, "_planes")(codes), buffer),
            lambda: self._stretched(buffer, delta, sign, seed),
        )

    def assign(self, buffer, values, seed=None):
        """Buffer of new dense values; the transform is kept while its range fits them.

        It fits when the largest magnitude lies between half the range and the whole of it. What
        equals the decoded values changes nothing, not a bit.

        Args:
            buffer: uint8 [nbytes], whose transform is tried.
            values: float32 tensor of `shape`.
            seed: As in `encode`.
        """
        if self.format.is_fp32 or not self.transform or not self.count:
            return self.encode(values, seed)
        flat, kept = tf.reshape(values, [self.count]), self.transform_of(buffer)
        units = transforms.to_units(tf.stack(extremes(flat)), *kept)
        largest = tf.reduce_max(tf.abs(units))
        held = (largest <= self.format.limit) & (largest >= self.format.max / 2)
        if not self.format.sign_bits:
            held &= tf.reduce_min(units) >= -self.format.step / 2
        same = tf.reduce_all(tf.equal(values, self.decode(buffer)))
        return tf.case(
            [
                (same, lambda: tf.identity(buffer)),
                (held, lambda: self._join(self._rounded(flat, kept, seed)[0], buffer)),
            ],
            default=lambda: self.encode(values, seed),
        )

    @property
    def _stretches(self):
        """Whether `add` changes the scale where it does not suit the sums."""
        return self.transform and not self.saturates

    def rescale(self, buffer, factor, seed=None):
        """Buffer of the same values under a scale `factor` times as large, rounded anew.

        Values beyond the new range saturate. It re-rounds every weight, so it is for rare use.

        Args:
            buffer: uint8 [nbytes], with a transform.
            factor: float32 [], above 0.
            seed: As in `encode`.
        """
        scale, offset = self.transform_of(buffer)
        codes = tf.reshape(_compiled(self, "_rescaled_codes")(buffer, factor, seed), [-1])
        planes = _compiled(self, "_planes")(codes)
        return self._join(planes, to_bytes(tf.stack([scale * factor, offset])))

    def _rescaled_codes(self, buffer, factor, seed):
        units = transforms.values_of_codes(self._code_matrix(buffer), self.format, stored=True)
        return self._round(units * (1.0 / factor), seed)

    def scale_gradient(self, buffer, gradient):
        """Gradient of a loss for the scale, given that for the decoded values.

            Sum_i g_i * (u'_i - u_i);   g_i * u'_i where code i is the largest (it saturates)

        with u_i what is stored, feedback bits included, and u'_i what a read makes of it: the
        straight-through gradient of u' = round(v / scale), v held fixed (Double Rounding, arXiv
        2502.01199, after LSQ). For formats without feedback bits only what saturates counts.

        Args:
            buffer: uint8 [nbytes].
            gradient: float32 tensor of `shape`; elements that are not finite count as 0.

        Returns:
            float32 []. Summed in another order by the native ops, so its last digits may differ.
        """
        if kernels.usable():
            return kernels.scale_gradient(buffer, gradient, self)
        return shared(self, "_pure_scale_gradient", buffer, gradient)

    def _pure_scale_gradient(self, buffer, gradient):
        codes, fmt = self._flat_codes(buffer), self.format
        read = transforms.values_of_codes(codes, fmt)
        stored = transforms.values_of_codes(codes, fmt, stored=True)
        slope = tf.where(tf.abs(stored) >= fmt.max, read, read - stored)
        gradient = _finite(tf.reshape(gradient, [self.count]))
        return tf.cast(tf.reduce_sum(tf.cast(gradient * slope, tf.float64)), tf.float32)

    def codes(self, buffer):
        """Codes of a buffer, int32 tensor of `shape`; not for FP32."""
        return tf.reshape(self._flat_codes(buffer), self.shape)

    def transform_of(self, buffer):
        """(scale, offset) of a buffer, float32 scalars; (1, 0) where there is no transform."""
        if self.format.is_fp32 or not self.transform:
            return tf.constant(1.0), tf.constant(0.0)
        trailer = tf.reshape(buffer[self.nbytes - TRAILER_BYTES :], [2, 4])
        return tuple(tf.unstack(tf.bitcast(trailer, tf.float32)))

    def _pure_decode(self, buffer):
        return _compiled(self, "_decode")(buffer)

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
        """Codes of the sums as small integers, above them two bits of each sum's place."""
        units, bits = self._sum(buffer, delta, sign), self.format.bits
        codes = tf.bitwise.bitwise_and(self._round(units, seed), 2**bits - 1)
        if self._stretches:
            codes += transforms.place(units, self.format) * 2**bits
        return tf.cast(codes, tf.uint8 if bits < 7 else tf.uint16 if bits < 15 else tf.int32)

    def _stretched(self, buffer, delta, sign, seed):
        """`add` where the scale may have to change, or a format without a sign be fitted anew."""
        if not self._stretches:
            planes = self._planes(self._round(self._sum(buffer, delta, sign), seed))
            return self._join(planes, buffer)
        factor = _compiled(self, "_factor")(buffer, delta, sign)
        if not self.format.sign_bits:
            lowest = tf.reduce_min(self._sum(buffer, delta, sign))
            moved = sign * _finite(tf.reshape(delta, self.shape))
            return tf.cond(
                lowest >= tf.minimum(factor, 1.0) * (-self.format.step / 2),
                lambda: self._resized(buffer, delta, sign, factor, seed),
                lambda: self.encode(self._decode(buffer) + moved, seed),
            )
        return self._resized(buffer, delta, sign, factor, seed)

    def _factor(self, buffer, delta, sign):
        scale, _ = self.transform_of(buffer)
        moved = tf.reduce_any(tf.not_equal(self._shift(delta, sign, scale), 0.0))
        return transforms.stretch(self._sum(buffer, delta, sign), scale, moved, self.format)

    def _resized(self, buffer, delta, sign, factor, seed):
        scale, offset = self.transform_of(buffer)
        args = buffer, delta, sign, factor, seed
        codes = tf.reshape(_compiled(self, "_resized_codes")(*args), [-1])
        trailer = to_bytes(tf.stack([scale * factor, offset]))
        return self._join(_compiled(self, "_planes")(codes), trailer)

    def _resized_codes(self, buffer, delta, sign, factor, seed):
        return self._round(self._sum(buffer, delta, sign) * (1.0 / factor), seed)

    def _sum(self, buffer, delta, sign):
        """u' + sign * delta / scale, as a matrix of `packing.ROWS` rows, padded with zeros."""
        units = transforms.values_of_codes(self._code_matrix(buffer), self.format, stored=True)
        scale, _ = self.transform_of(buffer)
        shift = self._shift(delta, sign, scale)
        if self.transform:
            return units + shift
        return tf.where(tf.equal(shift, 0.0), units, units + shift)  # -0 + 0 is +0.

    def _shift(self, delta, sign, scale):
        return _finite(self._matrix(delta) * (sign / scale))

    def _rounded(self, flat, transform, seed, fit=False):
        """Planes of values and the sums for a least squares, in chunks where there are many.

        Args:
            flat: float32 [count].
            transform: (scale, offset) to round under, or None.
            seed: As in `encode`.
            fit: Whether the sums are wanted.

        Returns:
            (list of planes, float64 [4] or None).
        """
        # Padding with what is stored as 0 adds nothing to the sums.
        matrix = self._matrix(flat, 0.0 if transform is None else transform[1])

        def chunk(begin, width):
            units = _finite(tf.slice(matrix, [0, begin], [packing.ROWS, width]))
            if transform is not None:
                units = transforms.to_units(units, *transform)
            codes = self._round(units, seed, begin)
            planes = packing.pack(codes, self.format.bits)
            planes = [tf.reshape(plane, [-1, width]) for plane in planes]
            if not fit:
                return planes
            rounded = transforms.values_of_codes(codes, self.format, stored=True)
            return [*planes, transforms.moments(units, rounded)[:, tf.newaxis]]

        parts = in_chunks(matrix.shape[1], _CHUNK // packing.ROWS, chunk)
        sums = tf.reduce_sum(parts.pop(), axis=1) if fit else None
        return [tf.reshape(plane, [-1]) for plane in parts], sums

    def _natively_rounded(self, flat, scale, seed, fit):
        """As `_rounded` for formats with a sign, bit for bit: adds the values to zeros."""
        planes = natively_packed([self], flat, scale, seed)
        if not fit:
            return [planes], None
        matrix = self._matrix(flat)
        bare = dataclasses.replace(self, transform=False)
        rounded = self._matrix(kernels.decode(planes, [bare]))

        def chunk(begin, width):
            where = [0, begin], [packing.ROWS, width]
            units = transforms.to_units(_finite(tf.slice(matrix, *where)), scale, 0.0)
            return [transforms.moments(units, tf.slice(rounded, *where))[:, tf.newaxis]]

        (sums,) = in_chunks(matrix.shape[1], _CHUNK // packing.ROWS, chunk)
        return [planes], tf.reduce_sum(sums, axis=1)

    def _zeros(self, scale):
        """Buffer of codes 0, which mean 0 in every format, under a scale."""
        planes = self.nbytes - (TRAILER_BYTES if self.transform else 0)
        return self._join([tf.zeros([planes], tf.uint8)], to_bytes(tf.stack([scale, 0.0])))

    def _code_matrix(self, buffer):
        return packing.unpack(buffer, self.columns, self.format.bits)

    def _flat_codes(self, buffer):
        return tf.reshape(self._code_matrix(buffer), [-1])[: self.count]

    def _matrix(self, flat, fill=0.0):
        """A value for each weight as a matrix of rows, which compiles to far better loops."""
        flat, padding = tf.reshape(flat, [self.count]), packing.ROWS * self.columns - self.count
        if padding:
            flat = tf.concat([flat, tf.fill([padding], fill)], axis=0)
        return tf.reshape(flat, [packing.ROWS, self.columns])

    def _planes(self, codes):
        """Planes (list of uint8, flat) of padded codes."""
        return packing.pack(tf.reshape(codes, [packing.ROWS, -1]), self.format.bits)

    def _join(self, planes, trailer=None):
        """Buffer of planes and, under a transform, the last bytes of `trailer`."""
        if not self.transform:
            return tf.concat(planes, axis=0)
        return tf.concat([*planes, trailer[-TRAILER_BYTES:]], axis=0)

    def _round(self, units, seed, begin=0):
        """Codes of a matrix of rows whose first column is the variable's `begin`-th."""
        noise = None
        if seed is not None:
            index = begin + tf.range(units.shape[1])
            index += tf.constant(np.arange(packing.ROWS, dtype=np.int32)[:, None] * self.columns)
            noise = transforms.random_bits(index, seed)
        # With an offset -0 means nothing of its own, and -0 + 0 would turn it into +0 in `add`.
        return transforms.round_to_codes(units, self.format, noise, symmetric=self.transform)


def natively_packed(codecs, values, scale, seed=None, place=0):
    """Planes of the codes of values / scale, by native ops, which add the values to zeros.

    Args:
        codecs: Sequence of `Codec`s of one shape that are `natively_added`.
        values: float32 of the shape, or flat; divided by the scale within the format's range.
        scale: float32 [] or a float.
        seed: As of `Codec.encode`.
        place: Which of the codecs, an int or int32 [].

    Returns:
        uint8 [n], of a known length where there is one codec.
    """
    lengths = [codec.nbytes - TRAILER_BYTES for codec in codecs]
    length = lengths[0] if len(codecs) == 1 else tf.constant(lengths)[place]
    zeros = tf.concat([tf.zeros([length], tf.uint8), to_bytes(tf.stack([scale, 0.0]))], axis=0)
    own = [dataclasses.replace(codec, saturates=True) for codec in codecs]  # The scale stays.
    return kernels.add(zeros, values, 1.0, seed, own)[:-TRAILER_BYTES]


@functools.lru_cache(maxsize=1024)
def _compiled(codec, method):
    """The codec's method as it is, or as one XLA program where the variable is large.

    TFF's worker has no XLA and runs the same function op by op.
    """
    function = getattr(codec, method)
    if codec.format.is_fp32 or codec.count < _XLA_FROM:
        return function
    return tf.function(function, jit_compile=True, autograph=False)


def shared(codec, method, *arguments):
    """Calls a codec's method; in a graph as a function that equal codecs there have in common.

    Layers repeat, and each weight is decoded twice. A client's work on a Conformer of 40 kernels is
    built in 50 s this way, most of it TFF's, and in 68 s without; it runs no faster, nor slower.

    Args:
        codec: `Codec` or `AlternativeCodec`.
        method: Name of the method.
        *arguments: Its tensors.
    """
    if tf.executing_eagerly():
        return getattr(codec, method)(*arguments)
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, "_omc_functions"):
        graph._omc_functions = {}  # On the graph, so that it goes with it.
    key = (codec, method, kernels.usable())
    if key not in graph._omc_functions:
        graph._omc_functions[key] = tf.function(getattr(codec, method), autograph=False)
    return graph._omc_functions[key](*arguments)


def in_chunks(length, step, function):
    """A function over ranges of at most `step`, one after the other: little is in memory at once.

    Args:
        length: Size of the whole range (int).
        step: Size of a chunk (int).
        function: (begin, size) -> list of tensors [rows, width of its own]; `begin` may be a
            tensor, `size` is an int.

    Returns:
        List of tensors [rows, sum of widths].
    """
    whole = max(length - 1, 0) // step
    last = function(whole * step, length - whole * step)
    if not whole:
        return last
    if tf.executing_eagerly():
        parts = [function(index * step, step) for index in range(whole)]
        return [tf.concat(part, axis=1) for part in zip(*parts, last)]
    parts = tf.map_fn(
        lambda index: function(index * step, step),
        tf.range(whole),
        parallel_iterations=1,
        fn_output_signature=[tf.TensorSpec([part.shape[0], None], part.dtype) for part in last],
    )
    joined = [tf.reshape(tf.transpose(p, [1, 0, 2]), [tf.shape(p)[1], -1]) for p in parts]
    return [tf.concat(pair, axis=1) for pair in zip(joined, last)]


def extremes(values):
    """(lowest, highest) of float32 values, those that are not finite taken as 0."""
    flat = tf.reshape(values, [-1])

    def chunk(begin, size):
        part = _finite(tf.slice(flat, [begin], [size]))
        return [tf.reshape([tf.reduce_min(part), tf.reduce_max(part)], [2, 1])]

    (found,) = in_chunks(flat.shape[0], _CHUNK, chunk)
    return tf.reduce_min(found[0]), tf.reduce_max(found[1])


def to_bytes(values):
    """Raw little-endian bytes of a tensor, uint8, flat: an FP32 buffer."""
    return tf.reshape(tf.bitcast(values, tf.uint8), [-1])


def from_bytes(buffer):
    """float32, flat, of raw bytes; the inverse of `to_bytes`."""
    return tf.bitcast(tf.reshape(buffer, [-1, 4]), tf.float32)


def _finite(values):
    return tf.where(tf.math.is_finite(values), values, 0.0)
