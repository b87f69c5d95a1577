"""Mistakes with nested precision."""

import numpy as np
import tensorflow as tf

import omc
from omc import nested
from tests.error_cases.registry import case

L = tf.keras.layers
X = np.ones((8, 4), np.float32)


def plain(kind=tf.keras.Model):
    inputs = tf.keras.Input((4,))
    x = L.BatchNormalization()(L.Dense(6)(L.Dense(6)(inputs)))
    return kind(inputs, L.Dense(2)(x))


def tensor(fmt="INT8", **options):
    return omc.compress(X, fmt, **options)


def prepared(**options):
    return omc.nest(plain(), **{"bits": (8, 4), "calibration": X, **options})


@case("width that is not stored")
def _(_):
    nested.switch(tensor(), 9)


@case("width of another type")
def _(_):
    nested.switch(tensor(), "4")


@case("width out of FP32")
def _(_):
    nested.switch(tensor("FP32"), 8)


@case("switching something else")
def _(_):
    nested.switch(X, 4)


@case("switching a model that is not nested")
def _(_):
    nested.switch(omc.wrap(plain(), "INT8"), 4)


@case("switching to a width that is not prepared")
def _(_):
    nested.switch(prepared(), 3)


@case("extracting one bit")
def _(_):
    nested.extract(tensor(), 1)


@case("extracting bare integers")
def _(_):
    nested.extract(tensor(transform=None), 4)


@case("extracting something else")
def _(_):
    nested.extract(X, 4)


@case("unknown rounding of a width")
def _(_):
    prepared(rounding="up")


@case("widths above what is stored")
def _(_):
    prepared(policy="INT4")


@case("widths of another type")
def _(_):
    prepared(bits=(8, 4.5))


@case("nesting without calibration")
def _(_):
    prepared(calibration=None)


@case("nesting an unbuilt model")
def _(_):
    omc.nest(tf.keras.Sequential([L.Dense(3)]), (8, 4), X)


@case("saving a nested model to a file of Keras")
def _(_):
    prepared().save("m.keras")


@case("nesting a nested model")
def _(_):
    omc.nest(prepared(), (8, 4), X)


@case("nesting in FP32")
def _(_):
    prepared(policy="FP32")


@case("nesting bare codes")
def _(_):
    prepared(policy=omc.Policy("INT8", transform=None))


@case("unknown bits of activations")
def _(_):
    prepared(activations=9)


@case("activations of another type")
def _(_):
    prepared(activations="float")


@case("unknown batchnorm")
def _(_):
    prepared(batchnorm="one")


@case("distillation out of range")
def _(_):
    prepared(distillation=2)


@case("distillation of several outputs")
def _(_):
    inputs = tf.keras.Input((4,))
    x = L.Dense(6)(L.Dense(6)(inputs))
    model = omc.nest(tf.keras.Model(inputs, [L.Dense(2)(x), x]), (8, 4), X)
    model.compile("sgd", "mse")
    model.fit(X, [X[:, :2], np.ones((8, 6))], verbose=0)


@case("distillation of one number")
def _(_):
    inputs = tf.keras.Input((4,))
    x = L.Dense(6)(L.Dense(6)(inputs))
    model = omc.nest(tf.keras.Model(inputs, L.Dense(1)(x)), (8, 4), X)
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], verbose=0)


@case("unknown pattern in fixed")
def _(_):
    prepared(fixed=("no/such",))


@case("fitting a nested model with its own train_step")
def _(_):
    class Own(tf.keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    model = omc.nest(plain(Own), (8, 4), X)
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], verbose=0)


@case("nesting a model that renormalizes")
def _(_):
    inputs = tf.keras.Input((4,))
    x = L.BatchNormalization(renorm=True)(L.Dense(6)(L.Dense(6)(inputs)))
    omc.nest(tf.keras.Model(inputs, L.Dense(2)(x)), (8, 4), X)


@case("calibrating with zeros alone")
def _(_):
    prepared(calibration=0 * X)


@case("calibrating BatchNorm with one example")
def _(_):
    prepared(calibration=X[:1])


@case("calibrating with inputs that overflow")
def _(_):
    prepared(calibration=1e38 * X)


@case("alrs of another type")
def _(_):
    prepared(alrs="no")


@case("calibrating widths of a model that is not nested")
def _(_):
    omc.calibrate(omc.wrap(plain(), "INT8"), X, 4)


@case("calibrating a model whose BatchNorm is frozen")
def _(_):
    model = tf.keras.Sequential([L.Dense(2), L.BatchNormalization(trainable=False)])
    model.build((None, X.shape[1]))
    omc.calibrate(model, X)


@case("calibrating with statistics beyond float32")
def _(_):
    model = tf.keras.Sequential([L.Dense(2), L.BatchNormalization(), L.BatchNormalization()])
    model.build((None, X.shape[1]))
    omc.calibrate(model, 1e25 * np.arange(8, dtype=np.float32)[:, np.newaxis] * X)


@case("calibrating a model that is not built")
def _(_):
    omc.calibrate(tf.keras.Sequential([L.Dense(2), L.BatchNormalization()]), X)


@case("artifact of a nested model for one with other widths")
def _(folder):
    omc.save(prepared(), folder / "model.omc")
    omc.load(folder / "model.omc", prepared(bits=(8, 2)))
