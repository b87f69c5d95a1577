"""Writes to a part of a compressed variable, and by its handle, are tf.Variable's own."""

import numpy as np
import pytest
import tensorflow as tf

from omc.codecs import Codec
from omc.errors import InputTypeError, ModelError
from omc.formats import Format
from omc.keras import CompressedVariable

RNG = np.random.default_rng(0)
VALUE = RNG.normal(size=(6, 4)).astype(np.float32)
ROWS = (RNG.uniform(0.5, 2.0, (2, 4)) * [1, -1, 1, -1]).astype(np.float32)
V1 = tf.compat.v1


def variable(fmt="S1E5M10", rounding="nearest"):
    codec, seed = Codec(Format.parse(fmt), VALUE.shape, fmt != "FP32"), None
    if rounding == "stochastic":
        seed = tf.constant([1, 2], tf.int32)
    return CompressedVariable(codec, codec.encode(tf.constant(VALUE)), "layer/kernel", seed=seed)


def slices(rows=(4, 1), values=ROWS):
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows))


def raw(name, resource="resource", **arguments):
    return lambda v: getattr(tf.raw_ops, name)(**{resource: v.handle}, **arguments)


NAMES = ("add", "sub", "mul", "div", "min", "max", "update")
AT = [[0, 1], [5, 3]]
WRITES = {
    "item": lambda v: v[0].assign(ROWS[0]),
    "slice": lambda v: v[:2, :3].assign(ROWS[:, :3]),
    "scalar": lambda v: v[2, 3].assign(0.25),
    "broadcast": lambda v: v[1:3].assign(ROWS[0]),
    "strides": lambda v: v[::-2, ::3].assign(np.ones([3, 2], np.float32)),
    "ellipsis": lambda v: v[..., 1].assign(np.ones(6, np.float32)),
    **{
        f"scatter_{name}": lambda v, name=name: getattr(v, f"scatter_{name}")(slices())
        for name in NAMES
    },
    **{
        f"scatter_{name} twice": lambda v, name=name: getattr(v, f"scatter_{name}")(slices((3, 3)))
        for name in NAMES
        if name != "update"  # Which of the two stays is not defined.
    },
    **{
        f"scatter_nd_{name}": lambda v, name=name: getattr(v, f"scatter_nd_{name}")(AT, [0.5, -2.0])
        for name in ("add", "sub", "min", "max", "update")
    },
    "batch_scatter_update": lambda v: v.batch_scatter_update(
        tf.IndexedSlices(tf.ones([6, 2]), tf.constant([[0, 2], [1, 3]] * 3))
    ),
    **{
        f"v1 scatter_{name}": lambda v, name=name: getattr(V1, f"scatter_{name}")(v, [4, 1], ROWS)
        for name in NAMES
    },
    "v1 scatter_mul by a number": lambda v: V1.scatter_mul(v, [4, 1], 3.0),
    "v1 scatter_add of a matrix": lambda v: V1.scatter_add(v, [[4, 1]], ROWS[np.newaxis]),
    **{
        f"v1 scatter_nd_{name}": lambda v, name=name: getattr(V1, f"scatter_nd_{name}")(
            v, AT, [0.5, -2.0]
        )
        for name in ("add", "sub", "update")
    },
    "v1 batch_scatter_update": lambda v: V1.batch_scatter_update(
        v, [[0, 2], [1, 3]] * 3, tf.ones([6, 2])
    ),
    "v1 assign": lambda v: V1.assign(v, VALUE[::-1]),
    "v1 assign_add": lambda v: V1.assign_add(v, VALUE),
    "raw assign": raw("AssignVariableOp", value=tf.constant(VALUE[::-1].copy())),
    "raw add": raw("AssignAddVariableOp", value=tf.constant(VALUE)),
    "raw sub": raw("AssignSubVariableOp", value=tf.constant(VALUE / 2)),
    **{
        f"raw scatter {name}": raw(
            f"ResourceScatter{name}", indices=[4, 1], updates=tf.constant(ROWS)
        )
        for name in map(str.capitalize, NAMES)
    },
    **{
        f"raw scatter nd {name}": raw(
            f"ResourceScatterNd{name}", "ref", indices=AT, updates=tf.constant([0.5, -2.0])
        )
        for name in ("Add", "Sub", "Min", "Max", "Update")
    },
    "raw slice": raw(
        "ResourceStridedSliceAssign",
        "ref",
        begin=[1, 0],
        end=[3, 2],
        strides=[1, 1],
        value=tf.zeros([2, 2]),
    ),
}


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_a_plain_variables_and_the_rest_keeps_its_codes(name, graph):
    ours = variable()
    before = ours.numpy()
    plain = tf.Variable(before)
    for v in (ours, plain):

        def write(v=v):
            WRITES[name](v)

        (tf.function(write) if graph else write)()
    want = plain.numpy()
    np.testing.assert_allclose(ours.numpy(), want, rtol=1e-3, atol=1e-3)
    assert (want != before).any()
    if "assign" not in name and name not in ("raw add", "raw sub"):
        np.testing.assert_array_equal(ours.numpy()[want == before], before[want == before])


