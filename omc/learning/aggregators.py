"""Aggregator: the server reads packed answers while it sums them up, one client at a time."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


def weighted(federation, answer, weight):
    """One client's terms of the sum: list of float32 tensors, weight * what the server reads.

    Where widths are allocated, the last one is of what the client says of its widths.

    A client that diverged has weight 0 and counts 0, though 0 * NaN is not.

    Args:
        federation: `Federation`.
        answer: List of tensors, what the client sent.
        weight: float32 scalar.
    """
    plan, answer, further = federation.plan, list(answer), []
    if plan.allocates:
        further = [plan.widths.terms(plan, answer.pop(), weight)]
    read = federation.uplink.decode(plan.trainable, answer)
    return [tf.where(weight > 0.0, weight * value, 0.0) for value in read] + further


class WeightedSum:
    """The same sum outside of TFF computations: packed answers in, one client after the other."""

    def __init__(self, federation):
        """Makes the accumulators.

        Args:
            federation: `Federation`.
        """
        specs = federation.sum_specs
        self._totals = [tf.Variable(tf.zeros(spec.shape, spec.dtype)) for spec in specs]
        self._weight = tf.Variable(0.0)
        signature = [federation.answer_specs, tf.TensorSpec([], tf.float32)]

        @tf.function(input_signature=signature, autograph=False)
        def add(answer, weight):
            for total, value in zip(self._totals, weighted(federation, answer, weight)):
                total.assign_add(value)
            self._weight.assign_add(weight)

        self._add = add

    def add(self, answer, weight):
        """Adds one client's answer (list of arrays) with its weight (float)."""
        self._add([tf.convert_to_tensor(value) for value in answer], tf.constant(weight))

    def take(self):
        """Returns (mean, sum of weights), as of `build_aggregator`, and starts anew."""
        weight = self._weight.read_value()
        mean = [tf.math.divide_no_nan(total, weight) for total in self._totals]
        for variable in (*self._totals, self._weight):
            variable.assign(tf.zeros_like(variable))
        return mean, weight


def build_aggregator(federation, answer_type):
    """Builds the weighted mean over packed answers; at no time are two clients' answers dense.

    Args:
        federation: `Federation`.
        answer_type: TFF type of one client's answer.

    Returns:
        Weighted `tff.templates.AggregationProcess`; its result is a list of float32 tensors, one a
        trainable variable: sum_k(w_k * read(v_k)) / sum_k(w_k), zeros where all weights are 0; and
        one more of the clients' widths, where these are allocated.
        Its measurements are the sum of weights.
    """
    specs = federation.sum_specs

    @tff.tensorflow.computation
    def zero():
        return [tf.zeros(spec.shape, spec.dtype) for spec in specs], tf.constant(0.0)

    accumulator_type = zero.type_signature.result

    @tff.tensorflow.computation(accumulator_type, (answer_type, np.float32))
    def accumulate(accumulator, update):
        totals, total_weight = accumulator
        answer, weight = update
        added = weighted(federation, list(answer.values()), weight)
        return [total + value for total, value in zip(totals, added)], total_weight + weight

    @tff.tensorflow.computation(accumulator_type, accumulator_type)
    def merge(left, right):
        return tf.nest.map_structure(tf.add, list(left[0]), list(right[0])), left[1] + right[1]

    @tff.tensorflow.computation(accumulator_type)
    def report(accumulator):
        totals, weight = accumulator
        return [tf.math.divide_no_nan(total, weight) for total in totals], weight

    @tff.federated_computation
    def initialize():
        return tff.federated_value((), tff.SERVER)

    @tff.federated_computation(
        initialize.type_signature.result,
        tff.FederatedType(answer_type, tff.CLIENTS),
        tff.FederatedType(np.float32, tff.CLIENTS),
    )
    def next_fn(state, value, weight):
        mean, total = tff.federated_aggregate(
            tff.federated_zip((value, weight)), zero(), accumulate, merge, report
        )
        measurements = tff.federated_zip(collections.OrderedDict(total_weight=total))
        return tff.templates.MeasuredProcessOutput(state, mean, measurements)

    return tff.templates.AggregationProcess(initialize, next_fn)
