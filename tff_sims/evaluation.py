"""Held-out metrics of the server's master and of what a client would hold."""

import tensorflow as tf

from omc.learning import downlinks, round_to_width


def evaluate(task, model, plan, downlink, memory, round_number):
    """Evaluates the float32 master and the quantized model that a new client downloads next.

    Args:
        task: `Task`.
        model: Keras model that holds the master weights; left quantized.
        plan: `omc.learning.models.ModelPlan` of it, without widths.
        downlink: `omc.learning.downlinks.Downlink`.
        memory: What the server remembers for it.
        round_number: Round for which a client's variables are drawn.

    Returns:
        (metrics of what a client holds, metrics of the master): dicts, as of `Task.evaluate`.
    """
    master = task.evaluate(model)
    variables = plan.variables(model)
    if all(codec is None for codec in plan.codecs):
        return master, master
    values = [variable.read_value() for variable in variables]
    memory = tf.nest.map_structure(tf.convert_to_tensor, memory)
    number = tf.constant(round_number)
    stored, _ = downlinks.delivered(downlink, plan, values, memory, number, tf.constant(0))
    for variable, codec, buffer in zip(variables, plan.codecs, stored):
        if codec is not None:
            variable.assign(codec.decode(buffer))
    return task.evaluate(model), master


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
