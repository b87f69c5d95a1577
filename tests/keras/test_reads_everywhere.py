"""Whatever reads a compressed variable gets the dense value, and its gradient reaches it."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.codecs import Codec
from omc.formats import Format
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, value_of
from tests.keras.either import only_keras_3

# Symmetric and well conditioned, so that every decomposition has a value.
VALUE = np.random.default_rng(0).uniform(0.1, 0.9, (4, 4)).astype(np.float32)
VALUE = VALUE + VALUE.T + 4 * np.eye(4, dtype=np.float32)


def both(value=VALUE):
    """(plain variable, compressed variable) of the same value."""
    codec = Codec(Format.parse("S1E5M10"), value.shape)
    ours = CompressedVariable(codec, codec.encode(tf.constant(value)), "layer/kernel")
    return tf.Variable(ours.numpy()), ours


def weights():
    """(weight of a plain layer, weight of a wrapped one) of the same value."""
    models = [tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(4)]) for _ in "ab"]
    plain, ours = (model.layers[0].kernel for model in models)
    ours.assign(VALUE)
    omc.wrap(models[1], "S1E5M10")
    plain.assign(models[1].get_weights()[0])
    return plain, ours


def function(body):
    return lambda v: tf.function(lambda: body(v))()


def first(dataset):
    return next(iter(dataset))


def autograph_loop(v):
    @tf.function
    def run():
        x = v
        for _ in tf.range(3):
            x = x * 0.5
        return x

    return run()


def loop(v):
    def body(i, x):
        return i + 1, tf.matmul(x, x) * 0.1

    return tf.while_loop(lambda i, _: i < 3, body, [tf.constant(0), v])[1]


@tf.custom_gradient
def square(x):
    return tf.square(x), lambda upstream: upstream * 2 * x


def zeros():
    return tf.Variable(tf.zeros([4, 4]))


READS = {
    "recompute_grad": lambda v: tf.recompute_grad(lambda x: tf.sin(x) * x)(v),
    "recompute_grad of a closure": lambda v: tf.recompute_grad(lambda x: tf.sin(x) * v)(
        tf.ones([4, 4])
    ),
    "custom_gradient": square,
    "custom_gradient in a function": function(square),
    "grad_pass_through": lambda v: tf.grad_pass_through(tf.round)(v),
    "sparse_dense_matmul": lambda v: tf.sparse.sparse_dense_matmul(tf.sparse.eye(4), v),
    "sparse.from_dense": lambda v: tf.sparse.to_dense(tf.sparse.from_dense(v)),
    "sparse.add": lambda v: tf.sparse.add(tf.sparse.eye(4), v),
    "sparse times": lambda v: tf.sparse.to_dense(tf.sparse.eye(4) * v),
    "rfft": lambda v: tf.abs(tf.signal.rfft(v)),
    "rfft2d": lambda v: tf.abs(tf.signal.rfft2d(v)),
    "stft": lambda v: tf.abs(tf.signal.stft(v, 2, 1)),
    "serialize_tensor": lambda v: tf.io.parse_tensor(tf.io.serialize_tensor(v), tf.float32),
    "Variable": lambda v: tf.Variable(v).read_value(),
    "assign": lambda v: zeros().assign(v).read_value(),
    "assign_add": lambda v: zeros().assign_add(v).read_value(),
    "assign_sub": lambda v: zeros().assign_sub(v).read_value(),
    "TensorArray.write": lambda v: tf.TensorArray(tf.float32, 1).write(0, v).stack(),
    "TensorArray.unstack": lambda v: tf.TensorArray(tf.float32, 4).unstack(v).stack(),
    "Dataset.from_tensors": lambda v: first(tf.data.Dataset.from_tensors(v)),
    "Dataset of a structure": lambda v: first(tf.data.Dataset.from_tensors({"a": (v, 1)}))["a"][0],
    "Dataset.from_tensor_slices": lambda v: first(tf.data.Dataset.from_tensor_slices(v)),
    "Dataset.map of a closure": lambda v: first(tf.data.Dataset.range(2).map(lambda i: v * 2.0)),
    "map_fn": lambda v: tf.map_fn(lambda row: row * 2.0, v),
    "map_fn of a closure": lambda v: tf.map_fn(lambda row: row * v, tf.ones([2, 4, 4])),
    "vectorized_map": lambda v: tf.vectorized_map(lambda row: row * 2.0, v),
    "vectorized_map of a closure": lambda v: tf.vectorized_map(
        lambda row: tf.linalg.matvec(v, row), tf.ones([3, 4])
    ),
    "vectorized_map in a function": function(
        lambda v: tf.vectorized_map(lambda row: tf.linalg.matvec(v, row), tf.ones([3, 4]))
    ),
    "scan": lambda v: tf.scan(lambda total, row: total + row, v),
    "foldl": lambda v: tf.foldl(lambda total, row: total + row, v),
    "loop variable": loop,
    "loop variable in a function": function(loop),
    "loop variable of AutoGraph": autograph_loop,
    "cond": function(lambda v: tf.cond(tf.constant(True), lambda: v, lambda: v * 2.0)),
    "switch_case": lambda v: tf.switch_case(tf.constant(0), [lambda: v, lambda: v]),
    "a function takes it": lambda v: tf.function(lambda x: x * 2.0)(v),
    "a function takes a structure": lambda v: tf.function(lambda d: d["a"][0] * 2.0)({"a": [v]}),
    "a function returns it": function(lambda v: v),
    "a function returns a structure": lambda v: tf.function(lambda: {"a": (v, 1.0)})()["a"][0],
    "a function takes and returns it": lambda v: tf.function(lambda x: x)(v),
    "a compiled function takes it": lambda v: tf.function(
        lambda x: tf.matmul(x, x), jit_compile=True
    )(v),
    "py_function": lambda v: tf.py_function(lambda x: x * 2, [v], tf.float32),
    "numpy": lambda v: np.sin(v) + v,
    "tf.constant": lambda v: tf.constant(v) + v,
    "ragged": lambda v: tf.RaggedTensor.from_tensor(v).to_tensor(),
    "numpy API": lambda v: tf.experimental.numpy.matmul(v, v),
    "Keras' backend": lambda v: tf.keras.backend.dot(v, v),
}


CASES = [(name, both) for name in READS]
if MAJOR == 3:  # Where a layer holds an object around the variable, which no custom_gradient takes.
    CASES += [(name, weights) for name in READS if name != "custom_gradient"]


@pytest.mark.parametrize("name, pair", CASES)
def test_it_reads_as_a_plain_variable_does(name, pair):
    results = []
    for v in pair():
        with tf.GradientTape() as tape:
            result = tf.convert_to_tensor(READS[name](v))
            loss = tf.reduce_sum(result * result)
        gradient = tape.gradient(loss, value_of(v))
        results.append((result, None if gradient is None else tf.convert_to_tensor(gradient)))
    (want, want_gradient), (got, gradient) = results
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert (gradient is None) == (want_gradient is None)
    if gradient is not None:
        np.testing.assert_allclose(gradient, want_gradient, rtol=1e-3, atol=1e-3)


def test_a_function_is_traced_once_for_each_variable_and_may_write_to_it():
    _, one = both()
    _, other = both(2 * VALUE)
    traced = []

    @tf.function
    def double(v):
        traced.append(v)
        v.assign_add(v.read_value())

    for v in (one, other, one):
        double(v)
    assert [id(v) for v in traced] == [id(one), id(other)]
    np.testing.assert_allclose(one.numpy(), 4 * VALUE, rtol=1e-3)
    np.testing.assert_allclose(other.numpy(), 4 * VALUE, rtol=1e-3)


MODULES = {
    "tf": tf,
    "tf.math": tf.math,
    "tf.linalg": tf.linalg,
    "tf.nn": tf.nn,
    "tf.signal": tf.signal,
    "tf.image": tf.image,
    "tf.sparse": tf.sparse,
    "tf.experimental.numpy": tf.experimental.numpy,
}
_UNSAFE = (
    "enable",  # Of numpy's behaviour, for the rest of the process.
    "init",
    "scope",
    "control_dep",
    "device",
    "function",
    "gradient",
    "load",
    "print",
    "time",
)


def _functions(module):
    """(name, function) of a module's functions that may be called with one tensor."""
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_") or inspect.isclass(thing) or not callable(thing):
            continue
        if not any(part in name for part in _UNSAFE):
            yield name, thing


