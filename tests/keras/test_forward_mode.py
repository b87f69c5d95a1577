"""tf.autodiff.ForwardAccumulator through wrapped models gives what it gives for plain ones."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras.host import trainable_variables
from tests.keras.either import only_keras_2

L = tf.keras.layers
RNG = np.random.default_rng(0)
ROWS = tf.constant(RNG.normal(size=(4, 8)), tf.float32)
SEQUENCES = tf.constant(RNG.normal(size=(2, 6, 8)), tf.float32)
IMAGES = tf.constant(RNG.normal(size=(2, 8, 8, 3)), tf.float32)


def attention():
    inputs = tf.keras.Input((6, 8))
    return tf.keras.Model(inputs, L.MultiHeadAttention(2, 4)(inputs, inputs))


MODELS = {
    "two dense": (ROWS, lambda: [L.Dense(8, "tanh"), L.Dense(4)]),
    "dense of rank 3": (SEQUENCES, lambda: [L.Dense(8, "tanh")]),
    "conv1d": (SEQUENCES, lambda: [L.Conv1D(8, 3)]),
    "conv2d": (IMAGES, lambda: [L.Conv2D(8, 3, activation="tanh"), L.Conv2D(4, 2)]),
    "depthwise": (IMAGES, lambda: [L.DepthwiseConv2D(3, depth_multiplier=2)]),
    "attention": (SEQUENCES, attention),
    "prelu": (SEQUENCES, lambda: [L.PReLU(tf.keras.initializers.RandomUniform(0.1, 0.9))]),
    "lstm": (SEQUENCES, lambda: [L.LSTM(8)]),
    "unrolled lstm": (SEQUENCES, lambda: [L.LSTM(8, unroll=True)]),
    "gru": (SEQUENCES, lambda: [L.GRU(8, return_sequences=True)]),
}


def pair(name):
    x, layers = MODELS[name]

    def build():
        made = layers()
        if isinstance(made, tf.keras.Model):
            return made
        return tf.keras.Sequential([tf.keras.Input(x.shape[1:]), *made])

    model = omc.wrap(build(), "S1E4M14")
    plain = build()
    plain.set_weights(model.get_weights())
    return x, plain, model


def tangent(value):
    return tf.random.stateless_normal(value.shape, [1, 2])


def over_inputs(model, x):
    with tf.autodiff.ForwardAccumulator(x, tangent(x)) as accumulator:
        y = model(x)
    return accumulator.jvp(y)


def over_weights(model, x):
    weights = trainable_variables(model)
    with tf.autodiff.ForwardAccumulator(weights, [tangent(w) for w in weights]) as accumulator:
        y = model(x)
    return accumulator.jvp(y)


def hessian_product(model, x):
    with tf.autodiff.ForwardAccumulator(x, tangent(x)) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.tanh(model(x)) ** 2)
        gradient = tape.gradient(loss, x)
    return accumulator.jvp(gradient)


def nested(model, x):
    with tf.autodiff.ForwardAccumulator(x, tangent(x)) as outer:
        with tf.autodiff.ForwardAccumulator(x, tangent(x)) as inner:
            y = tf.tanh(model(x))
        first = inner.jvp(y)
    return outer.jvp(first)


def around_a_function(model, x):
    return over_inputs(tf.function(lambda x: model(x)), x)


PRODUCTS = [over_inputs, over_weights, hessian_product, nested, around_a_function]
CASES = [
    (name, product, False)
    for name in MODELS
    for product in PRODUCTS
    if product is not nested or name not in ("lstm", "gru")  # Of which TensorFlow has none.
]
CASES += [(name, product, True) for name in ("two dense", "prelu") for product in PRODUCTS]
CASES += [
    (name, product, True)
    for name in ("lstm", "unrolled lstm")
    for product in (over_inputs, over_weights, around_a_function)
]
CASES = [
    pytest.param(*case, marks=only_keras_2("plain layers' loops fail so in a function, too"))
    if case in (("lstm", over_inputs, True), ("lstm", over_weights, True))
    else case
    for case in CASES
]


@pytest.mark.parametrize("name, product, graph", CASES)
def test_products_are_plain_keras_own(name, product, graph):
    x, plain, model = pair(name)
    results = []
    for one in (plain, model):
        run = tf.function(lambda x, one=one: product(one, x)) if graph else None
        results.append(run(x) if graph else product(one, x))
    assert results[0] is not None and results[1] is not None
    np.testing.assert_allclose(results[1], results[0], rtol=1e-3, atol=1e-3)
