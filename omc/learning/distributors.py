"""Downlink: the server packs its master, and each client receives its own payload."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.codecs import to_bytes
from omc.learning import models
from omc.nested import extract_buffer

MAX_CLIENT = 2**31 - 1
"""Largest client id, exclusive; ids are int32 and not negative."""


def build_client_ids(data_type):
    """Computation from a client's dataset to its id (int32): a fingerprint of its first batch.

    Ours: a `LearningProcess` knows no client names, and partial quantization needs something that
    tells clients apart and is the same in every run. Clients with equal data share an id; a dataset
    that shuffles anew each time has no fixed one.

    Args:
        data_type: tff.SequenceType of a client's data.
    """

    @tff.tensorflow.computation(data_type)
    def client_id(dataset):
        first = (
            models.untuned(dataset)
            .take(1)
            .reduce(tf.constant(0, tf.int32), lambda _, batch: fingerprint(batch))
        )
        return first

    return client_id


def fingerprint(batch):
    """Id of the client whose first batch this is, an int32 scalar.

    Args:
        batch: Structure of tensors.
    """
    parts = [tf.io.serialize_tensor(tensor) for tensor in tf.nest.flatten(batch)]
    hashed = tf.strings.to_hash_bucket_fast(tf.strings.join(parts), MAX_CLIENT)
    return tf.cast(hashed, tf.int32)


def client_id(dataset):
    """Id (int) of the client that has this dataset, as in all processes here.

    Args:
        dataset: tf.data.Dataset of batches, in an order that does not change.
    """
    for batch in models.untuned(dataset):
        return int(fingerprint(batch))
    return 0


def pack(plan, values):
    """Quantizes weights on the server: each variable once, lower widths out of its codes.

    Args:
        plan: `ModelPlan`.
        values: float32 tensors, one a variable.

    Returns:
        (candidates, distortion): for each variable the list of what a client may get of it, one a
        codec of its `plan.alternatives` (or the value itself); ||Q(w) - w||^2 / ||w||^2 for the
        policy's format.
    """
    candidates, error, energy = [], 0.0, 0.0
    for planned, alternatives, value in zip(plan.planned, plan.alternatives, values):
        codec = planned.codec
        if codec is None:
            candidates.append([value])
            continue
        packed = codec.encode(value)
        candidates.append([_buffer_of(own, value, codec, packed) for own in alternatives])
        error += tf.reduce_sum(tf.square(codec.decode(packed) - value))
        energy += tf.reduce_sum(tf.square(value))
    return candidates, tf.math.divide_no_nan(error, energy)


def _buffer_of(wanted, value, codec, packed):
    """Buffer of one alternative, from the value and its codes in the policy's format."""
    if wanted.format.is_fp32:
        return to_bytes(value)
    return packed if wanted == codec else extract_buffer(packed, codec, wanted.format.bits)


def build_distributor(plan):
    """Builds the downlink of packed codes.

    The server quantizes every candidate once a round. A client then selects, by its id, the payload
    that holds codes of its width for the variables it quantizes this round and raw float32 for the
    others.

    Args:
        plan: `ModelPlan`.

    Returns:
        (initialize, next): `initialize()` gives the round number; `next(state, weights@SERVER,
        client_ids@CLIENTS)` a `MeasuredProcessOutput` of the next state, one payload a client, and
        the relative squared error of the packed weights, ||Q(w) - w||^2 / ||w||^2.
    """
    weights_type = models.weights_type(plan)

    @tff.tensorflow.computation(np.int32, weights_type)
    def pack_weights(round_number, weights):
        candidates, distortion = pack(plan, [*weights.trainable, *weights.non_trainable])
        server_value = collections.OrderedDict(
            candidates=models.payload(map(models.payload, candidates)), round=round_number
        )
        return server_value, distortion

    @tff.tensorflow.computation(pack_weights.type_signature.result[0], np.int32)
    def select(server_value, client):
        choices = plan.choices(server_value["round"], client)
        return models.payload(
            _chosen(list(candidates.values()), choice)
            for candidates, choice in zip(server_value["candidates"].values(), choices)
        )

    @tff.tensorflow.computation(np.int32)
    def keys(client):
        return tf.reshape(client, [1])

    @tff.tensorflow.computation(np.int32)
    def increment(round_number):
        return round_number + 1

    @tff.federated_computation()
    def initialize():
        return tff.federated_value(0, tff.SERVER)

    @tff.federated_computation(
        initialize.type_signature.result,
        tff.FederatedType(weights_type, tff.SERVER),
        tff.FederatedType(np.int32, tff.CLIENTS),
    )
    def next_fn(round_number, weights, client_ids):
        packed = tff.federated_map(pack_weights, (round_number, weights))
        payloads = tff.federated_select(
            tff.federated_map(keys, client_ids),
            tff.federated_value(MAX_CLIENT, tff.SERVER),
            packed[0],
            select,
        )
        measurements = tff.federated_zip(
            collections.OrderedDict(distortion=packed[1], round=round_number)
        )
        return tff.templates.MeasuredProcessOutput(
            tff.federated_map(increment, round_number), payloads, measurements
        )

    return initialize, next_fn


def _chosen(candidates, choice):
    if len(candidates) == 1:
        return candidates[0]
    return tf.switch_case(choice, [lambda c=candidate: tf.identity(c) for candidate in candidates])
