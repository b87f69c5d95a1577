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
from omc.learning import byte_counts, drop_in, identities, models, processes
from omc.learning.aggregators import SecureMean
from omc.learning.aggregators.controlled import Aggregation
from omc.learning.federation import Federation
from omc.learning.forms import Forms
from omc.learning.runtime import current_runtime

State = processes.State


def build_controlled_fed_avg(
    model_fn,
    policy,
    client_optimizer_fn=None,
    server_optimizer_fn=None,
    uplink="weights",
    metrics_aggregator=None,
    widths=None,
    downlink="codes",
    aggregator="mean",
    client_work=None,
    *,
    client_weighting=None,
    model_aggregator=None,
    model_distributor=None,
    use_experimental_simulation_loop=False,
):
    """The algorithm of `build_weighted_fed_avg`, with the server outside of TFF.

    Results do not depend on the number of workers, nor on which of them did what: every client is
    computed on its own, and its result is added in the order of the clients, bit for bit the same.

    Args:
        model_fn, policy, client_optimizer_fn, server_optimizer_fn, uplink, metrics_aggregator,
            widths, downlink, aggregator, client_work, client_weighting, model_aggregator,
            model_distributor, use_experimental_simulation_loop: As in `build_weighted_fed_avg`.

    Returns:
        `ControlledFedAvg`.

    Raises:
        InputTypeError, InputError, FormatError: As `build_weighted_fed_avg`.
    """
    drop_in.check(
        model_aggregator=model_aggregator,
        model_distributor=model_distributor,
        use_experimental_simulation_loop=use_experimental_simulation_loop,
    )
    federation = Federation.of(
        model_fn,
        policy,
        client_optimizer_fn,
        server_optimizer_fn,
        uplink,
        metrics_aggregator,
        widths,
        downlink,
        aggregator,
        client_work,
        client_weighting,
    )
    if federation.downlink.remembers:
        expected = "one whose clients hold no versions, such as 'coded', in a controlled process"
        tip = "build_weighted_fed_avg serves it: held versions would cross to the workers again."
        raise InputError("downlink", expected, federation.downlink, tip)
    if isinstance(federation.aggregator, SecureMean):
        tip = "build_weighted_fed_avg serves it: a controller sees every answer."
        raise InputError("aggregator", "another one in a controlled process", aggregator, tip)
    return ControlledFedAvg(federation)


