"""Routes public TensorFlow ops that meet a compressed variable.

TensorFlow calls the dispatcher when an op cannot convert an argument. The ops of the table below
get a *transient* version: the kernel is decoded for the forward op, decoded again in backward, and
not kept in between. Every other op gets the dense value (correct for any layer; kept until
backward).

In a graph all decodes are ready at once, so each is tied to the tensor that makes it needed: the
forward one to the layer's input, the backward one to the upstream gradient.
"""

import inspect

import tensorflow as tf

from omc.keras.gradients import custom_gradient
from omc.keras.variable import CompressedVariable


def _linear(forward, input_gradient, kernel_gradient):
    """A transient version of an op y = forward(x, w) that is linear in both.

    Args:
        forward: (x, w) -> y.
        input_gradient: (upstream, w, x) -> dx.
        kernel_gradient: (upstream, x) -> dw.
    """

    def transient(x, variable):
        @custom_gradient
        def run(x, handle):
            del handle

            def gradient(upstream):
                w = variable.decode(after=upstream, backward=True)
                dx = input_gradient(upstream, w, x)
                with tf.control_dependencies([dx]):  # The dense kernel is gone before dw comes.
                    return dx, kernel_gradient(upstream, x)

            return forward(x, variable.decode(after=x)), gradient

        variable.watch()
        return run(x, variable.handle)

    return transient


def _matmul(x, kernel):
    """x [..., n] times kernel [n, m]; leading axes of x as in a Dense layer."""

    def forward(x, w):
        if x.shape.rank == 2:
            return tf.matmul(x, w)
        rows = tf.matmul(tf.reshape(x, [-1, w.shape[0]]), w)
        y = tf.reshape(rows, tf.concat([tf.shape(x)[:-1], [w.shape[1]]], 0))
        return tf.ensure_shape(y, x.shape[:-1].concatenate(w.shape[1:]))

    def input_gradient(upstream, w, x):
        rows = tf.matmul(tf.reshape(upstream, [-1, w.shape[1]]), w, transpose_b=True)
        return rows if x.shape.rank == 2 else tf.reshape(rows, tf.shape(x))

    def kernel_gradient(upstream, x):
        n, m = kernel.shape
        rows = tf.reshape(x, [-1, n])
        return tf.matmul(rows, tf.reshape(upstream, [-1, m]), transpose_a=True)

    return _linear(forward, input_gradient, kernel_gradient)(x, kernel)


def _transient_matmul(a, b, **options):
    plain = isinstance(b, CompressedVariable) and not isinstance(a, CompressedVariable)
    if not plain or any(options.values()):
        return NotImplemented
    a = tf.convert_to_tensor(a)
    return _matmul(a, b) if a.shape.rank == 2 and a.dtype == tf.float32 else NotImplemented


def _transient_tensordot(a, b, axes, name=None):
    plain = isinstance(b, CompressedVariable) and not isinstance(a, CompressedVariable)
    if not plain or b.shape.rank != 2:
        return NotImplemented
    a = tf.convert_to_tensor(a)
    last = a.shape.rank is not None and axes in ([[a.shape.rank - 1], [0]], [[-1], [0]], 1)
    return _matmul(a, b) if last and a.dtype == tf.float32 else NotImplemented


def _transient_conv2d(
    input, filters, strides=None, padding="VALID", data_format=None, dilations=None, name=None
):
    if not isinstance(filters, CompressedVariable) or isinstance(input, CompressedVariable):
        return NotImplemented
    x = tf.convert_to_tensor(input)
    channels_last = data_format in (None, "NHWC")
    two = x.shape.rank == 4 and filters.shape.rank == 4
    if not (two and channels_last and isinstance(padding, str) and x.dtype == tf.float32):
        return NotImplemented
    options = dict(strides=_pair(strides), padding=padding.upper(), dilations=_pair(dilations))

    def input_gradient(upstream, w, x):
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=w, out_backprop=upstream, **options
        )

    def kernel_gradient(upstream, x):
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=filters.shape.as_list(), out_backprop=upstream, **options
        )

    def forward(x, w):
        return tf.raw_ops.Conv2D(input=x, filter=w, **options)

    return _linear(forward, input_gradient, kernel_gradient)(x, filters)


def _pair(sizes):
    if sizes is None:
        return [1, 1, 1, 1]
    sizes = [sizes] * 2 if isinstance(sizes, int) else list(sizes)
    return [1, *(sizes * 2 if len(sizes) == 1 else sizes), 1]


_TRANSIENT = {
    "matmul": _transient_matmul,
    "tensordot": _transient_tensordot,
    "convolution_v2": _transient_conv2d,
}


class _Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):
    """Serves every public op that failed to convert a compressed variable."""

    def handle(self, op, args, kwargs):
        """Result of `op` with transient or dense kernels, or NOT_SUPPORTED without any."""
        if not _mentions_compressed((args, kwargs)):
            return self.NOT_SUPPORTED
        transient = _TRANSIENT.get(op.__name__)
        if transient is not None:
            bound = inspect.signature(op).bind(*args, **kwargs).arguments
            result = transient(**bound)
            if result is not NotImplemented:
                return result
        args, kwargs = _dense((args, kwargs))
        return op(*args, **kwargs)


def _mentions_compressed(value):
    if isinstance(value, dict):
        return any(_mentions_compressed(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_mentions_compressed(item) for item in value)
    return isinstance(value, CompressedVariable)


def _dense(value):
    """`value` with every compressed variable, however nested, replaced by its dense value."""
    if isinstance(value, CompressedVariable):
        return value.read_value()
    if not _mentions_compressed(value):
        return value
    if isinstance(value, dict):
        return type(value)((key, _dense(item)) for key, item in value.items())
    items = [_dense(item) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


_Dispatcher().register()
