"""What a lower width learns from the next higher one, beside gradients taken by hand."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras.distillation import LOGITS, SIGMOID, SOFTMAX, kind_of_outputs

L, LOSSES = tf.keras.layers, tf.keras.losses
RATE = 1e-4
X = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 64)


def chain(*tail):
    return tf.keras.Sequential([tf.keras.Input((8,)), L.Dense(16, "relu"), L.Dense(16), *tail])


class OutputFirst(tf.keras.Model):
    """Its layers stand in another order than they are called in."""

    def __init__(self):
        super().__init__()
        self.out = L.Dense(3, "softmax")
        self.first, self.second = L.Dense(16, "relu"), L.Dense(16, "relu")

    def call(self, x):
        return self.out(self.second(self.first(x)))


def inner(*layers):
    return tf.keras.Sequential([tf.keras.Input((16,)), *layers])


MODELS = {
    "softmax": (lambda: chain(L.Dense(3, "softmax")), SOFTMAX),
    "tf.nn.softmax": (lambda: chain(L.Dense(3, tf.nn.softmax)), SOFTMAX),
    "Activation": (lambda: chain(L.Dense(3), L.Activation(tf.nn.softmax)), SOFTMAX),
    "Softmax": (lambda: chain(L.Dense(3), L.Softmax()), SOFTMAX),
    "inner": (lambda: chain(inner(L.Dense(3, "softmax"))), SOFTMAX),
    "Dropout": (lambda: chain(L.Dense(3, "softmax"), L.Dropout(0.0)), SOFTMAX),
    "subclassed": (OutputFirst, SOFTMAX),
    "logits": (lambda: chain(L.Dense(3)), LOGITS),
}


def cross_entropy(teacher, outputs, kind):
    if kind == LOGITS:
        teacher, outputs = tf.nn.softmax(teacher), tf.nn.softmax(outputs)
    return -tf.reduce_mean(tf.reduce_sum(teacher * tf.math.log(outputs + 1e-7), axis=-1))


@pytest.mark.parametrize("name", MODELS)
def test_a_width_descends_on_the_cross_entropy_of_probabilities(name):
    make, kind = MODELS[name]
    tf.keras.utils.set_random_seed(0)
    model = make()
    model(X[:1])
    model.set_weights([1.5 * weight for weight in model.get_weights()])  # Surer of the classes.
    loss = LOSSES.SparseCategoricalCrossentropy(from_logits=kind == LOGITS)
    options = dict(activations=None, alrs=False, distillation=1.0)
    omc.nest(model, (8, 2), X, **options)
    model.compile(tf.keras.optimizers.SGD(RATE), loss)
    assert kind_of_outputs(model) == kind
    (bias,) = [v for v in model.trainable_variables if tuple(v.shape) == (3,)]

    def gradient(bits, function):
        with omc.at_width(model, bits), tf.GradientTape() as tape:
            value = function(model(X, training=True))
        return tape.gradient(value, bias).numpy()

    with omc.at_width(model, 8):
        teacher = model(X)
    wanted = gradient(8, lambda y: loss(Y, y))
    wanted += gradient(2, lambda y: cross_entropy(teacher, y, kind))
    before = bias.numpy()
    model.fit(X, Y, batch_size=64, verbose=0)
    np.testing.assert_allclose((before - bias.numpy()) / RATE, wanted, rtol=0.05, atol=2e-3)


def test_positions_that_are_masked_teach_nothing():
    tokens = np.random.default_rng(2).integers(1, 20, (64, 6))
    tokens[:, 2:] = 0
    wide = tf.keras.initializers.RandomNormal(0.0, 3.0, seed=0)
    tf.keras.utils.set_random_seed(0)
    layers = [L.Embedding(20, 8, wide, mask_zero=True), L.LSTM(8, return_sequences=True)]
    layers += [L.Dense(8, "relu"), L.Dense(4)]
    model = tf.keras.Sequential([tf.keras.Input((6,), dtype="int32"), *layers])
    options = dict(activations=None, alrs=False, distillation=1.0)
    omc.nest(model, (8, 2), tokens, **options)
    model.compile(tf.keras.optimizers.SGD(RATE), LOSSES.MeanSquaredError())
    bias = model.layers[-1].bias
    with omc.at_width(model, 8):
        teacher = tf.nn.softmax(model(tokens))[:, :2]
    with omc.at_width(model, 2), tf.GradientTape() as tape:
        losses = tf.nn.softmax_cross_entropy_with_logits(teacher, model(tokens)[:, :2])
        value = tf.reduce_mean(losses)
    wanted = tape.gradient(value, bias).numpy()
    with omc.at_width(model, 8):  # Labels that the highest width puts out: its own loss is 0.
        labels = model(tokens).numpy()
    before = bias.numpy()
    model.fit(tokens, labels, batch_size=64, verbose=0)
    np.testing.assert_allclose((before - bias.numpy()) / RATE, wanted, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize(
    "loss, kind",
    [
        ("sparse_categorical_crossentropy", SOFTMAX),
        (LOSSES.categorical_crossentropy, SOFTMAX),
        (LOSSES.BinaryCrossentropy(), SIGMOID),
        (LOSSES.BinaryCrossentropy(from_logits=True), LOGITS),
        (LOSSES.SparseCategoricalCrossentropy(from_logits=True), LOGITS),
        (["binary_crossentropy"], SIGMOID),
        ("mse", LOGITS),
        (lambda y, p: tf.reduce_mean(p), LOGITS),
    ],
)
def test_where_no_layer_says_it_the_loss_does(loss, kind):
    model = chain(L.Dense(3))
    model.compile("sgd", loss)
    assert kind_of_outputs(model) == kind
