"""Narrow codes at fitted scales, beside float64 in numpy and the second rounding."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from omc.mixed_precision.fitted_scales import fitted_buffer, relative_errors
from omc.nested import extract_buffer
from tests.mixed_precision.integer_buffers import OFFSET, SCALE, codec_of, stored

PAIRS = [(bits, narrow) for bits in (8, 6, 3) for narrow in range(2, bits)]


def drawn(bits, count=1001, seed=0):
    top = 2 ** (bits - 1) - 1
    values = np.random.default_rng(seed).standard_t(5, count)
    return np.round(values / np.abs(values).max() * top).astype(int)


def fitted(codes, bits, narrow):
    codec, own = codec_of(bits, len(codes)), codec_of(narrow, len(codes))
    buffer = fitted_buffer(stored(codes, bits), codec, own)
    scale, offset = (float(part) for part in own.transform_of(buffer))
    return integers(own, buffer), scale, offset, buffer


def integers(codec, buffer):
    scale, offset = (float(part) for part in codec.transform_of(buffer))
    return np.round((codec.decode(buffer).numpy() - offset) / scale).astype(int)


def error(codes, narrow_codes, scale):
    return np.sum((codes.astype(np.float64) * SCALE - narrow_codes * np.float64(scale)) ** 2)


def least_error(codes, bits, narrow):
    """Of all steps in a grid far finer than ours, with the best scale for each."""
    top, sizes = 2 ** (narrow - 1) - 1, codes * np.float64(SCALE)
    found = []
    for step in np.geomspace(0.1, 1.0, 400) * (2 ** (bits - 1) - 1) / top:
        own = np.sign(codes) * np.minimum(np.floor(np.abs(codes) / step + 0.5), top)
        if own.any():
            found.append(error(codes, own, (sizes @ own) / (own @ own)))
    return min(found)


@pytest.mark.parametrize("bits, narrow", PAIRS)
def test_the_error_is_close_to_the_least_that_there_is(bits, narrow):
    codes = drawn(bits)
    own, scale, offset, _ = fitted(codes, bits, narrow)
    assert error(codes, own, scale) <= 1.06 * least_error(codes, bits, narrow)
    assert offset == OFFSET
    np.testing.assert_array_equal(own * codes >= 0, True)


@pytest.mark.parametrize("bits, narrow", PAIRS)
def test_the_scale_is_that_of_least_squares(bits, narrow):
    codes = drawn(bits, seed=1)
    own, scale, _, _ = fitted(codes, bits, narrow)
    np.testing.assert_allclose(scale, SCALE * (codes @ own) / (own @ own), rtol=1e-6)


@pytest.fixture(scope="module")
def paired():
    """What the learning room, which needs TensorFlow Federated, puts around nested codes."""
    pytest.importorskip("tensorflow_federated")
    from omc.learning import client_works

    return client_works.paired


@settings(max_examples=60, deadline=None)
@given(
    codes=st.lists(st.integers(-127, 127), min_size=1, max_size=40),
    narrow=st.integers(2, 7),
)
def test_never_worse_than_the_second_rounding(paired, codes, narrow):
    codes = np.array(codes)
    codec, own = codec_of(8, len(codes)), codec_of(narrow, len(codes))
    nested = paired(own, extract_buffer(stored(codes, 8), codec, narrow))
    scale = float(own.transform_of(nested)[0])
    mine, mine_scale, _, _ = fitted(codes, 8, narrow)
    bound = error(codes, integers(own, nested), scale)
    assert error(codes, mine, mine_scale) <= bound * (1 + 1e-5) + 1e-9


def test_signs_are_treated_alike():
    codes = drawn(8, seed=2)
    for narrow in range(2, 8):
        (mine, scale, *_), (other, same, *_) = (fitted(c, 8, narrow) for c in (codes, -codes))
        np.testing.assert_array_equal(mine, -other)
        assert scale == same


@pytest.mark.parametrize("factor", [1.0, 3e-7, 4e5])
def test_relative_errors_are_those_of_the_codes(factor):
    values = np.random.default_rng(3).standard_t(5, 4001)
    found = relative_errors(tf.constant(values * factor, tf.float32), range(2, 9)).numpy()
    codes = np.round(values / np.abs(values).max() * 127).astype(int)
    for bits, share in zip(range(2, 8), found):
        own, scale, _, _ = fitted(codes, 8, bits)
        want = error(codes, own, scale) / error(codes, 0, 1.0)
        np.testing.assert_allclose(share, want, rtol=1e-3)
    rounded = codes * np.abs(values).max() / 127
    want = np.sum((values - rounded) ** 2) / np.sum(values**2)
    np.testing.assert_allclose(found[6], want, rtol=0.1)
    assert list(found) == sorted(found, reverse=True)


def test_relative_errors_of_zeros_are_zero():
    np.testing.assert_array_equal(relative_errors(tf.zeros([5]), (2, 8)), [0, 0])


def test_zeros_stay_zeros_at_a_usable_scale():
    own, scale, _, _ = fitted(np.zeros(9, int), 8, 2)
    assert not own.any()
    assert scale == SCALE * 64  # As the second rounding has it.


def test_two_bits_of_usual_weights_lose_far_less_than_by_the_second_rounding(paired):
    codes, own = drawn(8, 20_000), codec_of(2, 20_000)
    nested = paired(own, extract_buffer(stored(codes, 8), codec_of(8, 20_000), 2))
    mine, scale, _, _ = fitted(codes, 8, 2)
    bound = error(codes, integers(own, nested), float(own.transform_of(nested)[0]))
    assert error(codes, mine, scale) < 0.7 * bound


@pytest.mark.parametrize("narrow", [2, 5])
def test_a_graph_gives_the_same_bits_in_chunks(narrow, monkeypatch):
    from omc.mixed_precision import bit_planes

    codes = drawn(8, 5003)
    codec, own = codec_of(8, len(codes)), codec_of(narrow, len(codes))
    whole = fitted_buffer(stored(codes, 8), codec, own).numpy()
    monkeypatch.setattr(bit_planes, "_CHUNK", 100)
    traced = tf.function(lambda b: fitted_buffer(b, codec, own), autograph=False)
    np.testing.assert_array_equal(traced(stored(codes, 8)).numpy(), whole)
