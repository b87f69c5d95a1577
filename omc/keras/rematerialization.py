"""Calls that are run again in backward, so that only their arguments are kept until then.

Recomputation (Chen et al., arXiv 1604.06174): nothing that the call computes is recorded in
forward. In backward it runs once more, now recorded, and the gradient is taken of that. In a graph
the second run starts from the arguments as they are *after* the upstream gradient: that delays it,
and makes it a different computation, which TensorFlow does not merge with the first.
"""

import contextlib

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

from omc.keras import host
from omc.keras.gradient import differentiable, inner_tape, there
from omc.keras.loops import one_iteration_at_a_time
from omc.keras.variable import CompressedVariable


def repeated(call, args, kwargs, layer=None, variables=(), decoded=(), after=None, early=False):
    """Result of call(*args, **kwargs), which runs again in backward.

    The call must do the same when it runs again: draw no random numbers and change no variable.

    Args:
        call: Function of tensors, nested as TensorFlow nests them.
        args: Tuple of its arguments.
        kwargs: Dict of the others.
        layer: The Keras layer whose call it is, or None.
        variables: Trainable variables that it reads, dense or compressed.
        decoded: `CompressedVariable`s decoded once for each run; the call reads those dense values.
            The trainable ones get gradients; `variables` must not name them again.
        after: Tensor that has to be there before the forward decodes; by default an argument.
        early: Whether the gradient depends on nothing, see `omc.keras.penalty_order`.

    Returns:
        As `call` returns.
    """
    arguments = _Flat((args, kwargs))
    inputs, variables, decoded = arguments.floats, list(variables), list(decoded)
    after = after if after is not None or not inputs else inputs[0]
    context = host.Call(layer)
    pattern = []  # The structure of the results, once they are known.

    def run(inputs, values):
        with contextlib.ExitStack() as stack:
            for variable, value in zip(decoded, values):
                stack.enter_context(variable.lend(value))
            stack.enter_context(one_iteration_at_a_time())
            again, named = arguments.rebuilt(inputs)
            return _Flat(context.run(call, again, named))

    def forward():
        results = run(inputs, [variable.decode(after) for variable in decoded])
        pattern[:] = [results]
        # A result that is an argument needs a name of its own.
        return [tf.identity(tensor) for tensor in results.floats]

    def gradient(*upstream):
        upstream = [tf.convert_to_tensor(tensor) for tensor in upstream]
        with tf.control_dependencies([there(tensor) for tensor in upstream]):
            again = [tf.identity(tensor) for tensor in inputs]
        values = [v.read(upstream[0], backward=not early, early=early) for v in decoded]
        with inner_tape():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(again + values + variables)
                with context.again():
                    results = run(again, values).floats
            return tape.gradient(results, again + values + variables, output_gradients=upstream)

    for variable in decoded:
        variable.note("transient")
    for variable in decoded + variables:
        resource_variable_ops.variable_accessed(variable)  # Unrecorded reads tell no tape.
    handles = [variable.handle for variable in decoded + variables]
    outputs = differentiable(forward, inputs + handles, gradient)
    results, new_losses = pattern[0].rebuilt(outputs)
    context.replace_losses(new_losses)
    return results


class _Flat:
    """A nested structure as a flat list, with its float tensors apart.

    Attributes:
        floats: List of the float tensors in it.
    """

    def __init__(self, structure):
        structure = tf.nest.map_structure(_read, structure)
        self._structure = structure
        self._items = tf.nest.flatten(structure, expand_composites=True)
        self._places = [
            place
            for place, item in enumerate(self._items)
            if isinstance(item, tf.Tensor) and item.dtype.is_floating
        ]
        self.floats = [self._items[place] for place in self._places]

    def rebuilt(self, floats):
        """The structure with other float tensors, which inherit Keras' masks."""
        items = list(self._items)
        for place, tensor in zip(self._places, floats):
            mask = getattr(items[place], "_keras_mask", None)
            if mask is not None:
                tensor._keras_mask = mask
            items[place] = tensor
        return tf.nest.pack_sequence_as(self._structure, items, expand_composites=True)


def _read(value):
    """A plain variable's value now, which the second run has to see too; others as they are."""
    plain = isinstance(value, tf.Variable) and not isinstance(value, CompressedVariable)
    return tf.convert_to_tensor(value) if plain else value


def unique(variables):
    """The variables without repetition, in order."""
    return list({id(variable): variable for variable in variables}.values())


def compressed(variables):
    """The compressed ones among variables, without repetition."""
    return [v for v in unique(variables) if isinstance(v, CompressedVariable)]
