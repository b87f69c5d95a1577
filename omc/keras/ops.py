"""Transient versions of the matrix products: matmul, tensordot, einsum.

Each takes the arguments of the public op by name and returns its result, or NotImplemented where
`omc.keras.dispatch` has to find another way. Each adds as the public op adds, where that is known:
in 16 bits TensorFlow's Einsum is some 2.5 times as far from float32 as its MatMul.
"""

import functools
import math

import tensorflow as tf

from omc.keras.transient import linear, suits
from omc.keras.variable import CompressedVariable

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def matmul(
    a,
    b,
    transpose_a=False,
    transpose_b=False,
    adjoint_a=False,
    adjoint_b=False,
    name=None,
    **options,
):
    """a @ b with a compressed b [n, m] (or [m, n], transposed) and a dense a [..., n]."""
    if any(options.values()) or isinstance(a, CompressedVariable) or b.shape.rank != 2:
        return NotImplemented
    a = tf.convert_to_tensor(a)
    if not suits(a) or a.shape.rank < 2 or transpose_a or adjoint_a:
        return NotImplemented
    return _rows_times(a, b, transposed=bool(transpose_b or adjoint_b))


def tensordot(a, b, axes, name=None):
    """tf.tensordot with a compressed b."""
    if isinstance(a, CompressedVariable):
        return NotImplemented
    a = tf.convert_to_tensor(a)
    if not suits(a):
        return NotImplemented
    rank, other = a.shape.rank, b.shape.rank
    if isinstance(axes, int):
        left, right = list(range(rank - axes, rank)), list(range(axes))
    elif isinstance(axes, (list, tuple)) and len(axes) == 2:
        left, right = ([side] if isinstance(side, int) else list(side) for side in axes)
    else:
        return NotImplemented
    if not all(isinstance(axis, int) for axis in left + right):
        return NotImplemented
    left, right = [axis % rank for axis in left], [axis % other for axis in right]
    if other == 2 and left == [rank - 1] and rank >= 2 and right in ([0], [1]):
        return _rows_times(a, b, transposed=right == [1])
    x, w = list(_LETTERS[:rank]), list(_LETTERS[rank : rank + other])
    for axis, partner in zip(left, right):
        w[partner] = x[axis]
    y = [label for label in x if label not in w] + [label for label in w if label not in x]
    return einsum_as_product(f"{''.join(x)},{''.join(w)}->{''.join(y)}", (a, b))


def einsum(equation, inputs, kwargs=None):
    """tf.einsum of a dense and a compressed operand, each label of which lies in two of the three.

    Its gradients are einsums too: of "x,w->y" they are "y,w->x" and "x,y->w".
    """
    return _bilinear(equation, inputs, functools.partial(tf.einsum, **(kwargs or {})))


def einsum_as_product(equation, inputs):
    """`einsum` computed as one product of two matrices, as by tf.tensordot and in Keras 3's layers.

    Args:
        equation: Subscripts "x,w->y".
        inputs: Two operands, one of them compressed.
    """
    return _bilinear(equation, inputs, _matrix_product)


def _bilinear(equation, inputs, contract):
    if len(inputs) != 2 or sum(isinstance(i, CompressedVariable) for i in inputs) != 1:
        return NotImplemented
    first = isinstance(inputs[0], CompressedVariable)
    variable, x = inputs if first else inputs[::-1]
    x = tf.convert_to_tensor(x)
    left, arrow, ys = equation.replace(" ", "").partition("->")
    if not suits(x) or not arrow or left.count(",") != 1:
        return NotImplemented
    xs, ws = left.split(",")[::-1] if first else left.split(",")
    xs, ys = _without_ellipsis(xs, ws, ys, x.shape.rank)
    if not _is_bilinear(xs, ws, ys) or not _fit(xs, x, ws, variable):
        return NotImplemented  # TensorFlow words the error, if it is one.

    def run(x, w):
        return contract(f"{xs},{ws}->{ys}", x, w)

    def input_gradient(upstream, w, x):
        return contract(f"{ys},{ws}->{xs}", upstream, w)

    def kernel_gradient(upstream, x):
        return contract(f"{xs},{ys}->{ws}", x, upstream)

    return linear(x, variable, run, input_gradient, kernel_gradient)


