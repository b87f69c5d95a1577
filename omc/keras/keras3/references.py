"""How a Keras 3 model holds its variables, and how others take their place."""

import functools

from omc.keras.keras3.host import StoredVariable
from omc.keras.penalties import penalty


class References:
    """The `keras.Variable`s of a model, whose values can be replaced."""

    def __init__(self, model, variables):
        """Finds them.

        Args:
            model: A `keras.Model`.
            variables: tf.Variables behind its weights, as `host.variables_of` gives them.
        """
        wanted = {id(variable) for variable in variables}
        self._holders = {}
        for holder in model.weights:
            if id(holder._value) in wanted:
                self._holders.setdefault(id(holder._value), []).append(holder)

    def replace(self, original, other):
        """Puts the compressed `other` behind what held `original`."""
        for holder in self._holders.pop(id(original)):
            holder._value = other
            holder.__class__ = StoredVariable
            if holder.regularizer is not None and not isinstance(holder.regularizer, Penalty):
                holder._regularizer = Penalty(holder.regularizer)
            other._omc_holder = original._omc_holder


class Penalty(functools.partial):
    """A weight's regularizer, for which the weight is dense only while it is computed."""

    def __new__(cls, regularizer):
        """Of the regularizer that Keras calls with the variable."""
        return super().__new__(cls, _penalised, regularizer)


def _penalised(regularizer, holder):
    return penalty(regularizer, holder._value)


def prepare(model):
    """Has a model forget what it cached of its variables; nothing in Keras 3."""


def finish(model):
    """Keeps `compile` from choosing XLA by itself for a model with compressed variables.

    `jit_compile="auto"` would, and XLA keeps weights dense. What a user asked for by True stays.
    """
    for layer in model._flatten_layers():
        if any(isinstance(v, StoredVariable) for v in layer.weights):
            layer.supports_jit = False
    config = getattr(model, "_compile_config", None)
    if config is not None and config.config.get("jit_compile", "auto") == "auto":
        model.jit_compile = False


def strategy_of(model):
    """The tf.distribute strategy that a model was made under, or None."""
    return model._distribute_strategy


def is_in_use(optimizer):
    """Whether an optimizer has slots of the variables already."""
    return optimizer.built
