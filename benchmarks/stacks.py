"""Stacks of Dense layers and their training steps, which several benchmarks measure."""

import contextlib
import functools
from typing import NamedTuple

import tensorflow as tf

import omc
from benchmarks.harness import fit_step
from omc import kernels

# TensorFlow warns of many traces; here each of the many functions is traced once, on purpose.
tf.get_logger().setLevel("ERROR")


class Variant(NamedTuple):
    """One way to train a stack.

    Attributes:
        format: Name of a format, "FP32" for a model that is not wrapped.
        path: "keras" without OMC; "native" or "pure", on which OMC's codec runs.
        loop: "fit" for the train function of `model.fit` with Keras' SGD; "loop" for a plain tape
            and `assign_sub`.
    """

    format: str
    path: str = "keras"
    loop: str = "fit"

    def __str__(self):
        return f"{self.format} {self.path} {self.loop}"


# Keras' SGD keeps a dense momentum slot for every weight also when momentum is 0; OMC leaves it
# out. A plain loop has none for FP32 either and is the harder comparison.
FIT = Variant("FP32")
LOOP = Variant("FP32", loop="loop")
RATE = 0.01


def variants(pure=True):
    """FP32 in both loops, then OMC: native where the ops are compiled, and pure where wanted.

    Without native ops only the pure ones are left, wanted or not.
    """
    native = kernels.available()
    chosen = [Variant(name, "native") for name in ("S1E3M7", "INT8", "INT4") if native]
    if pure or not native:
        chosen += [Variant(name, "pure") for name in ("S1E3M7", "INT8")]
    return [FIT, LOOP, *chosen]


def build(variant, layers, units):
    """A stack of `layers` x Dense(units), wrapped as the variant says, from a fixed seed."""
    tf.keras.utils.set_random_seed(0)
    dense = [tf.keras.layers.Dense(units, "relu") for _ in range(layers)]
    model = tf.keras.Sequential([tf.keras.Input((units,)), *dense])
    if variant.format != "FP32":
        with path(variant):
            omc.wrap(model, variant.format)
    return model


def step_of(model, variant, batch):
    """Training step as a function without arguments, traced and run once.

    Args:
        model: What `build` made.
        variant: The same `Variant`.
        batch: Tokens a step, int; each a vector of the stack's width.
    """
    x = tf.random.stateless_normal([batch, model.input_shape[-1]], [1, 2])
    if variant.loop == "loop":
        step = functools.partial(_tape_step(model), x)
    else:
        if model.optimizer is None:
            model.compile(tf.keras.optimizers.SGD(RATE), "mse")
        # A function of its own for each batch, else Keras would retrace one for any batch.
        step = fit_step(model, x, x)
    with path(variant):
        step()
    return step


def path(variant):
    """Context in which the variant's functions are traced."""
    return kernels.pure() if variant.path == "pure" else contextlib.nullcontext()


def _tape_step(model):
    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - x) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        for gradient, variable in zip(gradients, model.trainable_variables):
            variable.assign_sub(RATE * gradient)

    return step
