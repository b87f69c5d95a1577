"""How a Keras 3 model holds its variables, and how others take their place."""

import functools

from omc.errors import ModelError
from omc.keras.keras3.variables import StoredVariable
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
    """Keeps a model with compressed variables from what would lose them, or the saving.

    `compile` would choose XLA by itself, which keeps weights dense; `quantize` would put weights of
    its own in the place of the codes, which do not train.
    """
    for layer in model._flatten_layers():
        if any(isinstance(v, StoredVariable) for v in layer.weights):
            layer.supports_jit = False
            vars(layer)["quantize"] = functools.partial(_refuse_to_quantize, layer.name)
    if getattr(model, "jit_compile", False):
        model.jit_compile = False


def _refuse_to_quantize(name, *args, **kwargs):
    raise ModelError(
        "model",
        "a plain model, for Keras' own quantize()",
        f"a wrapped one, in which {name!r} is stored as codes already",
        "quantize a plain copy; or choose another format for omc.wrap.",
    )


def strategy_of(model):
    """The tf.distribute strategy that a model was made under, or None."""
    return model._distribute_strategy


SLOTS_FOLLOW = True
"""Whether an optimizer's slots still belong to a variable that another has taken the place of.

Keras 3 knows them by the `keras.Variable`, and by an id that `originals.become` hands on.
"""


def is_in_use(optimizer):
    """Whether an optimizer has slots of the variables already."""
    return optimizer.built