def _matrix_product(equation, a, b):
    """An einsum as the product of two matrices; as itself where a label lies in all three."""
    left, _, result = equation.partition("->")
    a_labels, b_labels = left.split(",")
    summed = [label for label in a_labels if label in b_labels]
    if set(summed) & set(result):
        return tf.einsum(equation, a, b)
    rows = [label for label in result if label in a_labels]
    columns = [label for label in result if label in b_labels]
    left, transpose_a = _as_matrix(a, a_labels, rows, summed)
    right, transpose_b = _as_matrix(b, b_labels, summed, columns)
    product = tf.matmul(left, right, transpose_a=transpose_a, transpose_b=transpose_b)
    axes = [(a, a_labels.index(label)) for label in rows]
    axes += [(b, b_labels.index(label)) for label in columns]
    product = _reshape(product, [[axis] for axis in axes])
    if rows + columns == list(result):
        return product
    return tf.transpose(product, [(rows + columns).index(label) for label in result])


def _as_matrix(tensor, labels, rows, columns):
    """(tensor as a matrix of these labels' rows and columns, whether it is that transposed)."""
    labels = list(labels)
    transposed = labels == columns + rows != rows + columns
    if transposed:
        rows, columns = columns, rows
    elif labels != rows + columns:
        tensor = tf.transpose(tensor, [labels.index(label) for label in rows + columns])
    axes = [(tensor, axis) for axis in range(len(labels))]
    return _reshape(tensor, [axes[: len(rows)], axes[len(rows) :]]), transposed


def _reshape(tensor, groups):
    """tf.reshape to one axis for each group of axes (tensor, index), static where it is known."""
    sizes = [[owner.shape[axis] for owner, axis in group] for group in groups]
    unknown = [place for place, group in enumerate(sizes) if None in group]
    shape = [-1 if None in group else math.prod(group) for group in sizes]
    if len(unknown) > 1 or (unknown and 0 in shape):
        for place in unknown:
            extents = [tf.shape(owner)[axis] for owner, axis in groups[place]]
            shape[place] = tf.reduce_prod(extents)
    return tf.reshape(tensor, shape)


def _rows_times(x, variable, transposed):
    """x [..., n] times the kernel [n, m], or times the transpose of a kernel [m, n]."""
    n, m = variable.shape[::-1] if transposed else variable.shape

    def forward(x, w):
        rows = tf.matmul(tf.reshape(x, [-1, n]), w, transpose_b=transposed)
        if x.shape.rank == 2:
            return rows
        return _with_rows_of(rows, x, m)

    def input_gradient(upstream, w, x):
        rows = tf.matmul(tf.reshape(upstream, [-1, m]), w, transpose_b=not transposed)
        return rows if x.shape.rank == 2 else _with_rows_of(rows, x, n)

    def kernel_gradient(upstream, x):
        rows, upstream = tf.reshape(x, [-1, n]), tf.reshape(upstream, [-1, m])
        left, right = (upstream, rows) if transposed else (rows, upstream)
        return tf.matmul(left, right, transpose_a=True)

    if not x.shape[-1:].is_compatible_with([n]):
        return NotImplemented  # TensorFlow words the error.
    return linear(x, variable, forward, input_gradient, kernel_gradient)


def _with_rows_of(rows, x, width):
    """`rows` [any, width] with the leading axes of `x`."""
    shape = x.shape[:-1].concatenate([width])
    if shape.rank is not None and shape.as_list().count(None) <= 1 and 0 not in shape:
        # One op in place of eight: a deep model's graph takes hundreds of megabytes.
        return tf.reshape(rows, [-1 if size is None else size for size in shape])
    return tf.ensure_shape(tf.reshape(rows, tf.concat([tf.shape(x)[:-1], [width]], 0)), shape)


def _without_ellipsis(xs, ws, ys, rank):
    """(xs, ys) with the axes that "..." stands for in x and y spelled out."""
    if "..." not in xs or "..." not in ys or "..." in ws:
        return xs, ys
    unused = [letter for letter in _LETTERS if letter not in xs + ws + ys]
    spelled = "".join(unused[: max(rank - len(xs) + 3, 0)])
    return xs.replace("...", spelled), ys.replace("...", spelled)


def _fit(xs, x, ws, w):
    """Whether the labels that both operands have are of one size in both, as far as is known."""
    if len(xs) != x.shape.rank or len(ws) != w.shape.rank:
        return False
    sizes = dict(zip(ws, w.shape))
    return all(size is None or size == sizes.get(label, size) for label, size in zip(xs, x.shape))


def _is_bilinear(xs, ws, ys):
    """Whether permuting the subscripts gives the gradients: each label once in two of the three."""
    distinct = all(len(set(labels)) == len(labels) for labels in (xs, ws, ys))
    known = "." not in xs + ws + ys and set(ys) <= set(xs + ws)
    return distinct and known and set(xs) <= set(ws + ys) and set(ws) <= set(xs + ys)
