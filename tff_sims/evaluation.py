"""Held-out metrics of the server's master and of what a client would hold."""

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
