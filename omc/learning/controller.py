"""Federated averaging driven by a controller: only packed payloads cross to the workers.

In a composed TFF process the server is a part of the computation, so that its float32 state crosses
the link with every round. Here the server's work (pack, decode, accumulate, step) is done in this
process, and the workers are called with what a client receives, for what a client sends.
"""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError
from omc.learning import aggregators, client_works, distributors, models, processes
from omc.learning.runtime import current_runtime
from omc.learning.widths import check_uplink

State = processes.State


def build_controlled_fed_avg(
    model_fn,
    policy,
    client_optimizer_fn=None,
    server_optimizer_fn=None,
    uplink="weights",
    metrics_aggregator=None,
    widths=None,
):
    """The algorithm of `build_weighted_fed_avg`, with the server outside of TFF.

    Results do not depend on the number of workers, nor on which of them did what: every client is
    computed on its own, and its result is added in the order of the clients, bit for bit the same.

    Args:
        model_fn, policy, client_optimizer_fn, server_optimizer_fn, uplink, metrics_aggregator,
            widths: As in `build_weighted_fed_avg`.

    Returns:
        `ControlledFedAvg`.

    Raises:
        InputTypeError, InputError, FormatError: As `build_weighted_fed_avg`.
    """
    if uplink not in client_works.UPLINKS:
        raise InputError("uplink", f"one of {client_works.UPLINKS}", uplink)
    client_optimizer = processes.checked_optimizer("client_optimizer_fn", client_optimizer_fn, 0.1)
    server_optimizer = processes.checked_optimizer("server_optimizer_fn", server_optimizer_fn, 1.0)
    plan = models.ModelPlan.of(model_fn, policy, widths)
    check_uplink(plan.widths, plan.policy, uplink)
    with tf.Graph().as_default():
        model = model_fn()
        aggregate_metrics = metrics_aggregator or tff.learning.metrics.sum_then_finalize
        metrics_aggregation = aggregate_metrics(model.metric_finalizers())
        data_type = tff.SequenceType(tff.types.tensorflow_to_type(model.input_spec))
    work = _build_work(plan, client_optimizer, uplink, data_type)
    metrics_type = work.type_signature.result.member[1]

    @tff.federated_computation(tff.FederatedType(metrics_type, tff.CLIENTS))
    def finalize_metrics(metrics):
        return metrics_aggregation(metrics)

    work = tff.backends.native.desugar_and_transform_to_native(work)
    return ControlledFedAvg(plan, work, finalize_metrics, server_optimizer, uplink)


