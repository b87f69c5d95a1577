"""Keras optimizers that meet compressed variables.

Importing this module makes every Keras optimizer look at the variables it is about to update, once
a trace. Without compressed ones among them nothing changes.
"""

import functools
import types

import tensorflow as tf

from omc.errors import InputTypeError
from omc.keras.keras2.host import LossScaleOptimizer
from omc.keras.switching import all_bits
from omc.keras.update_order import after_gradients, waiting_for_gradients
from omc.keras.variable import CompressedVariable


def slim(optimizer):
    """Lets a Keras optimizer update one weight after the other, without dense copies it can spare.

    Slots of variables whose policy says so are created compressed, and read no earlier than their
    gradient is there. And two things of Keras 2.14 would hold dense float32 memory larger than the
    compressed model:

    - the sum of gradients over replicas joins all weight gradients in one op, so that no update can
      start before the last gradient is there; with one replica it does nothing else, and is left
      out;
    - SGD keeps a momentum slot for every weight also when momentum is 0; it is left out, with the
      same update w <- w - lr * g, unless the optimizer has been built already.

    Args:
        optimizer: A `tf.keras.optimizers.Optimizer`, changed in place.
    """
    if tf.distribute.has_strategy():
        return
    optimizer.aggregate_gradients = lambda grads_and_vars: grads_and_vars
    add_slot = type(optimizer).add_variable_from_reference
    optimizer.add_variable_from_reference = types.MethodType(_compressed_slots(add_slot), optimizer)
    unused = not getattr(optimizer, "_built", False)
    if type(optimizer) is tf.keras.optimizers.SGD and not optimizer.momentum and unused:
        optimizer.build = types.MethodType(_build_without_slots, optimizer)
        optimizer.update_step = types.MethodType(_plain_update, optimizer)
    elif "update_step" not in vars(optimizer):
        update_step = waiting_for_gradients(type(optimizer).update_step)
        optimizer.update_step = types.MethodType(update_step, optimizer)


def _compressed_slots(add_slot):
    """Keras' `add_variable_from_reference`, with compressed slots for variables that ask for it."""

    @tf.autograph.experimental.do_not_convert
    def add(optimizer, model_variable, variable_name, shape=None, initial_value=None):
        codec = getattr(model_variable, "slot_codec", None)
        if codec is None or shape not in (None, model_variable.shape):
            return add_slot(optimizer, model_variable, variable_name, shape, initial_value)
        with tf.init_scope():
            buffer = codec.zeros() if initial_value is None else codec.encode(initial_value)
            slot = CompressedVariable(
                codec,
                buffer.numpy(),
                name=f"{variable_name}/{model_variable.name.split(':')[0]}",
                trainable=False,
                seed=tf.constant([len(optimizer._variables), 1], tf.int32),
            )
        optimizer._variables.append(slot)  # Private, and all that Keras' own method does besides.
        return slot

    return add


def _build_without_slots(optimizer, variables):
    super(tf.keras.optimizers.SGD, optimizer).build(variables)
    optimizer._built = True


def _plain_update(optimizer, gradient, variable):
    rate = tf.cast(optimizer.learning_rate, variable.dtype)
    if isinstance(gradient, tf.IndexedSlices):
        variable.scatter_sub(tf.IndexedSlices(gradient.values * rate, gradient.indices))
    elif isinstance(variable, CompressedVariable):
        variable.add_scaled(gradient, -rate)
    else:
        variable.assign_sub(gradient * rate)


def refuse_legacy(optimizer):
    """Raises the error of a legacy optimizer."""
    raise InputTypeError(
        "optimizer",
        "an optimizer of tf.keras.optimizers",
        f"tf.keras.optimizers.legacy.{type(optimizer).__name__}",
        "legacy optimizers write into dense variables, which a wrapped model does not have.",
    )


def _meet(optimizer_class, prepare):
    """Calls prepare(optimizer) before it applies gradients to compressed variables.

    It applies them to all that is stored, at whatever width a nested model is read.
    """
    apply_gradients = optimizer_class.apply_gradients

    @functools.wraps(apply_gradients)
    def apply(self, grads_and_vars, *args, **kwargs):
        grads_and_vars = list(grads_and_vars)
        compressed = [v for _, v in grads_and_vars if isinstance(v, CompressedVariable)]
        if compressed:
            prepare(self)
        gradients, variables = zip(*grads_and_vars) if grads_and_vars else ((), ())
        with all_bits(compressed), after_gradients(gradients, variables):
            return apply_gradients(self, grads_and_vars, *args, **kwargs)

    optimizer_class.apply_gradients = apply


def _read_initial_values(optimizer_class):
    """Lets slots start from a compressed variable's value, as the averages of use_ema do."""
    add = optimizer_class.add_variable_from_reference

    @functools.wraps(add)
    def add_variable(self, model_variable, variable_name, shape=None, initial_value=None):
        if isinstance(initial_value, CompressedVariable):
            initial_value = initial_value.decode()
        return add(self, model_variable, variable_name, shape, initial_value)

    optimizer_class.add_variable_from_reference = add_variable


# On the classes, for an optimizer in a user's own loop belongs to no model that could prepare it.
_meet(tf.keras.optimizers.Optimizer, slim)
_meet(LossScaleOptimizer, lambda optimizer: slim(optimizer.inner_optimizer))
_meet(tf.keras.optimizers.legacy.Optimizer, refuse_legacy)
_read_initial_values(tf.keras.optimizers.Optimizer)
