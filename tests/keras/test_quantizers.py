"""Quantizers of activations against numpy in float64, natively and in TensorFlow's own ops."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from omc import kernels
from omc.keras import quantizers

paths = pytest.mark.parametrize("path", [contextlib.nullcontext, kernels.pure])


def reference(x, scale, offset, bits):
    x = x.astype(np.float64)
    units, most = (x - offset) / scale, 2**bits - 1
    rounded = np.rint(np.clip(units, 0, most))
    return units, rounded, (units >= 0) & (units <= most)


@paths
@pytest.mark.parametrize("bits", range(1, 9))
def test_values_and_gradients_are_the_formula(bits, path):
    rng = np.random.default_rng(bits)
    # Steps of a power of two: float32 and float64 then round alike.
    x = (rng.integers(-700, 700, (23, 411)) / 64).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    for scale, offset in ((0.25, 0.0), (0.5, -3.0), (4.0, 0.125)):
        units, rounded, inside = reference(x, scale, offset, bits)
        with path():
            y = quantizers.quantize(x, scale, offset, bits)
            dx, ds, db = quantizers.quantize_gradient(x, tf.constant(dy), scale, offset, bits)
        np.testing.assert_array_equal(y, (rounded * scale + offset).astype(np.float32))
        np.testing.assert_array_equal(dx, np.where(inside, dy, 0))
        slope = np.where(inside, rounded - units, rounded)
        np.testing.assert_allclose(ds, (dy * slope).sum(), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(db, dy[~inside].astype(np.float64).sum(), rtol=1e-4, atol=1e-3)


def test_native_and_pure_values_are_the_same_bits():
    x = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
    native = quantizers.quantize(x, 0.0371, -0.73, 5).numpy()
    with kernels.pure():
        pure = quantizers.quantize(x, 0.0371, -0.73, 5).numpy()
    np.testing.assert_array_equal(native.view("u4"), pure.view("u4"))


@paths
def test_what_diverged_shows(path):
    x, dy = tf.constant([np.nan, 1.0, np.inf, -np.inf]), tf.ones([4])
    with path():
        y = quantizers.quantize(x, 0.5, 0.0, 4).numpy()
        dx, ds, _ = quantizers.quantize_gradient(x, dy, 0.5, 0.0, 4)
    np.testing.assert_array_equal(y, [np.nan, 1.0, 7.5, 0.0])
    assert np.isnan(ds) and dx.numpy().tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_fit_leaves_less_error_than_the_whole_range_and_keeps_zero():
    recorder = quantizers.Recorder()
    assert not recorder.seen
    values = np.maximum(np.random.default_rng(1).standard_normal((64, 500)), 0).astype(np.float32)
    recorder.observe(tf.constant(values))
    assert recorder.seen
    for bits in (2, 4, 8):
        scale, offset = recorder.fit(bits)
        assert offset == 0.0
        whole = values.max() / (2**bits - 1)

        def error(scale, bits=bits):
            return np.mean((quantizers.quantize(values, scale, 0.0, bits) - values) ** 2)

        assert error(np.float32(scale)) <= error(np.float32(whole)) * 1.01
    assert recorder.fit(2)[0] < values.max() / 3 * 0.8  # Of outliers little is kept at 2 bits.


def test_the_table_gets_the_gradient_of_its_row():
    table = tf.Variable(np.ones((9, 2), np.float32))
    table.assign(tf.tensor_scatter_nd_update(table, [[3]], [[0.5, -1.0]]))
    quantizer = quantizers.InputQuantizer(table, 3, 3)
    x = tf.constant([[-4.0, 0.2, 9.0]])
    np.testing.assert_array_equal(quantizer(x), [[-1.0, 0.0, 2.5]])
    dx, rows = quantizer.gradient(x, tf.constant([[1.0, 2.0, 4.0]]))
    np.testing.assert_array_equal(dx, [[0.0, 2.0, 0.0]])
    expected = np.zeros((9, 2))
    expected[3] = [2.0 * (2 - 2.4) + 4.0 * 7, 1.0 + 4.0]
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
