"""Keras optimizers without dense memory that they do not need."""

import types

import tensorflow as tf


def drop_useless_slots(optimizer):
    """Makes a Keras SGD without momentum keep no momentum slots; other optimizers are untouched.

    Keras 2.14 gives every SGD one dense float32 slot a weight, also when momentum is 0. That slot
    alone would be larger than the compressed model. The update is the same: w <- w - lr * g.

    Args:
        optimizer: A Keras optimizer that has not been used yet, changed in place.

    Returns:
        `optimizer`.
    """
    if type(optimizer) is tf.keras.optimizers.SGD and not optimizer.momentum:
        if not getattr(optimizer, "_built", False):
            optimizer.build = types.MethodType(_build_without_slots, optimizer)
            optimizer.update_step = types.MethodType(_plain_update, optimizer)
    return optimizer


def _build_without_slots(optimizer, variables):
    super(tf.keras.optimizers.SGD, optimizer).build(variables)
    optimizer._built = True


def _plain_update(optimizer, gradient, variable):
    rate = tf.cast(optimizer.learning_rate, variable.dtype)
    if isinstance(gradient, tf.IndexedSlices):
        variable.scatter_sub(tf.IndexedSlices(gradient.values * rate, gradient.indices))
    else:
        variable.assign_sub(gradient * rate)
