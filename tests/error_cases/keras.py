"""Mistakes with Keras models and with their compressed variables."""

import tensorflow as tf
import tensorflow_federated as tff

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


def process_of(build):
    spec = (tf.TensorSpec([None, 4]), tf.TensorSpec([None, 2]))

    def model_fn():
        loss = tf.keras.losses.MeanSquaredError()
        return tff.learning.models.from_keras_model(build(), input_spec=spec, loss=loss)

    omc.learning.build_weighted_fed_avg(model_fn, "INT8")


def with_weights():
    model = plain()
    model.set_weights(model.get_weights())
    return model


@case("model_fn whose model is made outside")
def _(_):
    model = plain()
    process_of(lambda: model)


@case("loading inside a model_fn")
def _(folder):
    omc.save(omc.wrap(plain(), "INT8"), folder / "model.omc")
    process_of(lambda: omc.load(folder / "model.omc", plain()))


case("model_fn whose model is not built")(
    lambda _: process_of(lambda: tf.keras.Sequential([L.Dense(2)]))
)
case("model_fn with variables that are not float32")(
    lambda _: process_of(
        lambda: tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(2, dtype="float16")])
    )
)
case("model_fn that sets weights")(lambda _: process_of(with_weights))
case("wrapping inside a model_fn")(lambda _: process_of(lambda: omc.wrap(plain(), "INT8")))
