"""Ops that hold a kernel dense only while they run: once forward, once more in backward.

In a graph all decodes are ready at once, so each is tied to the tensor that makes it needed: the
forward one to the op's input, the backward one to the upstream gradient.
"""

import tensorflow as tf

from omc.keras.gradient import differentiable, is_source, read, there
from omc.keras.quantizers import Recorder

_DTYPES = (tf.float32, tf.float16, tf.bfloat16)


def suits(x):
    """Whether `linear` can take x: a tensor of known rank and of a float dtype it computes in."""
    return tf.is_tensor(x) and x.shape.rank is not None and x.dtype in _DTYPES


def linear(x, variable, forward, input_gradient, kernel_gradient):
    """y = forward(x, w), linear in x and in w, with w dense only inside the op.

    The kernel is computed with in the dtype of x; its gradient is float32 again. Where the variable
    has an input quantizer Q, this is forward(Q(x), w), and of both x alone is kept until backward.

    Args:
        x: Tensor, float32, float16 or bfloat16.
        variable: `CompressedVariable` of w.
        forward: (x, w) -> y.
        input_gradient: (upstream, w, x) -> dx.
        kernel_gradient: (upstream, x) -> dw.

    Returns:
        y, tensor.
    """
    quantizer, learned, codec = variable.input_quantizer, variable.learned_scale, variable.codec
    if isinstance(quantizer, Recorder):
        quantizer.observe(x)
        quantizer = None

    def run():
        w = tf.cast(variable.decode(after=x), x.dtype)
        return [forward(x if quantizer is None else quantizer(x), w)]

    def gradient(upstream):
        w = tf.cast(variable.read(after=upstream, backward=True), x.dtype)
        again, seen = x, x
        if quantizer is not None:
            with tf.control_dependencies([there(upstream)]):  # Or forward's Q(x) would be kept.
                again = tf.identity(x)
            seen = quantizer(again)
        dx = input_gradient(upstream, w, seen)
        del w  # The dense kernel is gone before its gradient comes.
        gradients = []
        if quantizer is not None:
            dx, table_gradient = quantizer.gradient(again, dx)
            gradients.append(table_gradient)
        # To wait for a gradient that nobody wants would be the only reason to compute it.
        with tf.control_dependencies([] if source else [dx]):
            dw = tf.cast(kernel_gradient(upstream, seen), tf.float32)
        if learned is not None:
            with tf.control_dependencies([dw]):
                gradients.append(codec.scale_gradient(read(variable.buffer), dw))
        return [dx, dw, *gradients]

    source = is_source(x)
    variable.watch()
    variable.note("transient")
    inputs = [x, variable.handle]
    inputs += [] if quantizer is None else [quantizer.table.handle]
    inputs += [] if learned is None else [learned.handle]
    return differentiable(run, inputs, gradient)[0]
