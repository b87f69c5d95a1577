"""Uniform quantization under a dither that both ends know: values <-> symbols for the coder.

    q = round(x / D + t),   read: (q - t) D,   t uniform in -1/2 .. 1/2, of (seed, position)

(subtractive dither), so that the error is uniform in -D/2 .. D/2 and independent of x, D^2 / 12 in
the mean. To which side x was rounded depends on t: where t < 0 the symbol is -q, so that both sides
are alike, and |t| in eight classes is its context for the coder. TensorFlow ops, native where they
may be and then the same to the bit; only the squared error is summed in another order.
"""

import tensorflow as tf

from omc import kernels, transforms

CLASSES = 8
"""Contexts: |t| in steps of 1/16."""

_MOST = 4194303.0  # Below 2^22, so that float32 still has halves.


def quantize(values, seed, step):
    """Symbols of values, what the coder may know of them, and the squared error.

    Args:
        values: float32 [n]. What is not finite counts as 0.
        seed: int32 [2].
        step: D, a float32 scalar; with 0 all symbols are those of 0.

    Returns:
        (symbols int32 [n], contexts uint8 [n], float32 scalar sum((read - values)^2)).
    """
    if kernels.usable():
        return kernels.dither_quantize(values, seed, step)
    dither = _dither(seed, values.shape[0])
    values = tf.where(tf.math.is_finite(values), values, 0.0)
    scaled = tf.where(step > 0.0, values / tf.where(step > 0.0, step, 1.0), 0.0)
    quantized = tf.round(tf.clip_by_value(scaled, -_MOST, _MOST) + dither)
    error = tf.reduce_sum(tf.square((quantized - dither) * step - values))
    return tf.cast(quantized * _side(dither), tf.int32), _classes(dither), error


def contexts(seed, count):
    """Contexts of the symbols that `quantize` gives, uint8 [count].

    Args:
        seed: int32 [2].
        count: int.
    """
    return (
        kernels.dither_contexts(seed, count) if kernels.usable() else _classes(_dither(seed, count))
    )


def read(symbols, seed, step):
    """Values (float32 [n]) of symbols.

    Args:
        symbols: int32 [n].
        seed: int32 [2].
        step: D, a float32 scalar.
    """
    if kernels.usable():
        return kernels.dither_read(symbols, seed, step)
    dither = _dither(seed, symbols.shape[0])
    return (tf.cast(symbols, tf.float32) * _side(dither) - dither) * step


def _dither(seed, count):
    bits = tf.bitcast(transforms.random_bits(tf.range(count), seed), tf.uint32)
    bits = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32)
    return tf.cast(bits, tf.float32) * 2.0**-24 - 0.5


def _side(dither):
    return tf.where(dither < 0.0, -1.0, 1.0)


def _classes(dither):
    distance = tf.cast(tf.abs(dither) * (2.0 * CLASSES), tf.int32)
    return tf.cast(tf.minimum(distance, CLASSES - 1), tf.uint8)
