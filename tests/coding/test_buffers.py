"""encode_buffer() and decode_buffer(): every bit of a buffer, given another one or not."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from omc import coding, kernels, packing
from omc.codecs import Codec
from omc.errors import CodingError, InputError, InputTypeError
from omc.formats import Format
from tests.coding import oracle

FORMATS = ["INT2", "INT3", "INT5", "INT8", "INT4+4", "INT1+1", "S1E2M0", "S1E3M7", "S1E3M5+2"]
FORMATS += ["S0E2M0", "S0E4M3", "S0E8M23", "S1E4M14", "S1E5M10", "S1E8M7", "S1E8M23", "FP32"]


def a_codec(name, shape, transform=True):
    fmt = Format.parse(name)
    return Codec(fmt, shape, transform and not fmt.is_fp32)


def both(buffer, codec, given=None):
    """Coded bytes, after a check that each path writes them and reads the other's."""
    native = coding.encode_buffer(buffer, codec, given)
    with kernels.pure():
        assert coding.encode_buffer(buffer, codec, given) == native
        np.testing.assert_array_equal(coding.decode_buffer(native, codec, given), buffer)
    restored = coding.decode_buffer(native, codec, given)
    np.testing.assert_array_equal(restored, buffer)
    assert restored.dtype == np.uint8 and restored.shape == (codec.nbytes,)
    return native


def pair(codec, change=1e-3, seed=0):
    """Buffers of weights and of what they become by a small update, under a kept transform."""
    rng = np.random.default_rng(seed)
    weights = tf.constant(rng.laplace(size=codec.shape) * 0.04, tf.float32)
    update = tf.constant(rng.standard_normal(codec.shape) * 0.04 * change, tf.float32)
    before = codec.encode(weights)
    return before.numpy(), codec.assign(before, weights + update).numpy()


@settings(max_examples=150)
@given(
    st.sampled_from(FORMATS),
    st.integers(0, 700),
    st.booleans(),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_arbitrary_bytes_come_back(name, count, transform, seed, conditional):
    """Also what no encoder writes: codes beyond the largest, padding that is not 0, NaN scales."""
    codec, rng = a_codec(name, (count,), transform), np.random.default_rng(seed)
    buffer, other = rng.integers(0, 256, (2, codec.nbytes)).astype(np.uint8)
    both(buffer, codec, other if conditional else None)


@pytest.mark.parametrize("name", FORMATS)
def test_weights_come_back_shorter(name):
    codec = a_codec(name, (120, 257))
    before, after = pair(codec)
    alone, given_before = both(after, codec), both(after, codec, before)
    assert len(given_before) < 0.8 * len(alone) and len(alone) <= codec.nbytes + 24
    assert len(both(after, codec, after)) < 0.01 * codec.nbytes + 40


def test_a_kept_transform_is_not_sent_again():
    codec = a_codec("S1E3M7", (64,))
    before, _ = pair(codec)
    moved = before.copy()
    moved[-3] ^= 1
    assert len(both(moved, codec, before)) == len(both(before, codec, before)) + 8


def test_the_oracle_reads_ordinals_and_contexts():
    for name, ordinal in (("INT8", _integer), ("S1E3M4", _minifloat)):
        codec = a_codec(name, (8 * 30,))
        before, after = pair(codec)
        codes = [codec.codes(tf.constant(buffer)).numpy().tolist() for buffer in (before, after)]
        old, new = ([ordinal(code) for code in each] for each in codes)
        (count,), symbols, trailer = oracle.decode(coding.encode_buffer(after, codec))
        assert count == 240 and symbols == new and trailer == after[-8:].tobytes()
        if name == "INT8":
            contexts = [(value + 128) // 16 for value in old]
        else:
            exponents = [(code % 128) // 16 for code in codes[0]]
            contexts = [max(exponents) - e for e in exponents]
        data = coding.encode_buffer(after, codec, before)
        _, symbols, trailer = oracle.decode(data, contexts, zlib.crc32(before.tobytes()))
        turned = name != "INT8"
        assert symbols == [o - n if turned and o < 0 else n - o for n, o in zip(new, old)]
        assert trailer == (b"" if (before[-8:] == after[-8:]).all() else after[-8:].tobytes())


def _integer(code):
    return code - 256 if code >= 128 else code


def _minifloat(code):
    return -1 - code % 128 if code >= 128 else code


def test_base_and_delta_cost_as_much_as_the_target_alone():
    """INT8 in two parts: what 4 of its bits say, and the rest given that; issue 13 wants 1.03."""
    fine, coarse = a_codec("INT8", (300, 200)), a_codec("INT4", (300, 200))
    target = fine.encode(tf.random.stateless_normal((300, 200), [1, 2]))
    nearest = tf.minimum(((fine.codes(target) ^ 128) - 128 + 8) // 16, 7)
    base, predicted = (
        tf.concat([*packing.pack(tf.reshape(codes, [8, -1]), bits), target[-8:]], axis=0).numpy()
        for codes, bits in ((nearest & 15, 4), (16 * nearest & 255, 8))
    )
    parts = len(both(base, coarse)) + len(both(target.numpy(), fine, predicted))
    assert parts <= 1.01 * len(both(target.numpy(), fine))


@pytest.mark.parametrize("path", ["native", "pure"])
def test_another_given_buffer_is_refused(path):
    codec = a_codec("S1E3M7", (300,))
    before, after = pair(codec)
    alone, data = coding.encode_buffer(after, codec), coding.encode_buffer(after, codec, before)
    moved = before.copy()
    moved[-1] ^= 1  # Only its offset, which changes no code.
    cases = ((data, after, "data"), (data, moved, "data"), (data, None, "given"))
    cases += ((alone, before, "given"), (alone[:-1], None, "data"))
    for coded, other, argument in cases:
        with pytest.raises(CodingError) as caught:
            if path == "pure":
                with kernels.pure():
                    coding.decode_buffer(coded, codec, other)
            else:
                coding.decode_buffer(coded, codec, other)
        assert caught.value.argument == argument


@pytest.mark.parametrize("path", ["native", "pure"])
def test_streams_of_other_variables_are_refused(path):
    codec = a_codec("INT4", (300,))
    before, _ = pair(codec)
    wide = a_codec("INT8", (300,))
    cases = (
        coding.encode_buffer(pair(wide)[0], wide),  # Ordinals that INT4 has not.
        coding.encode_buffer(pair(a_codec("INT4", (309,)))[0], a_codec("INT4", (309,))),
        coding.encode_buffer(before[:-8], Codec(codec.format, (300,), False)),  # No transform.
        coding.encode(np.zeros((2, 152), int)),
    )
    for data in cases:
        with pytest.raises(CodingError):
            if path == "pure":
                with kernels.pure():
                    coding.decode_buffer(data, codec)
            else:
                coding.decode_buffer(data, codec)


def test_mistakes_have_typed_errors():
    codec = a_codec("INT4", (30,))
    buffer = pair(codec)[0]
    with pytest.raises(InputError, match="24 bytes"):
        coding.encode_buffer(buffer[:-1], codec)
    with pytest.raises(InputTypeError, match="uint8"):
        coding.encode_buffer(buffer.astype(np.int32), codec)
    with pytest.raises(InputError) as caught:
        coding.encode_buffer(buffer, codec, given=buffer[:3])
    assert caught.value.argument == "given"
