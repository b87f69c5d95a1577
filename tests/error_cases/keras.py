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
