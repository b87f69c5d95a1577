"""Transient versions of the convolutions, channels last.

Three raw ops serve each kind: the convolution itself, its gradient for the input and that for the
filter; a transposed convolution is the second of them. One spatial axis is computed as two, of
which the first has length one, as TensorFlow does. Arguments and NotImplemented as in
`omc.keras.ops`.
"""

from typing import Callable, NamedTuple

import tensorflow as tf

from omc.keras.transient import linear, suits
from omc.keras.variable import CompressedVariable

_raw = tf.raw_ops


class _Ops(NamedTuple):
    """Raw ops of one kind of convolution.

    Attributes:
        forward: (x, w) -> y.
        to_input: (shape of x, w, dy) -> dx.
        to_filter: (x, shape of w, dy) -> dw.
    """

    forward: Callable
    to_input: Callable
    to_filter: Callable


def _ops(forward, to_input, to_filter, **options):
    return _Ops(
        lambda x, w: forward(input=x, filter=w, **options),
        lambda shape, w, dy: to_input(input_sizes=shape, filter=w, out_backprop=dy, **options),
        lambda x, shape, dy: to_filter(
            input=x, filter_sizes=tf.constant(shape), out_backprop=dy, **options
        ),
    )


def _plain(dimensions, **options):
    if dimensions == 3:
        return _ops(_raw.Conv3D, _raw.Conv3DBackpropInputV2, _raw.Conv3DBackpropFilterV2, **options)
    return _ops(_raw.Conv2D, _raw.Conv2DBackpropInput, _raw.Conv2DBackpropFilter, **options)


def _depthwise(**options):
    return _ops(
        _raw.DepthwiseConv2dNative,
        _raw.DepthwiseConv2dNativeBackpropInput,
        _raw.DepthwiseConv2dNativeBackpropFilter,
        **options,
    )


def convolution(
    input, filters=None, strides=None, padding="VALID", data_format=None, dilations=None, **options
):
    """tf.nn.convolution, conv1d, conv2d and conv3d, dense input and compressed filters."""
    filters = options.pop("filter", None) if filters is None else filters
    options.pop("use_cudnn_on_gpu", None)
    options.pop("name", None)
    if options or not _possible(input, filters, padding, data_format):
        return NotImplemented
    x, n = tf.convert_to_tensor(input), filters.shape.rank - 2
    strides, dilations = _sizes(strides, n), _sizes(dilations, n)
    if n not in (1, 2, 3) or not suits(x) or x.shape.rank < n + 2 or x.shape[-1] is None:
        return NotImplemented
    if x.shape[-1] != filters.shape[-2]:
        return NotImplemented  # Groups, or TensorFlow words the error.
    if x.shape.rank > n + 2:
        return _over_batches(
            x, n, lambda x: convolution(x, filters, strides, padding, data_format, dilations)
        )
    if max(dilations) > 1:
        return _dilated(
            x, filters, dilations, padding, lambda x, how: convolution(x, filters, strides, how)
        )
    ops = _plain(n, strides=_ones(strides), padding=padding.upper())
    return _convolve(x, filters, ops)


def transposed(
    input,
    filters,
    output_shape,
    strides,
    padding="SAME",
    data_format=None,
    dilations=None,
    name=None,
):
    """conv1d_transpose, conv2d_transpose and conv3d_transpose."""
    if not _possible(input, filters, padding, data_format):
        return NotImplemented
    x, n = tf.convert_to_tensor(input), filters.shape.rank - 2
    strides, dilations = _sizes(strides, n), _sizes(dilations, n)
    if n not in (1, 2, 3) or not suits(x) or x.shape.rank != n + 2 or max(dilations) > 1:
        return NotImplemented
    ops = _plain(n, strides=_ones(strides), padding=padding.upper())
    shape = (
        [-1 if size is None else size for size in output_shape]
        if isinstance(output_shape, (list, tuple))
        else output_shape
    )
    shape = _wide(
        tf.convert_to_tensor(shape, tf.int32), n, lambda s: tf.concat([s[:1], [1], s[1:]], 0)
    )
    kernel_shape = _kernel_shape(filters)

    def forward(x, w):
        return ops.to_input(shape, tf.reshape(w, kernel_shape), x)

    def input_gradient(upstream, w, x):
        return ops.forward(upstream, tf.reshape(w, kernel_shape))

    def kernel_gradient(upstream, x):
        return tf.reshape(ops.to_filter(upstream, kernel_shape, x), filters.shape)

    x = _wide(x, n, lambda x: tf.expand_dims(x, 1))
    return _narrow(linear(x, filters, forward, input_gradient, kernel_gradient), n)