def _result(call):
    try:
        tf.random.set_seed(1)
        return [np.asarray(part) for part in tf.nest.flatten(call(), expand_composites=True)]
    except Exception:  # noqa: BLE001 - This function does not take such an argument.
        return None


PACKS = (lambda v: (v,), lambda v: (v, v), lambda v: ([v, v],), lambda v: ([v], 0))


def served(functions, plain, ours, packs=PACKS):
    """How often a function has a result for the plain variable; ours has to have the same."""
    count = 0
    for name, thing in functions:
        for pack in packs:
            want = _result(lambda thing=thing, pack=pack: thing(*pack(plain)))
            if want is None or any(part.dtype.kind == "O" for part in want):
                continue
            got = _result(lambda thing=thing, pack=pack: thing(*pack(ours)))
            assert got is not None, f"{name} refuses what it takes of a plain variable"
            assert len(got) == len(want), name
            for mine, theirs in zip(got, want):
                np.testing.assert_array_equal(mine, theirs, err_msg=name)
            count += 1
    return count


@pytest.mark.parametrize("module", MODULES)
def test_every_function_of_one_tensor(module):
    """A sweep: where the plain variable has a result, the compressed one has the same."""
    assert served(_functions(MODULES[module]), *both()) >= 3


@only_keras_3("has no keras.ops")
@pytest.mark.parametrize("module, count", [("ops", 300), ("activations", 30)])
def test_every_function_of_keras_of_a_layers_weight(module, count):
    # Fourier transforms of a plain weight may end the process.
    functions = [item for item in _functions(getattr(tf.keras, module)) if "fft" not in item[0]]
    packs = (*PACKS, lambda v: (v, 0), lambda v: (v, [0, 2], 0))
    assert served(functions, *weights(), packs) >= count
