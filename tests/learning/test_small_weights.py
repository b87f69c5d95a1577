"""Zero kernels in a federated process learn what TFF's own learns."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc.learning import build_fp32_fed_avg, build_weighted_fed_avg, local_runtime

SGD = tff.learning.optimizers.build_sgdm
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 32, 6)).astype(np.float32)
Y = (X @ RNG.normal(size=(6, 3))).astype(np.float32)


def data(client):
    return tf.data.Dataset.from_tensor_slices((X[client], Y[client])).batch(8)


def model_fn():
    dense = tf.keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros")
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential([tf.keras.Input((6,)), dense]),
        input_spec=data(0).element_spec,
        loss=tf.keras.losses.MeanSquaredError(),
    )


def error(process, rounds=6):
    state = process.initialize()
    for _ in range(rounds):
        state = process.next(state, [data(client) for client in range(4)]).state
    kernel = process.get_model_weights(state).trainable[0]
    return float(np.mean((X @ kernel - Y) ** 2))


@pytest.mark.parametrize("name", ["INT8", "S1E2M3"])
def test_zero_kernels_learn_as_in_fp32(name):
    with local_runtime():
        plain = error(build_fp32_fed_avg(model_fn, SGD(0.1), SGD(1.0)))
        got = error(build_weighted_fed_avg(model_fn, name, SGD(0.1)))
    assert plain < 0.1 * np.mean(Y**2)
    assert got < 1.3 * plain
