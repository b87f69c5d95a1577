"""One BatchNormalization set per width: at other bits, activations have other statistics.

A set is (gamma, beta, moving mean, moving variance) of one layer; which one the layer uses is a
matter of its attributes. Sets may share gamma and beta, so that only the statistics differ.
"""

import contextlib

import tensorflow as tf

from omc.keras import host
from omc.keras.batchnorm_statistics import STATISTICS, called_through
from omc.keras.owners import take_out
from omc.keras.wrapping import give_reason

_SCALES = ("gamma", "beta")


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
        self._names = (*(() if shared else _SCALES), *STATISTICS)
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

    def remove(self, widths):
        """Takes the sets of widths out of the layer again; not the first one's."""
        gone = [self._sets.pop(bits) for bits in widths]
        take_out(self.layer, [host.value_of(held) for one in gone for held in one.values()])

    @property
    def variables(self):
        """The variables of all sets, tf.Variables, those that sets share once: a list."""
        held = [host.value_of(weight) for one in self._sets.values() for weight in one.values()]
        return list({id(variable): variable for variable in held}.values())

    def _sort(self):
        """Puts added variables in one order, however widths came: Keras' files go by places."""
        places = {id(variable): place for place, variable in enumerate(self.added_variables())}
        for held in host.own_weights(self.layer):
            held.sort(key=lambda weight: places.get(id(host.value_of(weight)), -1))

    def _copy(self, name, bits, original):
        # Keras 3 says of a frozen layer's weight that it is not, though it will be again.
        trainable = name in _SCALES and (original.trainable or not self.layer.trainable)
        copy = host.add_weight(self.layer, f"{name}_{bits}bit", original.numpy(), trainable)
        give_reason(host.value_of(copy), f"BatchNorm set of {bits} bits")
        return copy

    def added_variables(self):
        """The variables of all sets but the first, which are the layer's own; the highest first."""
        added = sorted(self.widths[1:], reverse=True)
        held = [self._sets[bits][name] for bits in added for name in self._names]
        return [host.value_of(weight) for weight in held]

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

        with called_through(layer, switched):
            yield
