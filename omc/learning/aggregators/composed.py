"""An aggregator inside of a composed TFF process."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.learning.aggregators.admission import KINDS, admit
from omc.learning.aggregators.secure_mean import SecureMean


def build_aggregation(federation, answer_type):
    """Computations of the server's sum over packed answers, which is dense for one at a time.

    Args:
        federation: `Federation`.
        answer_type: TFF type of one client's answer.

    Returns:
        (TFF computation of the aggregator's initial state; federated function from (state, round
        number, allocation, answers, weights) to a SERVER-placed structure with mean, measurements,
        state and total_weight, as of `Aggregated`.) The measurements hold the total weight, and the
        clients rejected by their fault.
    """
    aggregator = federation.aggregator

    @tff.tensorflow.computation
    def initial():
        return aggregator.initial()

    state_type = initial.type_signature.result

    @tff.tensorflow.computation(state_type)
    def bounds(state):
        return aggregator.bounds(state)

    context_type = tff.to_type((np.int32, bounds.type_signature.result, federation.allocation_type))
    secure = isinstance(aggregator, SecureMean)
    total = _summed if secure else _folded
    sums = total(federation, answer_type, context_type)
    totals_type = sums.type_signature.result.member

    @tff.tensorflow.computation(totals_type, state_type, np.int32)
    def finish(totals, state, round_number):
        found = aggregator.finish(federation, list(totals["totals"]), state, round_number)
        return collections.OrderedDict(
            mean=list(found.mean),
            measurements=found.reported(totals["rejected"]),
            state=found.state,
            total_weight=found.total_weight,
        )

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER),
        tff.FederatedType(np.int32, tff.SERVER),
        tff.FederatedType(federation.allocation_type, tff.SERVER),
        tff.FederatedType(answer_type, tff.CLIENTS),
        tff.FederatedType(np.float32, tff.CLIENTS),
    )
    def next_fn(state, round_number, allocation, answers, weights):
        known = round_number, tff.federated_map(bounds, state), allocation
        context = tff.federated_zip(known)
        totals = sums(answers, weights, tff.federated_broadcast(context))
        return tff.federated_map(finish, (totals, state, round_number))

    return initial, next_fn


def _folded(federation, answer_type, context_type):
    """Federated function from (answers, weights, what the server knows) to an aggregator's totals.

    What the server knows stands beside each answer, for that is all that TFF lets a sum see.
    """
    aggregator = federation.aggregator

    @tff.tensorflow.computation
    def zero():
        return collections.OrderedDict(
            rejected=tf.zeros([len(KINDS)], tf.int32), totals=aggregator.zero(federation)
        )

    totals_type = zero.type_signature.result

    @tff.tensorflow.computation(totals_type, (answer_type, np.float32, context_type))
    def add(totals, value):
        answer, weight, (round_number, bounds, allocation) = value
        admitted = admit(federation, list(answer.values()), weight, round_number, allocation)
        return collections.OrderedDict(
            rejected=totals["rejected"] + admitted.fault,
            totals=list(aggregator.add(federation, list(totals["totals"]), admitted, bounds)),
        )

    @tff.tensorflow.computation(totals_type, totals_type)
    def merge(left, right):
        return collections.OrderedDict(
            rejected=left["rejected"] + right["rejected"],
            totals=aggregator.merge(list(left["totals"]), list(right["totals"])),
        )

    @tff.tensorflow.computation(totals_type)
    def report(totals):
        return totals

    @tff.federated_computation(
        tff.FederatedType(answer_type, tff.CLIENTS),
        tff.FederatedType(np.float32, tff.CLIENTS),
        tff.FederatedType(context_type, tff.CLIENTS, all_equal=True),
    )
    def sums(answers, weights, context):
        value = tff.federated_zip((answers, weights, context))
        return tff.federated_aggregate(value, zero(), add, merge, report)

    return sums


def _summed(federation, answer_type, context_type):
    """As `_folded`, by TFF's secure sum of the clients' codes."""
    aggregator = federation.aggregator

    @tff.tensorflow.computation(answer_type, np.float32)
    def codes(answer, weight):
        *found, heard = aggregator.codes(federation, list(answer.values()), weight)
        return collections.OrderedDict(codes=found, heard=heard)

    factories = aggregator.sum_factories(federation.uplink)
    summed = {
        name: factory.create(getattr(codes.type_signature.result, name))
        for name, factory in factories.items()
    }

    @tff.tensorflow.computation(
        *(process.next.type_signature.result.result.member for process in summed.values())
    )
    def unrejected(totals, heard):
        return collections.OrderedDict(
            rejected=tf.zeros([len(KINDS)], tf.int32), totals=[*totals, heard]
        )

    @tff.federated_computation(
        tff.FederatedType(answer_type, tff.CLIENTS),
        tff.FederatedType(np.float32, tff.CLIENTS),
        tff.FederatedType(context_type, tff.CLIENTS, all_equal=True),
    )
    def sums(answers, weights, context):
        value = tff.federated_map(codes, (answers, weights))
        totals = [
            process.next(process.initialize(), value[name]).result
            for name, process in summed.items()
        ]
        return tff.federated_map(unrejected, tuple(totals))

    return sums
