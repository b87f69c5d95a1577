"""Keras optimizers without dense memory that they do not need."""

import types

import tensorflow as tf


def slim(optimizer):
    """Lets a Keras optimizer update one weight after the other, without dense copies it can spare.

    Two things of Keras 2.14 would hold dense float32 memory larger than the compressed model:

    - the sum of gradients over replicas joins all weight gradients in one op, so that no update can
      start before the last gradient is there; with one replica it does nothing else, and is left
      out;
    - SGD keeps a momentum slot for every weight also when momentum is 0; it is left out, with the
      same update w <- w - lr * g.

    Args:
        optimizer: A Keras optimizer that has not been used yet, changed in place. Others than
            Keras' own (`tf.keras.optimizers.Optimizer`) are untouched.

    Returns:
        `optimizer`.
    """
    if not isinstance(optimizer, tf.keras.optimizers.Optimizer) or tf.distribute.has_strategy():
        return optimizer
    optimizer.aggregate_gradients = lambda grads_and_vars: grads_and_vars
    unused = not getattr(optimizer, "_built", False)
    if type(optimizer) is tf.keras.optimizers.SGD and not optimizer.momentum and unused:
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
