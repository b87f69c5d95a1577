"""recompute(): the same results, and only the inputs of chosen layers kept until backward."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import InputError, InputTypeError, ModelError
from omc.keras.host import MAJOR, variables_of
from omc.measurement.peaks import measure_peak

L = tf.keras.layers


class Pair(L.Layer):
    """Takes a list, a dict and keyword arguments; gives a dict; adds a loss of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = L.Dense(6, "tanh"), L.Dense(6, activity_regularizer="l2")

    def build(self, shapes):
        self.first.build(shapes[0])
        self.second.build(shapes[1]["b"])

    def call(self, inputs, scale=None, training=None):
        a, others = inputs
        y = self.first(a) * tf.cast(others["count"], tf.float32)
        if scale is not None:
            y = y * scale
        self.add_loss(tf.reduce_mean(y**2))
        if training:
            y = y * 2.0
        return {"y": y, "z": self.second(others["b"]), "count": others["count"] + 1}


def halved_if_huge(y, x):
    """AutoGraph turns its `if` into tf.cond."""
    if tf.reduce_sum(x) > 1e6:
        y = y / 2.0
    return y


if MAJOR == 3:  # Which converts no call: who wants AutoGraph asks for it.
    halved_if_huge = tf.function(halved_if_huge)


class Branching(L.Layer):
    """Runs one branch or the other."""

    def build(self, shape):
        self.inner = L.Dense(shape[-1])
        self.inner.build(shape)

    def call(self, x):
        return tf.tanh(halved_if_huge(self.inner(x), x))


def block(name, width=6):
    inputs = tf.keras.Input((width,))
    x = L.Dense(2 * width, "relu", kernel_regularizer="l2")(inputs)
    x = L.LayerNormalization()(x)
    return tf.keras.Model(inputs, L.Add()([inputs, L.Dense(width)(x)]), name=name)


def blocks():
    inputs = tf.keras.Input((6,))
    x = inputs
    for index in range(3):
        x = block(f"block_{index}")(x)
    return tf.keras.Model(inputs, L.Dense(4, name="head")(x))


def structures():
    inputs = tf.keras.Input((6,))
    first = L.Lambda(lambda x: x[:, :1])(inputs)
    count = L.Lambda(lambda x: tf.cast(x > 0, tf.int32) + 1)(first)
    twice = L.Lambda(lambda x: x * 2)(inputs)
    found = Pair(name="block_0")([inputs, {"b": twice, "count": count}], scale=first)
    mixed = L.Lambda(lambda f: f["y"] + f["z"] * tf.cast(f["count"], tf.float32))(found)
    return tf.keras.Model(inputs, L.Dense(4)(mixed))


def branching():
    layers = [Branching(name="block_0"), Branching(name="block_1"), L.Dense(4)]
    return tf.keras.Sequential([tf.keras.Input((6,)), *layers])


def tokens():
    """Integer inputs, masks, and layers that run again inside one that does."""
    inner = tf.keras.Sequential(
        [L.Embedding(9, 6, mask_zero=True), L.Dense(6, "tanh"), L.SimpleRNN(5)],
        name="block_0",
    )
    inputs = tf.keras.Input((4,), dtype=tf.int32)
    return tf.keras.Model(inputs, L.Dense(4)(inner(inputs)))


def masked():
    inputs = tf.keras.Input((4,), dtype=tf.int32)
    x = L.Embedding(9, 6, mask_zero=True)(inputs)
    x = L.SimpleRNN(6, return_sequences=True, name="block_0")(x)
    return tf.keras.Model(inputs, L.Dense(4)(L.SimpleRNN(3, name="block_1")(x)))


MODELS = [blocks, structures, branching, tokens, masked]


def batch(model):
    rng = np.random.default_rng(0)
    if tf.as_dtype(model.inputs[0].dtype).is_integer:
        return tf.constant(rng.integers(0, 9, (8, 4)), tf.int32)
    return tf.constant(rng.normal(size=(8, 6)), tf.float32)


def three(build):
    """A plain model, the same with recomputation, and the same wrapped as well."""
    plain, again, wrapped = build(), build(), build()
    again.set_weights(plain.get_weights())
    wrapped.set_weights(plain.get_weights())
    wrapped = omc.recompute(omc.wrap(wrapped, omc.Policy("S1E5M10")), "block_*")
    other = build()
    other.set_weights([variable.numpy() for variable in variables_of(wrapped)])
    return [(omc.recompute(again, "block_*"), plain), (wrapped, other)]


def results(model, x):
    with tf.GradientTape() as tape:
        y = model(x, training=True)
        penalties = [tf.identity(loss) for loss in model.losses]
        loss = tf.reduce_sum(tf.sin(y)) + sum(penalties, tf.constant(0.0))
    gradients = tape.gradient(loss, model.trainable_variables)
    return [y, *penalties, *(tf.convert_to_tensor(gradient) for gradient in gradients)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["eager", "graph", "tape outside"])
