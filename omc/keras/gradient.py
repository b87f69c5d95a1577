"""A custom gradient whose inputs may be resource handles.

`tf.custom_gradient` passes its inputs through an op that also puts them out. For the handle of a
variable that is no longer allowed once the op lies in a branch or loop body: a resource would leave
it. Here handles only go in. A tape gets the gradient directly. In a graph the results also pass
through one identity op, whose inputs the handles are and which carries the gradient, for those who
differentiate the graph itself (a tape outside of the function, tf.cond, tf.while_loop).
"""

import functools

import tensorflow as tf
from tensorflow.python.eager import (  # Private: no public way records a handle.
    forwardprop_util,
    record,
)

from omc import kernels
from omc.errors import ModelError


def differentiable(forward, inputs, gradient):
    """Runs a function whose gradient is given.

    Args:
        forward: () -> list of tensors, each made by it; nothing in it is recorded.
        inputs: List of float tensors and resource handles.
        gradient: (one upstream tensor for each result) -> list with one gradient for each of
            `inputs`: a tensor, tf.IndexedSlices or None. Runs in eager or graph mode as the
            forward did, and may itself be differentiated.

    Returns:
        List of tensors, the results of `forward`.
    """
    if not kernels.usable():
        gradient = _without_kernels(gradient)
    with record.stop_recording():
        results = forward()
        if results and not tf.executing_eagerly():
            results = _in_graph(results, inputs, gradient)
    recorded = inputs
    if results and not tf.executing_eagerly():  # In a graph a handle's tangent lies at its capture.
        captured = [tf.convert_to_tensor(within(tensor)) for tensor in inputs]
        recorded = captured if _accumulators(captured) else inputs
    record.record_operation(
        "OmcDifferentiable",
        results,
        recorded,
        gradient,
        _forward_mode(results, gradient, nested=_accumulators(recorded) > 1),
    )
    return results


def _without_kernels(gradient):
    """A gradient as a part of the XLA program that its forward is in, which may not be seen then.

    TensorFlow traces the gradient of a compiled function that a graph calls outside of XLA's scope.
    """

    @functools.wraps(gradient)
    def without_kernels(*upstream):
        with kernels.pure():
            return gradient(*upstream)

    return without_kernels


def in_forward_mode(tensors, variables):
    """Whether a tf.autodiff.ForwardAccumulator knows tangents of tensors or variables, now."""
    handles = [tf.convert_to_tensor(within(variable.handle)) for variable in variables]
    return _accumulators([*tensors, *handles]) > 0


inner_tape = forwardprop_util.push_forwardprop_state
"""Context for a tape inside of a gradient, which an accumulator at work would keep from seeing."""


def _accumulators(tensors):
    """How many tf.autodiff.ForwardAccumulators know tangents of some of the tensors."""
    return sum(bool(level) for level in forwardprop_util.pack_tangents(tensors).indices)


def _forward_mode(results, gradient, nested):
    """What a tf.autodiff.ForwardAccumulator asks: tangents of the inputs -> those of the results.

    The gradient g(u) = J^T u is linear, so the derivative of <g(u), t> by u is J t. (TensorFlow
    would do the same, but has no tangent for the handle of a variable that no one watches.)

    Args:
        results: List of tensors.
        gradient: As for `differentiable`.
        nested: Whether an accumulator around this one wants the tangents of the tangents.
    """

    def tangents_of(*tangents):
        given = [(place, tangent) for place, tangent in enumerate(tangents) if tangent is not None]

        def transposed(*weights):
            with inner_tape():
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    upstream = [tf.ones_like(result) for result in results]
                    tape.watch(upstream)
                    gradients = gradient(*upstream)
                pairs = [(gradients[place], w) for (place, _), w in zip(given, weights)]
                pairs = [(tf.convert_to_tensor(g), w) for g, w in pairs if g is not None]
                targets, weights = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
                return tape.gradient(targets, upstream, output_gradients=weights)

        # The accumulator around this one sees what a function computes, and not what is pushed.
        run = tf.function(transposed, autograph=False) if nested else transposed
        return run(*[tangent for _, tangent in given])

    return tangents_of


def recording():
    """Whether a gradient tape may be watching what happens now."""
    return record.could_possibly_record()


def is_source(tensor):
    """Whether no tape wants a gradient of this tensor, while there is a tape: data, say."""
    return recording() and not record.should_record_backprop([tensor])


def read(variable):
    """Value of a plain variable, also inside the gradient of a branch of tf.cond."""
    handle = within(variable.handle)
    if handle is variable.handle:
        return variable.read_value()
    value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)
    return tf.ensure_shape(value, variable.shape)


def within(handle):
    """A handle (or tensor) as the present graph may use it.

    The gradient of a branch of tf.cond may only use what the graph around it has.
    """
    graph = tf.compat.v1.get_default_graph()
    if (
        tf.executing_eagerly()
        or handle.dtype != tf.resource
        or type(graph).__name__ != "_CondGradFuncGraph"
    ):
        return handle
    return graph.outer_graph.capture(handle)


def there(tensor):
    """The tensor as something to wait for: once it is there, not once its op may start.

    TensorFlow inlines a call of a function, and then lets what waits for the call start at once.
    """
    return tensor if tf.executing_eagerly() else tf.identity(tensor)


def _in_graph(results, inputs, gradient):
    inputs = [tf.convert_to_tensor(within(tensor)) for tensor in inputs]
    identity = _identity(
        tuple(tensor.dtype for tensor in results), tuple(tensor.dtype for tensor in inputs)
    )
    identity.add_to_graph(tf.compat.v1.get_default_graph())
    outputs = tf.raw_ops.PartitionedCall(
        args=[*results, *inputs], Tout=[tensor.dtype for tensor in results], f=identity
    )
    for output, result in zip(outputs, results):
        output.set_shape(result.shape)

    def op_gradient(op, *upstream):
        del op
        _refuse_loops(tf.compat.v1.get_default_graph())
        return [None] * len(results) + list(gradient(*upstream))

    op = outputs[0].op
    handles = [index for index, tensor in enumerate(op.inputs) if tensor.dtype == tf.resource]
    read_only = tf.compat.v1.AttrValue(list=tf.compat.v1.AttrValue.ListValue(i=handles))
    op._set_attr("_read_only_resource_inputs", read_only)  # Or one read would wait for another.
    # Private too. Unlike the registry of gradients, the op lets go of the function with the graph.
    op._gradient_function = op_gradient
    return list(outputs)


@functools.cache
def _identity(results, inputs):
    """The function that puts out its first arguments; traced once for each signature."""

    def first(*arguments):
        return [tf.identity(argument) for argument in arguments[: len(results)]]

    specs = [
        tf.TensorSpec([] if dtype == tf.resource else None, dtype) for dtype in results + inputs
    ]
    with tf.init_scope():
        return tf.function(first, autograph=False).get_concrete_function(*specs)


def _refuse_loops(graph):
    # The loop would sum up gradients of the shape that the handle's own value has: none.
    while graph is not None:
        if type(graph).__name__ == "_WhileBodyGradFuncGraph":
            raise ModelError(
                "variable",
                "a compressed variable read outside of tf.while_loop, when the gradient is too",
                "one that the loop's body reads",
                "before the loop: value = variable * 1.0; use `value` inside.",
            )
        graph = getattr(graph, "outer_graph", None)
