"""Weights that start at zero, or far below what they become, train as plain ones do."""

import numpy as np
import pytest
import tensorflow as tf

import omc

L = tf.keras.layers


def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype(np.float32)
    return x, x @ rng.normal(size=(6, 4)).astype(np.float32)


def linear(initializer):
    layer = L.Dense(4, use_bias=False, kernel_initializer=initializer)
    return tf.keras.Sequential([tf.keras.Input((6,)), layer])


def losses(model, optimizer, epochs=8):
    x, y = regression()
    model.compile(optimizer, "mse")
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("start", [0.0, 1e-6, 1e-25])
@pytest.mark.parametrize("name", ["INT8", "S1E3M7", "S1E2M3"])
def test_small_kernels_train(name, start, optimizer):
    initializer = tf.keras.initializers.RandomNormal(stddev=start, seed=1) if start else "zeros"
    make = {
        "sgd": lambda: tf.keras.optimizers.SGD(0.1),
        "adam": lambda: tf.keras.optimizers.Adam(0.1),
    }[optimizer]
    plain = losses(linear(initializer), make())
    got = losses(omc.wrap(linear(initializer), name), make())
    step = {"INT8": 1 / 127, "S1E3M7": 2.0**-8, "S1E2M3": 2.0**-4}[name]
    # Each of 6 weights an output is off by a step of rounding at most, more or less.
    assert got[0] == pytest.approx(plain[0], rel=0.3)
    assert got[-1] < plain[-1] + 6 * (2 * step) ** 2


def test_zero_kernels_train_under_nearest_rounding():
    policy = omc.Policy("INT8", rounding="nearest")
    got = losses(omc.wrap(linear("zeros"), policy), tf.keras.optimizers.SGD(0.1))
    assert got[-1] < 0.01 * got[0]


def test_a_kernel_that_decays_keeps_its_relative_precision():
    model = omc.wrap(linear("glorot_uniform"), "INT8")
    kernel = model.layers[0].kernel
    before = kernel.numpy()
    for _ in range(60):
        kernel.assign_sub(0.1 * kernel.read_value())
    wanted = 0.9**60 * before
    np.testing.assert_allclose(kernel.numpy(), wanted, rtol=0, atol=0.3 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["INT8", "S1E2M3"])
def test_setting_what_was_got_keeps_every_bit_after_training(name):
    model = omc.wrap(linear("zeros"), name)
    losses(model, tf.keras.optimizers.SGD(0.1), epochs=1)
    kernel = model.layers[0].kernel
    kernel.assign_sub(0.7 * kernel.read_value())  # Most of the range is free now.
    before = kernel.buffer.numpy()
    model.set_weights(model.get_weights())
    np.testing.assert_array_equal(kernel.buffer.numpy(), before)
