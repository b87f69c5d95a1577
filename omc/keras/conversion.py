"""When a compressed variable becomes a dense tensor by itself, and how a tf.function takes it.

TensorFlow converts the arguments of an op to tensors. Where a public op asks OMC's dispatcher when
that fails (`omc.keras.dispatch`), it has to fail, so that the op is served as frugally as it can
be. Everything else that converts is heard by nobody (a dataset, a loop, another variable, the
function that is passed to an op); there the conversion gives the dense value.
"""

import sys
import weakref

import tensorflow as tf

_asking = set()  # Code of functions that refuse a variable among their arguments.
_answering = set()  # Code of functions above which everyone has asked already.


def refuses(function):
    """Marks a function whose arguments `args` and `kwargs` are not to be converted."""
    _asking.add(function.__code__)
    return function


def answers(function):
    """Marks the function that serves what failed to convert."""
    _answering.add(function.__code__)
    return function


def is_refused(variable):
    """Whether a function that is running now takes the variable and has to hear that it cannot.

    Args:
        variable: `CompressedVariable` that is about to be converted.
    """
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code in _answering:
            return False
        if code.co_name == "op_dispatch_handler" or code in _asking:  # TensorFlow's, by its name.
            arguments = frame.f_locals.get("args"), frame.f_locals.get("kwargs")
            if any(held is variable for held in found(arguments, type(variable))):
                return True
        frame = frame.f_back
    return False


def found(value, kind):
    """List of the objects of a class in a nested value."""
    if isinstance(value, dict):
        return [one for item in value.values() for one in found(item, kind)]
    if isinstance(value, (list, tuple)):
        return [one for item in value for one in found(item, kind)]
    return [value] if isinstance(value, kind) else []


class Itself(tf.types.experimental.TraceType):
    """How a tf.function takes a compressed variable: as the very same object, as in a closure.

    As for any variable, its handle is an input of the function.
    """

    def __init__(self, variable):
        self._variable, self._id = weakref.ref(variable), id(variable)

    def is_subtype_of(self, other):
        """Whether the other is of the same variable."""
        return self == other

    def most_specific_common_supertype(self, others):
        """Itself where all others are of the same variable, else None."""
        return self if all(self == other for other in others) else None

    def placeholder_value(self, placeholder_context):
        """The variable."""
        variable = self._variable()
        placeholder_context.context_graph.capture(variable.handle)
        return variable

    def to_tensors(self, value):
        """The handle, which is what the function gets."""
        value.watch()
        return [value.handle]

    def from_tensors(self, tensors):
        """The variable, whose handle is next."""
        next(tensors)
        return self._variable()

    def flatten(self):
        """Type of the handle."""
        return [tf.TensorSpec([], tf.resource)]

    def cast(self, value, casting_context):
        """The variable."""
        return value

    # As TensorFlow 2.14 calls them.
    _to_tensors, _from_tensors, _flatten, _cast = to_tensors, from_tensors, flatten, cast

    def __eq__(self, other):
        return isinstance(other, Itself) and self._id == other._id

    def __hash__(self):
        return self._id
