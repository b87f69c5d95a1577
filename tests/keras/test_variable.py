"""CompressedVariable behaves as a tf.Variable wherever it is read and assigned."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

from omc.codecs import Codec
from omc.formats import Format
from omc.keras import CompressedVariable

VALUE = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def variable(fmt="S1E5M10"):
    codec = Codec(Format.parse(fmt), VALUE.shape)
    return CompressedVariable(codec, codec.encode(tf.constant(VALUE)), "layer/kernel")


READS = {
    "matmul": lambda v: tf.matmul(tf.ones([2, 6]), v),
    "matmul_transposed": lambda v: tf.matmul(tf.ones([2, 4]), v, transpose_b=True),
    "matmul_left": lambda v: tf.matmul(v, tf.ones([4, 2])),
    "matmul_itself": lambda v: tf.matmul(v, v, transpose_a=True),
    "tensordot": lambda v: tf.tensordot(tf.ones([2, 3, 6]), v, [[2], [0]]),
    "tensordot_1": lambda v: tf.tensordot(tf.ones([2, 3, 6]), v, 1),
    "tensordot_other_axis": lambda v: tf.tensordot(tf.ones([6, 2]), v, [[0], [0]]),
    "at": lambda v: tf.ones([2, 6]) @ v,
    "einsum": lambda v: tf.einsum("ab,bc->ac", tf.ones([2, 6]), v),
    "plus": lambda v: 1.0 + v * 2.0 - v / 3.0,
    "index": lambda v: v[1:3, ::2],
    "gather": lambda v: tf.gather(v, [0, 5]),
    "gather_nd": lambda v: tf.gather_nd(v, [[0, 1], [5, 3]]),
    "embedding_lookup": lambda v: tf.nn.embedding_lookup(v, [[0, 5]]),
    "concat": lambda v: tf.concat([v, tf.ones([1, 4])], 0),
    "cast": lambda v: tf.cast(v, tf.float16),
    "l2": lambda v: tf.nn.l2_loss(v),
    "convert": lambda v: tf.convert_to_tensor(v),
    "global_norm": lambda v: tf.linalg.global_norm([v]),
    "zeros_like": lambda v: tf.zeros_like(v),
    "shape": lambda v: tf.shape(v),
}


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("name", READS)
def test_reads_and_their_gradients(name, graph):
    ours = variable()
    plain = tf.Variable(ours.numpy())

    def run(v):
        with tf.GradientTape() as tape:
            result = READS[name](v)
            loss = tf.reduce_sum(tf.square(tf.cast(result, tf.float32)))
        gradient = tape.gradient(loss, v)
        none = tf.zeros(v.shape) if gradient is None else tf.convert_to_tensor(gradient)
        return result, none

    step = tf.function(lambda: run(ours)) if graph else lambda: run(ours)
    for got, want in zip(step(), run(plain)):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_gradients_through_inner_functions_and_dataset_loops():
    ours = variable()
    plain = tf.Variable(ours.numpy())

    def run(v):
        inner = tf.function(lambda x: tf.reduce_sum(tf.matmul(x, v) ** 2))

        def body(total, x):
            with tf.GradientTape() as tape:
                loss = inner(x)
            return total + tape.gradient(loss, v)

        xs = tf.data.Dataset.from_tensor_slices(tf.constant(VALUE.reshape(2, 2, 6)))
        return tf.function(lambda: xs.reduce(tf.zeros(v.shape), body))()

    np.testing.assert_allclose(run(ours), run(plain), rtol=1e-3, atol=1e-4)


def test_assigning():
    v = variable()
    v.assign(VALUE * 0.9)
    np.testing.assert_allclose(v.numpy(), VALUE * 0.9, rtol=1e-3, atol=1e-5)
    v.assign_add(np.ones_like(VALUE))
    v.assign_sub(np.full_like(VALUE, 0.5))
    np.testing.assert_allclose(v.numpy(), VALUE * 0.9 + 0.5, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError):
        v.assign(np.ones((2, 2)))
    want = v.numpy()
    v.scatter_sub(tf.IndexedSlices(tf.ones([2, 4]), tf.constant([1, 4])))
    v.scatter_add(tf.IndexedSlices(tf.ones([2, 4]), tf.constant([0, 0])))
    v.scatter_update(tf.IndexedSlices(tf.fill([1, 4], 0.25), tf.constant([5])))
    want[[1, 4]] -= 1
    want[0] += 2
    want[5] = 0.25
    np.testing.assert_allclose(v.numpy(), want, rtol=2e-3, atol=2e-3)


def test_it_is_a_variable_that_stores_only_codes():
    v = variable("S1E3M7")
    assert isinstance(v, tf.Variable) and v.trainable
    assert v.name == "layer/kernel:0" and v.shape == (6, 4) and v.dtype == tf.float32
    assert v.nbytes == 24 * 11 // 8 + 8 == v.buffer.numpy().nbytes
    # The handle is an address; there is no dense tensor behind it.
    read = inspect.unwrap(tf.raw_ops.ReadVariableOp)
    assert read(resource=v.handle, dtype=tf.float32).numpy().nbytes == 0


def test_a_raw_op_gets_a_clear_refusal():
    with pytest.raises(TypeError, match="read_value"):
        tf.raw_ops.MatMul(a=tf.ones([2, 6]), b=variable())
