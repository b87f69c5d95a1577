"""How Keras 2's layers make their weights, for those who have them made compressed."""

import contextlib
import functools

import tensorflow as tf

from omc.keras.keras2.host import autocast_variable, base_layer_utils


@contextlib.contextmanager
def weights_made_by(pack, applies):
    """Context in which `Layer.add_weight` makes what a function makes of a new variable.

    Args:
        pack: (tf.Variable, whether it is read in its layer's compute dtype) -> the variable to use
            in its place, or None for itself.
        applies: () -> whether a weight that is made now is meant.
    """
    layer_class = tf.keras.layers.Layer
    add_weight = layer_class.add_weight

    @functools.wraps(add_weight)
    def wrapped(layer, *args, **kwargs):
        if isinstance(layer, tf.keras.metrics.Metric) or not applies():
            return add_weight(layer, *args, **kwargs)
        make = kwargs.pop("getter", base_layer_utils.make_variable)
        cast = kwargs.pop("experimental_autocast", True)

        def getter(**options):
            original, compute = make(**options), layer.compute_dtype
            differs = compute not in (None, original.dtype.name)
            autocast = cast and original.dtype.is_floating and differs
            if autocast:
                original = autocast_variable.create_autocast_variable(original)
            packed = pack(original, autocast)
            return original if packed is None else packed

        # Keras would wrap a compressed variable for mixed precision, which it does by itself.
        return add_weight(layer, *args, getter=getter, experimental_autocast=False, **kwargs)

    layer_class.add_weight = wrapped
    try:
        yield
    finally:
        layer_class.add_weight = add_weight


def unpack(variable, values, autocast):
    """Makes a compressed variable a plain one, wherever it is held.

    Args:
        variable: `CompressedVariable`.
        values: Array of its values.
        autocast: Whether it is read in its layer's compute dtype.
    """
    plain = tf.Variable(
        values,
        trainable=variable.trainable,
        name=variable.name.split(":")[0],
        constraint=variable.constraint,
    )
    if autocast:
        plain = autocast_variable.create_autocast_variable(plain)
    variable.__dict__, variable.__class__ = plain.__dict__, type(plain)
