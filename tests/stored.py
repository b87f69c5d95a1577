"""What tests of compressed tensors and of codecs share: formats, values, exact units."""

import numpy as np

EPS = float(np.finfo(np.float32).eps)
FLOAT32_MAX = float(np.finfo(np.float32).max)
MINIFLOATS = ["S1E3M7", "S1E2M3", "S1E5M10", "S1E4M14", "S1E2M0", "S1E8M7", "S0E3M7", "S0E4M3"]
INTEGERS = ["INT2", "INT4", "INT8"]
CODED = MINIFLOATS + INTEGERS
SHAPES = [(), (0,), (1,), (7,), (8,), (3, 5), (0, 3), (13, 17), (2, 3, 4)]


def weights(shape=(13, 17), seed=0, size=0.05):
    """Normal values with a few oddities among them, where there is room."""
    values = np.random.default_rng(seed).normal(0, size, shape).astype(np.float32)
    if values.size > 6:
        values.flat[:4] = 0.0, -0.0, 1e-9, -1e-9
    return values


def units_of(stored):
    """u' of every weight by the scalar specification (float64)."""
    fmt = stored.format
    codes = stored.codes.numpy().ravel().astype(np.int64) & (2**fmt.bits - 1)
    return np.array([fmt.decode(int(code)) for code in codes])


def assert_same_buffer(got, expected):
    np.testing.assert_array_equal(got.buffer, expected.buffer)
