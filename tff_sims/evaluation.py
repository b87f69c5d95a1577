"""Held-out metrics of the server's master and of what a client would hold."""

import tensorflow as tf

from omc.learning import client_id, downlinks, round_to_width
from omc.learning.client_works import ClientTrainer, paired
from omc.learning.local_optimizer import LocalOptimizer

EACH = 10
"""Clients of each width whose own models are evaluated, at most."""


class Evaluation:
    """Evaluates the float32 master and the quantized model that a new client downloads next.

    What a client downloads is packed and read in a graph that is traced once for all rounds.
    """

    def __init__(self, task, model, plan, downlink):
        """Traces nothing yet.

        Args:
            task: `Task`.
            model: Keras model that will hold the master weights.
            plan: `omc.learning.models.ModelPlan` of it, without widths.
            downlink: `omc.learning.downlinks.Downlink`.
        """
        self._task, self._model, self._plan = task, model, plan

        @tf.function(autograph=False)
        def held(values, memory, number):
            stored, _ = downlinks.delivered(downlink, plan, values, memory, number, 0)
            return [
                None if codec is None else codec.decode(buffer)
                for codec, buffer in zip(plan.codecs, stored)
            ]

        self._held = held

    def __call__(self, memory, round_number):
        """Metrics of a round; the model, which has to hold the master, is left quantized.

        Args:
            memory: What the server remembers for the downlink.
            round_number: Round for which a client's variables are drawn.

        Returns:
            (metrics of what a client holds, metrics of the master): dicts, as of `Task.evaluate`.
        """
        master = self._task.evaluate(self._model)
        if all(codec is None for codec in self._plan.codecs):
            return master, master
        variables = self._plan.variables(self._model)
        values = [variable.read_value() for variable in variables]
        memory = tf.nest.map_structure(tf.convert_to_tensor, memory)
        for variable, value in zip(
            variables, self._held(values, memory, tf.constant(round_number))
        ):
            if value is not None:
                variable.assign(value)
        return self._task.evaluate(self._model), master


def evaluate_widths(task, model, policy, widths):
    """Evaluates what a client of each width would download, all of it quantized.

    Args:
        task: `Task`.
        model: Keras model that holds the master weights; left quantized.
        policy: `omc.Policy`.
        widths: Sequence of bits.

    Returns:
        Dict from width to accuracy.
    """
    master, found = [variable.numpy() for variable in model.variables], {}
    for bits in widths:
        for variable, value in zip(model.variables, master):
            variable.assign(value)
        round_to_width(model, policy, bits)
        found[bits] = task.evaluate(model)["accuracy"]
    return found


def evaluate_classes(task, model, plan, allocation):
    """Evaluates what a client of each budget would download and start to train on.

    Args:
        task: `Task`.
        model: Keras model that holds the master weights; left quantized.
        plan: `omc.learning.models.ModelPlan` with `omc.learning.FedMPQ` widths.
        allocation: What the server knows of the clients' widths.

    Returns:
        Dict from budget to accuracy.
    """
    plan = plan.allocated(tf.nest.map_structure(tf.convert_to_tensor, allocation))
    variables = plan.variables(model)
    values, found = [variable.read_value() for variable in variables], {}
    offer, _ = downlinks.Codes().offer(plan, values, ())
    for place, bits in enumerate(plan.widths.bits):
        places = iter(plan.widths.places_of(plan, place).numpy())
        for index, planned in enumerate(plan.planned):
            if planned.codec is not None:
                chosen = int(next(places)) if planned.partial else 0
                codec = plan.alternatives[index][chosen]
                buffer = paired(codec, offer.sent[index][chosen])
                variables[index].assign(codec.decode(buffer))
        found[bits] = task.evaluate(model)["accuracy"]
    return found


def evaluate_own(task, model, federated, values, state, clients):
    """Evaluates clients' own models: what each holds after it has trained on what it downloads.

    Args:
        task: `Task`.
        model: Keras model; left as one of theirs.
        federated: (`omc.learning.models.ModelPlan` with widths, downlink, uplink, the clients'
            `tff.learning.optimizers.Optimizer`).
        values: The server's master, float32 arrays in the plan's order.
        state: Of the process: what the server remembers, and the round that begins.
        clients: Indices of clients; of each width the first `EACH` train.

    Returns:
        Dict from width or budget to the mean accuracy; nothing for one that no client has.
    """
    plan, downlink, uplink, optimizer = federated
    allocation = tf.nest.map_structure(tf.convert_to_tensor, state.client_work)
    memory = tf.nest.map_structure(tf.convert_to_tensor, state.distributor["memory"])
    plan, number = plan.allocated(allocation), tf.constant(state.distributor["round"])
    values, trainer, found = [tf.constant(value) for value in values], None, {}
    for client in clients:
        dataset = task.client_dataset(int(client))
        own = tf.constant(client_id(dataset))
        bits = plan.widths.bits[int(plan.widths.index(own))]
        if len(found.setdefault(bits, [])) == EACH:
            continue
        received, _ = downlinks.delivered(downlink, plan, values, memory, number, own)
        trainer = trainer or ClientTrainer(plan, received, LocalOptimizer(optimizer), uplink)
        trainer.train(received, dataset, number, own)
        for variable, held in zip(plan.variables(model), trainer.variables):
            variable.assign(held.decode() if hasattr(held, "codec") else held.read_value())
        found[bits].append(task.evaluate(model)["accuracy"])
    return {bits: sum(accuracies) / len(accuracies) for bits, accuracies in found.items()}
