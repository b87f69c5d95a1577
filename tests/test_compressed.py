"""Compressed tensors: what is stored, and every odd input."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from omc import packing
from omc.compressed import compress, decompress
from omc.errors import InputError, InputTypeError
from omc.formats import Format
from tests.stored import (
    CODED,
    EPS,
    FLOAT32_MAX,
    SHAPES,
    assert_same_buffer,
    units_of,
    weights,
)

# What is stored.


@pytest.mark.parametrize("transform", ["pvt", None])
@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_stored_bytes_are_the_buffer(name, transform):
    for shape in SHAPES + [(1000,)]:
        stored = compress(weights(shape), name, transform=transform)
        count, bits = int(np.prod(shape)), stored.format.bits
        assert stored.buffer.dtype == tf.uint8 and stored.shape == shape
        assert stored.nbytes == stored.codec.nbytes == len(bytes(stored.buffer.numpy()))
        trailer = 8 if transform and name != "FP32" else 0
        padded = count if name == "FP32" else -(-count // 8) * 8
        assert stored.nbytes == padded * bits // 8 + trailer
        assert 0 <= stored.nbytes - count * bits / 8 < 64
        restored = decompress(stored)
        assert restored.dtype == tf.float32 and tuple(restored.shape) == shape
        if name != "FP32":
            assert tuple(stored.codes.shape) == shape


@pytest.mark.parametrize("name", CODED)
def test_buffer_is_planes_scale_offset(name):
    """The docstring's layout, so that another program can read it."""
    stored = compress(weights(), name)
    raw = stored.buffer.numpy()
    scale, offset = np.frombuffer(raw[-8:].tobytes(), "<f4")
    assert (stored.scale, stored.offset) == (scale, offset)
    count = stored.codec.count
    codes = packing.unpack(raw, packing.padded_count(count) // 8, stored.format.bits).numpy()
    np.testing.assert_array_equal(codes.ravel()[:count], stored.codes.numpy().ravel())
    assert not codes.ravel()[count:].any()
    dense = units_of(stored) * float(scale) + float(offset)
    rounding = 2 * EPS * (np.abs(dense) + abs(offset))
    assert np.all(np.abs(decompress(stored).numpy().ravel() - dense) <= rounding)


def test_fp32_and_bare_buffers_have_no_transform():
    values = weights()
    np.testing.assert_array_equal(compress(values, "FP32").buffer, np.frombuffer(values, np.uint8))
    for stored in (compress(values, "FP32"), compress(values, "INT4", transform=None)):
        assert (stored.scale, stored.offset) == (1.0, 0.0)


def test_repr_says_format_shape_and_bytes():
    text = repr(compress(weights(), "S1E3M7"))
    assert "S1E3M7" in text and "(13, 17)" in text and "316 of 884 bytes" in text


# Inputs.


@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_constants_come_back(name):
    for value in (0.0, 1.0, -3.7, 1e-20, 1e38, -1e38):
        for shape in ((), (3, 5)):
            restored = decompress(compress(np.full(shape, value, np.float32), name)).numpy()
            np.testing.assert_allclose(restored, np.full(shape, value), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_error_is_what_the_format_promises(name):
    """Half a step at the largest magnitude, in the mean square; least squares only improves it."""
    fmt = Format.parse(name)
    values = np.random.default_rng(0).uniform(-1, 1, 300)
    if not fmt.sign_bits:
        values = np.abs(values)  # The distance of the ends of +-1e38 is beyond float32.
    half_step = (fmt.limit - fmt.max) / fmt.max
    for size in (1e-25, 1.0, 1e30, 1e38):
        restored = decompress(compress((size * values).astype(np.float32), name)).numpy()
        error = np.sqrt(np.mean(np.square(restored / size - values, dtype=np.float64)))
        assert error <= half_step + EPS, size


@pytest.mark.parametrize("name", CODED)
def test_any_finite_input_gives_a_finite_result(name):
    rng = np.random.default_rng(0)
    top = FLOAT32_MAX
    cases = [[top], [-top], [top, -top], [top, -0.6 * top, 0.4 * top], [top, 0.7 * top, -0.9 * top]]
    cases += [[1e-45], [1e-40, -1e-45, 0], [1e-38, 1e-37], [1e-45, top], [1e38, -1e38, 1.0]]
    cases += [rng.uniform(-1, 1, 50) * top for _ in range(5)]
    cases += [rng.uniform(-1, 1, 9) * 10.0 ** rng.uniform(-44, 38, 9) for _ in range(5)]
    for case in cases:
        values = np.float32(case)
        for seed in (None, 1):
            assert np.isfinite(decompress(compress(values, name, seed=seed))).all(), (values, seed)


def test_tiny_values_may_vanish_but_not_grow():
    values = np.float32([1e-45, -1e-40, 1e-38, 0.0])
    for name in CODED:
        assert np.abs(decompress(compress(values, name)).numpy()).max() < 2.0**-100


INPUTS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "tf bfloat16": lambda x: tf.constant(x, tf.bfloat16),
    "int8": lambda x: (x * 100).astype(np.int8),
    "int64": lambda x: (x * 100).astype(np.int64),
    "uint8": lambda x: (x * 100).astype(np.uint8),
    "bool": lambda x: x > 0,
    "list": lambda x: x.tolist(),
    "tensor": tf.constant,
    "variable": tf.Variable,
    "transposed": lambda x: np.asfortranarray(x),
    "big endian": lambda x: x.astype(">f4"),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_any_real_numbers_are_taken(kind):
    array = INPUTS[kind](weights((3, 5)))
    for name in ("S1E3M7", "INT8", "FP32"):
        stored = compress(array, name)
        assert_same_buffer(stored, compress(np.asarray(array).astype(np.float32), name))
        assert stored.shape == (3, 5)


@pytest.mark.parametrize("name", ["S1E3M7", "INT8", "FP32"])
@pytest.mark.parametrize(
    "array, bad",
    [([1, np.nan, 2], "1 "), ([np.inf, 1, -np.inf], "2 "), (np.nan, "1 "), ([[1e39, 1]], "1 ")],
)
def test_numbers_that_are_not_finite_are_refused(name, array, bad):
    with pytest.raises(InputError) as caught:
        compress(np.array(array), name)
    assert caught.value.argument == "array"
    assert f"but got {bad}" in str(caught.value) and "finite" in str(caught.value)


@pytest.mark.parametrize(
    "array",
    ["text", ["a", "b"], b"bytes", None, {"a": 1}, object, 1j, [1 + 2j], [None], [[1], [1, 2]]],
    ids=repr,
)
def test_what_is_no_array_of_numbers_is_refused(array):
    with pytest.raises(InputTypeError) as caught:
        compress(array, "S1E3M7")
    assert caught.value.argument == "array"
    assert isinstance(caught.value, TypeError)


def test_unknown_transform_is_refused():
    for transform in ("None", "PVT", "", True, False, 1, ["pvt"]):
        with pytest.raises(InputError, match="`transform`.*'pvt' or None"):
            compress([1.0], "S1E3M7", transform=transform)


def test_decompress_refuses_what_is_not_compressed():
    for argument in (None, [1.0], np.zeros(3), "S1E3M7"):
        with pytest.raises(InputTypeError) as caught:
            decompress(argument)
        assert caught.value.argument == "compressed"


@pytest.mark.parametrize("name", CODED)
def test_seeds_decide_the_codes(name):
    values = weights()
    first, again, other = (compress(values, name, seed=seed) for seed in (1, 1, 2))
    assert_same_buffer(first, again)
    assert (first.buffer.numpy() != other.buffer.numpy()).any()
    assert_same_buffer(compress(values, name), compress(values, name))
