"""What keeps a layer from being run a second time: chance, and state that it changes."""

import tensorflow as tf

L = tf.keras.layers

_RATES = ("rate", "stddev", "dropout", "recurrent_dropout", "seed_dropout")
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
    if isinstance(layer, L.RNN):
        layer = layer.cell  # Which has no name of the user's own.
    if not layer._seed_generators:
        return False
    rates = [getattr(layer, name) for name in _RATES if hasattr(layer, name)]
    return not rates or any(rates)  # Without a rate, as image augmentation: always.


def _changes_weights(layer, training):
    if isinstance(layer, L.BatchNormalization) and (training is False or not layer.trainable):
        return False
    return any(v.path.rsplit("/", 1)[-1] != "seed_generator_state" for v in _states(layer))


def _states(layer):
    # Frozen weights are among the trainable ones still; a quantized or adapted layer has others.
    return layer._non_trainable_variables
