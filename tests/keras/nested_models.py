"""A small network, its data and its nested form, for the tests of nested models."""

import numpy as np
import tensorflow as tf

import omc
from omc.keras.host import MAJOR, value_of, variables_of
from omc.keras.nesting import added_variables
from omc.policies import VariableSpec

L = tf.keras.layers
WIDTHS = (8, 4, 2)
LOSS = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(norm=True):
    tf.keras.utils.set_random_seed(1)
    inputs = x = tf.keras.Input((8, 8, 3))
    for channels in (8, 12, 12):
        x = L.Conv2D(channels, 3, 2, "same", use_bias=not norm)(x)
        x = L.ReLU()(L.BatchNormalization(momentum=0.5)(x) if norm else x)
    x = L.Dense(16, "relu")(L.Flatten()(x))
    return tf.keras.Model(inputs, L.Dense(5)(x))


def data(count=64, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, count)
    x = rng.standard_normal((count, 8, 8, 3)) + y[:, None, None, None] / 2
    return x.astype(np.float32), y


def compiled(model, optimizer=None):
    model.compile(optimizer or tf.keras.optimizers.SGD(0.05), LOSS, metrics=["accuracy"])
    return model


def nested_network(norm=True, **options):
    options = {"bits": WIDTHS, "calibration": data()[0], **options}
    return omc.nest(network(norm), **options)


def name_of(weight):
    """A weight's name as OMC knows it, which is its path in Keras 3."""
    return VariableSpec.of(value_of(weight)).name


def save_checkpoint(model, path):
    """Writes TensorFlow's format, which is no more one of Keras 3's `save_weights`."""
    if MAJOR == 2:
        model.save_weights(path)
    else:
        tf.train.Checkpoint(model).write(str(path))


def load_checkpoint(model, path):
    """Restores what `save_checkpoint` wrote; returns TensorFlow's status of it."""
    if MAJOR == 2:
        return model.load_weights(path)
    return tf.train.Checkpoint(model).read(str(path))


def dense_copy(model):
    """A plain model with the weights as they are read now."""
    copy = network(any(isinstance(layer, L.BatchNormalization) for layer in model.layers))
    added = {id(variable) for variable in added_variables(model)}
    own = [variable for variable in variables_of(model) if id(variable) not in added]
    for mine, theirs in zip(variables_of(copy), own):
        mine.assign(theirs.numpy())
    for layer, mine in zip(model.layers, copy.layers):
        if isinstance(layer, L.BatchNormalization):  # Of the set in use.
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            mine.set_weights([getattr(layer, name).numpy() for name in names])
    return copy
