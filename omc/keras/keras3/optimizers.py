"""Keras 3's optimizers that meet compressed variables.

Importing this module makes every optimizer look at the variables that it is about to update.
Without compressed ones among them nothing changes.
"""

import functools

import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer

from omc.keras.keras3.variables import StoredVariable
from omc.keras.switching import all_bits
from omc.keras.update_order import after_gradient, after_gradients
from omc.keras.variable import CompressedVariable


def slim(optimizer):
    """Lets an optimizer update weights without dense copies it can spare: Keras 3's all do.

    Args:
        optimizer: A `keras.optimizers.Optimizer`.
    """


def _replaced(cls, name):
    """Replaces a method by what the decorated function makes of it."""

    def decorate(make):
        original = getattr(cls, name)
        setattr(cls, name, functools.wraps(original)(make(original)))
        return make

    return decorate


@_replaced(TFOptimizer, "apply")
def _(apply):
    def with_all_bits(self, grads, trainable_variables=None):
        """Applied is to all that is stored, at whatever width a nested model is read."""
        listed = self._trainable_variables if trainable_variables is None else trainable_variables
        listed, grads = list(listed), list(grads)
        values = [getattr(variable, "_value", variable) for variable in listed]
        compressed = [value for value in values if isinstance(value, CompressedVariable)]
        with all_bits(compressed), after_gradients(grads, values):
            return apply(self, grads, listed if trainable_variables is not None else None)

    return with_all_bits


@_replaced(TFOptimizer, "_all_reduce_sum_gradients")
def _(reduce):
    def without_joining(self, grads_and_vars):
        """With one replica the sum only joins all gradients in one op, so that all wait for all."""
        grads_and_vars = list(grads_and_vars)
        if not tf.distribute.has_strategy() and any(
            isinstance(variable, CompressedVariable) for _, variable in grads_and_vars
        ):
            return grads_and_vars
        return reduce(self, grads_and_vars)

    return without_joining


@_replaced(TFOptimizer, "_distributed_tf_update_step")
def _(update_all):
    def one_by_one(self, distribution, grads_and_vars, learning_rate):
        """What an update decodes of slots waits for its gradient (`omc.keras.update_order`)."""
        for gradient, variable in grads_and_vars:
            with after_gradient(gradient):
                update_all(self, distribution, [(gradient, variable)], learning_rate)

    return one_by_one


@_replaced(tf.keras.optimizers.SGD, "update_step")
def _(update_step):
    def without_copy(self, gradient, variable, learning_rate):
        """w <- w - lr * g without a scaled copy of g, where that is all that SGD does."""
        dense = not isinstance(gradient, tf.IndexedSlices)
        if isinstance(variable, CompressedVariable) and dense and not self.momentum:
            return variable.add_scaled(gradient, -tf.cast(learning_rate, variable.dtype))
        return update_step(self, gradient, variable, learning_rate)

    return without_copy


@_replaced(TFOptimizer, "add_variable_from_reference")
def _(add):
    def compressed_slot(self, reference_variable, name=None, initializer="zeros"):
        """A slot in codes, for variables whose policy asks for it."""
        codec = getattr(getattr(reference_variable, "_value", None), "slot_codec", None)
        if codec is None:
            return add(self, reference_variable, name=name, initializer=initializer)
        with tf.init_scope():  # What a trace makes has its value after it.
            slot = add(self, reference_variable, name=name, initializer=initializer)
            plain = slot._value
            if tuple(slot.shape) != tuple(codec.shape):
                return slot
            slot._value = CompressedVariable(
                codec,
                codec.encode(plain.read_value()).numpy(),
                name=slot.path,
                trainable=False,
                seed=tf.constant([len(self._variables), 1], tf.int32),
            )
            slot._value._unique_id = plain._unique_id
            slot.__class__ = StoredVariable
        return slot

    return compressed_slot
