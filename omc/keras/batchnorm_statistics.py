"""Moving statistics of BatchNormalization: estimated anew from batches, or kept as they are.

Weights of few bits give activations of other means and variances than the training saw, so that
statistics which fitted before do not any more.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf

from omc.errors import InputError, ModelError
from omc.keras import host
from omc.keras.calibration_data import values
from omc.keras.owners import every_layer
from omc.keras.readings import eagerly

STATISTICS = ("moving_mean", "moving_variance")
_MOST_TEXT = 400  # Characters of what Keras says.
_BOLD = re.compile("\x1b\\[[0-9;]*m")  # As Keras 3 has it for terminals.


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
            tip = "renorm=False, or another normalization, such as GroupNormalization."
            expected = "BatchNormalization without renorm"
            raise ModelError("model", expected, repr(layer.name), tip)
    return found


def estimate(model, layers, batches, argument):
    """Makes moving statistics those of all batches' activations together, and changes nothing else.

        mean = sum_i n_i mean_i / n,    variance = sum_i n_i (variance_i + (mean_i - mean)^2) / n

    over the batches i of n_i activations each. The model is called as in training, dropout
    included. A layer that then runs in inference mode (it is frozen, or called with
    `training=False`) keeps its statistics.

    Args:
        model: A built `tf.keras.Model`; its variables are copied meanwhile, as they are stored.
        layers: What `batchnorm_layers` returned of it, or some of them.
        batches: List of batches of inputs, as `calibration_data.checked_batches` returns them.
        argument: Name of what they were given for.

    Returns:
        List of the layers that have new statistics.

    Raises:
        InputError: Statistics that are not finite. All are as they were then.
    """
    if not layers:
        return []
    pools = list(map(_Pool, layers))
    with contextlib.ExitStack() as stack:
        for context in (unchanged(layers), others_unchanged(model, layers), eagerly()):
            stack.enter_context(context)
        for pool in pools:
            stack.enter_context(pool.recording())
        for batch in batches:
            model(batch, training=True)
    found = [pool for pool in pools if pool.count]
    for pool in found:
        if not pool.is_finite:
            expected = f"batches of which {pool.layer.name!r} has finite statistics"
            tip = "scale the inputs; the model's weights may have diverged, too."
            raise InputError(argument, expected, "NaN or Inf in them", tip)
    for pool in found:
        pool.assign()
    return [pool.layer for pool in found]


def check_estimated(layers, found):
    """Raises the ModelError of a model none of whose layers has got new statistics.

    Args:
        layers: List of its BatchNormalization layers.
        found: What `estimate` returned.
    """
    if layers and not found:
        got = f"{layers[0].name!r}, which is frozen, or called with training=False"
        tip = "set layer.trainable = True, and call it in training mode, for the time of it."
        raise ModelError("model", "BatchNorm layers that run in training mode", got, tip)


class _Pool:
    """Statistics of all calls of one layer together.

    Attributes:
        layer: The layer.
        count: Activations of a feature so far.
    """

    def __init__(self, layer):
        self.layer, self.count = layer, 0.0
        self._first = [getattr(layer, name).numpy() for name in STATISTICS]
        self._mean = self._square = 0.0  # Sums of n * mean, and n * (variance + mean^2) about it.

    @contextlib.contextmanager
    def recording(self):
        """Context in which the layer's calls are counted."""
        layer, call, momentum = self.layer, self.layer.call, self.layer.momentum

        @tf.autograph.experimental.do_not_convert
        def recorded(inputs, *args, **kwargs):
            self._put(self._first)
            outputs = call(inputs, *args, **kwargs)
            if self._is(self._first):  # Inference mode, or statistics that it had before.
                probe = [self._first[0] + 1.0, self._first[1]]
                self._put(probe)
                call(inputs, *args, **kwargs)
                if self._is(probe):
                    return outputs
            self._add(tf.size(inputs).numpy() / self._first[0].size)
            return outputs

        layer.momentum = 0.0
        try:
            with called_through(layer, recorded):
                yield
        finally:
            layer.momentum = momentum

    @property
    def is_finite(self):
        """Whether all of them are, in the layer's own precision."""
        return all(np.isfinite(value).all() for value in self._pooled())

    def assign(self):
        """Gives the layer what was found."""
        self._put(self._pooled())

    def _pooled(self):
        mean = self._mean / self.count
        variance = np.maximum(self._square / self.count - (mean - self._first[0]) ** 2, 0.0)
        return [value.astype(first.dtype) for value, first in zip((mean, variance), self._first)]

    def _add(self, count):
        mean, variance = (getattr(self.layer, name).numpy().astype(float) for name in STATISTICS)
        self.count += count
        self._mean = self._mean + count * mean
        # About the first mean, so that no difference of large squares is left.
        self._square = self._square + count * (variance + (mean - self._first[0]) ** 2)

    def _put(self, values):
        for name, value in zip(STATISTICS, values):
            getattr(self.layer, name).assign(value)

    def _is(self, values):
        held = (getattr(self.layer, name).numpy() for name in STATISTICS)
        return all(np.array_equal(value, now) for value, now in zip(values, held))


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
    if batches is None:
        return
    with others_unchanged(model, layers):
        for batch in batches:
            _try_batch(model, batch, argument, layers)


def _try_batch(model, batch, argument, layers):
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
            tip = "scale the inputs; the model's weights may have diverged, too."
            raise InputError(argument, expected, "NaN or Inf in an output", tip)


def _message(error):
    """What an error of Keras says: which layer it was, and what was wrong, in one line."""
    text = re.split("(?:Call a|A)rguments received", _BOLD.sub("", str(error)))[0]
    return " ".join(text.split())[:_MOST_TEXT]


@contextlib.contextmanager
def called_through(layer, call):
    """Context in which a function serves a layer's calls in place of its `call`."""
    before = vars(layer).get("call")
    vars(layer)["call"] = call  # Past Keras' attribute tracking.
    try:
        yield
    finally:
        vars(layer).pop("call") if before is None else vars(layer).update(call=before)


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
def others_unchanged(model, layers):
    """Context after which all of a model's variables but moving statistics are what they were.

    A training call may change more than these: counters, normalized kernels, recurrent states.

    Args:
        model: A built `tf.keras.Model`; its variables are copied meanwhile, as they are stored.
        layers: List of layers whose moving statistics are not looked after.
    """
    statistics = {id(getattr(layer, name)) for layer in layers for name in STATISTICS}
    held = [v for v in [*model.variables, *_states(model)] if id(v) not in statistics]
    held = [host.value_of(weight) for weight in held]
    held = [variable.buffer if hasattr(variable, "codec") else variable for variable in held]
    before = [variable.numpy() for variable in held]
    try:
        yield
    finally:
        for variable, value in zip(held, before):
            if np.asarray(variable.numpy()).tobytes() != np.asarray(value).tobytes():
                variable.assign(value)


def _states(model):
    """Variables that stateful recurrent layers keep between batches."""
    layers = [layer for layer in every_layer(model) if getattr(layer, "stateful", False)]
    states = tf.nest.flatten([getattr(layer, "states", None) for layer in layers])
    return [state for state in states if hasattr(state, "assign")]  # None before the first call.


@contextlib.contextmanager
def still(layers):
    """Context in which training calls leave moving statistics as they are."""
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 1.0
        yield
    finally:
        for layer, momentum in zip(layers, before):
            layer.momentum = momentum