@pytest.mark.parametrize("build", MODELS)
def test_the_same_results(build, mode):
    for ours, theirs in three(build)[mode != "eager" :]:
        x = batch(theirs)
        if mode == "tape outside":

            def run(model, x):
                inner = tf.function(lambda x, model=model: model(x, training=True))
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(tf.sin(inner(x)))
                found = tape.gradient(loss, model.trainable_variables)
                return [tf.convert_to_tensor(g) for g in found if g is not None]

        else:
            run = tf.function(results) if mode == "graph" else results
        assert_same(run(ours, x), run(theirs, x))
        if mode == "eager":  # Running again leaves no trace.
            assert_same(ours.losses, theirs.losses)


@pytest.mark.parametrize("eagerly", [True, False])
@pytest.mark.parametrize("build", [blocks, structures])
def test_the_same_training(build, eagerly):
    ours, theirs = three(build)[0]
    x = batch(theirs)
    for model in (ours, theirs):
        model.compile(tf.keras.optimizers.SGD(0.1), "mse", run_eagerly=eagerly)
        model.fit(x, tf.ones([8, 4]), batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert_same(ours.get_weights(), theirs.get_weights())
    assert_same([ours.predict(x, verbose=0)], [theirs.predict(x, verbose=0)])


def deep(wrapped, again):
    """Eight blocks of four activations of 1 MiB each; kernels of 64 KiB."""
    inputs = x = tf.keras.Input((2048, 128), batch_size=1)
    for index in range(8):
        inner_inputs = y = tf.keras.Input((2048, 128), batch_size=1)
        for _ in range(4):
            y = L.Dense(128, "tanh")(y)
        x = tf.keras.Model(inner_inputs, y, name=f"block_{index}")(x)
    model = tf.keras.Model(inputs, x)
    if wrapped:
        omc.wrap(model, "INT8")
    return omc.recompute(model, "block_*") if again else model


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "plain"])
def test_activations_are_not_kept(wrapped, graph):
    peaks = []
    for again in (False, True):
        model = deep(wrapped, again)
        x = tf.random.normal(model.input_shape)

        def step(x, model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x) ** 2)
            return tape.gradient(loss, model.trainable_variables)

        run = tf.function(step) if graph else step
        run(x)
        with measure_peak() as peak:
            run(x)
        peaks.append(peak.allocator_bytes)
    # 32 activations; then an input for each of 8 blocks, and one block at work.
    assert peaks[0] > 32 * 2**20
    assert peaks[1] < 21 * 2**20


def is_chosen(layer):
    return hasattr(layer.call, "_omc_recompute")


def test_layers_by_path_by_list_and_twice():
    model = blocks()
    before = results(model, batch(model))
    inner = model.get_layer("block_1")
    assert omc.recompute(model, [inner, inner.layers[1]]) is model
    omc.recompute(model, "block_1")
    omc.recompute(model, "block_0/layer_norm*")
    chosen = [layer.name for layer in model._flatten_layers() if is_chosen(layer)]
    assert len(chosen) == 2 and "block_1" in chosen
    assert_same(results(model, batch(model)), before)


def with_inside(layer):
    inner = tf.keras.Sequential([tf.keras.Input((4, 6)), L.Dense(6), layer], name="block")
    return tf.keras.Sequential([tf.keras.Input((4, 6)), inner])


@pytest.mark.parametrize(
    "layer",
    [
        L.Dropout(0.1, name="culprit"),
        L.GaussianNoise(0.1, name="culprit"),
        L.LSTM(3, recurrent_dropout=0.1, name="culprit"),
        L.BatchNormalization(name="culprit"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_would_not_do_the_same_are_refused(layer):
    model = with_inside(layer)
    with pytest.raises(InputError, match="culprit") as caught:
        omc.recompute(model, "block")
    assert caught.value.argument == "layers"
    assert not any(is_chosen(inner) for inner in model._flatten_layers())


def test_layers_that_do_the_same_after_all():
    frozen = L.BatchNormalization()
    frozen.trainable = False
    for layer in (L.Dropout(0.0), frozen):
        model = with_inside(layer)
        x = tf.random.normal([2, 4, 6])
        before = results(model, x)
        assert_same(results(omc.recompute(model, "block"), x), before)


@pytest.mark.parametrize(
    "error, argument, make",
    [
        (InputTypeError, "model", lambda: omc.recompute(L.Dense(3), "*")),
        (InputTypeError, "layers", lambda: omc.recompute(blocks(), 3)),
        (InputTypeError, "layers", lambda: omc.recompute(blocks(), [])),
        (InputTypeError, "layers", lambda: omc.recompute(blocks(), ["block_0"])),
        (InputError, "layers", lambda: omc.recompute(blocks(), "stage_*")),
        (InputError, "layers", lambda: omc.recompute(blocks(), [L.Dense(3)])),
        (ModelError, "model", lambda: omc.recompute(tf.keras.Sequential([L.Dense(3)]), "*")),
    ],
)
def test_errors_name_the_argument(error, argument, make):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.argument == argument
