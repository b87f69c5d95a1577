"""Bit planes of the magnitudes of integer codes, a bit a weight, computed on 64 weights at once.

Codes of INTn are stored in two's complement, in planes of 8, 4, 2 and 1 bits (`omc.packing`). Here
they are cut down to single bits without an integer for each weight: a plane of w bits holds code
(r, c) in byte (r mod w, c), shifted by w (r div w), so its upper and its lower halves are two
planes of w/2 bits, made by masks and shifts of whole rows. The magnitude of q with the sign s is

    |q| = (q xor s) + s

in every bit, an addition whose carry goes from plane to plane.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from omc import kernels, packing
from omc.alternative_codecs import AlternativeCodec
from omc.formats import Format

PLANES = 7
"""Magnitude planes of codes of 8 bits, the widest there are."""

_WORD = tf.uint64
_BYTES = 8  # Of a word.
_LOWER = {8: 0x0F, 4: 0x33, 2: 0x55}  # Lower halves of the fields of a width, in each byte.


def magnitude_planes(codec, buffer):
    """Bits of |q| of a buffer's codes q.

    The lowest code of INTn, which has no counterpart, counts as its neighbour.

    Args:
        codec: `Codec` of integers of 8 bits at most, or `AlternativeCodec` of such.
        buffer: As the codec writes it.

    Returns:
        uint64 [7, words], the least significant plane first: a bit a weight, 0 for padding and in
        planes that the codec's width does not have.
    """
    if isinstance(codec, AlternativeCodec):
        if not kernels.usable():
            return codec.switch(buffer, magnitude_planes)
        return _of_any_width(codec, buffer)
    sign, *upper_first = _bits(codec, buffer)
    planes, carry = [], sign
    for row in reversed(upper_first):
        flipped = row ^ sign
        planes.append(flipped ^ carry)
        carry &= flipped
    planes = [plane | carry for plane in planes]  # It is out of the lowest code alone.
    return tf.stack(planes + [tf.zeros_like(sign)] * (PLANES - len(planes)))


def _of_any_width(codec, buffer):
    """As codes of 8 bits, multiples of 2^(8 - bits), whose planes then go down by as many."""
    wide = dataclasses.replace(codec.codec, format=Format.parse(f"INT{PLANES + 1}"))
    planes = magnitude_planes(wide, kernels.widen_buffer(buffer, codec.codecs, wide))
    shift = PLANES + 1 - tf.constant([own.format.bits for own in codec.codecs])
    begin = shift[codec.index(buffer)]
    return tf.slice(tf.concat([planes, tf.zeros_like(planes)], 0), [begin, 0], planes.shape)


def ones(plane):
    """How many bits of a plane are set, int32 []."""
    return tf.reduce_sum(tf.cast(tf.raw_ops.PopulationCount(x=plane), tf.int32))


def _bits(codec, buffer):
    """The codes' bits, the most significant first: a list of uint64 [words], padding 0."""
    found, start, columns = [], 0, codec.columns
    for width in packing.plane_widths(codec.format.bits):
        plane = tf.reshape(buffer[start : start + width * columns], [width, columns])
        start += width * columns
        halves = [_words(plane)]
        while width > 1:
            halves = [half for whole in halves for half in _halved(whole, width)]
            width //= 2
        found.extend(half[0] for half in halves)
    if codec.count % packing.ROWS:
        real = _words(_real(codec.count, columns)[tf.newaxis])[0]
        found = [row & real for row in found]
    return found


def _halved(plane, width):
    """(upper, lower) halves of a plane's fields, uint64 [width / 2, words] each."""
    half = width // 2
    first, second = plane[:half], plane[half:]
    mask = _repeated(_LOWER[width])
    # Shifts move bits into the next byte, too; the masks leave none of them.
    lower = (first & mask) | tf.bitwise.left_shift(second & mask, _word(half))
    upper = (tf.bitwise.right_shift(first, _word(half)) & mask) | (second & ~mask)
    return upper, lower


def _words(plane):
    """uint8 [rows, columns] as uint64 [rows, words]."""
    rows, columns = plane.shape
    plane = tf.pad(plane, [[0, 0], [0, -columns % _BYTES]])
    return tf.bitcast(tf.reshape(plane, [rows, -1, _BYTES]), _WORD)


def _real(count, columns):
    """Which weights are no padding, uint8 [columns], as a plane of single bits."""
    tail = min(columns, packing.ROWS - 1)  # Padding is below 8 weights, at the rows' ends.
    last = np.arange(columns - tail, columns)
    row = np.arange(packing.ROWS)[:, np.newaxis]
    tails = np.sum((row * columns + last < count) << row, axis=0).astype(np.uint8)
    return tf.concat([tf.fill([columns - tail], np.uint8(255)), tails], axis=0)


def _repeated(byte):
    return _word(int.from_bytes(bytes([byte]) * _BYTES, "little"))


def _word(value):
    return tf.constant(value, _WORD)
