"""Bit planes: nothing lost, nothing wasted, and the layout that the docstring promises."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from omc import packing

BITS = st.integers(1, 32)
COUNTS = st.integers(0, 300)
SEEDS = st.integers(0, 2**32 - 1)


def random_codes(count, bits, seed=0):
    """Codes as a padded [8, C] matrix of uint32, the padding zero."""
    codes = np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint64)
    codes[: min(count, 2)] = [2**bits - 1, 0][: min(count, 2)]
    padded = np.pad(codes.astype(np.uint32), (0, packing.padded_count(count) - count))
    return padded.reshape(8, -1)


def as_tensor(codes):
    return tf.constant(codes.view(np.int32))


def pack(codes, bits):
    return tf.concat(packing.pack(codes, bits), axis=0)


def reference(codes, bits):
    """The layout of the module's docstring, in numpy, one code row and one bit field at a time."""
    planes, below = [], bits
    for width in (8, 8, 8, 8, 4, 2, 1):
        if width > below:
            continue
        below -= width
        plane = np.zeros((width, codes.shape[1]), np.uint8)
        for row in range(8):
            field = (codes[row] >> np.uint32(below)) & np.uint32(2**width - 1)
            plane[row % width] |= (field << np.uint32(width * (row // width))).astype(np.uint8)
        planes.append(plane.ravel())
    assert below == 0
    return np.concatenate(planes)


@hypothesis.given(BITS, COUNTS, SEEDS)
def test_layout_size_and_round_trip(bits, count, seed):
    codes = random_codes(count, bits, seed)
    packed = pack(as_tensor(codes), bits)
    np.testing.assert_array_equal(packed, reference(codes, bits))
    assert packed.dtype == tf.uint8
    assert len(packed) == -(-count // 8) * bits == packing.packed_nbytes(count, bits)
    columns = codes.shape[1]
    restored = packing.unpack(packed, columns, bits).numpy()
    np.testing.assert_array_equal(restored.view(np.uint32), codes)
    # What stands after the planes (a transform) is none of the codes' business.
    longer = tf.concat([packed, tf.fill([8], tf.constant(255, tf.uint8))], 0)
    np.testing.assert_array_equal(packing.unpack(longer, columns, bits), restored)


def test_bits_above_a_code_are_ignored():
    for bits in range(1, 32):
        codes = random_codes(40, bits)
        dirty = codes | (random_codes(40, 32, seed=1) << np.uint32(bits))
        packed = pack(as_tensor(dirty), bits)
        np.testing.assert_array_equal(packed, reference(codes, bits), str(bits))


def test_plane_widths():
    for bits in range(1, 33):
        widths = packing.plane_widths(bits)
        assert sum(widths) == bits and sorted(widths, reverse=True) == list(widths)
        assert set(widths) <= {8, 4, 2, 1} and all(widths.count(width) < 2 for width in (4, 2, 1))
        planes = packing.pack(tf.zeros([8, 3], tf.int32), bits)
        assert [len(plane) for plane in planes] == [3 * width for width in widths]


@hypothesis.given(BITS, st.integers(0, 10**12))
def test_padding_stays_below_a_cache_line(bits, count):
    assert packing.padded_count(count) % 8 == 0 and 0 <= packing.padded_count(count) - count < 8
    trailer = 8  # Scale and offset of a compressed tensor.
    assert 0 <= packing.packed_nbytes(count, bits) * 8 - count * bits < (64 - trailer) * 8


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 11, 15, 19, 32])
def test_graphs_and_xla_give_the_same_bytes(bits, compiled):
    @tf.function(jit_compile=compiled)
    def both(codes):
        packed = pack(codes, bits)
        return packed, packing.unpack(packed, codes.shape[1], bits)

    for count in (0, 5, 1000):
        codes = random_codes(count, bits)
        packed, restored = both(as_tensor(codes))
        np.testing.assert_array_equal(packed, reference(codes, bits))
        np.testing.assert_array_equal(restored.numpy().view(np.uint32), codes)
