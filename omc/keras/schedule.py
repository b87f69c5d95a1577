"""Orders a training step's graph, so that few layers are dense at any instant.

In a graph everything that is ready runs: the backward pass would race ahead of the updates and pile
up dense weight gradients. Here each layer's backward decode waits for the update of the layer
before it in backward order. Only graphs are ordered; eager steps run in program order anyway.
"""

import weakref

import tensorflow as tf

_graphs = weakref.WeakSet()  # Graphs with backward reads, for tests.


def backward_reads(graph):
    """Backward reads of a graph so far: a list of (variable, op that reads its buffer).

    Kept at the graph, for an op holds its graph: a weak dictionary would keep both for ever.
    """
    if not hasattr(graph, "_omc_backward_reads"):
        graph._omc_backward_reads = []
        _graphs.add(graph)
    return graph._omc_backward_reads


_READS = ("ReadVariableOp", "Omc>DecodeVariable")
_WRITES = ("Assign", "Omc>UpdateVariable")


def backward_read(variable, buffer):
    """Records that a layer's backward pass reads a buffer; called in backward order.

    Args:
        variable: The `CompressedVariable`.
        buffer: Tensor, the buffer as read.
    """
    if not tf.executing_eagerly():
        backward_reads(buffer.graph).append((variable, buffer.op))


def updated(variable, store):
    """Lets the next layer's backward pass wait for this variable's update.

    Nothing is ordered where the update itself needs that pass, as with a clipped global norm or a
    layer used twice.

    Args:
        variable: The `CompressedVariable`.
        store: Operation that stores its new buffer.
    """
    if tf.executing_eagerly():
        return
    reads = backward_reads(store.graph)
    mine = [index for index, (owner, _) in enumerate(reads) if owner is variable]
    if not mine or mine[-1] + 1 == len(reads):
        return
    following = reads[mine[-1] + 1][1]
    if not depends(store, following):
        following._add_control_input(store)  # Private, and what TensorFlow's own ordering uses.


def depends(operation, other):
    """Whether `operation` can only run after `other`."""
    seen, stack = {operation}, [operation]
    while stack:
        current = stack.pop()
        if current is other:
            return True
        parents = [tensor.op for tensor in current.inputs] + list(current.control_inputs)
        if current.type in _READS:  # What was written before it, as momentum's slots are.
            writers = [op for op in current.inputs[0].consumers() if op.type.startswith(_WRITES)]
            parents += [op for op in writers if op._id < current._id]
        for parent in parents:
            # What was made before `other` does not wait for it: an older op is only ever given a
            # control input here, and then an update of a layer that backward came to before.
            if parent not in seen and parent._id >= other._id:
                seen.add(parent)
                stack.append(parent)
    return False
