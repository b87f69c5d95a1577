"""Moving statistics of BatchNormalization: estimated anew from batches, or kept as they are.

Weights of few bits give activations of other means and variances than the training saw, so that
statistics which fitted before do not any more.
"""

import contextlib

import tensorflow as tf

from omc.errors import InputError, ModelError
from omc.keras.calibration_data import examples, values
from omc.keras.owners import every_layer
from omc.keras.readings import eagerly

STATISTICS = ("moving_mean", "moving_variance")
_MOST_TEXT = 400  # Characters of what Keras says.


def batchnorm_layers(model):
    """The model's layers with moving statistics, inner ones too: BatchNormalization of all kinds.

    Raises:
        ModelError: One of them renormalizes, with statistics that no set has.
    """
    needed = (*STATISTICS, "momentum")
    found = [
        layer
        for layer in every_layer(model)
        if all(getattr(layer, name, None) is not None for name in needed)
    ]
    for layer in found:
        if getattr(layer, "renorm", False):
            raise ModelError("model", "BatchNormalization without renorm", repr(layer.name))
    return found


def estimate(model, layers, batches):
    """Makes moving statistics those of some batches, each by its size; unchanged after an error.

    The model is called as in training, dropout included; a layer that is not trainable keeps its
    statistics.

    Args:
        model: A built `tf.keras.Model`.
        layers: What `batchnorm_layers` returned of it, or some of them.
        batches: List of batches of inputs, as `calibration_data.checked_batches` returns them.
    """
    if not layers:
        return
    with unchanged(layers, failing_only=True), eagerly(), cumulative(layers) as begin_batch:
        for batch in batches:
            begin_batch(examples(batch))
            model(batch, training=True)


def try_out(model, batches, argument, layers=()):
    """Calls a model as calibration does, with nothing changed by it.

    Args:
        model: A built `tf.keras.Model`.
        batches: List of batches, or None.
        argument: Name of what they were given for.
        layers: The model's BatchNormalization layers; where there are any, it is called as in
            training.

    Raises:
        InputError: The model does not take a batch, or gives NaN or Inf.
    """
    for batch in batches or ():
        try:
            with eagerly(), still(layers), unchanged(layers):
                outputs = model(batch, training=True if layers else None)
        except Exception as error:  # Whatever Keras or the model makes of it.
            tip = "a batch is what model(batch) takes; labels go into pairs (x, y) of each batch."
            got = _message(error)
            raise InputError(argument, f"batches that {model.name!r} takes", got, tip) from error
        for tensor in map(values, tf.nest.flatten(outputs)):
            floating = tf.is_tensor(tensor) and tensor.dtype.is_floating
            if floating and not tf.reduce_all(tf.math.is_finite(tensor)):
                expected = f"batches of which {model.name!r} makes finite outputs"
                raise InputError(argument, expected, "NaN or Inf in an output")


def _message(error):
    """What an error of Keras says: which layer it was, and what was wrong, in one line."""
    text = str(error).split("Call arguments received")[0]
    return " ".join(text.split())[:_MOST_TEXT]


@contextlib.contextmanager
def unchanged(layers, failing_only=False):
    """Context after which layers' moving statistics are what they were, whatever came in (Inf).

    Args:
        layers: List of layers.
        failing_only: Whether that is so after an error alone.
    """
    kept = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    values, done = [variable.numpy() for variable in kept], False
    try:
        yield
        done = True
    finally:
        for variable, value in zip(kept, values) if not (done and failing_only) else ():
            variable.assign(value)


@contextlib.contextmanager
def still(layers):
    """Context in which training calls leave moving statistics as they are."""
    with cumulative(layers):
        for layer in layers:
            layer.momentum = 1.0
        yield


@contextlib.contextmanager
def cumulative(layers):
    """Context in which moving statistics become those of training calls' batches, by their sizes.

    Yields:
        Function to call before each batch, with the number of its examples.
    """
    before = [layer.momentum for layer in layers]
    seen = 0

    def begin_batch(examples):
        nonlocal seen
        for layer in layers:
            layer.momentum = seen / (seen + examples)
        seen += examples

    try:
        yield begin_batch
    finally:
        for layer, momentum in zip(layers, before):
            layer.momentum = momentum
