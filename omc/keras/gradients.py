"""Custom gradients that go when their graph goes.

`tf.custom_gradient` enters every gradient function that a graph uses into a registry of the process
and never takes it out. Ours close over compressed variables, so that a dropped model and its graphs
would stay in memory for ever. Here the graph holds the function, and the registry a weak reference.
"""

import functools
import weakref

import tensorflow as tf
from tensorflow.python.framework import ops

_registry = ops.gradient_registry._registry  # Private: name -> {"type": gradient function, ...}


def custom_gradient(function):
    """As `tf.custom_gradient`, for functions of positional tensors; nothing outlives its graph."""
    differentiable = tf.custom_gradient(function)

    @functools.wraps(function)
    def run(*args):
        result = differentiable(*args)
        if not tf.executing_eagerly():
            _release(tf.nest.flatten(result)[0].op)
        return result

    return run


def _release(op):
    name = op.get_attr("_gradient_op_type").decode()
    gradient = _registry[name]["type"]
    if not hasattr(op.graph, "_omc_gradients"):
        op.graph._omc_gradients = []
    op.graph._omc_gradients.append(gradient)
    reference = weakref.ref(gradient)
    del gradient
    _registry[name]["type"] = lambda op, *upstream: reference()(op, *upstream)
    weakref.finalize(op.graph, _registry.pop, name, None).atexit = False
