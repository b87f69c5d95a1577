"""Ops that hold a kernel dense only while they run: once forward, once more in backward.

In a graph all decodes are ready at once, so each is tied to the tensor that makes it needed: the
forward one to the op's input, the backward one to the upstream gradient.
"""

import tensorflow as tf

from omc.keras.gradient import differentiable, is_source

_DTYPES = (tf.float32, tf.float16, tf.bfloat16)


def suits(x):
    """Whether `linear` can take x: a tensor of known rank and of a float dtype it computes in."""
    return tf.is_tensor(x) and x.shape.rank is not None and x.dtype in _DTYPES


def linear(x, variable, forward, input_gradient, kernel_gradient):
    """y = forward(x, w), linear in x and in w, with w dense only inside the op.

    The kernel is computed with in the dtype of x; its gradient is float32 again.

    Args:
        x: Tensor, float32, float16 or bfloat16.
        variable: `CompressedVariable` of w.
        forward: (x, w) -> y.
        input_gradient: (upstream, w, x) -> dx.
        kernel_gradient: (upstream, x) -> dw.

    Returns:
        y, tensor.
    """

    def run():
        return [forward(x, tf.cast(variable.decode(after=x), x.dtype))]

    def gradient(upstream):
        w = tf.cast(variable.read(after=upstream, backward=True), x.dtype)
        dx = input_gradient(upstream, w, x)
        del w  # The dense kernel is gone before its gradient comes.
        # To wait for a gradient that nobody wants would be the only reason to compute it.
        with tf.control_dependencies([] if source else [dx]):
            return [dx, tf.cast(kernel_gradient(upstream, x), tf.float32)]

    source = is_source(x)
    variable.watch()
    variable.note("transient")
    return differentiable(run, [x, variable.handle], gradient)[0]
