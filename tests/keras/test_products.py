"""Contractions of a compressed kernel as one product of two matrices, against numpy in float64."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras import CompressedVariable
from omc.keras.ops import einsum_as_product

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6, "f": 7}
EQUATIONS = [  # Those of Keras 3's table that a kernel can be in, and some that are in none.
    *("ab,bc->ac", "ab,cb->ac", "abc,cd->abd", "abc,dc->abd", "abc,cde->abde", "abc,dce->abde"),
    *("abc,dec->abde", "abcd,cde->abe", "abcd,ced->abe", "abcd,ecd->abe"),
    *("abc,cd->dab", "abc,cd->adb", "acb,cde->eabd", "ab,cd->abcd", "a,b->ba", "ab,ba->"),
    *("abcd,fbd->acf", "abcd,bf->acdf", "abc,cd->abcd", "abc,bcd->acd"),
]


def operands(equation):
    left, ys = equation.split("->")
    xs, ws = left.split(",")
    rng = np.random.default_rng(5)
    x, upstream = (
        rng.normal(size=[SIZES[label] for label in labels]).astype("float32") for labels in (xs, ys)
    )
    codec = omc.codecs.Codec(omc.Format.parse("S1E5M10"), [SIZES[label] for label in ws])
    value = tf.constant(rng.normal(size=codec.shape), tf.float32)
    variable = CompressedVariable(codec, codec.encode(value), "kernel")
    return xs, ws, ys, x, upstream, variable


@pytest.mark.parametrize("swapped", [False, True], ids=["x_w", "w_x"])
@pytest.mark.parametrize("unknown", ["none", "first", "all"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_product_and_its_gradients(equation, unknown, swapped):
    xs, ws, ys, x, upstream, variable = operands(equation)

    def run(x):
        pair, labels = (x, variable), (xs, ws)
        if swapped:
            pair, labels = pair[::-1], labels[::-1]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = einsum_as_product(f"{labels[0]},{labels[1]}->{ys}", pair)
        return [y, *tape.gradient(y, [x, variable], tf.constant(upstream))]

    shape = {
        "none": x.shape,
        "first": (None, *x.shape[1:]),
        "all": [None] * x.ndim,
    }[unknown]
    graph = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
    w = variable.numpy().astype("float64")
    want = [
        np.einsum(equation, x.astype("float64"), w),
        np.einsum(f"{ys},{ws}->{xs}", upstream, w),
        np.einsum(f"{xs},{ys}->{ws}", x, upstream),
    ]
    for compute in (graph, run):
        for got, expected in zip(compute(tf.constant(x)), want):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert variable.served == "transient"


def test_what_is_no_product_and_what_does_not_fit_is_declined():
    _, _, _, x, _, variable = operands("abc,cd->abd")
    for equation in ("abc,cd->ad", "aac,cd->ad", "abc,bd->acd", "ab,cd->abd"):
        assert einsum_as_product(equation, (tf.constant(x), variable)) is NotImplemented
    for operand in (variable, tf.constant(x[0], tf.int32)):
        assert einsum_as_product("bc,cd->bd", (operand, variable)) is NotImplemented


def test_empty_batches():
    _, _, _, x, _, variable = operands("abc,cde->abde")
    y = einsum_as_product("abc,cde->abde", (tf.constant(x[:0]), variable))
    assert y.shape == (0, 3, 5, 6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16])
def test_tensordot_adds_as_tensorflows_own(dtype):
    codec = omc.codecs.Codec(omc.Format.parse("S1E5M10"), (6, 5, 40))
    variable = CompressedVariable(codec, codec.encode(tf.random.normal([6, 5, 40])), "kernel")
    x = tf.cast(tf.random.normal([3, 4, 6, 5]), dtype)
    dense = tf.cast(variable.numpy(), dtype)
    np.testing.assert_array_equal(tf.tensordot(x, variable, 2), tf.tensordot(x, dense, 2))
