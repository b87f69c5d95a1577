"""An aggregator outside of TFF computations: packed answers in, one client after the other."""

import numpy as np
import tensorflow as tf

from omc.learning.aggregators.admission import KINDS, admit, unread


class Aggregation:
    """A controller's sum over the answers of a round."""

    def __init__(self, federation):
        """Makes the accumulators.

        Args:
            federation: `Federation`.
        """
        self._aggregator = aggregator = federation.aggregator
        zero = tf.function(lambda: aggregator.zero(federation), autograph=False)
        shapes = [spec.shape for spec in zero.get_concrete_function().structured_outputs]
        self._zero = zero()
        self._totals = [tf.Variable(z, shape=shape) for z, shape in zip(self._zero, shapes)]
        self._specs = federation.answer_specs
        self._context = self._state = self._rejected = None

        # Answers are of any length here, so that whatever comes is looked at by `admit`.
        answers = [tf.TensorSpec([None] * spec.shape.rank, spec.dtype) for spec in self._specs]
        scalar = tf.TensorSpec([], tf.float32)
        bounds = tf.nest.map_structure(lambda _: scalar, aggregator.bounds(aggregator.initial()))
        allocation = tf.nest.map_structure(
            lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype),
            federation.plan.initial_allocation(),
        )
        signature = [answers, scalar, tf.TensorSpec([], tf.int32), bounds, allocation]

        @tf.function(input_signature=signature, autograph=False)
        def add(answer, weight, round_number, bounds, allocation):
            admitted = admit(federation, answer, weight, round_number, allocation)
            totals = [total.read_value() for total in self._totals]
            added = aggregator.add(federation, totals, admitted, bounds)
            for total, value in zip(self._totals, added):
                total.assign(value)
            return admitted.fault

        self._add = add

        @tf.function(autograph=False)
        def finish(totals, rejected, state, round_number):
            found = aggregator.finish(federation, totals, state, round_number)
            return found.mean, found.total_weight, found.state, found.reported(rejected)

        self._finish = finish

    def begin(self, state, round_number, allocation):
        """Starts a round, whatever became of the one before.

        Args:
            state: The aggregator's, a structure of arrays.
            round_number: int.
            allocation: What the server knows of the clients' widths, arrays; () for nothing.
        """
        self._state = tf.nest.map_structure(tf.convert_to_tensor, state)
        allocation = tf.nest.map_structure(tf.convert_to_tensor, allocation)
        bounds = self._aggregator.bounds(self._state)
        self._context = tf.constant(round_number, tf.int32), bounds, allocation
        self._rejected = np.zeros(len(KINDS), np.int32)
        for total, zero in zip(self._totals, self._zero):
            total.assign(zero)

    def add(self, answer, weight):
        """Adds one client's answer (list of arrays, from anybody) with its weight (a number)."""
        try:
            tensors = [
                _checked(value, spec) for value, spec in zip(answer, self._specs, strict=True)
            ]
            weight = _checked(np.asarray(weight, np.float32), tf.TensorSpec([], tf.float32))
        except (TypeError, ValueError, OverflowError):
            self._rejected += unread().numpy()
            return
        self._rejected += self._add(tensors, weight, *self._context).numpy()

    def finish(self):
        """(mean, total weight, state, measurements) of the round, as in a composed process."""
        totals = [total.read_value() for total in self._totals]
        return self._finish(totals, self._rejected, self._state, self._context[0])


def _checked(value, spec):
    """The tensor of an array, of the dtype and rank of a spec, or ValueError."""
    value = np.asarray(value)
    if value.dtype != spec.dtype.as_numpy_dtype or value.ndim != spec.shape.rank:
        raise ValueError("not as in the contract")
    return tf.convert_to_tensor(value)
