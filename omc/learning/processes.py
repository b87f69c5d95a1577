"""Federated averaging on compressed weights, as a `tff.learning.templates.LearningProcess`."""

import collections

import numpy as np
import tensorflow_federated as tff

from omc.learning import aggregators, byte_counts, downlinks, identities, models
from omc.learning.client_works import train_client
from omc.learning.federation import Federation

State = tff.learning.templates.LearningAlgorithmState


def build_weighted_fed_avg(
    model_fn,
    policy,
    client_optimizer_fn=None,
    server_optimizer_fn=None,
    uplink="weights",
    metrics_aggregator=None,
    widths=None,
    downlink="codes",
):
    """Federated averaging in which weights are stored, trained and sent as codes.

    A round: the server packs its float32 master; each client receives codes for the variables that
    partial quantization draws for it and raw float32 for the others, trains on them (decode, step,
    re-encode at every batch) and answers with codes; the server decodes while it accumulates,

        w <- server_optimizer(w, w - mean_k(w_k))           uplink "weights" (OMC, 2205.03494)
        w <- server_optimizer(w, mean_k(Q(w'_k - w_k)))     all others

    with the mean weighted by examples, w'_k what client k received and w_k what it ended with.
    A client whose dataset is empty downloads and sends nothing: so a simulation lets clients fail.

    Args:
        model_fn: As in TFF: no-arg function that builds a `tff.learning.models.VariableModel` anew.
        policy: `omc.Policy` or a format's name.
        client_optimizer_fn: `tff.learning.optimizers.Optimizer`; SGD with rate 0.1 by default. It
            is applied to one variable at a time, so it must not mix variables (no global norm).
        server_optimizer_fn: The same for the server; SGD with rate 1 by default.
        uplink: What clients answer: an `omc.learning.uplinks.Uplink`, or the name of one with its
            defaults: "weights" (whole weights as the client holds them, as in the paper), "update"
            (what changed, rounded without bias), "dithered" (about one bit a weight, coded),
            "rotated" (EDEN). docs/uplinks.md tells them apart.
        metrics_aggregator: As in TFF; `tff.learning.metrics.sum_then_finalize` by default.
        widths: None, or the widths that clients hold the model at: a sequence of bits, (8, 4, 2),
            or an `omc.learning.Widths`. The server packs its master in the policy's format; a
            client gets that at its own width by the second rounding (`omc.nested`), stores and
            trains nothing wider, and answers at its width; the mean is over decoded values. Widths
            below the policy's need an uplink of changes.
            Overridden variables keep their format, and what partial quantization leaves out comes
            in float32 at every width.
        downlink: What clients get: an `omc.learning.downlinks.Downlink`, or a name: "codes" (the
            buffers as the client stores them) or "coded" (the same, entropy coded).

    Returns:
        `tff.learning.templates.LearningProcess`. Its metrics hold, under "client_work"/"traffic",
        the serialized bytes down and up and the clients' parameter bytes, in all and per client,
        and the distortion of both ways; under "widths" therein the same counts for each width.

    Raises:
        InputTypeError: An argument of the wrong type.
        InputError: Unknown `uplink` or `downlink`, or "weights" with widths below the policy's; an
            override that matches no variable; `widths` that the policy's format does not have.
        FormatError: Unknown format.
    """
    federation = Federation.of(
        model_fn,
        policy,
        client_optimizer_fn,
        server_optimizer_fn,
        uplink,
        metrics_aggregator,
        widths,
        downlink,
    )
    weights_type = models.weights_type(federation.plan)
    pack = _build_pack(federation)
    clients = _build_client_work(federation, pack.type_signature.result[0])
    answer_type = clients.type_signature.result[0].member.update
    aggregator = aggregators.build_aggregator(federation, answer_type)
    finalizer = tff.learning.templates.build_apply_optimizer_finalizer(
        federation.server_optimizer, weights_type
    )

    @tff.tensorflow.computation
    def initial_weights():
        model = model_fn()
        return tff.learning.models.ModelWeights(
            trainable=[v.read_value() for v in model.trainable_variables],
            non_trainable=[v.read_value() for v in model.non_trainable_variables],
        )

    mean_type = aggregator.next.type_signature.result.result.member

    @tff.tensorflow.computation(weights_type, mean_type, np.float32)
    def gradient_of(weights, mean, total_weight):
        return federation.pseudo_gradient(weights.trainable, mean, total_weight)

    @tff.tensorflow.computation(np.int32)
    def increment(round_number):
        return round_number + 1

    @tff.federated_computation
    def initialize():
        return tff.federated_zip(
            State(
                tff.federated_eval(initial_weights, tff.SERVER),
                tff.federated_value(0, tff.SERVER),
                tff.federated_value((), tff.SERVER),
                aggregator.initialize(),
                finalizer.initialize(),
            )
        )

    @tff.federated_computation(
        initialize.type_signature.result, tff.FederatedType(federation.data_type, tff.CLIENTS)
    )
    def next_fn(state, client_data):
        weights, round_number = state.global_model_weights, state.distributor
        offers, distortion = tff.federated_map(pack, weights)
        result, work_measurements = clients(
            tff.federated_broadcast(offers), tff.federated_broadcast(round_number), client_data
        )
        up = aggregator.next(state.aggregator, result.update, result.update_weight)
        gradient = tff.federated_map(
            gradient_of, (weights, up.result, up.measurements.total_weight)
        )
        final = finalizer.next(state.finalizer, weights, gradient)
        next_round = tff.federated_map(increment, round_number)
        new_state = tff.federated_zip(
            State(final.result, next_round, state.client_work, up.state, final.state)
        )
        metrics = tff.federated_zip(
            collections.OrderedDict(
                distributor=tff.federated_zip(
                    collections.OrderedDict(distortion=distortion, round=round_number)
                ),
                client_work=work_measurements,
                aggregator=up.measurements,
                finalizer=final.measurements,
            )
        )
        return tff.learning.templates.LearningProcessOutput(new_state, metrics)

    state_type = initialize.type_signature.result.member

    @tff.tensorflow.computation(state_type)
    def get_model_weights(state):
        return state.global_model_weights

    @tff.tensorflow.computation(state_type, weights_type)
    def set_model_weights(state, model_weights):
        return State(
            model_weights, state.distributor, state.client_work, state.aggregator, state.finalizer
        )

    return tff.learning.templates.LearningProcess(
        initialize, next_fn, get_model_weights, set_model_weights
    )


