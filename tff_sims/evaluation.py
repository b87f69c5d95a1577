"""Held-out metrics of the server's master and of what a client would hold."""

from omc.learning import round_to_width
from omc.policies import VariableSpec


def evaluate(task, model, policy, round_number):
    """Evaluates the float32 master and the quantized model that a client downloads next.

    Args:
        task: `Task`.
        model: Keras model that holds the master weights; left quantized.
        policy: `omc.Policy`.
        round_number: Round for which a client's variables are drawn.

    Returns:
        (metrics of what a client holds, metrics of the master): dicts, as of `Task.evaluate`.
    """
    master = task.evaluate(model)
    plan = policy.plan([VariableSpec.of(v) for v in model.variables], round_number, client=0)
    if all(planned.codec is None for planned in plan):
        return master, master
    for variable, planned in zip(model.variables, plan):
        if planned.codec is not None:
            variable.assign(planned.codec.decode(planned.codec.encode(variable.read_value())))
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
