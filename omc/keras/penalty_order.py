"""Keeps gradients that could be computed at once from being computed too early.

The gradient of a weight penalty (L2, say) needs nothing but the weight. In a graph those of all
layers would be computed at the start of the backward pass and lie dense until the optimizer comes
to them. Here each waits for the backward pass of the layer that the weight belongs to.
"""

import tensorflow as tf

from omc.keras.schedule import depends


def register(variable, buffer):
    """Lets a read wait for the variable's backward pass in the same graph, if one follows.

    Args:
        variable: `CompressedVariable`.
        buffer: Tensor, its buffer as read: what the early gradient begins with.
    """
    if not tf.executing_eagerly():
        if not hasattr(buffer.graph, "_omc_late"):
            buffer.graph._omc_late = {}  # On the graph, so that it goes when the graph goes.
        buffer.graph._omc_late.setdefault(id(variable), []).append(buffer.op)


def release(variable, buffer):
    """Says that a read begins the variable's backward pass.

    Args:
        variable: `CompressedVariable`.
        buffer: Tensor, its buffer as read there. What it depends on does not wait for it: a graph
            may hold several steps, one after the other.
    """
    if tf.executing_eagerly():
        return
    for early in getattr(buffer.graph, "_omc_late", {}).get(id(variable), []):
        if not depends(buffer.op, early):
            early._add_control_input(buffer.op)  # Private; TensorFlow's own ordering uses it, too.
