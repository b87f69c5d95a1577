"""How Keras 3's layers make their weights, for those who have them made compressed."""

import contextlib
import functools

import tensorflow as tf
from keras.src import backend

from omc.keras.keras3.host import value_of
from omc.keras.keras3.variables import StoredVariable


@contextlib.contextmanager
def weights_made_by(pack, applies):
    """Context in which `Layer.add_weight` makes what a function makes of a new variable.

    Args:
        pack: (tf.Variable, whether it is read in its layer's compute dtype) -> the variable to use
            in its place, or None for itself.
        applies: () -> whether a weight that is made now is meant.
    """
    layer_class, later = tf.keras.layers.Layer, set()
    add_weight, initialize = layer_class.add_weight, backend.Variable._deferred_initialize

    def replace(weight):
        packed = pack(value_of(weight), False)
        if packed is not None:
            packed._omc_holder = weight._value._omc_holder
            weight._value, weight.__class__ = packed, StoredVariable
        return weight

    @functools.wraps(add_weight)
    def wrapped(layer, *args, **kwargs):
        weight = add_weight(layer, *args, **kwargs)
        if not applies():
            return weight
        if weight._value is None:  # In a symbolic call, which makes values when it ends.
            later.add(id(weight))
            return weight
        return replace(weight)

    @functools.wraps(initialize)
    def initialized(weight):
        initialize(weight)
        if id(weight) in later:
            later.discard(id(weight))
            replace(weight)

    layer_class.add_weight, backend.Variable._deferred_initialize = wrapped, initialized
    try:
        yield
    finally:
        layer_class.add_weight, backend.Variable._deferred_initialize = add_weight, initialize


def unpack(variable, values, autocast):
    """Makes a compressed variable a plain one, wherever it is held.

    Args:
        variable: `CompressedVariable`.
        values: Array of its values.
        autocast: Unused: Keras 3 casts by itself.
    """
    holder = variable._omc_holder()
    plain = tf.Variable(values, trainable=variable.trainable, name=holder.name)
    plain._omc_holder = variable._omc_holder
    plain._unique_id = variable._unique_id  # By which an optimizer knows its slots.
    variable.__dict__, variable.__class__ = plain.__dict__, type(plain)
    holder.__class__ = backend.Variable
