"""The FP32 peer: TFF's own federated averaging, with its traffic counted like ours."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

from omc.learning import models


def build_fp32_fed_avg(model_fn, client_optimizer_fn, server_optimizer_fn, compressed=False):
    """TFF's weighted federated averaging with serialized bytes in its metrics.

    Args:
        model_fn: As in TFF.
        client_optimizer_fn, server_optimizer_fn: `tff.learning.optimizers.Optimizer`s.
        compressed: Whether updates go through TFF's `compression_aggregator` as it comes: 8 bits
            uniformly for variables of more than 20,000 weights, adaptive clipping and zeroing.

    Returns:
        `tff.learning.templates.LearningProcess`; `traffic` reads its bytes.
    """
    with tf.Graph().as_default():
        weights_type = tff.learning.models.weights_type_from_model(model_fn())
    process = tff.learning.algorithms.build_weighted_fed_avg(
        model_fn,
        client_optimizer_fn=client_optimizer_fn,
        server_optimizer_fn=server_optimizer_fn,
        model_distributor=_counting_broadcast(weights_type),
        model_aggregator=_compressing_mean() if compressed else _CountingMean(),
        # As our own clients do: a loop inside the graph. TFF's other way, `Dataset.reduce`, sets up
        # the training step anew at each client's turn, which takes seconds for a Conformer.
        loop_implementation=tff.learning.LoopImplementation.DATASET_ITERATOR,
    )
    data_type = process.next.type_signature.parameter[1].member
    return tff.simulation.compose_dataset_computation_with_learning_process(
        tff.tensorflow.computation(models.untuned, data_type), process
    )


def _count(value_type, sent=lambda tensor: tensor):
    @tff.tensorflow.computation(value_type)
    def count(value):
        tensors = tf.nest.flatten([sent(tensor) for tensor in tf.nest.flatten(value)])
        sizes = [tf.size(t, out_type=tf.int64) * t.dtype.size for t in tensors]
        return collections.OrderedDict(
            clients=tf.constant(1, tf.int64),
            parameter_bytes=tf.add_n(sizes),
            serialized_bytes=models.serialized_nbytes(tensors),
        )

    return count


def _counting_broadcast(weights_type):
    count = _count(weights_type)

    @tff.federated_computation
    def initialize():
        return tff.federated_value((), tff.SERVER)

    @tff.federated_computation(
        initialize.type_signature.result, tff.FederatedType(weights_type, tff.SERVER)
    )
    def next_fn(state, weights):
        at_clients = tff.federated_broadcast(weights)
        counts = tff.federated_sum(tff.federated_map(count, at_clients))
        measurements = collections.OrderedDict(
            clients=counts["clients"],
            downlink_bytes=counts["serialized_bytes"],
            parameter_bytes=counts["parameter_bytes"],
        )
        return tff.templates.MeasuredProcessOutput(
            state, at_clients, tff.federated_zip(measurements)
        )

    return tff.learning.templates.DistributionProcess(initialize, next_fn)


def _compressing_mean():
    """TFF's compressing mean. It encodes inside, so what it sends is counted on an encoding more:
    sizes do not depend on values.
    """
    sums = tff.aggregators.EncodedSumFactory.quantize_above_threshold(8, 20000)
    encoder_for = sums._encoder_fn  # Private: the factory that has it tells nobody its sizes.

    def sent(tensor):
        encoder = encoder_for(tf.TensorSpec(tensor.shape, tensor.dtype))
        params, _, _ = encoder.get_params(encoder.initial_state())
        return encoder.encode(tensor, params)[0]

    return _CountingMean(tff.learning.compression_aggregator(), sent)


class _CountingMean(tff.aggregators.WeightedAggregationFactory):
    """A weighted mean of TFF's, with the bytes of what clients send in its measurements.

    Args:
        mean: The factory; by default one for which, where no client answers, the mean is 0 and the
            weights stay.
        sent: Tensor -> structure of tensors that are sent of it; by default itself.
    """

    def __init__(self, mean=None, sent=lambda tensor: tensor):
        self._mean = mean or tff.aggregators.MeanFactory(no_nan_division=True)
        self._sent = sent

    def create(self, value_type, weight_type):
        mean = self._mean.create(value_type, weight_type)
        count = _count(value_type, self._sent)

        @tff.tensorflow.computation(count.type_signature.result, weight_type)
        def count_answer(counts, weight):
            answers = tf.cast(weight > 0, tf.int64)  # Without data a client has nothing to send.
            uplink_bytes = answers * counts["serialized_bytes"]
            return collections.OrderedDict(answers=answers, uplink_bytes=uplink_bytes)

        @tff.federated_computation(
            mean.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state, value, weight):
            output = mean.next(state, value, weight)
            counts = tff.federated_map(count_answer, (tff.federated_map(count, value), weight))
            measurements = tff.federated_sum(counts)
            return tff.templates.MeasuredProcessOutput(output.state, output.result, measurements)

        return tff.templates.AggregationProcess(mean.initialize, next_fn)