def _build_work(plan, optimizer, uplink, data_type):
    """The workers' computation; all of it is CLIENTS-placed."""
    local_optimizer = client_works.LocalOptimizer(optimizer)
    payload_type = tff.types.tensorflow_to_type(models.payload(models.payload_specs(plan)))

    @tff.tensorflow.computation(payload_type, data_type, np.int32, np.int32)
    def train(payload, dataset, client, round_number):
        received = list(payload.values())
        return client_works.train_client(
            plan, local_optimizer, uplink, received, dataset, client, round_number
        )

    @tff.federated_computation(
        tff.FederatedType(payload_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
        tff.FederatedType(np.int32, tff.CLIENTS),
        tff.FederatedType(np.int32, tff.CLIENTS),
    )
    def work(payloads, data, clients, rounds):
        return tff.federated_map(train, (payloads, data, clients, rounds))

    return work


class ControlledFedAvg:
    """A process with the methods of `tff.learning.templates.LearningProcess`.

    It runs inside `omc.learning.local_runtime()` or `remote_runtime(workers)`. Its state has the
    structure of `build_weighted_fed_avg`'s, of numpy values.
    """

    def __init__(self, plan, work, finalize_metrics, server_optimizer, uplink):
        """Use `build_controlled_fed_avg`.

        Args:
            plan: `ModelPlan`.
            work: Computation of one client's round, in native form.
            finalize_metrics: Computation from the clients' unfinalized metrics to the round's.
            server_optimizer: `tff.learning.optimizers.Optimizer`.
            uplink: "weights" or "update".
        """
        self._plan = plan
        self._work = work
        # The runtime leaves names out of results.
        self._stats = tff.structure.name_list(work.type_signature.result.member[2])
        self._finalize_metrics = finalize_metrics
        self._optimizer = server_optimizer
        self._uplink = uplink
        self._sum = aggregators.WeightedSum(plan)
        self._pack = tf.function(lambda *values: distributors.pack(plan, values), autograph=False)
        self._choose = tf.function(lambda *words: tf.stack(plan.choices(*words)), autograph=False)

    def initialize(self):
        """The state before the first round."""
        model = self._plan.model_fn()
        weights = tff.learning.models.ModelWeights.from_model(model)
        specs = [tf.TensorSpec(w.shape, w.dtype) for w in weights.trainable]
        return State(
            tff.learning.models.ModelWeights(
                [w.numpy() for w in weights.trainable], [w.numpy() for w in weights.non_trainable]
            ),
            np.int32(0),
            (),
            (),
            _to_numpy(self._optimizer.initialize(specs)),
        )

    def next(self, state, client_data):
        """One round.

        Args:
            state: What `initialize` or the last round gave.
            client_data: List of datasets, one a client; an empty list leaves the weights.

        Returns:
            `tff.learning.templates.LearningProcessOutput`. Its metrics have the keys of
            `build_weighted_fed_avg`, and under "link" the bytes of all messages to and from workers
            (see `omc.learning.links.Link.traffic`).

        Raises:
            WorkerError: A worker died or could not do its work; the state is as it was.
            InputError: No runtime surrounds the call.
        """
        runtime = current_runtime()
        before = _crossed(runtime)
        weights = state.global_model_weights
        values = [*weights.trainable, *weights.non_trainable]
        candidates, distortion = _to_numpy(self._pack(*map(tf.convert_to_tensor, values)))
        arguments = self._arguments(candidates, np.int32(state.distributor), client_data)
        stats, metrics = collections.Counter(), []
        self._sum.take()  # A round that failed may have left something.
        for result, client_metrics, client_stats in runtime.map(self._work, arguments):
            update, weight = result
            self._sum.add(list(update), weight)
            metrics.append(tff.structure.to_odict_or_tuple(client_metrics))
            stats.update(dict(zip(self._stats, client_stats)))
        mean, total_weight = self._sum.take()
        new_weights, new_optimizer, rejected = self._step(state, mean, total_weight)
        client_work = collections.OrderedDict()
        if metrics:
            client_work["traffic"] = _to_numpy(client_works.summarize(stats, self._plan.widths))
            client_work["train"] = runtime.call(self._finalize_metrics, metrics)
        link = {key: count - before[key] for key, count in _crossed(runtime).items()}
        return tff.learning.templates.LearningProcessOutput(
            State(new_weights, np.int32(state.distributor + 1), (), (), new_optimizer),
            collections.OrderedDict(
                distributor=collections.OrderedDict(
                    distortion=distortion, round=np.int32(state.distributor)
                ),
                client_work=client_work,
                aggregator=collections.OrderedDict(total_weight=total_weight.numpy()),
                finalizer=collections.OrderedDict(update_non_finite=np.int32(rejected)),
                link=collections.OrderedDict(sorted(link.items())),
            ),
        )

    def get_model_weights(self, state):
        """The float32 master, `tff.learning.models.ModelWeights`."""
        return state.global_model_weights

    def set_model_weights(self, state, model_weights):
        """The state with another float32 master."""
        weights = tff.learning.models.ModelWeights(
            _to_numpy(list(model_weights.trainable)), _to_numpy(list(model_weights.non_trainable))
        )
        return State(
            weights, state.distributor, state.client_work, state.aggregator, state.finalizer
        )

    def _arguments(self, candidates, round_number, client_data):
        for dataset in client_data:
            client = np.int32(distributors.client_id(dataset))
            choices = self._choose(tf.constant(round_number), tf.constant(client)).numpy()
            chosen = [values[choice] for values, choice in zip(candidates, choices)]
            yield models.payload(chosen), dataset, client, round_number

    def _step(self, state, mean, total_weight):
        """Next weights and optimizer state; both as they were if the mean is not finite."""
        weights = state.global_model_weights
        trainable = [tf.convert_to_tensor(value) for value in weights.trainable]
        gradient = processes.pseudo_gradient(self._uplink, trainable, mean, total_weight)
        if not all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in gradient):
            return weights, state.finalizer, True
        optimizer, moved = self._optimizer.next(
            tf.nest.map_structure(tf.convert_to_tensor, state.finalizer), trainable, gradient
        )
        moved = tff.learning.models.ModelWeights(_to_numpy(moved), weights.non_trainable)
        return moved, _to_numpy(optimizer), False


def _crossed(runtime):
    return sum((link.traffic for link in runtime.links), collections.Counter())


def _to_numpy(value):
    # Through TensorFlow, which takes a Python float for float32.
    return tf.nest.map_structure(lambda leaf: tf.convert_to_tensor(leaf).numpy(), value)
