"""Which layer holds a weight, also where a plain `tf.Module` stands between the two.

Keras 2 counts the weights of modules in a layer to the layer, but its walks over layers stop at
them.
"""

import tensorflow as tf

from omc.keras import host

_Layer = tf.keras.layers.Layer


def every_layer(model):
    """A model's layers, itself first, those inside of plain modules too.

    Args:
        model: A built `tf.keras.Model`.

    Returns:
        List of layers, each once, in the order in which the model holds them.
    """
    found = {}
    for layer in host.layers_of(model):
        found[id(layer)] = layer
        for module in host.modules_of(layer):
            inner = [part for part in module.submodules if isinstance(part, _Layer)]
            found.update({id(part): part for part in inner if id(part) not in found})
    return list(found.values())


def owned(layer):
    """Weights that a layer holds itself or in plain modules, not those of layers in it: a list."""
    held = host.own_variables(layer)
    for module in host.modules_of(layer):
        inside = [part for part in module.submodules if isinstance(part, _Layer)]
        theirs = {id(weight) for part in inside for weight in part.weights}
        held += [weight for weight in module.variables if id(weight) not in theirs]
    return held


def take_out(layer, variables):
    """Has a layer hold some of its weights no more.

    Args:
        layer: Keras layer.
        variables: tf.Variables; those that it does not hold itself are passed over.
    """
    gone = {id(variable) for variable in variables}
    for held in host.own_weights(layer):
        held[:] = [weight for weight in held if id(host.value_of(weight)) not in gone]


def owners(model):
    """Dict of id of a weight -> the layer that holds it, the first where several do."""
    found = {}
    for layer in every_layer(model):
        for weight in owned(layer):
            found.setdefault(id(weight), layer)
    return found
