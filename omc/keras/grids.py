"""The grid of codes that dense values were read from, so that they can be stored as they were.

Keras keeps dense values (`get_weights`, its files, the best weights of EarlyStopping). Under a
scale other than their own they would be rounded anew, and read otherwise at a lower width. But
values read from n-bit integers, all bits of them, lie on at most 2^n - 1 points at equal distances:
those tell the scale, and the offset where that is below half a step.
"""

import numpy as np
import tensorflow as tf

from omc.codecs import Codec, to_bytes

_SAMPLE = 4096  # Values that are looked at first.
_STEPS = 9  # Below this lies the least distance of two values, in steps.
_EXACT = 1e-3  # Part of a step that float32 leaves uncertain, with room.


def assigned(codec, values):
    """Buffer of the codes that values were read from.

    Args:
        codec: `Codec` of all bits, with a transform.
        values: float32 tensor of its shape, eager.

    Returns:
        uint8 [codec.nbytes], or None where they lie on no grid of such codes, or use less than half
        of its range.
    """
    if codec.format.kind != "int" or codec.format.bits > 8 or not codec.count:
        return None
    found = _grid(np.reshape(values, [-1]), int(codec.format.max))
    if found is None:
        return None
    codes, scale, offset = found
    bare = Codec(codec.format, (codec.count,), transform=False)
    planes = bare.encode(tf.constant(codes, tf.float32))
    return tf.concat([planes, to_bytes(tf.constant([scale, offset], tf.float32))], axis=0)


def _grid(flat, most):
    """(codes, scale, offset) of values of a grid whose codes go from -most to most, or None."""
    if len(np.unique(flat[:_SAMPLE])) > 2 * most + 1:
        return None
    points = np.unique(flat).astype(np.float64)
    span = points[-1] - points[0]
    if not 2 < len(points) <= 2 * most + 1 or not np.isfinite(span):
        return None
    near = points[np.abs(points).argmin()]
    gap = np.diff(points).min()
    for steps in range(1, _STEPS):  # Of few values, no two may be a step apart.
        scale = span / np.rint(span / (gap / steps))
        offset = near - scale * np.rint(near / scale)
        codes = np.rint((points - offset) / scale)
        exact = np.abs(codes * scale + offset - points).max() <= _EXACT * scale
        if exact and most / 2 <= np.abs(codes).max() <= most:
            return np.rint((flat - offset) / scale), scale, offset
    return None
