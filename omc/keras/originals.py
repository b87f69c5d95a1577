"""Whoever holds a dense variable that `wrap` replaces: no one goes on with its old value.

`adapters.References` finds where Keras refers to a variable. What else may hold it (a closure, a
lambda's default, a plain Python object, a set, an array, another model) cannot be listed. So the
original itself becomes another name of the compressed variable, wherever it is held.

A function that was traced with it is another matter: it holds the original's handle. Each such
`tf.function` forgets its traces and is traced anew when it is called next. A concrete function
cannot be traced again, so it is refused by name.
"""

import gc
import sys

import tensorflow as tf

from omc.errors import ModelError

_Function = type(tf.function(lambda: None))
_UNHELD = 2  # References to a handle that only its variable holds: its attribute, our argument.


def become(original, other):
    """Makes a variable another name of a second one: the same state in the same memory.

    Args:
        original: tf.Variable, also Keras' AutoCastVariable; its own value is dropped.
        other: `CompressedVariable`.
    """
    layers = _layers_of(original)
    other._unique_id = layers[-1]._unique_id  # By which an optimizer knows its slots.
    other.autocast |= len(layers) > 1
    for variable in layers:
        variable.__dict__ = other.__dict__
        variable.__class__ = type(other)


def release(variables, garbage=1):
    """Lets no traced function hold on to variables that are about to be replaced.

    Args:
        variables: List of tf.Variables, eager.
        garbage: Oldest of Python's generations to clear of garbage first. Building a model leaves
            initial values behind, in cycles that hold them dense; they are young. All of the
            program's objects take a tenth of a second and more.

    Raises:
        ModelError: A concrete function holds one; nothing has changed.
    """
    held = forget(variables, garbage)
    for concrete in gc.get_objects() if held else ():
        if isinstance(concrete, tf.types.experimental.ConcreteFunction):
            name = _captured(concrete, held)
            if name:
                raise ModelError(
                    "model",
                    "a model whose weights no concrete function was traced with",
                    f"{name!r} in the concrete function {concrete.name!r}",
                    "call get_concrete_function after omc.wrap; drop what was made before.",
                )


def forget(variables, garbage=1):
    """Has every function that was traced with variables be traced anew when it is called next.

    Args:
        variables: List of tf.Variables, eager.
        garbage: As in `release`.

    Returns:
        Dict of what still holds their handles, empty where nothing does.
    """
    gc.collect(garbage)
    if not _held(variables):
        return {}
    gc.collect()
    held = _held(variables)
    if not held:
        return {}
    for function in [thing for thing in gc.get_objects() if type(thing) is _Function]:
        if any(_captured(concrete, held) for concrete in function._function_cache.values()):
            _forget(function)
    gc.collect()
    return _held(variables)


def _layers_of(variable):
    """The variable, and what it stands around: Keras' AutoCastVariable has one inside."""
    inner = vars(variable).get("_variable")
    return [variable] if inner is None else [variable, *_layers_of(inner)]


def _held(variables):
    """Dict of the handles that others hold too: id -> (handle, name of its variable)."""
    found = {}
    for variable in variables:
        owner = _layers_of(variable)[-1]
        if sys.getrefcount(owner._handle) > _UNHELD:
            found[id(owner._handle)] = owner._handle, variable.name.split(":")[0]
    return found


def _captured(concrete, held):
    """Name of one of the held variables that a concrete function reads; "" for none."""
    for tensor in concrete.captured_inputs:
        if id(tensor) in held:
            return held[id(tensor)][1]
    return ""


def _forget(function):
    # Private TensorFlow: what its __init__ sets before the first call.
    with function._lock:
        function._created_variables = None
        function._variable_creation_config = function._no_variable_creation_config = None
        function._concrete_variable_creation_fn = None
        # In place, for functools.wraps (Keras 3's trainer) shares them with what wraps a function.
        function._function_cache.__init__()
        function._function_captures.__init__()
