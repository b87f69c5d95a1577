"""tf.vectorized_map over functions that read compressed variables.

It builds the loop's ops anew, without the gradients that `omc.keras.gradient` gives to them, so a
variable read inside would silently get none. Here a variable that the function reads is read before
the loop, and the function sees that value. Importing this module puts this into tf.vectorized_map.
"""

import contextlib
import functools
import threading

import tensorflow as tf

_local = threading.local()


class _ReadInside(Exception):
    """A variable was read inside; it is to be read before."""

    ag_pass_through = True

    def __init__(self, variable):
        super().__init__(variable.name)
        self.variable = variable


def refuse_inside(variable):
    """Stops a read inside a vectorized map, which then starts again with the value."""
    if getattr(_local, "inside", False) and not tf.executing_eagerly():
        raise _ReadInside(variable)


def _reading_before(vectorized_map):
    @functools.wraps(vectorized_map)
    def run(*args, **kwargs):
        with contextlib.ExitStack() as values:
            while True:
                before, _local.inside = getattr(_local, "inside", False), True
                try:
                    return vectorized_map(*args, **kwargs)
                except _ReadInside as read:
                    if before:
                        raise  # The outer map reads it, before both.
                    variable = read.variable
                finally:
                    _local.inside = before
                values.enter_context(variable.lend(variable.read()))

    return run


for _module in (tf, tf.compat.v1, tf.compat.v2):
    _module.vectorized_map = _reading_before(_module.vectorized_map)
