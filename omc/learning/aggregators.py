"""Uplink: the server decodes packed results while it accumulates them."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.learning import models


def weighted(codecs, values, weight):
    """One client's terms of the sum: list of float32 tensors, weight * decode(value).

    A client that diverged has weight 0 and counts 0, though 0 * NaN is not.

    Args:
        codecs: For each trainable variable its codec, or None for float32.
        values: What the client sent, one tensor a variable.
        weight: float32 scalar.
    """
    decoded = [
        value if codec is None else codec.decode(value) for codec, value in zip(codecs, values)
    ]
    return [tf.where(weight > 0.0, weight * value, 0.0) for value in decoded]


class WeightedSum:
    """The same sum outside of TFF computations: packed results in, one client after the other."""

    def __init__(self, plan):
        """Makes the accumulators.

        Args:
            plan: `ModelPlan`.
        """
        codecs = plan.codecs[: plan.num_trainable]
        specs = [planned.spec for planned in plan.planned[: plan.num_trainable]]
        self._totals = [tf.Variable(tf.zeros(spec.shape, spec.dtype)) for spec in specs]
        self._weight = tf.Variable(0.0)
        signature = models.payload_specs(plan)[: plan.num_trainable]

        @tf.function(input_signature=[signature, tf.TensorSpec([], tf.float32)], autograph=False)
        def add(values, weight):
            for total, value in zip(self._totals, weighted(codecs, values, weight)):
                total.assign_add(value)
            self._weight.assign_add(weight)

        self._add = add

    def add(self, values, weight):
        """Adds one client's result (list of arrays) with its weight (float)."""
        self._add([tf.convert_to_tensor(value) for value in values], tf.constant(weight))

    def take(self):
        """Returns (mean, sum of weights), float32 tensors, and starts anew."""
        weight = self._weight.read_value()
        mean = [tf.math.divide_no_nan(total, weight) for total in self._totals]
        for variable in (*self._totals, self._weight):
            variable.assign(tf.zeros_like(variable))
        return mean, weight


def build_aggregator(plan, payload_type):
    """Builds the weighted mean over packed results; at no time are two clients' results dense.

    Args:
        plan: `ModelPlan`.
        payload_type: Type of one client's result.

    Returns:
        Weighted `tff.templates.AggregationProcess`; its result is a list of float32 tensors, one a
        trainable variable: sum_k(w_k * decode(v_k)) / sum_k(w_k), zeros where all weights are 0.
        Its measurements are the sum of weights.
    """
    specs = [planned.spec for planned in plan.planned[: plan.num_trainable]]
    codecs = plan.codecs[: plan.num_trainable]

    @tff.tensorflow.computation
    def zero():
        return [tf.zeros(spec.shape, spec.dtype) for spec in specs], tf.constant(0.0)

    accumulator_type = zero.type_signature.result

    @tff.tensorflow.computation(accumulator_type, (payload_type, np.float32))
    def accumulate(accumulator, update):
        totals, total_weight = accumulator
        payload, weight = update
        added = weighted(codecs, payload.values(), weight)
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
        tff.FederatedType(payload_type, tff.CLIENTS),
        tff.FederatedType(np.float32, tff.CLIENTS),
    )
    def next_fn(state, value, weight):
        mean, total = tff.federated_aggregate(
            tff.federated_zip((value, weight)), zero(), accumulate, merge, report
        )
        measurements = tff.federated_zip(collections.OrderedDict(total_weight=total))
        return tff.templates.MeasuredProcessOutput(state, mean, measurements)

    return tff.templates.AggregationProcess(initialize, next_fn)
