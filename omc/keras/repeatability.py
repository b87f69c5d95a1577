"""What keeps a layer from being run a second time: chance, and state that it changes."""

import tensorflow as tf

from omc.keras import host

L = tf.keras.layers

_RATES = ("rate", "stddev", "dropout", "recurrent_dropout")
_UNCHANGED = (L.Normalization, L.TextVectorization, L.StringLookup, L.IntegerLookup)


def obstacle(layer, training=None):
    """The sub-layer that would do something else when `layer` runs again.

    Args:
        layer: Keras layer or model.
        training: False where the layer is known not to train.

    Returns:
        (sub-layer, what it does) or None.
    """
    for inner in layer._flatten_layers():
        if isinstance(inner, (tf.keras.Model, *_UNCHANGED)):
            continue  # A model's layers follow.
        if training is not False and _draws(inner):
            return inner, "draws random numbers"
        if getattr(inner, "stateful", False):
            return inner, "keeps its state from call to call"
        if _changes_weights(inner, training):
            return inner, "updates variables of its own"
        if inner._metrics:
            return inner, "updates metrics"
    return None


def _draws(layer):
    source = host.random_source(layer)
    if source is None:
        return False
    rates = [getattr(source, name) for name in _RATES if hasattr(source, name)]
    return not rates or any(rates)  # Without a rate, as image augmentation: always.


def _changes_weights(layer, training):
    if isinstance(layer, L.BatchNormalization) and (training is False or not layer.trainable):
        return False
    return host.has_state(layer)
