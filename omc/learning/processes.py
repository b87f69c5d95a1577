"""Federated averaging on compressed weights, as a `tff.learning.templates.LearningProcess`."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.learning import byte_counts, downlinks, drop_in, identities, models
from omc.learning.aggregators.composed import build_aggregation
from omc.learning.federation import Federation
from omc.learning.forms import LearningProcess

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
    aggregator="mean",
    client_work=None,
    *,
    client_weighting=None,
    model_aggregator=None,
    model_distributor=None,
    use_experimental_simulation_loop=False,
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
            an `omc.learning.Widths`, or an `omc.learning.FedMPQ`, which gives every layer a width
            under each client's budget. The server packs its master in the policy's format; a
            client gets that at its own width (by the second rounding of `omc.nested`, or as
            `FedMPQ.scales` says), stores and trains nothing wider, and answers at its width; the
            mean is over decoded values. Widths below the policy's need an uplink of changes.
            Overridden variables keep their format, and what partial quantization leaves out comes
            in float32 at every width.
        downlink: What clients get: an `omc.learning.downlinks.Downlink`, or a name: "codes" (the
            buffers as the client stores them), "coded" (the same, entropy coded) or "changes"
            (what changed since the version that a device holds). docs/downlinks.md tells more.
        aggregator: What the server makes of the answers, each of which it checks first: an
            `omc.learning.aggregators.Aggregator`, or a name: "mean" (weighted by examples),
            "trimmed_mean" or "median" (robust, unweighted). `Mean` has clipping and zeroing,
            `PrivateMean` differential privacy, `SecureMean` TFF's secure sum: docs/aggregators.md.
        client_work: What a client does, a function with the signature of
            `omc.learning.client_works.train_client`, which is the default.
        client_weighting: As in TFF: NUM_EXAMPLES (the default) or UNIFORM of
            `tff.learning.ClientWeighting`; a function is refused.
        model_aggregator, model_distributor, use_experimental_simulation_loop: TFF's, refused; the
            error names what serves instead.

    Returns:
        `tff.learning.templates.LearningProcess`. Its metrics hold, under "client_work"/"traffic",
        the serialized bytes down and up and the clients' parameter bytes, in all and per client,
        and the distortion of both ways; under "widths" therein the same counts for each width;
        under "aggregator" the weight of all answers and the clients "rejected", by their fault.

    Raises:
        InputTypeError: An argument of the wrong type.
        InputError: Unknown `uplink`, `downlink` or `aggregator`, parts that do not go together
            (docs/composition.md), or "weights" with widths below the policy's; an
            override that matches no variable; `widths` that the policy's format does not have;
            coded links outside of a runtime whose workers have the native ops.
        FormatError: Unknown format.
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
    return LearningProcess(lambda: _compose(federation))


def _compose(federation):
    """The process, traced for the workers of the current runtime."""
    federation.check_workers()
    weights_type, downlink = models.weights_type(federation.plan), federation.downlink
    pack = _build_pack(federation)
    memory_type, offer_type = pack.type_signature.parameter[1], pack.type_signature.result[0]
    clients = _build_client_work(federation, offer_type)
    remember = _build_memory(federation, memory_type)
    answer_type = clients.type_signature.result[0].member.update
    initial_sum, aggregate = build_aggregation(federation, answer_type)

    @tff.tensorflow.computation
    def initial_weights():
        model = federation.plan.model_fn()
        return tff.learning.models.ModelWeights(
            trainable=[v.read_value() for v in model.trainable_variables],
            non_trainable=[v.read_value() for v in model.non_trainable_variables],
        )

    mean_type = aggregate.type_signature.result.member["mean"]

    @tff.tensorflow.computation
    def initial_optimizer_state():
        return federation.initial_optimizer_state()

    @tff.tensorflow.computation(
        weights_type, initial_optimizer_state.type_signature.result, mean_type, np.float32
    )
    def step(weights, optimizer_state, mean, total_weight):
        moved, optimizer_state, non_finite = federation.step(
            list(weights.trainable), optimizer_state, mean, total_weight
        )
        moved = tff.learning.models.ModelWeights(moved, weights.non_trainable)
        return moved, optimizer_state, collections.OrderedDict(update_non_finite=non_finite)

    @tff.tensorflow.computation
    def initial_allocation():
        return federation.plan.initial_allocation()

    reallocate = _build_reallocation(federation, mean_type)

    @tff.tensorflow.computation
    def initial_round():
        return collections.OrderedDict(
            memory=downlink.memory(federation.plan), round=tf.constant(0)
        )

    @tff.federated_computation
    def initialize():
        return tff.federated_zip(
            State(
                tff.federated_eval(initial_weights, tff.SERVER),
                tff.federated_eval(initial_round, tff.SERVER),
                tff.federated_eval(initial_allocation, tff.SERVER),
                tff.federated_eval(initial_sum, tff.SERVER),
                tff.federated_eval(initial_optimizer_state, tff.SERVER),
            )
        )

    @tff.federated_computation(
        initialize.type_signature.result, tff.FederatedType(federation.data_type, tff.CLIENTS)
    )
    def next_fn(state, client_data):
        weights, round_number = state.global_model_weights, state.distributor["round"]
        offer, memory, distortion = tff.federated_map(
            pack, (weights, state.distributor["memory"], round_number, state.client_work)
        )
        result, work_measurements, ids = clients(tff.federated_broadcast(offer), client_data)
        sent = result.update, result.update_weight
        up = aggregate(state.aggregator, round_number, state.client_work, *sent)
        moved, optimizer_state, step_measurements = tff.federated_map(
            step, (weights, state.finalizer, up["mean"], up["total_weight"])
        )
        new_state = tff.federated_zip(
            State(
                moved,
                remember(memory, round_number, ids),
                reallocate(state.client_work, up["mean"], moved),
                up["state"],
                optimizer_state,
            )
        )
        metrics = tff.federated_zip(
            collections.OrderedDict(
                distributor=tff.federated_zip(
                    collections.OrderedDict(distortion=distortion, round=round_number)
                ),
                client_work=work_measurements,
                aggregator=up["measurements"],
                finalizer=step_measurements,
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
    """Computation from (master, memory, round, allocation) to all that clients get, memory,
    distortion.
    """
    plan, downlink = federation.plan, federation.downlink

    @tff.tensorflow.computation
    def memory():
        return downlink.memory(plan)

    @tff.tensorflow.computation(
        models.weights_type(plan),
        memory.type_signature.result,
        np.int32,
        federation.allocation_type,
    )
    def pack(weights, memory, round_number, allocation):
        values = [*weights.trainable, *weights.non_trainable]
        offer, new_memory = downlink.offer(plan, values, memory)
        everything = collections.OrderedDict(
            allocation=allocation,
            held=models.payload(map(models.payload, offer.held)),
            known=downlink.known_to_clients(memory),
            round=round_number,
            sent=models.payload(map(models.payload, offer.sent)),
        )
        return everything, new_memory, offer.distortion

    return pack


def _build_client_work(federation, offer_type):
    """The clients' half of a round: each takes its own of what is offered, and trains on it.

    Everything that is offered reaches the simulated client, which touches its own alone; what it
    took is what is counted.
    """
    plan, downlink = federation.plan, federation.downlink

    @tff.tensorflow.computation(offer_type, federation.data_type)
    def work(offer, dataset):
        client, round_number = identities.id_of(dataset), offer["round"]
        own = plan.allocated(offer["allocation"])
        choices = downlink.choices(own, offer["known"], round_number, client)
        payload, held = (
            downlinks.pick([list(t.values()) for t in offer[name].values()], choices)
            for name in ("sent", "held")
        )
        answer = federation.client_work(
            federation, payload, held, choices, dataset, round_number, client
        )
        return *answer, client

    @tff.tensorflow.computation(work.type_signature.result[1])
    def sound(metrics):
        return federation.sound_metrics(metrics)

    @tff.tensorflow.computation(work.type_signature.result[2])
    def summary(counts):
        return byte_counts.summarize(counts, plan)

    @tff.federated_computation(
        tff.FederatedType(offer_type, tff.CLIENTS, all_equal=True),
        tff.FederatedType(federation.data_type, tff.CLIENTS),
    )
    def next_fn(offer, data):
        result, metrics, counts, ids = tff.federated_map(work, (offer, data))
        measurements = tff.federated_zip(
            collections.OrderedDict(
                traffic=tff.federated_map(summary, tff.federated_sum(counts)),
                train=federation.metrics_aggregation(tff.federated_map(sound, metrics)),
            )
        )
        return result, measurements, ids

    return next_fn


def _build_reallocation(federation, mean_type):
    """Federated function from (allocation, mean, weights after the step) to the next allocation."""
    if not federation.plan.allocates:
        return lambda allocation, mean, weights: allocation

    @tff.tensorflow.computation(
        federation.allocation_type, mean_type, models.weights_type(federation.plan)
    )
    def reallocate(allocation, mean, weights):
        return federation.reallocate(allocation, mean, [*weights.trainable, *weights.non_trainable])

    return lambda *arguments: tff.federated_map(reallocate, arguments)


def _build_memory(federation, memory_type):
    """Federated function from (memory, round, clients' ids) to the downlink's next state."""
    downlink = federation.downlink

    @tff.tensorflow.computation(memory_type, np.int32)
    def next_round(memory, round_number):
        return collections.OrderedDict(memory=memory, round=round_number + 1)

    if not downlink.remembers:
        return lambda memory, number, ids: tff.federated_map(next_round, (memory, number))
    count = downlink.devices

    @tff.tensorflow.computation
    def nobody():
        return tf.fill([count], -1)

    ids_type = nobody.type_signature.result

    @tff.tensorflow.computation(ids_type, np.int32)
    def add(ids, client):
        return tf.concat([ids[1:], [client]], axis=0)

    @tff.tensorflow.computation(ids_type, ids_type)
    def merge(left, right):
        both = tf.concat([left, tf.boolean_mask(right, right >= 0)], axis=0)
        return tf.ensure_shape(both[-count:], [count])

    @tff.tensorflow.computation(ids_type)
    def report(ids):
        return ids

    @tff.tensorflow.computation(memory_type, np.int32, ids_type)
    def after(memory, round_number, ids):
        return downlink.took_part(memory, round_number, ids)

    def remember(memory, round_number, ids):
        known = tff.federated_aggregate(ids, nobody(), add, merge, report)
        memory = tff.federated_map(after, (memory, round_number, known))
        return tff.federated_map(next_round, (memory, round_number))

    return remember
