"""Mistakes with a width for each layer, and with HASB."""

import numpy as np
import tensorflow as tf

import omc
from omc import nested
from omc.keras import Switching
from tests.error_cases.nested import L, X, plain, prepared
from tests.error_cases.registry import case


def deep():
    inputs = x = tf.keras.Input((4,))
    for units in (6, 6, 6, 2):
        x = L.Dense(units)(x)
    return tf.keras.Model(inputs, x)


def switch_to(widths, model=None):
    nested.switch(model or omc.nest(deep(), (8, 4), X), widths)


@case("width for a layer that is not there")
def _(_):
    switch_to({"no/such": 4})


@case("width for a layer that is fixed")
def _(_):
    model = omc.nest(deep(), (8, 4), X)
    switch_to({model.layers[1].name: 4}, model)


@case("width of a layer of another type")
def _(_):
    switch_to({"*": "4"})


@case("name of a layer of another type")
def _(_):
    switch_to({0: 4})


@case("width of a layer that is not stored")
def _(_):
    switch_to({"*": 9})


@case("width of a layer that is not prepared")
def _(_):
    switch_to({"*": 3})


@case("reading by the policy of another model")
def _(_):
    switch_to(omc.Policy("INT8", overrides={"no/such": "INT4"}))


@case("reading by a policy of formats that are no widths")
def _(_):
    switch_to(omc.Policy("S1E3M4"))


@case("calibrating a layer that is not there")
def _(_):
    omc.calibrate(prepared(), X, {"no/such": 4})


@case("allocating a nested model by a policy")
def _(_):
    omc.allocate(prepared(), bits=4, policy=omc.Policy("INT8"))


@case("allocating a format that is no width")
def _(_):
    omc.allocate(prepared(), bits=4, formats=["S1E3M4"])


@case("allocating a width that is not prepared")
def _(_):
    omc.allocate(prepared(), bits=4, formats=["INT3", "INT8"])


@case("switching of another type")
def _(_):
    prepared(switching="hasb")


@case("switching between one width")
def _(_):
    prepared(bits=8, switching=Switching((1.0,), 1, 1))


@case("switching without a trace of a layer")
def _(_):
    prepared(switching=Switching({"no/such": 1.0}, 1, 1))


@case("traces of another type")
def _(_):
    Switching("hessian", 1, 1)


@case("trace that is NaN")
def _(_):
    Switching((1.0, np.nan), 1, 1)


@case("no epochs to switch widths in")
def _(_):
    Switching((1.0,), 0, 1)


@case("batches of an epoch of another type")
def _(_):
    Switching((1.0,), 1, 2.5)


@case("traces of a model that is nested")
def _(_):
    omc.mixed_precision.hasb(prepared(), [(X, X[:, :2])], epochs=1, batches=1, loss="mse")


@case("traces of an unbuilt model")
def _(_):
    model = tf.keras.Sequential([L.Dense(3)])
    omc.mixed_precision.hasb(model, [(X, X)], epochs=1, batches=1, loss="mse")


@case("traces of something else")
def _(_):
    omc.mixed_precision.hasb(X, [(X, X)], epochs=1, batches=1, loss="mse")


@case("traces without a loss")
def _(_):
    omc.mixed_precision.hasb(plain(), [(X, X[:, :2])], epochs=1, batches=1)