@pytest.mark.parametrize("fmt", ["INT8", "S1E3M7", "S0E3M7", "FP32"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_what_is_not_written_keeps_its_bits_in_every_format(fmt, rounding):
    v = variable(fmt, rounding)
    before = v.numpy()
    for _ in range(20):
        v[0].assign(before[1])
        v.scatter_nd_update(AT[1:], [before[0, 0]])
    after = v.numpy()
    rest = np.ones_like(before, bool)
    rest[0], rest[5, 3] = False, False
    np.testing.assert_array_equal(after[rest], before[rest])
    np.testing.assert_allclose(after[0], before[1], atol=0 if fmt == "FP32" else 0.02)


def test_writes_give_the_variable_back():
    v = variable()
    assert v.scatter_mul(slices()) is v and v[0].assign(ROWS[0]) is v
    assert V1.scatter_max(v, [1], ROWS[:1]) is v


READS = {
    "ReadVariableOp": raw("ReadVariableOp", dtype=tf.float32),
    "VarIsInitializedOp": raw("VarIsInitializedOp"),
    "VariableShape": raw("VariableShape", "input", out_type=tf.int64),
    "ResourceGather": raw("ResourceGather", indices=[[4, 0]], dtype=tf.float32),
    "ResourceGather of batches": raw(
        "ResourceGather", indices=[[0]] * 6, dtype=tf.float32, batch_dims=1
    ),
    "ResourceGatherNd": raw("ResourceGatherNd", indices=AT, dtype=tf.float32),
}


@pytest.mark.parametrize("name", READS)
def test_a_read_by_the_handle_is_a_plain_variables(name):
    ours = variable()
    np.testing.assert_array_equal(READS[name](ours), READS[name](tf.Variable(ours.numpy())))


def test_other_functions_of_the_handle_are_refused_by_name():
    v = variable()
    before = v.buffer.numpy()
    with pytest.raises(ModelError, match="layer/kernel.*ResourceApplyGradientDescent"):
        tf.raw_ops.ResourceApplyGradientDescent(var=v.handle, alpha=0.1, delta=tf.ones([6, 4]))
    with pytest.raises(ModelError, match="float32"):
        tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=tf.float16)
    np.testing.assert_array_equal(v.buffer.numpy(), before)


def test_rows_must_be_indexed_slices():
    with pytest.raises(InputTypeError, match="sparse_delta"):
        variable().scatter_mul(tf.ones([2, 4]))


@pytest.mark.parametrize("row", [-1, 6])
@pytest.mark.parametrize("name", NAMES)
def test_rows_out_of_range_are_tensorflows_error(name, row):
    v = variable()
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        getattr(v, f"scatter_{name}")(slices((row, 0)))


def test_plain_variables_are_left_alone():
    plain = tf.Variable(VALUE)
    tf.raw_ops.AssignVariableOp(resource=plain.handle, value=tf.zeros([6, 4]))
    V1.scatter_add(plain, [0], ROWS[:1])
    np.testing.assert_array_equal(plain[0], ROWS[0])
