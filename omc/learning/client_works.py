"""Client work: one client trains on its packed weights and answers with a packed result."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.codecs import AlternativeCodec
from omc.keras import CompressedVariable
from omc.learning import models

UPLINKS = ("weights", "update")
_COUNTS = ("answers", "clients", "downlink_bytes", "parameter_bytes", "uplink_bytes")


class LocalOptimizer:
    """A TFF optimizer that steps one variable after the other: one update is dense at a time.

    Most optimizers move weights by something that depends on gradients only. Which ones do is found
    by trying; for them nothing has to be decoded: their step from zero is the update.
    """

    def __init__(self, optimizer):
        """Wraps an optimizer; call it where TensorFlow is eager.

        Args:
            optimizer: `tff.learning.optimizers.Optimizer`.
        """
        self._optimizer = optimizer
        none, gradient, start = tf.zeros([2]), tf.constant([0.5, -0.25]), tf.constant([64.0, -32.0])
        slot = optimizer.initialize(tf.TensorSpec([2], tf.float32))
        _, update = optimizer.next(slot, none, gradient)
        _, moved = optimizer.next(slot, start, gradient)
        _, decayed = optimizer.next(slot, start, none)  # However little the decay is.
        self._reads_weights = bool(
            tf.reduce_any(tf.abs(moved - start - update) > 1e-4) or tf.reduce_any(decayed != start)
        )

    def initialize(self, variable):
        """State of the optimizer for one variable."""
        return self._optimizer.initialize(tf.TensorSpec(variable.shape, variable.dtype))

    def apply(self, slot, variable, gradient):
        """Takes one step of one variable and returns the next state."""
        if gradient is None:
            return slot
        gradient = tf.convert_to_tensor(gradient)
        if not self._reads_weights:
            slot, update = self._optimizer.next(slot, tf.zeros_like(gradient), gradient)
            variable.assign_add(update)
            return slot
        with tf.control_dependencies([gradient]):
            value = variable.read_value()
        slot, updated = self._optimizer.next(slot, value, gradient)
        variable.assign_add(updated - value)
        return slot


class ClientTrainer:
    """Trains on one client's data, the weights held in received buffers.

    Works inside a TFF computation and, for measuring one client alone, eagerly.
    """

    def __init__(self, plan, received, optimizer, uplink):
        """Builds the model on the buffers.

        Args:
            plan: `ModelPlan`.
            received: List of tensors, one a variable: buffers of codes or raw float32, floats.
            optimizer: `LocalOptimizer`.
            uplink: "weights" or "update".
        """
        self._plan = plan
        self._optimizer = optimizer
        self._uplink = uplink
        self._model = plan.build(received)
        self._variables = plan.variables(self._model)
        self._trainable = self._variables[: plan.num_trainable]
        self._run = tf.function(self._train, autograph=False)

    @property
    def variables(self):
        """The model's variables, in the plan's order."""
        return self._variables

    def train(self, received, dataset, round_number, client):
        """One client's round.

        Args:
            received: As in the constructor; training starts from it.
            dataset: tf.data.Dataset of batches; every batch is a step.
            round_number, client: int32 scalars, seeds of the rounding.

        Returns:
            (result, weight, metrics, stats): the uplink's tensors; the number of examples (float32;
            0 where training left finite numbers); the model's unfinalized metrics; byte counts and
            squared errors.
        """
        result, weight, stats = self._run(received, dataset, round_number, client)
        with tf.control_dependencies([weight]):
            metrics = self._model.report_local_unfinalized_metrics()
        return result, weight, metrics, stats

    def _train(self, received, dataset, round_number, client):
        seed = tf.constant([self._plan.policy.seed % 2**31, 1], tf.int32)
        for word in (round_number, client):
            seed = tf.random.experimental.stateless_fold_in(seed, word, alg="philox")
        for variable, value in zip(self._variables, received):
            compressed = isinstance(variable, CompressedVariable)
            (variable.buffer if compressed else variable).assign(value)
            if compressed:  # Another stream for each client and round, so that errors average out.
                variable.reseed(seed[0])
        self._model.reset_metrics()
        examples, finite = self._steps(dataset)
        result, error, energy = self._answer(received, seed)
        answers = tf.cast(examples > 0.0, tf.int64)  # Without data a client has nothing to send.
        stats = collections.OrderedDict(
            answers=answers,
            clients=tf.constant(1, tf.int64),
            downlink_bytes=models.serialized_nbytes(received),
            parameter_bytes=_parameter_nbytes(self._variables),
            uplink_bytes=answers * models.serialized_nbytes(result),
            uplink_energy=energy,
            uplink_error=error,
        )
        if self._plan.widths is not None:
            stats.update(_by_width(stats, self._plan.widths, client))
        return result, tf.where(finite, examples, 0.0), stats

    def _steps(self, dataset):
        """Takes a step on every batch; returns (examples, whether all stayed finite)."""

        def step(state, batch):
            examples, finite, slots = state
            with tf.GradientTape() as tape:
                output = self._model.forward_pass(batch, training=True)
            gradients = tape.gradient(output.loss, self._trainable)
            slots = tuple(map(self._optimizer.apply, slots, self._trainable, gradients))
            count = output.num_examples
            if count is None:
                count = tf.shape(tf.nest.flatten(output.predictions)[0])[0]
            finite &= tf.reduce_all(tf.math.is_finite(output.loss))
            return examples + tf.cast(count, tf.float32), finite, slots

        slots = tuple(map(self._optimizer.initialize, self._trainable))
        start = (tf.constant(0.0), tf.constant(True), slots)
        examples, finite, _ = _over_batches(iter(models.untuned(dataset)), start, step)
        for variable in self._trainable:
            if not isinstance(variable, CompressedVariable):
                finite &= tf.reduce_all(tf.math.is_finite(variable.read_value()))
        return examples, finite

    def _answer(self, received, seed):
        """The uplink's tensors, and the squared error and energy of what was rounded for it."""
        result, error, energy = [], tf.constant(0.0), tf.constant(0.0)
        for index, variable in enumerate(self._trainable):
            codec = self._plan.codecs[index]
            if self._uplink == "weights":
                compressed = isinstance(variable, CompressedVariable)
                result.append((variable.buffer if compressed else variable).read_value())
                continue
            if codec is None:
                result.append(received[index] - variable.read_value())
                continue
            update = codec.decode(received[index]) - variable.decode()
            words = tf.random.experimental.stateless_fold_in(seed, index, alg="philox")
            if isinstance(codec, AlternativeCodec):
                buffer = codec.encode_as(received[index], update, words)
            else:
                buffer = codec.encode(update, words)
            result.append(buffer)
            error += tf.reduce_sum(tf.square(codec.decode(buffer) - update))
            energy += tf.reduce_sum(tf.square(update))
        return result, error, energy


