"""Quantization under a dither: against float64, and both paths to the bit."""

import numpy as np
import pytest
import tensorflow as tf

from omc import kernels, transforms
from omc.coding import dither

RNG = np.random.default_rng(0)
SEED = tf.constant([123456789, -987654321])
NATIVE = pytest.param(
    True, marks=pytest.mark.skipif(not kernels.available(), reason="no native ops are built")
)


def path(native):
    return kernels.pure() if not native else tf.device("CPU")


def dithers(count, seed=SEED):
    bits = transforms.random_bits(tf.range(count), seed).numpy().view(np.uint32)
    return (bits >> 8).astype(np.float64) / 2**24 - 0.5


@pytest.mark.parametrize("native", [False, NATIVE])
@pytest.mark.parametrize("step", [1e-6, 0.01, 1.0, 3.7, 1e6])
@pytest.mark.parametrize("count", [1, 7, 16, 4096, 10_001])
def test_symbols_contexts_and_values_are_the_formulas(native, step, count):
    values = RNG.standard_t(3, count).astype(np.float32)
    size = np.float32(step)
    with path(native):
        symbols, contexts, error = dither.quantize(tf.constant(values), SEED, tf.constant(size))
        again = dither.contexts(SEED, count)
        read = dither.read(symbols, SEED, tf.constant(size)).numpy()
    t = dithers(count)
    exact = values.astype(np.float64) / float(size) + t
    side = np.where(t < 0, -1, 1)
    quantized = side * symbols.numpy()
    near = np.abs(exact - np.floor(exact) - 0.5) < 1e-6 * (1 + np.abs(exact))  # A float's tie.
    assert np.all((np.abs(exact) > 4e6) | near | (quantized == np.rint(exact)))
    np.testing.assert_array_equal(contexts, np.minimum(np.abs(t) * 16, 7).astype(np.uint8))
    np.testing.assert_array_equal(contexts, again)
    np.testing.assert_allclose(read, (quantized - t) * float(size), rtol=1e-5, atol=1e-6 * step)
    wanted = np.sum((read.astype(np.float64) - values) ** 2)
    np.testing.assert_allclose(error, wanted, rtol=1e-3, atol=1e-9)


@pytest.mark.skipif(not kernels.available(), reason="no native ops are built")
@pytest.mark.parametrize("step", [0.0, 1e-38, 0.3, 1e30])
def test_both_paths_agree_to_the_bit_whatever_comes(step):
    values = RNG.normal(0, 10.0 ** RNG.integers(-30, 30, 5000)).astype(np.float32)
    values[:6] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38]
    given = tf.constant(values), SEED, tf.constant(np.float32(step))
    native = dither.quantize(*given)
    with kernels.pure():
        pure = dither.quantize(*given)
        for ours, theirs in zip(native[:2], pure[:2]):
            np.testing.assert_array_equal(ours, theirs)
        read = dither.read(pure[0], *given[1:])
    np.testing.assert_array_equal(
        dither.read(native[0], *given[1:]).numpy().view(np.int32), read.numpy().view(np.int32)
    )


@pytest.mark.parametrize("native", [False, NATIVE])
def test_in_a_graph_shapes_are_known(native):
    @tf.function(autograph=False)
    def there_and_back(values):
        with path(native):
            symbols, contexts, _ = dither.quantize(values, SEED, 0.5)
            assert symbols.shape == contexts.shape == dither.contexts(SEED, 9).shape == (9,)
            return dither.read(symbols, SEED, 0.5)

    values = RNG.normal(size=9).astype(np.float32)
    assert np.abs(there_and_back(tf.constant(values)) - values).max() <= 0.2500001