def _build_work(federation):
    """(clients' work, in native form, all of it CLIENTS-placed; names of its counts; metrics')."""
    federation.check_workers()
    payload_type, data_type = federation.payload_type, federation.data_type
    choices_type = tff.TensorType(np.int32, [len(payload_type)])

    @tff.tensorflow.computation(payload_type, data_type, np.int32, np.int32, choices_type)
    def train(payload, dataset, client, round_number, choices):
        payload, choices = list(payload.values()), tf.unstack(choices)
        nothing = [None] * len(payload)
        return federation.client_work(
            federation, payload, nothing, choices, dataset, round_number, client
        )

    @tff.federated_computation(
        tff.FederatedType(payload_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
        tff.FederatedType(np.int32, tff.CLIENTS),
        tff.FederatedType(np.int32, tff.CLIENTS),
        tff.FederatedType(choices_type, tff.CLIENTS),
    )
    def work(payloads, data, clients, rounds, choices):
        return tff.federated_map(train, (payloads, data, clients, rounds, choices))

    metrics_type, counts_type = work.type_signature.result.member[1:]

    @tff.federated_computation(tff.FederatedType(metrics_type, tff.CLIENTS))
    def finalize_metrics(metrics):
        return federation.metrics_aggregation(metrics)

    work = tff.backends.native.desugar_and_transform_to_native(work)
    # The runtime leaves names out of results.
    return work, tff.structure.name_list(counts_type), finalize_metrics


class ControlledFedAvg:
    """A process with the methods of `tff.learning.templates.LearningProcess`.

    It runs inside `omc.learning.local_runtime()` or `remote_runtime(workers)`. Its state has the
    structure of `build_weighted_fed_avg`'s, of numpy values.
    """

    def __init__(self, federation):
        """Use `build_controlled_fed_avg`.

        Args:
            federation: `Federation`.
        """
        plan, downlink = federation.plan, federation.downlink
        self._federation = federation
        self._forms = Forms(lambda: _build_work(federation))
        self._forms.current()  # So that mistakes show at once.
        self._step = federation.step
        self._sum = Aggregation(federation)
        self._offer = tf.function(
            lambda *values: downlink.offer(plan, values, ())[0], autograph=False
        )
        self._choices = tf.function(
            lambda allocation, *words: tf.stack(
                downlink.choices(plan.allocated(allocation), (), *words)
            ),
            autograph=False,
        )
        self._reallocate = tf.function(federation.reallocate, autograph=False)

    def initialize(self):
        """The state before the first round."""
        model = self._federation.plan.model_fn()
        weights = tff.learning.models.ModelWeights.from_model(model)
        return State(
            tff.learning.models.ModelWeights(
                [w.numpy() for w in weights.trainable], [w.numpy() for w in weights.non_trainable]
            ),
            _round(0),
            _to_numpy(self._federation.plan.initial_allocation()),
            _to_numpy(self._federation.aggregator.initial()),
            _to_numpy(self._federation.initial_optimizer_state()),
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
        work, names, finalize_metrics = self._forms.current()
        before = _crossed(runtime)
        weights, number = state.global_model_weights, np.int32(state.distributor["round"])
        values = [*weights.trainable, *weights.non_trainable]
        offer = _to_numpy(self._offer(*map(tf.convert_to_tensor, values)))
        arguments = self._arguments(offer.sent, number, state.client_work, client_data)
        counts, metrics = collections.Counter(), []
        self._sum.begin(state.aggregator, number, state.client_work)
        for result, client_metrics, client_counts in runtime.map(work, arguments):
            update, weight = result
            self._sum.add(list(update), weight)
            client_metrics = _to_tensors(tff.structure.to_odict_or_tuple(client_metrics))
            metrics.append(_to_numpy(self._federation.sound_metrics(client_metrics)))
            counts.update(dict(zip(names, client_counts)))
        mean, total_weight, sum_state, measurements = self._sum.finish()
        *stepped, non_finite = self._step(
            _to_tensors(list(weights.trainable)), _to_tensors(state.finalizer), mean, total_weight
        )
        trainable, optimizer_state = _to_numpy(stepped)
        new_weights = tff.learning.models.ModelWeights(trainable, weights.non_trainable)
        allocation = state.client_work
        if self._federation.plan.allocates:
            everything = _to_tensors([*trainable, *weights.non_trainable])
            allocation = _to_numpy(self._reallocate(_to_tensors(allocation), mean, everything))
        client_work = collections.OrderedDict()
        if metrics:
            client_work["traffic"] = _to_numpy(byte_counts.summarize(counts, self._federation.plan))
            client_work["train"] = runtime.call(finalize_metrics, metrics)
        link = {key: count - before[key] for key, count in _crossed(runtime).items()}
        return tff.learning.templates.LearningProcessOutput(
            State(
                new_weights, _round(number + 1), allocation, _to_numpy(sum_state), optimizer_state
            ),
            collections.OrderedDict(
                distributor=collections.OrderedDict(distortion=offer.distortion, round=number),
                client_work=client_work,
                aggregator=_to_numpy(measurements),
                finalizer=collections.OrderedDict(update_non_finite=non_finite.numpy()),
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

    def _arguments(self, sent, round_number, allocation, client_data):
        allocation = _to_tensors(allocation)
        for dataset in client_data:
            client = np.int32(identities.client_id(dataset))
            words = tf.constant(round_number), tf.constant(client)
            choices = self._choices(allocation, *words).numpy()
            chosen = [tensors[choice] for tensors, choice in zip(sent, choices)]
            yield models.payload(chosen), dataset, client, round_number, choices


def _round(number):
    """State of the downlink: nothing to remember."""
    return collections.OrderedDict(memory=(), round=np.int32(number))


def _crossed(runtime):
    return sum((link.traffic for link in runtime.links), collections.Counter())


def _to_tensors(value):
    return tf.nest.map_structure(tf.convert_to_tensor, value)


def _to_numpy(value):
    # Through TensorFlow, which takes a Python float for float32.
    return tf.nest.map_structure(lambda leaf: tf.convert_to_tensor(leaf).numpy(), value)
