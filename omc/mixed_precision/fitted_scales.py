"""Narrow codes whose scale is fitted to the weights: few bits are not spent on the largest one.

The second rounding (`omc.nested`) keeps the range, so that at 2 bits the step is half the largest
magnitude, about two standard deviations of usual weights, where the least squared error is at 1.2.
Here weights beyond the range saturate where that makes the error smaller. What the server does for
a client that is to train at few bits (ours; FedMPQ's precision reduction, which drops planes that
hardly any weight has a bit in, does it by factors of 2, and only after training).
"""

import functools

import numpy as np
import tensorflow as tf

from omc.mixed_precision.bit_planes import MAGNITUDES, WIDEST, buffer_of, codes_of, histogram

_FINEST, _TRIED = 1 / 8, 32  # Least step that is tried, as a share of the widest; steps tried.
_SQUARES = np.square(np.arange(MAGNITUDES, dtype=np.float32))


def fitted_buffer(buffer, codec, narrow):
    """Buffer of the same weights in fewer bits, at the scale that has the least squared error.

        q' = sign(q) min(round(|q| / t), Q),   Q = 2^(b-1) - 1,   w' = s' q'
        s' = s sum |q| |q'| / sum q'^2         (least squares, given q')

    with t, in stored steps, from the widest, which saturates nothing, to an eighth of it, and the
    second rounding's among them: the one with the least sum (w - w')^2, from the histogram of the
    stored magnitudes. So the error is never above the second rounding's, once the lowest code of
    that, which has no counterpart (-2 of INT2), is its neighbour. Both signs are treated alike,
    so that nothing is biased.

    Args:
        buffer: uint8 [codec.nbytes].
        codec: `Codec` of integers with a transform, 8 bits at most.
        narrow: `Codec` of integers of the same shape, of fewer bits, 2 at least.

    Returns:
        uint8 [narrow.nbytes].
    """
    codes, bits = codes_of(codec, buffer), narrow.format.bits
    products, squares = _fits(histogram(tf.abs(codes)), codec.format.bits, bits)
    best = tf.argmax(tf.math.divide_no_nan(tf.square(products), squares))
    factor = tf.math.divide_no_nan(products[best], squares[best])
    factor = tf.where(factor > 0.0, factor, float(2 ** (codec.format.bits - bits)))
    table = tf.constant(_tables(codec.format.bits, bits))[best]
    table = tf.concat([-table[:0:-1], table], axis=0)  # Of every code from -127 on.

    def narrowed(part):
        return tf.gather(table, part + (MAGNITUDES - 1))

    scale, offset = codec.transform_of(buffer)
    return buffer_of([narrow], codes, narrowed, scale * factor, offset)


def relative_errors(values, widths):
    """Squared error of a variable at fitted scales, as a share of its energy, for each width.

        min ||w - w'||^2 / ||w||^2

    It is the same for a variable and its multiples, as the function of a network is where the next
    layer is divided by what this one is multiplied with (ours).

    Args:
        values: float32 tensor, counted as magnitudes of 8 bits.
        widths: Bits, ints from 2 to 8.

    Returns:
        float32 [widths]; 0 where all values are.
    """
    largest = tf.reduce_max(tf.abs(values))
    sizes = tf.abs(tf.math.divide_no_nan(values, largest)) * float(MAGNITUDES - 1)
    sizes = tf.reshape(tf.cast(tf.round(sizes), tf.int32), [-1])
    counts = tf.math.bincount(sizes, minlength=MAGNITUDES, maxlength=MAGNITUDES)
    energy = tf.reduce_sum(tf.cast(counts, tf.float32) * _SQUARES)
    found = []
    for bits in widths:
        if bits == WIDEST:  # The error of rounding to whole steps, which counts do not show.
            count = tf.cast(tf.size(values), tf.float32)
            found.append(tf.math.divide_no_nan(count / 12.0, energy))
            continue
        products, squares = _fits(counts, WIDEST, bits)
        explained = tf.reduce_max(tf.math.divide_no_nan(tf.square(products), squares))
        found.append(tf.maximum(1.0 - tf.math.divide_no_nan(explained, energy), 0.0))
    return tf.where(energy > 0.0, tf.stack(found), 0.0)


def _fits(counts, bits, narrow):
    """(sum |q| |q'|, sum q'^2) at each step that is tried, float32 [tried] each.

    With the scale of least squares, sum (w - w')^2 = sum w^2 - (sum |w| q')^2 / sum q'^2.
    """
    tables = tf.constant(_tables(bits, narrow), tf.float32)
    counts = tf.cast(counts, tf.float32)
    sizes = tf.range(MAGNITUDES, dtype=tf.float32)
    return tf.linalg.matvec(tables, counts * sizes), tf.linalg.matvec(tf.square(tables), counts)


@functools.cache
def _tables(bits, narrow):
    """Magnitude of the narrow code for each stored magnitude, int32 [tried, magnitudes]."""
    largest, top = 2 ** (bits - 1) - 1, 2 ** (narrow - 1) - 1
    steps = np.append(largest / top * np.geomspace(1.0, _FINEST, _TRIED), 2.0 ** (bits - narrow))
    codes = np.floor(np.arange(MAGNITUDES) / steps[:, np.newaxis] + 0.5)
    return np.minimum(codes, top).astype(np.int32)
