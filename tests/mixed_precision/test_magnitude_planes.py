"""Bits of magnitudes out of packed codes, beside numpy's integers."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from omc.mixed_precision.magnitude_planes import magnitude_planes, ones
from tests.mixed_precision.integer_buffers import alternatives, codec_of, stored


def counted(codec, buffer):
    """Set bits of each plane, by integers that the codec unpacks."""
    codes = codec.codes(buffer).numpy().astype(np.int64)
    bits = codec.format.bits
    codes = (codes & (2**bits - 1) ^ 2 ** (bits - 1)) - 2 ** (bits - 1)
    sizes = np.minimum(np.abs(codes), 2 ** (bits - 1) - 1)
    return [int(np.sum(sizes >> j & 1)) for j in range(7)]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_any_bytes_have_the_bits_of_their_codes(count, bits, seed):
    """Also where padding is no zeros, and whatever the rows' length is."""
    codec = codec_of(bits, count)
    buffer = tf.constant(np.random.default_rng(seed).integers(0, 256, codec.nbytes, np.uint8))
    for found in (magnitude_planes(codec, buffer), magnitude_planes(alternatives(count), buffer)):
        assert [int(ones(plane)) for plane in found] == counted(codec, buffer)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_keep_their_places(bits):
    """One weight after the other at its codes: the bits of all planes stand at one place."""
    count, places = 17, set()
    for weight in range(count):
        for code in {1, 2 ** (bits - 1) - 1, 1 - 2 ** (bits - 1), -1}:
            codes = np.zeros(count, np.int64)
            codes[weight] = code
            found = magnitude_planes(codec_of(bits, count), stored(codes, bits)).numpy()
            found = np.unpackbits(found.view(np.uint8), axis=1)
            assert [int(row.sum()) for row in found] == [abs(code) >> j & 1 for j in range(7)]
            places.add((weight, *np.flatnonzero(found.any(axis=0))))
    assert len(places) == count == len({place for _, place in places})
