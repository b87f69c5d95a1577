"""Bit planes: n-bit codes <-> bytes, exactly n bits a code.

A code of n bits is cut, most significant bit first, into fields of 8, 4, 2 and 1 bits (11 = 8+2+1);
the fields of one rank form a *plane*, and the planes follow one another in one byte buffer.

The count of codes is padded to P, a multiple of 8, and the codes stand in 8 rows of C = P/8. A
plane of width w has w rows of C bytes; code (row r, column c) lies in byte (r mod w, c) of its
plane, shifted left by w * (r div w). So every plane is read in long contiguous rows, whatever its
width.

All functions are TensorFlow ops that XLA compiles; shapes are static.
"""

import numpy as np
import tensorflow as tf

ROWS = 8
"""Rows of the code matrix; the count of codes is padded to a multiple of it."""


def plane_widths(bits):
    """Widths of the planes of n-bit codes, most significant first; their sum is `bits`.

    >>> plane_widths(11)
    (8, 2, 1)
    """
    rest = tuple(width for width in (4, 2, 1) if bits % 8 & width)
    return (8,) * (bits // 8) + rest


def padded_count(count):
    """Codes after padding: the next multiple of 8."""
    return -(-count // ROWS) * ROWS


def packed_nbytes(count, bits):
    """Bytes that `count` codes of `bits` bits take, padding (under `bits` bytes) included."""
    return padded_count(count) // ROWS * bits


def pack(codes, bits):
    """Packs codes into bytes.

    Args:
        codes: int32 tensor [8, C], values in 0 .. 2^bits - 1 (higher bits are ignored).
        bits: Width of a code, 1 .. 32.

    Returns:
        List of uint8 tensors, one a plane, each flat with w * C bytes.
    """
    columns = codes.shape[1]
    planes, shift = [], bits
    for width in plane_widths(bits):
        shift -= width
        field = tf.cast(tf.bitwise.right_shift(codes, shift) if shift else codes, tf.uint8)
        if width < 8:
            field = tf.bitwise.bitwise_and(field, tf.constant(2**width - 1, tf.uint8))
            groups = tf.unstack(tf.reshape(field, [8 // width, width * columns]))
            field = groups[0]
            for index, group in enumerate(groups[1:], start=1):
                shifted = tf.bitwise.left_shift(group, tf.constant(width * index, tf.uint8))
                field = tf.bitwise.bitwise_or(field, shifted)
        planes.append(tf.reshape(field, [width * columns]))
    return planes


def unpack(packed, columns, bits):
    """Restores codes from bytes; the inverse of `pack`.

    Args:
        packed: uint8 tensor, flat; the planes one after another (bytes after them are ignored).
        columns: C, codes in a row.
        bits: Width of a code, 1 .. 32.

    Returns:
        int32 tensor [8, C].
    """
    codes, start = None, 0
    for width in plane_widths(bits):
        field = tf.slice(packed, [start], [width * columns])
        start += width * columns
        if width < 8:
            shifts = np.arange(0, 8, width, np.uint8)[:, np.newaxis]
            field = tf.bitwise.bitwise_and(
                tf.bitwise.right_shift(field, shifts), np.uint8(2**width - 1)
            )
        field = tf.reshape(tf.cast(field, tf.int32), [ROWS, columns])
        if codes is None:
            codes = field
        else:
            codes = tf.bitwise.bitwise_or(tf.bitwise.left_shift(codes, width), field)
    return codes
