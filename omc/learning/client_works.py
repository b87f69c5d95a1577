"""Client work: one client trains on its packed weights and answers with a packed result."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.compressed import PartialCodec, to_bytes
from omc.keras import CompressedVariable
from omc.learning import models

UPLINKS = ("weights", "update")


def train_client(plan, received, dataset, round_number, client, optimizer, uplink):
    """Trains on a client's data, the weights held in the received buffers.

    Works inside a TFF computation and, for measuring one client alone, eagerly.

    Args:
        plan: `ModelPlan`.
        received: List of tensors, one a variable: buffers of codes or raw float32, float values.
        dataset: tf.data.Dataset of batches; every batch is a step.
        round_number, client: int32 scalars, seeds of the uplink's rounding.
        optimizer: `tff.learning.optimizers.Optimizer`, applied to one variable at a time.
        uplink: "weights" or "update".

    Returns:
        (result, weight, metrics, stats): the uplink's payload; the number of examples (float32; 0
        where training left finite numbers); the model's unfinalized metrics; byte counts and
        squared errors.
    """
    model = plan.build(received)
    variables = plan.variables(model)
    trainable = variables[: plan.num_trainable]

    @tf.function(autograph=False)
    def run(dataset, received):
        for variable, value in zip(variables, received):
            if not isinstance(variable, CompressedVariable):
                variable.assign(value)

        def step(state, batch):
            examples, finite, slots = state
            with tf.GradientTape() as tape:
                output = model.forward_pass(batch, training=True)
            gradients = tape.gradient(output.loss, trainable)
            slots = tuple(
                _apply(optimizer, slot, variable, gradient)
                for slot, variable, gradient in zip(slots, trainable, gradients)
            )
            count = output.num_examples
            if count is None:
                count = tf.shape(tf.nest.flatten(output.predictions)[0])[0]
            finite &= tf.reduce_all(tf.math.is_finite(output.loss))
            return examples + tf.cast(count, tf.float32), finite, slots

        slots = tuple(
            optimizer.initialize(tf.TensorSpec(variable.shape, variable.dtype))
            for variable in trainable
        )
        examples, finite, _ = dataset.reduce((tf.constant(0.0), tf.constant(True), slots), step)
        for variable in trainable:
            if not isinstance(variable, CompressedVariable):
                finite &= tf.reduce_all(tf.math.is_finite(variable.read_value()))

        seed = tf.constant([plan.policy.seed % 2**31, 1], tf.int32)
        for word in (round_number, client):
            seed = tf.random.experimental.stateless_fold_in(seed, word, alg="philox")
        result, error, energy = _answer(plan, uplink, trainable, received, seed)
        stats = collections.OrderedDict(
            clients=tf.constant(1, tf.int64),
            downlink_bytes=models.serialized_nbytes(received),
            parameter_bytes=_parameter_nbytes(variables),
            uplink_bytes=models.serialized_nbytes(result),
            uplink_energy=energy,
            uplink_error=error,
        )
        return result, tf.where(finite, examples, 0.0), stats

    result, weight, stats = run(dataset, received)
    with tf.control_dependencies([weight]):
        metrics = model.report_local_unfinalized_metrics()
    return result, weight, metrics, stats


def _apply(optimizer, slot, variable, gradient):
    """One optimizer step of one variable; the update itself is all that is dense of it."""
    if gradient is None:
        return slot
    with tf.control_dependencies([tf.convert_to_tensor(gradient)]):
        value = variable.read_value()
    slot, updated = optimizer.next(slot, value, tf.convert_to_tensor(gradient))
    variable.assign_add(updated - value)
    return slot


def _answer(plan, uplink, trainable, received, seed):
    """The uplink's tensors, and the squared error and energy of what was rounded for it."""
    result, error, energy = [], tf.constant(0.0), tf.constant(0.0)
    for index, variable in enumerate(trainable):
        codec = plan.codecs[index]
        if uplink == "weights":
            compressed = isinstance(variable, CompressedVariable)
            result.append((variable.buffer if compressed else variable).read_value())
            continue
        if codec is None:
            result.append(received[index] - variable.read_value())
            continue
        update = codec.decode(received[index]) - variable.decode()
        plain = plan.planned[index].codec
        words = tf.random.experimental.stateless_fold_in(seed, index, alg="philox")
        buffer = plain.encode(update, words)
        if isinstance(codec, PartialCodec):
            quantized = tf.equal(tf.size(received[index]), plain.nbytes)
            buffer = tf.cond(quantized, lambda b=buffer: b, lambda u=update: to_bytes(u))
        result.append(buffer)
        error += tf.reduce_sum(tf.square(codec.decode(buffer) - update))
        energy += tf.reduce_sum(tf.square(update))
    return result, error, energy


def _parameter_nbytes(variables):
    """Bytes (int64) that the model's variables take on the client: the buffers that exist."""
    sizes = []
    for variable in variables:
        if isinstance(variable, CompressedVariable):
            sizes.append(tf.size(variable.buffer.read_value(), out_type=tf.int64))
        else:
            sizes.append(tf.size(variable.read_value(), out_type=tf.int64) * variable.dtype.size)
    return tf.add_n(sizes)


def build_client_work(plan, optimizer, uplink, payloads_type, data_type, metrics_aggregation):
    """Builds the clients' half of a round.

    Args:
        plan: `ModelPlan`.
        optimizer: `tff.learning.optimizers.Optimizer`.
        uplink: "weights" (codes as they stand, as in the OMC paper) or "update" (what changed,
            rounded without bias).
        payloads_type: Type of what the distributor gives a client: a sequence of one payload.
        data_type: tff.SequenceType of a client's data.
        metrics_aggregation: Federated computation over unfinalized metrics.

    Returns:
        `next(payloads, data, client_ids, round numbers)`, all CLIENTS-placed, to a
        `MeasuredProcessOutput` of `ClientResult`s without state.
    """
    int32 = np.int32

    @tff.tensorflow.computation(payloads_type, data_type, int32, int32)
    def work(payloads, dataset, client, round_number):
        received = list(payloads.get_single_element().values())
        result, weight, metrics, stats = train_client(
            plan, received, dataset, round_number, client, optimizer, uplink
        )
        result = tff.learning.templates.ClientResult(models.payload(result), weight)
        return result, metrics, stats

    @tff.tensorflow.computation(work.type_signature.result[2])
    def summarize(stats):
        clients = tf.cast(stats["clients"], tf.float32)
        distortion = tf.math.divide_no_nan(stats["uplink_error"], stats["uplink_energy"])
        summary = collections.OrderedDict(clients=stats["clients"])
        for key in ("downlink_bytes", "parameter_bytes", "uplink_bytes"):
            summary[key] = stats[key]
            summary[f"{key}_per_client"] = tf.cast(stats[key], tf.float32) / clients
        summary["uplink_distortion"] = distortion
        return summary

    @tff.federated_computation(
        tff.FederatedType(payloads_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
        tff.FederatedType(int32, tff.CLIENTS),
        tff.FederatedType(int32, tff.CLIENTS),
    )
    def next_fn(payloads, data, client_ids, rounds):
        result, metrics, stats = tff.federated_map(work, (payloads, data, client_ids, rounds))
        measurements = tff.federated_zip(
            collections.OrderedDict(
                traffic=tff.federated_map(summarize, tff.federated_sum(stats)),
                train=metrics_aggregation(metrics),
            )
        )
        return result, measurements

    return next_fn
