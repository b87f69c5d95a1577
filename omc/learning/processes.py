"""Federated averaging on compressed weights, as a `tff.learning.templates.LearningProcess`."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError
from omc.learning import aggregators, client_works, distributors, models
from omc.learning.widths import check_uplink

State = tff.learning.templates.LearningAlgorithmState


def build_weighted_fed_avg(
    model_fn,
    policy,
    client_optimizer_fn=None,
    server_optimizer_fn=None,
    uplink="weights",
    metrics_aggregator=None,
    widths=None,
):
    """Federated averaging in which weights are stored, trained and sent as codes.

    A round: the server packs its float32 master; each client receives codes for the variables that
    partial quantization draws for it and raw float32 for the others, trains on them (decode, step,
    re-encode at every batch) and answers with codes; the server decodes while it accumulates,

        w <- server_optimizer(w, w - mean_k(w_k))           uplink "weights" (OMC, 2205.03494)
        w <- server_optimizer(w, mean_k(Q(w'_k - w_k)))     uplink "update"

    with the mean weighted by examples, w'_k what client k received and w_k what it ended with.
    A client whose dataset is empty downloads and sends nothing: so a simulation lets clients fail.

    Args:
        model_fn: As in TFF: no-arg function that builds a `tff.learning.models.VariableModel` anew.
        policy: `omc.Policy` or a format's name.
        client_optimizer_fn: `tff.learning.optimizers.Optimizer`; SGD with rate 0.1 by default. It
            is applied to one variable at a time, so it must not mix variables (no global norm).
        server_optimizer_fn: The same for the server; SGD with rate 1 by default.
        uplink: "weights": whole weights as the client holds them, as in the paper; or "update":
            what changed, rounded without bias.
        metrics_aggregator: As in TFF; `tff.learning.metrics.sum_then_finalize` by default.
        widths: None, or the widths that clients hold the model at: a sequence of bits, (8, 4, 2),
            or an `omc.learning.Widths`. The server packs its master in the policy's format; a
            client gets that at its own width by the second rounding (`omc.nested`), stores and
            trains nothing wider, and answers at its width; the mean is over decoded values. Widths
            below the policy's need the uplink "update".
            Overridden variables keep their format, and what partial quantization leaves out comes
            in float32 at every width.

    Returns:
        `tff.learning.templates.LearningProcess`. Its metrics hold, under "client_work"/"traffic",
        the serialized bytes down and up and the clients' parameter bytes, in all and per client,
        and the distortion of both ways; under "widths" therein the same counts for each width.

    Raises:
        InputTypeError: An argument of the wrong type.
        InputError: Unknown `uplink`, or "weights" with widths below the policy's; an override that
            matches no variable; `widths` that the policy's format does not have.
        FormatError: Unknown format.
    """
    if uplink not in client_works.UPLINKS:
        raise InputError("uplink", f"one of {client_works.UPLINKS}", uplink)
    client_optimizer = checked_optimizer("client_optimizer_fn", client_optimizer_fn, 0.1)
    server_optimizer = checked_optimizer("server_optimizer_fn", server_optimizer_fn, 1.0)
    plan = models.ModelPlan.of(model_fn, policy, widths)
    check_uplink(plan.widths, plan.policy, uplink)
    weights_type = models.weights_type(plan)

    with tf.Graph().as_default():
        model = model_fn()
        aggregate_metrics = metrics_aggregator or tff.learning.metrics.sum_then_finalize
        metrics_aggregation = aggregate_metrics(model.metric_finalizers())
        data_type = tff.SequenceType(tff.types.tensorflow_to_type(model.input_spec))

    client_id = distributors.build_client_ids(data_type)
    distribute_init, distribute = distributors.build_distributor(plan)
    payloads_type = distribute.type_signature.result.result.member
    work = client_works.build_client_work(
        plan, client_optimizer, uplink, payloads_type, data_type, metrics_aggregation
    )
    aggregator = aggregators.build_aggregator(plan, work.type_signature.result[0].member.update)
    finalizer = tff.learning.templates.build_apply_optimizer_finalizer(
        server_optimizer, weights_type
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
        return pseudo_gradient(uplink, weights.trainable, mean, total_weight)

    @tff.federated_computation
    def initialize():
        return tff.federated_zip(
            State(
                tff.federated_eval(initial_weights, tff.SERVER),
                distribute_init(),
                tff.federated_value((), tff.SERVER),
                aggregator.initialize(),
                finalizer.initialize(),
            )
        )

    @tff.federated_computation(
        initialize.type_signature.result, tff.FederatedType(data_type, tff.CLIENTS)
    )
    def next_fn(state, client_data):
        weights = state.global_model_weights
        ids = tff.federated_map(client_id, client_data)
        rounds = tff.federated_broadcast(state.distributor)
        down = distribute(state.distributor, weights, ids)
        result, work_measurements = work(down.result, client_data, ids, rounds)
        up = aggregator.next(state.aggregator, result.update, result.update_weight)
        gradient = tff.federated_map(
            gradient_of, (weights, up.result, up.measurements.total_weight)
        )
        final = finalizer.next(state.finalizer, weights, gradient)
        new_state = tff.federated_zip(
            State(final.result, down.state, state.client_work, up.state, final.state)
        )
        metrics = tff.federated_zip(
            collections.OrderedDict(
                distributor=down.measurements,
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


def pseudo_gradient(uplink, weights, mean, total_weight):
    """What the server's optimizer is given for a gradient, a list of float32 tensors.

    Args:
        uplink: "weights" or "update".
        weights: The server's trainable weights.
        mean: The clients' mean, one tensor a weight.
        total_weight: float32 scalar; where it is 0 nothing shall move.
    """
    if uplink == "update":
        return list(mean)
    return [tf.where(total_weight > 0.0, w - m, 0.0) for w, m in zip(weights, mean)]


def checked_optimizer(argument, optimizer, learning_rate):
    """The optimizer, or SGD with this rate for None.

    Raises:
        InputTypeError: It is not TFF's.
    """
    if optimizer is None:
        return tff.learning.optimizers.build_sgdm(learning_rate)
    if not isinstance(optimizer, tff.learning.optimizers.Optimizer):
        raise InputTypeError(
            argument,
            "a tff.learning.optimizers.Optimizer",
            type(optimizer).__name__,
            "for example tff.learning.optimizers.build_sgdm(0.1).",
        )
    return optimizer
