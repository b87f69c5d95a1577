"""What holds for transient kernels beyond single layers: penalties, branches, memory, and so on."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras import CompressedVariable
from omc.keras.host import variables_of
from omc.measurement.peaks import measure_peak
from tests.own_process import heap_peaks

L = tf.keras.layers
STEPS = (6, 5)


def build(make, shape):
    inputs = tf.keras.Input(shape, batch_size=2)
    return tf.keras.Model(inputs, make()(inputs))


def pair(make, shape, policy="S1E5M10"):
    """A wrapped model and a plain one with its decoded weights."""
    wrapped, plain = omc.wrap(build(make, shape), policy), build(make, shape)
    plain.set_weights([v.numpy() for v in variables_of(wrapped)])
    return wrapped, plain


def batch(model):
    rng = np.random.default_rng(3)
    return tf.constant(rng.normal(size=model.input_shape), tf.float32)


def results(model, x, training=True):
    """[output, gradient of the input, gradient of each variable], dense."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=training)
        loss = tf.reduce_sum(tf.sin(y)) + sum(model.losses, tf.constant(0.0))
    found = tape.gradient(loss, [x, *model.trainable_variables])
    return [y, *(tf.convert_to_tensor(gradient) for gradient in found if gradient is not None)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 1
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine, other, rtol=3e-4, atol=3e-5)


def compressed(model):
    found = [v for v in variables_of(model) if isinstance(v, CompressedVariable)]
    assert found
    return found


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize(
    "regularizer",
    [
        "l1",
        "l2",
        tf.keras.regularizers.L1L2(0.01, 0.02),
        "orthogonal_regularizer",
        lambda w: tf.reduce_sum(w**4) * 0.1,
    ],
    ids=["l1", "l2", "l1_l2", "orthogonal", "own"],
)
def test_penalties(regularizer, graph):
    def make():
        return L.Dense(5, kernel_regularizer=regularizer, bias_regularizer="l2")

    wrapped, plain = pair(make, (6,))
    run = tf.function(results, autograph=False) if graph else results
    assert_same(run(wrapped, batch(plain)), results(plain, batch(plain)))
    assert wrapped.layers[1].kernel.served == "transient"
    for ours, theirs in zip(wrapped.losses, plain.losses):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_layer_with_activity_losses_inside():
    def make():
        return L.Bidirectional(L.LSTM(4, activity_regularizer="l2", kernel_regularizer="l2"))

    wrapped, plain = pair(make, STEPS)
    assert_same(results(wrapped, batch(plain)), results(plain, batch(plain)))
    np.testing.assert_allclose(sum(wrapped.losses), sum(plain.losses), rtol=1e-4)


@pytest.mark.parametrize(
    "make, shape", [(lambda **o: L.Dense(5, **o), (6,)), (lambda **o: L.SimpleRNN(4, **o), STEPS)]
)
def test_frozen_layers_and_constraints(make, shape):
    def limited():
        return make(kernel_constraint=tf.keras.constraints.MaxNorm(0.5))

    wrapped, plain = pair(limited, shape)
    x = batch(plain)
    for model in (wrapped, plain):
        model.compile(tf.keras.optimizers.SGD(0.1), "mse")
        model.fit(x, tf.ones_like(model(x)), verbose=0)
    np.testing.assert_allclose(wrapped.get_weights()[0], plain.get_weights()[0], atol=1e-3)
    before = wrapped.get_weights()
    for model in (wrapped, plain):
        model.trainable = False
    assert wrapped.trainable_variables == []
    plain.set_weights(before)
    assert_same(results(wrapped, x), results(plain, x))
    for old, new in zip(before, wrapped.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_channels_first_matrix_batches_and_other_calls_are_transient_too():
    codec = omc.codecs.Codec(omc.Format.parse("S1E5M10"), (3, 4))
    value = tf.random.normal([3, 4])
    x = tf.random.normal([2, 4, 3])
    for op in (
        lambda v: tf.matmul(x, v),
        lambda v: tf.matmul(x, v, transpose_a=False, transpose_b=False),
        lambda v: tf.matmul(v, tf.transpose(x[0])[..., :2], transpose_a=True),
        lambda v: tf.matmul(v, v, transpose_b=True),
        lambda v: tf.einsum("bij,jk->ik", x, v),
        lambda v: tf.einsum("jk,bij", v, x),
        lambda v: tf.tensordot(x, v, [[1, 2], [1, 0]]),
        lambda v: tf.tensordot(v, x, [[0], [2]]),
    ):
        ours = CompressedVariable(codec, codec.encode(value), "kernel")
        theirs = tf.Variable(ours.numpy())
        found = []
        for variable in (ours, theirs):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.sin(op(variable)))
            found.append([loss, *(g for g in tape.gradient(loss, [variable, x]) if g is not None)])
        assert_same(*found)
        assert ours.served == "transient"


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_inputs(dtype):
    codec = omc.codecs.Codec(omc.Format.parse("INT8"), (6, 4))
    variable = CompressedVariable(codec, codec.encode(tf.random.normal([6, 4])), "kernel")
    x = tf.cast(tf.random.normal([3, 6]), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.matmul(x, variable)
    dx, dw = tape.gradient(y, [x, variable])
    assert (y.dtype, dx.dtype, dw.dtype) == (dtype, dtype, tf.float32)
    np.testing.assert_allclose(
        tf.cast(y, tf.float32), tf.cast(x, tf.float32) @ variable.numpy(), atol=0.1
    )
    want = tf.reduce_sum(tf.cast(x, tf.float32), 0)[:, tf.newaxis] * tf.ones([1, 4])
    np.testing.assert_allclose(dw, want, rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    "make, shape", [(lambda: L.Dense(5), (6,)), (lambda: L.SimpleRNN(4, unroll=True), STEPS)]
)
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_gradients_of_gradients(make, shape, graph):
    """A gradient penalty, as GANs have it."""

    def penalty(model, x):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(tf.sin(model(x)))
            loss = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return [loss, *outer.gradient(loss, model.trainable_variables)]

    wrapped, plain = pair(make, shape)
    run = tf.function(penalty, autograph=False) if graph else penalty
    assert_same(
        run(wrapped, batch(plain)), tf.function(penalty, autograph=False)(plain, batch(plain))
    )


@pytest.mark.parametrize("around", [False, True], ids=["eager", "graph"])
def test_inside_a_compiled_function_under_a_tape_outside(around):
    wrapped, plain = pair(lambda: L.Dense(5), (6,))

    def run(model, x):
        with tf.GradientTape() as tape:
            y = tf.function(lambda: model(x), jit_compile=True)()
            loss = tf.reduce_sum(tf.sin(y))
        return [loss, *tape.gradient(loss, model.trainable_variables)]

    ours = tf.function(run, autograph=False) if around else run
    assert_same(ours(wrapped, batch(plain)), run(plain, batch(plain)))
    assert wrapped.layers[1].kernel.served == "transient"


def test_inside_a_branch_under_a_tape_outside():
    wrapped, plain = pair(lambda: L.Dense(5), (6,))

    def run(model, x):
        with tf.GradientTape() as tape:
            chosen = tf.cond(tf.reduce_sum(x) < 1e9, lambda: model(x), lambda: tf.zeros([2, 5]))
            loss = tf.reduce_sum(tf.sin(chosen))
        return [loss, *tape.gradient(loss, model.trainable_variables)]

    graph = tf.function(run, autograph=False)
    assert_same(graph(wrapped, batch(plain)), graph(plain, batch(plain)))


def test_inside_a_loop_under_a_tape_outside_is_refused():
    wrapped, plain = pair(lambda: L.Dense(6), (6,))

    @tf.function(autograph=False)
    def run(x):
        with tf.GradientTape() as tape:
            _, y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, wrapped(y)), [0, x])
            loss = tf.reduce_sum(y)
        return tape.gradient(loss, wrapped.trainable_variables)

    with pytest.raises(omc.errors.ModelError, match="while_loop"):
        run(batch(plain))


