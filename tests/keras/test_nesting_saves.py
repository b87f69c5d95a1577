"""Nested models in files: what is kept, and what a model has to be like to take it back."""

import numpy as np
import tensorflow as tf

import omc
from omc import nested
from tests.keras.nested_models import L

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)


def mlp():
    tf.keras.utils.set_random_seed(0)
    layers = [tf.keras.Input((6,))]
    for _ in range(3):
        layers += [L.Dense(8), L.BatchNormalization(), L.ReLU()]
    return tf.keras.Sequential([*layers, L.Dense(3)])


def marked(model, widths):
    """Gives each width's BatchNorm sets values of their own."""
    for bits in widths:
        with omc.at_width(model, bits):
            for layer in model.layers:
                if isinstance(layer, L.BatchNormalization):
                    layer.beta.assign(tf.fill(layer.beta.shape, bits / 8))
                    layer.moving_mean.assign(tf.fill(layer.beta.shape, bits / 16))
    return {bits: nested.switch(model, bits).predict(X, verbose=0) for bits in widths}


def test_every_width_comes_back_with_its_own_sets_whichever_were_calibrated(tmp_path):
    for trained, added in (((6, 4), (8,)), ((6, 4), (3, 8, 5)), ((8, 4), (3, 7))):
        model = omc.nest(mlp(), trained, X)
        for bits in added:
            omc.calibrate(model, X, bits)
        outputs = marked(model, (*trained, *added))
        omc.save(model, tmp_path / "m.omc")
        alike = omc.nest(mlp(), trained, X)
        omc.calibrate(alike, X, added)
        for target in (mlp(), alike):
            loaded = omc.load(tmp_path / "m.omc", target)
            for bits, expected in outputs.items():
                found = nested.switch(loaded, bits).predict(X, verbose=0)
                np.testing.assert_array_equal(found, expected)


def test_keras_files_have_the_sets_in_one_order(tmp_path):
    model, other = (omc.nest(mlp(), (8, 4), X) for _ in range(2))
    omc.calibrate(model, X, 3)
    omc.calibrate(model, X, 6)
    omc.calibrate(other, X, (6, 3))
    outputs = marked(model, (8, 6, 4, 3))
    nested.switch(model, 8)
    for name in ("m.weights.h5", "checkpoint"):
        model.save_weights(tmp_path / name)
        other.load_weights(tmp_path / name)
        for bits, expected in outputs.items():
            found = nested.switch(other, bits).predict(X, verbose=0)
            np.testing.assert_allclose(found, expected, atol=0.05)
        nested.switch(other, 8)
