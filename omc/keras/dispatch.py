"""Routes public TensorFlow ops that meet a compressed variable.

TensorFlow calls the dispatcher when an op cannot convert an argument. There are three ways:

- the ops of the table below have a *transient* version with gradients of its own: the kernel is
  decoded for the forward op, decoded again in backward, and not kept in between;
- where such a version declines (channels first, unusual subscripts), the op itself runs again in
  backward (`omc.keras.rematerialization`), which is transient too and costs the op once more;
- every other op gets the dense value: correct for any layer, kept until backward.
"""

import inspect
import sys

import tensorflow as tf

from omc.keras import convolutions, host, ops
from omc.keras.conversion import answers, found
from omc.keras.rematerialization import compressed, repeated
from omc.keras.variable import CompressedVariable

_TRANSIENT = {
    "matmul": ops.matmul,
    "tensordot": ops.tensordot,
    "einsum": ops.einsum,
    "convolution": convolutions.convolution,
    "convolution_v2": convolutions.convolution,
    "conv1d": convolutions.convolution,
    "conv1d_v2": convolutions.convolution,
    "conv2d": convolutions.convolution,
    "conv2d_v2": convolutions.convolution,
    "conv3d_v2": convolutions.convolution,
    "conv1d_transpose": convolutions.transposed,
    "conv2d_transpose_v2": convolutions.transposed,
    "conv3d_transpose_v2": convolutions.transposed,
    "depthwise_conv2d": convolutions.depthwise,
    "depthwise_conv2d_v2": convolutions.depthwise,
    "separable_conv2d": convolutions.separable,
    "separable_conv2d_v2": convolutions.separable,
    "atrous_conv2d_transpose": lambda **named: NotImplemented,
}


class _Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):
    """Serves every public op that failed to convert a compressed variable."""

    @answers
    def handle(self, op, args, kwargs):
        """Result of `op` with transient or dense kernels, or NOT_SUPPORTED without any."""
        variables = _found((args, kwargs))
        if not variables or (op.__name__.startswith("expand_dims") and _inside_convolution()):
            return self.NOT_SUPPORTED
        result = host.passed_on(op, args, kwargs)
        if result is not None:
            return result
        try:
            return _served(op, args, kwargs, variables)
        except tf.errors.InvalidArgumentError as error:
            # A variable of Keras 3 refuses to become a tensor of another dtype; then a tensor's
            # operators ask the variable's, which promote. Here it is the kernel that refuses.
            dtypes = {item.dtype.name for item in found((args, kwargs), (tf.Tensor, *host.HOLDERS))}
            if len(dtypes) < 2 or not found((args, kwargs), host.HOLDERS):
                raise
            message = f"{op.__name__} of {' and '.join(sorted(dtypes))}: {error.message}"
            raise TypeError(message) from error


def _served(op, args, kwargs, variables):
    if op.__name__ not in _TRANSIENT or any(variable.lent for variable in variables):
        args, kwargs = _replaced((args, kwargs), _dense)
        return op(*args, **kwargs)
    args, kwargs = _replaced((args, kwargs), _variable)
    named = inspect.signature(op).bind(*args, **kwargs).arguments
    result = _TRANSIENT[op.__name__](**named)
    return _again(op, args, kwargs, variables) if result is NotImplemented else result


def _again(op, args, kwargs, variables):
    kwargs = {key: value for key, value in kwargs.items() if key != "name"}  # Runs twice.

    def run(*args, **kwargs):
        args, kwargs = _replaced((args, kwargs), _dense)
        return op(*args, **kwargs)

    return repeated(run, args, kwargs, decoded=compressed(variables))


def _inside_convolution():
    """Whether a convolution over one axis is asking, which can be served itself when this fails."""
    frame = sys._getframe(1)
    for _ in range(16):
        if frame is None:
            return False
        if frame.f_code.co_name in ("conv1d", "conv1d_transpose"):
            return frame.f_globals.get("__name__", "").startswith("tensorflow.python")
        frame = frame.f_back
    return False


_KINDS = (CompressedVariable, *host.HOLDERS)


def _variable(value):
    """The compressed variable that an op's argument is, or stands for."""
    return value if isinstance(value, CompressedVariable) else host.held(value)[0]


def _dense(value):
    """The dense value of an op's argument, in the dtype that it is read in."""
    if isinstance(value, CompressedVariable):
        return value.read_value()
    variable, dtype = host.held(value)
    dense = variable.read_value()
    return dense if dense.dtype == dtype else tf.cast(dense, dtype)


def _found(value):
    """The compressed variables in a nested value."""
    return [_variable(item) for item in found(value, _KINDS)]


def _replaced(value, read):
    """`value` with every compressed variable, however nested, replaced by what `read` gives."""
    if isinstance(value, _KINDS):
        return read(value)
    if not _found(value):
        return value
    if isinstance(value, dict):
        return type(value)((key, _replaced(item, read)) for key, item in value.items())
    items = [_replaced(item, read) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


_Dispatcher().register()