def _each_batch(iterator, state, step):
    for batch in iterator:
        state = step(state, batch)
    return state


# A loop inside the graph. `Dataset.reduce` would instantiate and optimize the whole training step
# anew at each client's turn, which costs far more than the few steps of a client.
_over_batches = tf.autograph.to_graph(_each_batch, recursive=False)


def _by_width(stats, widths, client):
    """A client's counts once more, each as a vector with a place for every width."""
    own = tf.one_hot(widths.index(client), len(widths.bits), dtype=tf.int64)
    return collections.OrderedDict((f"width_{key}", own * stats[key]) for key in _COUNTS)


def _parameter_nbytes(variables):
    """Bytes (int64) that the model's variables take on the client: the buffers that exist."""
    sizes = []
    for variable in variables:
        if isinstance(variable, CompressedVariable):
            sizes.append(tf.size(variable.buffer.read_value(), out_type=tf.int64))
        else:
            sizes.append(tf.size(variable.read_value(), out_type=tf.int64) * variable.dtype.size)
    return tf.add_n(sizes)


def train_client(plan, optimizer, uplink, received, dataset, client, round_number):
    """One client's round, traced inside a TFF computation.

    Args:
        plan, optimizer, uplink, received: As in `ClientTrainer`.
        dataset, client, round_number: As in `ClientTrainer.train`.

    Returns:
        (`ClientResult`, unfinalized metrics, stats).
    """
    trainer = ClientTrainer(plan, received, optimizer, uplink)
    result, weight, metrics, stats = trainer.train(received, dataset, round_number, client)
    result = tff.learning.templates.ClientResult(models.payload(result), weight)
    return result, metrics, stats


def summarize(stats, widths):
    """Traffic of a round, a dict of tensors, out of its clients' summed stats.

    Args:
        stats: As of `ClientTrainer.train`, summed.
        widths: The plan's `Widths` or None. With widths it holds "widths", too: vectors with the
            sums of the clients of each.
    """
    clients, answers = (tf.cast(stats[key], tf.float32) for key in ("clients", "answers"))
    distortion = tf.math.divide_no_nan(stats["uplink_error"], stats["uplink_energy"])
    summary = collections.OrderedDict(answers=stats["answers"], clients=stats["clients"])
    for key in ("downlink_bytes", "parameter_bytes", "uplink_bytes"):
        summary[key] = stats[key]
        number = answers if key == "uplink_bytes" else clients
        summary[f"{key}_per_client"] = tf.math.divide_no_nan(
            tf.cast(stats[key], tf.float32), number
        )
    summary["uplink_distortion"] = distortion
    if widths is not None:
        summary["widths"] = collections.OrderedDict(bits=tf.constant(widths.bits))
        for key in _COUNTS:
            summary["widths"][key] = tf.convert_to_tensor(stats[f"width_{key}"])
    return summary


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
    local_optimizer = LocalOptimizer(optimizer)

    @tff.tensorflow.computation(payloads_type, data_type, int32, int32)
    def work(payloads, dataset, client, round_number):
        received = list(payloads.get_single_element().values())
        return train_client(plan, local_optimizer, uplink, received, dataset, client, round_number)

    @tff.tensorflow.computation(work.type_signature.result[2])
    def summary(stats):
        return summarize(stats, plan.widths)

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
                traffic=tff.federated_map(summary, tff.federated_sum(stats)),
                train=metrics_aggregation(metrics),
            )
        )
        return result, measurements

    return next_fn