def wide(layers, shape):
    return tf.keras.Sequential([tf.keras.Input(shape, batch_size=4), *layers])


STACKS = {
    "EinsumDense": (lambda: L.EinsumDense("abc,cd->abd", (None, 512)), (2, 512)),
    "Conv1D": (lambda: L.Conv1D(256, 4, padding="same"), (4, 256)),
    "SimpleRNN": (lambda: L.SimpleRNN(512, return_sequences=True), (3, 512)),
    "penalty": (lambda: L.Dense(512, kernel_regularizer="l2"), (512,)),
}


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_never_dense_as_a_whole(name, graph):
    """Five more kernels of 1 MiB each: a step needs much less than five more dense ones."""
    make, shape = STACKS[name]
    peaks = {}
    for count in (3, 8):
        model = omc.wrap(wide([make() for _ in range(count)], shape), "INT8")
        optimizer = tf.keras.optimizers.SGD(0.01)
        x = tf.random.normal(model.input_shape)

        def step(model=model, optimizer=optimizer, x=x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True) ** 2) + sum(model.losses, 0.0)
            return loss, tape, optimizer, model

        def train(model=model, step=step):
            loss, tape, optimizer, _ = step()
            variables = model.trainable_variables
            if graph:
                optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            else:  # Eager gradients exist all at once; what counts is what backward starts from.
                return loss, tape
            return loss

        run = tf.function(train, autograph=False) if graph else train
        run()
        with measure_peak() as peak:
            run()
        peaks[count] = peak.allocator_bytes
        assert all(variable.served == "transient" for variable in compressed(model))
    assert peaks[8] - peaks[3] < 3 * 2**20


STEP = """
import tensorflow as tf
import omc
from omc.measurement import heap_peak

class Ones(tf.keras.layers.Layer):
    def call(self, x):
        for _ in range(4):  # tanh keeps its result for backward, a square what it is given.
            x = tf.square(tf.tanh(x) * 1.0)
        return tf.reduce_mean(x, axis=1, keepdims=True)

def peak_of(compressed):
    layers = [tf.keras.Input((65536,)), Ones(), tf.keras.layers.Dense(8)]
    model = tf.keras.Sequential(layers)
    model = omc.wrap(model, "INT8") if compressed else model
    optimizer = tf.keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(model(x, training=True))
        gradients = tape.gradient(loss, [x, *model.trainable_variables])
        optimizer.apply_gradients(zip(gradients[1:], model.trainable_variables))
        return tf.reduce_sum(gradients[0])

    x = tf.random.normal([16, 65536])
    step(x)
    with heap_peak() as peak:
        step(x)
    return peak.bytes

print(peak_of(False), peak_of(True))
"""


def test_an_update_has_tensorflow_copy_nothing():
    """An op called "in place" would: its optimizer then replaces x * 1 by a copy, which is kept."""
    plain, compressed = heap_peaks(STEP)
    # Which of two is first differs, by a tensor or two of 4 MiB; the copies were five.
    assert compressed < plain + 3 * 2**22
