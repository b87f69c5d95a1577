"""Mistakes with Keras models and with their compressed variables."""

import tensorflow as tf

import omc
from tests.error_cases.registry import case

L = tf.keras.layers


def plain():
    return tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(6), L.Dense(2)])


@case("model that a concrete function was traced with")
def _(_):
    model = plain()
    concrete = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([None, 4]))
    omc.wrap(model, "INT8")
    del concrete


def kernel():
    return omc.wrap(plain(), "INT8").layers[0].kernel


@case("handle of a compressed variable in a raw op that needs its value")
def _(_):
    tf.raw_ops.ResourceApplyGradientDescent(var=kernel().handle, alpha=0.1, delta=tf.ones([4, 6]))


@case("handle of a compressed variable read in another dtype")
def _(_):
    tf.raw_ops.ReadVariableOp(resource=kernel().handle, dtype=tf.float16)


case("rows to write of another type")(lambda _: kernel().scatter_mul(tf.ones([2, 6])))


@case("nesting a model with a wrapped part")
def _(_):
    model = tf.keras.Sequential([tf.keras.Input((4,)), omc.wrap(plain(), "INT8"), L.Dense(3)])
    omc.nest(model, (8, 4))