def depthwise(
    input, filter, strides, padding, rate=None, name=None, data_format=None, dilations=None
):
    """tf.nn.depthwise_conv2d with a compressed filter."""
    rate = rate if dilations is None else dilations
    if not _possible(input, filter, padding, data_format):
        return NotImplemented
    x, strides, rate = tf.convert_to_tensor(input), list(strides), _sizes(rate, 2)
    if not suits(x) or x.shape.rank != 4 or len(strides) != 4:
        return NotImplemented
    if max(rate) > 1:
        return _dilated(x, filter, rate, padding, lambda x, how: depthwise(x, filter, strides, how))
    return _convolve(x, filter, _depthwise(strides=strides, padding=padding.upper()))


def separable(
    input,
    depthwise_filter,
    pointwise_filter,
    strides,
    padding,
    rate=None,
    name=None,
    data_format=None,
    dilations=None,
):
    """tf.nn.separable_conv2d, either filter compressed or dense."""
    if data_format not in (None, "NHWC") or isinstance(input, CompressedVariable):
        return NotImplemented
    # The public ops once more, each of which comes back here if its own filter is compressed.
    x = tf.nn.depthwise_conv2d(
        input,
        depthwise_filter,
        strides,
        padding,
        dilations=_sizes(rate if dilations is None else dilations, 2),
    )
    return tf.nn.convolution(x, pointwise_filter, padding="VALID")


def _convolve(x, variable, ops):
    n, shape = variable.shape.rank - 2, _kernel_shape(variable)

    def forward(x, w):
        return ops.forward(x, tf.reshape(w, shape))

    def input_gradient(upstream, w, x):
        return ops.to_input(tf.shape(x), tf.reshape(w, shape), upstream)

    def kernel_gradient(upstream, x):
        return tf.reshape(ops.to_filter(x, shape, upstream), variable.shape)

    x = _wide(x, n, lambda x: tf.expand_dims(x, 1))
    return _narrow(linear(x, variable, forward, input_gradient, kernel_gradient), n)


def _dilated(x, variable, rate, padding, op):
    """A dilated convolution as TensorFlow computes it on a CPU: undilated, on interleaved parts."""
    return tf.compat.v1.nn.with_space_to_batch(
        input=x,
        dilation_rate=rate,
        padding=padding.upper(),
        op=lambda x, _, how: op(x, how),
        filter_shape=tf.constant(variable.shape.as_list()),
    )


def _over_batches(x, n, op):
    """op(x) where more than one batch axis precedes the n spatial axes."""
    batches = tf.shape(x)[: -n - 1]
    y = op(tf.reshape(x, tf.concat([[-1], tf.shape(x)[-n - 1 :]], 0)))
    result = tf.reshape(y, tf.concat([batches, tf.shape(y)[1:]], 0))
    return tf.ensure_shape(result, x.shape[: -n - 1].concatenate(y.shape[1:]))


def _possible(input, filters, padding, data_format):
    last = data_format in (None, "NWC", "NHWC", "NDHWC")
    dense = isinstance(filters, CompressedVariable) and not isinstance(input, CompressedVariable)
    return dense and last and isinstance(padding, str)


def _sizes(sizes, n):
    """A size for each of n spatial axes; some callers give those of batch and channels too."""
    sizes = [1] if sizes is None else [sizes] if isinstance(sizes, int) else list(sizes)
    if len(sizes) == n + 2:
        sizes = sizes[1:-1]
    return sizes * n if len(sizes) == 1 else sizes


def _ones(sizes):
    return [1] * (2 if len(sizes) == 1 else 1) + sizes + [1]


def _kernel_shape(variable):
    shape = variable.shape.as_list()
    return [1, *shape] if len(shape) == 3 else shape


def _wide(x, n, widen):
    return widen(x) if n == 1 else x


def _narrow(y, n):
    return tf.squeeze(y, [1]) if n == 1 else y
