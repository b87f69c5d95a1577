"""One BatchNormalization set per width: at other bits, activations have other statistics.

A set is (gamma, beta, moving mean, moving variance) of one layer; which one the layer uses is a
matter of its attributes. Sets may share gamma and beta, so that only the statistics differ.
"""

import contextlib

import tensorflow as tf

from omc.errors import ModelError
from omc.keras.owners import every_layer
from omc.keras.wrapping import give_reason

_SCALES = ("gamma", "beta")
_STATISTICS = ("moving_mean", "moving_variance")


def batchnorm_layers(model):
    """The model's layers with moving statistics, inner ones too: BatchNormalization of all kinds.

    Raises:
        ModelError: One of them renormalizes, with statistics that no set has.
    """
    needed = (*_STATISTICS, "momentum")
    found = [
        layer
        for layer in every_layer(model)
        if all(getattr(layer, name, None) is not None for name in needed)
    ]
    for layer in found:
        if getattr(layer, "renorm", False):
            raise ModelError("model", "BatchNormalization without renorm", repr(layer.name))
    return found


class BatchNormSets:
    """The sets of one layer.

    Attributes:
        layer: The layer.
        feeder: Place, among the variables that change their width, of the one whose width decides
            which set is used.
    """

    def __init__(self, layer, shared, feeder=0):
        """Begins with no set.

        Args:
            layer: A built `BatchNormalization`.
            shared: Whether all sets have the layer's own gamma and beta.
            feeder: As the attribute.
        """
        self.layer, self.feeder = layer, feeder
        self._names = (*(() if shared else _SCALES), *_STATISTICS)
        self._names = [name for name in self._names if vars(layer).get(name) is not None]
        self._sets = {}

    @property
    def widths(self):
        """Widths that have a set, in the order in which they came."""
        return tuple(self._sets)

    def add(self, bits, like=None):
        """Makes the set of a width: the layer's own variables for the first, copies of a set after.

        Args:
            bits: Width.
            like: Width whose set's values are copied; None for the first one's.
        """
        if bits in self._sets:
            return
        if not self._sets:
            self._sets[bits] = {name: vars(self.layer)[name] for name in self._names}
            return
        source = self._sets[self.widths[0] if like is None else like]
        self._sets[bits] = {name: self._copy(name, bits, source[name]) for name in self._names}
        self._sort()

    def _sort(self):
        """Puts added variables in one order, however widths came: Keras' files go by places."""
        places = {id(variable): place for place, variable in enumerate(self.added_variables())}
        for held in (self.layer._trainable_weights, self.layer._non_trainable_weights):
            held.sort(key=lambda variable: places.get(id(variable), -1))

    def _copy(self, name, bits, original):
        # The scope is for people; checkpoints know the weight by its name within the layer.
        with tf.init_scope(), tf.name_scope(self.layer.name):
            copy = self.layer.add_weight(
                name=f"{name}_{bits}bit",
                shape=original.shape,
                dtype=original.dtype,
                initializer=tf.constant_initializer(original.numpy()),
                trainable=original.trainable and name in _SCALES,
                experimental_autocast=False,
            )
        give_reason(copy, f"BatchNorm set of {bits} bits")
        return copy

    def added_variables(self):
        """The variables of all sets but the first, which are the layer's own; the highest first."""
        added = sorted(self.widths[1:], reverse=True)
        return [self._sets[bits][name] for bits in added for name in self._names]

    def use(self, bits):
        """Has the layer use a width's set."""
        vars(self.layer).update(self._sets[bits])  # Past Keras' attribute tracking.

    @contextlib.contextmanager
    def drawn(self, widths, index):
        """Context in which the layer uses the set of a width that only the running graph knows.

        Args:
            widths: Tuple of widths that have a set.
            index: int32 [], a place in `widths`.
        """
        layer, call = self.layer, self.layer.call

        @tf.autograph.experimental.do_not_convert
        def switched(*args, **kwargs):
            def branch(bits):
                def run():
                    self.use(bits)
                    return call(*args, **kwargs)

                return run

            return tf.switch_case(index, [branch(bits) for bits in widths])

        before = vars(layer).get("call")
        vars(layer)["call"] = switched
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