def _build_pack(federation):
    """Computation from the master to (what the server offers, its distortion)."""

    @tff.tensorflow.computation(models.weights_type(federation.plan))
    def pack(weights):
        values = [*weights.trainable, *weights.non_trainable]
        offers, distortion = federation.downlink.offer(federation.plan, values)
        return models.payload(map(models.payload, offers)), distortion

    return pack


def _build_client_work(federation, offers_type):
    """The clients' half of a round: each takes its own of what is offered, and trains on it.

    Everything that is offered reaches the simulated client, which touches its own alone; what it
    took is what is counted.
    """
    plan, downlink = federation.plan, federation.downlink

    @tff.tensorflow.computation(offers_type, np.int32, federation.data_type)
    def work(offers, round_number, dataset):
        client = identities.id_of(dataset)
        alternatives = [list(tensors.values()) for tensors in offers.values()]
        choices = downlink.choices(plan, round_number, client)
        payload = downlinks.pick(alternatives, choices)
        return train_client(federation, payload, dataset, round_number, client)

    @tff.tensorflow.computation(work.type_signature.result[2])
    def summary(counts):
        return byte_counts.summarize(counts, plan.widths)

    @tff.federated_computation(
        tff.FederatedType(offers_type, tff.CLIENTS, all_equal=True),
        tff.FederatedType(np.int32, tff.CLIENTS, all_equal=True),
        tff.FederatedType(federation.data_type, tff.CLIENTS),
    )
    def next_fn(offers, round_number, data):
        result, metrics, counts = tff.federated_map(work, (offers, round_number, data))
        measurements = tff.federated_zip(
            collections.OrderedDict(
                traffic=tff.federated_map(summary, tff.federated_sum(counts)),
                train=federation.metrics_aggregation(metrics),
            )
        )
        return result, measurements

    return next_fn
