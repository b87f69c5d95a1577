"""Client work: one client trains on its packed weights and answers through an uplink."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

from omc.alternative_codecs import AlternativeCodec
from omc.keras import CompressedVariable
from omc.learning import byte_counts, models
from omc.learning.bit_plane_work import EVERY, BitPlaneWork
from omc.learning.uplinks.base import LocalResult, fold_in, one_at_a_time


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
            uplink: `omc.learning.uplinks.Uplink`.
        """
        self._plan = plan
        self._optimizer = optimizer
        self._uplink = uplink
        self._model = plan.build(received)
        self._variables = plan.variables(self._model)
        self._trainable = self._variables[: plan.num_trainable]
        self._planes = BitPlaneWork(plan, self._variables) if plan.allocates else None
        self._run = tf.function(self._train, autograph=False, reduce_retracing=True)

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
            (result, weight, metrics, stats): the uplink's tensors, under FedMPQ what the client
            says of its widths, and the round's number; the number of examples (float32;
            0 where training left finite numbers); the model's unfinalized metrics; counts of this
            client (bytes int64) but for what it downloaded, and squared errors.
        """
        result, weight, stats = self._run(received, dataset, round_number, client)
        with tf.control_dependencies([weight]):
            metrics = self._model.report_local_unfinalized_metrics()
        return result, weight, metrics, stats

    def _train(self, received, dataset, round_number, client):
        common = round_seed(self._plan, round_number)
        seed = fold_in(common, client)
        received = one_at_a_time(list(zip(self._plan.codecs, received)), lambda pair: paired(*pair))
        for variable, value in zip(self._variables, received):
            compressed = isinstance(variable, CompressedVariable)
            (variable.buffer if compressed else variable).assign(value)
            if compressed:  # Another stream for each client and round, so that errors average out.
                variable.reseed(seed[0])
        self._model.reset_metrics()
        held = _parameter_nbytes(self._variables)
        code_bits = self._planes.code_bits() if self._planes else None
        examples, finite = self._steps(dataset)
        dropped = self._planes.reduce() if self._planes else None
        results = [
            LocalResult(described, value, variable)
            for described, value, variable in zip(self._plan.trainable, received, self._trainable)
        ]
        # Else what was received of the first variable would lie dense from the start.
        with tf.control_dependencies([finite if dropped is None else dropped]):
            answer = self._uplink.encode(results, common if self._uplink.common_seed else seed)
        tensors = list(answer.tensors)
        if self._planes:
            tensors.append(self._plan.widths.report(client, self._planes.widths(), dropped))
        tensors.append(tf.convert_to_tensor(round_number, tf.int32))
        answers = tf.cast(examples > 0.0, tf.int64)  # Without data a client has nothing to send.
        stats = collections.OrderedDict(
            answers=answers,
            clients=tf.constant(1, tf.int64),
            parameter_bytes=held,
            uplink_bytes=answers * models.serialized_nbytes(tensors),
            uplink_energy=answer.energy,
            uplink_error=answer.error,
        )
        if self._planes:
            stats["code_bits"] = code_bits
        return tensors, tf.where(finite, examples, 0.0), stats

    def _steps(self, dataset):
        """Takes a step on every batch; returns (examples, whether all stayed finite)."""

        def step(state, batch):
            examples, finite, slots, steps = state
            with tf.GradientTape() as tape:
                output = self._model.forward_pass(batch, training=True)
            gradients = tape.gradient(output.loss, self._trainable)
            slots = tuple(map(self._optimizer.apply, slots, self._trainable, gradients))
            count = output.num_examples
            if count is None:
                count = tf.shape(tf.nest.flatten(output.predictions)[0])[0]
            finite &= tf.reduce_all(tf.math.is_finite(output.loss))
            slots, steps = self._pulled(slots, steps + 1, EVERY)
            return examples + tf.cast(count, tf.float32), finite, slots, steps

        slots = tuple(map(self._optimizer.initialize, self._trainable))
        start = (tf.constant(0.0), tf.constant(True), slots, tf.constant(0))
        batches = iter(models.untuned(dataset))
        examples, finite, slots, steps = _over_batches(batches, start, step)
        self._pulled(slots, steps, 1)
        for variable in self._trainable:
            if not isinstance(variable, CompressedVariable):
                finite &= tf.reduce_all(tf.math.is_finite(variable.read_value()))
        return examples, finite

    def _pulled(self, slots, steps, least):
        """Steps along FedMPQ's lasso, once `least` are due; (slots, steps due) afterwards."""
        if not self._planes or not self._planes.pulls:
            return slots, steps
        return tf.cond(
            steps >= least,
            lambda: (self._planes.pull(slots, self._optimizer, steps), tf.constant(0)),
            lambda: (slots, steps),
        )


def paired(codec, received):
    """What a client received, with codes that come in pairs only.

    The second rounding of codes may give a narrow integer its lowest code, -2 of INT2, which
    nothing that trains can hold (`omc.transforms`). Were it left for the first step to saturate,
    that would be sent as if it had been learnt.

    Args:
        codec: `Codec`, `AlternativeCodec` or None.
        received: Buffer of the codec, or a float32 tensor.
    """
    if isinstance(codec, AlternativeCodec):
        return codec.switch(received, paired) if any(map(_lopsided, codec.codecs)) else received
    if codec is None or not _lopsided(codec):
        return received
    return codec.add(received, tf.zeros(codec.shape))


def _lopsided(codec):
    return codec.saturates and codec.format.kind == "int"


def _each_batch(iterator, state, step):
    for batch in iterator:
        state = step(state, batch)
    return state


# A loop inside the graph. `Dataset.reduce` would instantiate and optimize the whole training step
# anew at each client's turn, which costs far more than the few steps of a client.
_over_batches = tf.autograph.to_graph(_each_batch, recursive=False)


def round_seed(plan, round_number):
    """Seed of a round, int32 [2]; each client of it folds its id in.

    Args:
        plan: `ModelPlan`.
        round_number: int32 scalar.
    """
    return fold_in(tf.constant([plan.policy.seed % 2**31, 1], tf.int32), round_number)


def _parameter_nbytes(variables):
    """Bytes (int64) that the model's variables take on the client: the buffers that exist."""
    sizes = []
    for variable in variables:
        if isinstance(variable, CompressedVariable):
            sizes.append(tf.size(variable.buffer.read_value(), out_type=tf.int64))
        else:
            sizes.append(tf.size(variable.read_value(), out_type=tf.int64) * variable.dtype.size)
    return tf.add_n(sizes)


def train_client(federation, payload, held, choices, dataset, round_number, client):
    """One client's round, traced inside a TFF computation.

    Args:
        federation: `Federation`.
        payload: List of tensors, what the client got.
        held: List of tensors, what it held before; None where that is nothing.
        choices: List of int32 scalars, as the downlink made them.
        dataset: tf.data.Dataset of batches.
        round_number, client: int32 scalars.

    Returns:
        (`ClientResult`, unfinalized metrics, counts).
    """
    plan = federation.plan
    received = federation.downlink.receive(plan, payload, held, choices)
    trainer = ClientTrainer(plan, received, federation.local_optimizer, federation.uplink)
    result, weight, metrics, stats = trainer.train(received, dataset, round_number, client)
    counts = byte_counts.of_client(stats, models.serialized_nbytes(payload), plan.widths, client)
    return tff.learning.templates.ClientResult(models.payload(result), weight), metrics, counts
