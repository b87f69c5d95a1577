"""Where a Keras model refers to its variables, found in one walk, and how to put others there."""

import functools
from collections.abc import MutableMapping, MutableSequence

import tensorflow as tf

from omc.keras.keras2.host import Node
from omc.keras.penalties import penalty

_Reference = tf.__internal__.tracking.TrackableReference
_LEAVES = (str, int, float, bool, type(None), tf.Module)  # The walk need not look inside.


class References:
    """Every place in which a model's layers refer to its variables.

    Found are attributes of layers and modules, lists, dicts, tuples and partials in them however
    nested (a regularizer is a partial), Keras' own bookkeeping, and the arguments of a functional
    model's ops. Out of sight are closures and attributes of plain Python objects; see
    `omc.keras.originals` for those.
    """

    def __init__(self, model, variables):
        """Walks over the model.

        Args:
            model: A `tf.keras.Model`.
            variables: The variables to look for.
        """
        self._places = {id(variable): [] for variable in variables}  # -> [(holder, key)]
        self._counts = {id(variable): [] for variable in variables}  # -> [Keras' reference counts]
        self._seen = {}  # Containers by id, held so that no id is given twice.
        for module in (model, *model.submodules):
            self._walk(vars(module))
            counts = vars(module).get("_obj_reference_counts_dict") or ()
            for counted in counts:
                if id(counted) in self._counts:
                    self._counts[id(counted)].append(counts)

    def replace(self, original, other):
        """Puts `other` in every place of `original`; tuples and partials are rebuilt."""
        done = {}
        for holder, key in self._places.pop(id(original)):
            holder[key] = _rebuilt(holder[key], original, other, done)
        for counts in self._counts.pop(id(original)):
            counts[other] = counts.pop(original)

    def _walk(self, holder):
        if id(holder) in self._seen:
            return
        self._seen[id(holder)] = holder
        pairs = holder.items() if isinstance(holder, MutableMapping) else enumerate(holder)
        for key, value in list(pairs):
            for found in self._variables_in(value):
                self._places[found].append((holder, key))

    def _variables_in(self, value):
        """Ids of the variables that `value` refers to directly; mutable containers are walked."""
        if id(value) in self._places:
            return {id(value)}
        if isinstance(value, _LEAVES):
            return set()
        if isinstance(value, _Reference):
            return self._variables_in(value.ref)
        if isinstance(value, (tuple, functools.partial)):
            items = value if isinstance(value, tuple) else value.args
            return set().union(*(self._variables_in(item) for item in items))
        if isinstance(value, Node):
            self._walk(vars(value))
        elif isinstance(value, (MutableSequence, MutableMapping)):
            self._walk(value)
        return set()


def _rebuilt(value, original, other, done):
    """`value` with `other` for `original`; one object in two places stays one, by `done`."""
    if value is original:
        return other
    if not isinstance(value, (_Reference, functools.partial, tuple)):
        return value
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, _Reference):
        new = _Reference(value.name, _rebuilt(value.ref, original, other, done))
    elif isinstance(value, functools.partial):
        args = [_rebuilt(item, original, other, done) for item in value.args]
        weight = any(item is original for item in value.args)
        # What Keras holds with a weight itself is the weight's penalty.
        function = (penalty, value.func) if weight else (value.func,)
        new = functools.partial(*function, *args, **value.keywords)
    else:
        items = [_rebuilt(item, original, other, done) for item in value]
        inner = getattr(value, "__wrapped__", value)
        new = type(inner)(*items) if hasattr(inner, "_fields") else type(inner)(items)
        if inner is not value:  # TensorFlow wraps the tuples that are attributes.
            new = type(value)(new)
    done[id(value)] = value, new  # With the old one, so that its id is not given again.
    return new


def prepare(model):
    """Has a model forget what it cached of its variables: masks of cells, from when it was built.

    tf.Module cannot walk over those of loops.
    """
    for layer in model._flatten_layers():
        if hasattr(layer, "reset_recurrent_dropout_mask"):
            layer.reset_recurrent_dropout_mask()
            layer.reset_dropout_mask()


def finish(model):
    """What is due once a model's variables are compressed: nothing in Keras 2."""


def strategy_of(model):
    """The tf.distribute strategy that a model was made under, or None."""
    return getattr(model, "_distribution_strategy", None)


SLOTS_FOLLOW = False
"""Whether an optimizer's slots still belong to a variable that another has taken the place of."""


def is_in_use(optimizer):
    """Whether an optimizer has slots of the variables already."""
    return getattr(optimizer, "_built", False)
