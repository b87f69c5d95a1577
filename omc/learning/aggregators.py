"""Uplink: the server decodes packed results while it accumulates them."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


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
        # A client that diverged has weight 0; 0 * NaN must not spoil the sum.
        decoded = [
            value if codec is None else codec.decode(value)
            for codec, value in zip(codecs, payload.values())
        ]
        totals = [
            total + tf.where(weight > 0.0, weight * value, 0.0)
            for total, value in zip(totals, decoded)
        ]
        return totals, total_weight + weight

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
