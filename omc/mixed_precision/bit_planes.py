"""Magnitude planes of stored codes: their group lasso and precision reduction (FedMPQ, BSQ).

INTn stores w = s q + o with codes q = +-m in n bits: a sign and N = n - 1 magnitude planes,

    m = sum_j 2^j b_j,     b_j in {0, 1},    j = N-1 (most significant) .. 0

FedMPQ (2311.18129, CVPR 2024), after BSQ, calls N the width and keeps the sign apart; here a width
is what is stored, the sign included, so that 2 bits is the least (ours). BSQ trains float planes;
here codes are all there is, and both of its ideas are carried out on them, one variable dense at a
time: `lasso_gradient` in the weights' own space, `reduce_buffer` in integers.
"""

import dataclasses
import itertools
import math

import numpy as np
import tensorflow as tf

from omc import kernels, packing
from omc.alternative_codecs import AlternativeCodec
from omc.codecs import Codec, in_chunks, natively_packed, to_bytes
from omc.formats import Format
from omc.mixed_precision.magnitude_planes import PLANES, magnitude_planes, ones

WIDEST = 8
NARROWEST = 2

_EPSILON = 1e-8  # Of the lasso's root, as in the official code.
MAGNITUDES = 2 ** (WIDEST - 1)
"""Magnitudes that codes of 8 bits have, 0 among them."""

# Bit j of each magnitude, [magnitudes, planes].
_BITS = (np.arange(MAGNITUDES)[:, np.newaxis] >> np.arange(PLANES)) & 1
_CHUNK = 1 << 16  # Columns of codes that are integers at a time.


def integer_codec(codec, bits):
    """The codec of the same variable in INTn.

    Args:
        codec: `Codec` of integers.
        bits: n, 2 .. 8.

    Returns:
        `Codec`; narrower than `codec` it saturates, as in `omc.learning.Widths`.
    """
    narrower = bits < codec.format.bits
    fmt = Format.parse(f"INT{bits}")
    return Codec(fmt, codec.shape, codec.transform, saturates=codec.saturates or narrower)


def histogram(matrix):
    """How often each magnitude occurs.

    Args:
        matrix: int8 [8, C] of magnitudes, as of `codes_of` without their signs.

    Returns:
        int32 [128]; that of 0 counts padding, too.
    """

    def chunk(begin, size):
        part = tf.cast(tf.slice(matrix, [0, begin], [packing.ROWS, size]), tf.int32)
        counts = tf.math.bincount(part, minlength=MAGNITUDES, maxlength=MAGNITUDES)
        return [tf.reshape(counts, [MAGNITUDES, 1])]

    (counts,) = in_chunks(matrix.shape[1], _CHUNK, chunk)
    return tf.reduce_sum(counts, axis=1)


def lasso_gradient(codec, buffer, share):
    """Gradient of the bit-level group lasso for the weights of one variable.

    The penalty is FedMPQ's,

        R = sum_l c_l sum_j sqrt(1e-8 + ||b_lj||^2),     c_l = (n_l / sum n) N_l
        dR/db_j = c_l b_j / ||b_j||                                        (for binary planes)

    In the space of weights, of which b_j is no function that could be differentiated, it is

        dR/dw = c_l / (s sum_j 4^j) sum_j 2^j b_j / ||b_j||  sign(q):

    a move dw is split over the planes as db_j = 2^j dw / (s sum_j 4^j), the least that adds up to
    it. So a step along -(dL/dw + lambda dR/dw) has the direction of BSQ's: there planes take steps
    -rate (s 2^j dL/dw + lambda dR/db_j), which move w by

        s sum_j 2^j db_j = -rate s^2 sum_j 4^j (dL/dw + lambda dR/dw).

    Only the rate differs, which here is that of the client's optimizer, for both terms.

    Args:
        codec: `Codec` of integers, or `AlternativeCodec` of such.
        buffer: As the codec writes it.
        share: n_l / sum n, a float or float32 []; a factor of R, too, if one likes.

    Returns:
        float32 tensor of the variable's shape.
    """
    scale, weights = codec.transform_of(buffer)[0], _plane_weights(codec, buffer)
    counts = [
        tf.cast(ones(plane), tf.float32) for plane in tf.unstack(magnitude_planes(codec, buffer))
    ]
    per_bit = weights / tf.sqrt(tf.stack(counts) + _EPSILON)
    pulls = tf.linalg.matvec(tf.constant(_BITS, tf.float32), per_bit) * (share / scale)
    pulls = tf.concat([-pulls[:0:-1], pulls], axis=0)  # Of every code from -127 on.
    codes = tf.cast(_paired_codes(codec, buffer), tf.int32)
    return tf.gather(pulls, tf.reshape(codes, codec.shape) + (MAGNITUDES - 1))


def _plane_weights(codec, buffer):
    """N 2^j / sum_i 4^i of each plane j, float32 [planes]."""
    own = codec.codecs if isinstance(codec, AlternativeCodec) else [codec]
    weights = np.zeros([len(own), PLANES], np.float32)
    for row, codec_of_width in zip(weights, own):
        j = np.arange(codec_of_width.format.bits - 1)
        row[: len(j)] = len(j) * 2.0**j / np.sum(4.0**j)
    return tf.constant(weights)[_place(codec, buffer)]


def _place(codec, buffer):
    return codec.index(buffer) if isinstance(codec, AlternativeCodec) else 0


