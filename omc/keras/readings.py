"""How nested models are read now, as a part of what a trace of a `tf.function` depends on.

A trace reads weights at the width at which it was made, with that width's quantizers and BatchNorm
sets. TensorFlow looks traces up by their arguments and surroundings (the graph around them, the
device); importing this module puts the widths of nested models among the latter. So every function,
whoever made it (Keras, for any model that shares a layer; a layer whose `call` is one; a user) is
traced anew at another width, and finds its old trace when the width comes back. Functions that were
made concrete keep their width, as there is nothing to look up.
"""

import contextlib
import functools
import itertools
import weakref
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import (  # Private: no public way to add to it.
    function_context,
)

_numbers = itertools.count()
_others = {}  # Number of a model -> how it is read, of those that are not read as usual.


class _Surroundings(NamedTuple):
    """What TensorFlow looks a trace up by, and how nested models are read."""

    context: Any
    readings: tuple


class Reading:
    """How one nested model is read, kept up to date by those who change it."""

    def __init__(self):
        self._number = next(_numbers)
        weakref.finalize(self, _others.pop, self._number, None)

    @property
    def now(self):
        """What was given to `set`; None for the usual way, which no trace is marked with."""
        return _others.get(self._number)

    def set(self, how):
        """Says how the model is read from now on.

        Args:
            how: Anything hashable, equal for equal reads; None for the usual way.
        """
        if how is None:
            _others.pop(self._number, None)
        else:
            _others[self._number] = how

    @contextlib.contextmanager
    def being(self, how):
        """Context in which the model is read in another way; as before afterwards."""
        before = self.now
        self.set(how)
        try:
            yield
        finally:
            self.set(before)


def trained_at_all_widths(model, reading):
    """What stands in for a nested model's `make_train_function`: one trace, whatever the width now.

    Args:
        model: A `tf.keras.Model` whose `train_step` uses all widths.
        reading: Its `Reading`.
    """

    def make_train_function(force=False):
        if model.train_function is None or force:
            type(model).make_train_function(model, force=True)
            function = model.train_function

            def train_function(iterator):
                with reading.being(None):
                    return function(iterator)

            model.train_function = train_function
        return model.train_function

    return make_train_function


@contextlib.contextmanager
def eagerly():
    """Context in which functions run op by op, so that what layers compute with can be seen."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


_make_context = function_context.make_function_context


@functools.wraps(_make_context)
def _with_readings(*args, **kwargs):
    found = _make_context(*args, **kwargs)
    if not _others:
        return found
    return found._replace(context=_Surroundings(found.context, tuple(sorted(_others.items()))))


function_context.make_function_context = _with_readings
