"""The Keras in use, by one set of names: what the rest of this room asks of either.

check_model                     the error of what is no model of it

compute_dtype, in_layer_call    what surrounds a read
is_built                        whether a model has its variables
variables_of, own_variables     TensorFlow's variables behind a model's or a layer's weights
HOLDERS, held, passed_on        Keras 3's objects around them, as ops meet them
autocasts, settle, Call         how layers read weights, cache them, and are called again
random_source, has_state        what a layer would do otherwise when it is called again
"""

import tensorflow as tf

from omc.errors import InputTypeError
from omc.keras.versions import LEGACY, MAJOR, ROOT

if MAJOR == 2:
    from omc.keras.keras2.host import (
        HOLDERS,
        Call,
        add_weight,
        autocasts,
        compute_dtype,
        has_state,
        held,
        in_layer_call,
        input_specs,
        is_built,
        layers_before,
        layers_of,
        modules_of,
        own_variables,
        own_weights,
        passed_on,
        random_source,
        settle,
        trainable_variables,
        value_of,
        variables_of,
        without_autocast,
    )
else:
    from omc.keras.keras3.host import (
        HOLDERS,
        Call,
        add_weight,
        autocasts,
        compute_dtype,
        has_state,
        held,
        in_layer_call,
        input_specs,
        is_built,
        layers_before,
        layers_of,
        modules_of,
        own_variables,
        own_weights,
        passed_on,
        random_source,
        settle,
        trainable_variables,
        value_of,
        variables_of,
        without_autocast,
    )


def check_model(model, argument="model"):
    """Raises the InputTypeError of what is no model of the Keras in use.

    Args:
        model: Anything.
        argument: Its name.
    """
    if isinstance(model, tf.keras.Model):
        return
    kind, tip = type(model), ""
    if kind.__module__.partition(".")[0] in {"keras", "tf_keras"} - {ROOT}:
        which = {2: f"Keras 2, for {LEGACY} is set", 3: f"Keras 3; set {LEGACY}=1 for tf-keras"}
        tip = f"tf.keras is {which[MAJOR]}. Build the model with tf.keras."
    raise InputTypeError(argument, "a tf.keras.Model", f"{kind.__module__}.{kind.__name__}", tip)


__all__ = [
    "HOLDERS",
    "MAJOR",
    "ROOT",
    "Call",
    "add_weight",
    "autocasts",
    "check_model",
    "compute_dtype",
    "has_state",
    "held",
    "in_layer_call",
    "input_specs",
    "is_built",
    "layers_before",
    "layers_of",
    "modules_of",
    "own_variables",
    "own_weights",
    "passed_on",
    "random_source",
    "settle",
    "trainable_variables",
    "value_of",
    "variables_of",
    "without_autocast",
]