def reduce_buffer(codec, buffer, threshold):
    """Precision reduction: a buffer without the planes that hardly any weight has a bit in.

    From the most significant plane on: one without a bit goes; one in which fewer than `threshold`
    of the weights have a bit goes, too, and these weights become the largest that is left (the
    dropped bit is or'ed into all lower ones); the first denser plane ends it. Then, from the least
    significant plane on, sparse planes go and the scale doubles, as in the official code. One plane
    and the sign are always left.

    Args:
        codec: `AlternativeCodec` of `integer_codec`s from 8 bits or fewer down to 2, in that order.
        buffer: uint8 [None].
        threshold: Density, a float from 0 to below 1; 0 to drop only what is empty.

    Returns:
        (buffer uint8 [None] of one of the codec's alternatives, planes dropped int32 []).
    """
    need = max(1, math.ceil(threshold * codec.count - 1e-9))  # Weights of a dense plane.
    widths = tf.constant([own.format.bits for own in codec.codecs])
    width, planes = widths[codec.index(buffer)], tf.unstack(magnitude_planes(codec, buffer))
    # What was or'ed into a plane from above has its bit set: all magnitudes from 2^j on count.
    from_plane = list(itertools.accumulate(reversed(planes), tf.bitwise.bitwise_or))[::-1]
    dense = tf.stack([ones(plane) for plane in from_plane]) >= need
    top = tf.maximum(tf.reduce_max(tf.where(dense, tf.range(1, WIDEST), 0)), 1)
    saturated = tf.stack([*from_plane, tf.zeros_like(planes[0])])[top]
    sparse = tf.stack([ones(plane | saturated) < need for plane in planes])
    low = tf.minimum(tf.reduce_sum(tf.math.cumprod(tf.cast(sparse, tf.int32))), top - 1)
    largest = tf.bitwise.left_shift(1, top) - 1

    def narrowed(part):
        kept = tf.bitwise.right_shift(tf.minimum(tf.abs(part), largest), low)
        return tf.sign(part) * kept

    reduced = top - low + 1

    def narrower():
        scale, offset = codec.transform_of(buffer)
        scale *= tf.cast(tf.bitwise.left_shift(1, low), tf.float32)  # Exact.
        place = tf.reduce_max(tf.where(tf.equal(widths, reduced), tf.range(len(codec.codecs)), 0))
        codes = codes_of(codec, buffer)
        return buffer_of(codec.codecs, codes, narrowed, scale, offset, place)

    result = tf.cond(tf.equal(reduced, width), lambda: buffer, narrower)
    return result, width - reduced


def codes_of(codec, buffer):
    """Codes q of a buffer; the lowest of INTn, which has no counterpart, becomes its neighbour.

    Args:
        codec: `Codec` of integers, or `AlternativeCodec` of such.
        buffer: As the codec writes it.

    Returns:
        int8 [8, C], padding 0: as `omc.packing` arranges codes.
    """
    columns = packing.padded_count(codec.count) // packing.ROWS
    codes = tf.reshape(tf.cast(_paired_codes(codec, buffer), tf.int8), [-1])
    codes = tf.pad(codes, [[0, packing.ROWS * columns - codec.count]])
    return tf.reshape(codes, [packing.ROWS, columns])


def _paired_codes(codec, buffer):
    """The same, float32 of the variable's shape."""
    if not isinstance(codec, AlternativeCodec):
        bare = dataclasses.replace(codec, transform=False)
        return tf.maximum(bare.decode(buffer[: bare.nbytes]), -codec.format.max)
    if not kernels.usable():
        return codec.switch(buffer, _paired_codes)
    bare = [dataclasses.replace(own, transform=False) for own in codec.codecs]
    lengths = tf.constant([own.nbytes for own in bare])
    lowest = tf.constant([-own.format.max for own in bare], tf.float32)
    place = codec.index(buffer)
    return tf.maximum(AlternativeCodec(bare).decode(buffer[: lengths[place]]), lowest[place])


def buffer_of(codecs, codes, function, scale, offset, place=0):
    """Buffer of codes that are made of other ones; few are integers at a time.

    Args:
        codecs: Sequence of `Codec`s of integers with a transform, of one shape.
        codes: int8 [8, C], as of `codes_of`.
        function: int32 [8, columns], some of them -> int32 of that shape, within the codec's range.
        scale, offset: float32 [].
        place: Which of the codecs, an int or int32 [].

    Returns:
        uint8 [n].
    """
    trailer = to_bytes(tf.stack([scale, offset]))
    if kernels.usable():
        planes = _natively_packed(codecs, codes, function, place)
    elif len(codecs) == 1:
        planes = _packed(codecs[0], codes, function)
    else:
        branches = [lambda own=own: _packed(own, codes, function) for own in codecs]
        planes = tf.switch_case(place, branches)
    return tf.concat([planes, trailer], axis=0)


def _packed(codec, codes, function):
    def chunk(begin, size):
        part = tf.cast(tf.slice(codes, [0, begin], [packing.ROWS, size]), tf.int32)
        planes = packing.pack(function(part), codec.format.bits)
        return [tf.reshape(plane, [-1, size]) for plane in planes]

    planes = in_chunks(codec.columns, _CHUNK, chunk)
    return tf.concat([tf.reshape(plane, [-1]) for plane in planes], axis=0)


def _natively_packed(codecs, codes, function, place):
    def chunk(begin, size):
        part = tf.cast(tf.slice(codes, [0, begin], [packing.ROWS, size]), tf.int32)
        return [tf.cast(function(part), tf.float32)]

    (values,) = in_chunks(codecs[0].columns, _CHUNK, chunk)
    values = tf.reshape(values, [-1])[: codecs[0].count]
    return natively_packed(codecs, values, 1.0, place=place)
