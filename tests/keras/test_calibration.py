"""Calibration: widths that nobody trained, and the data that they are prepared with."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.errors import InputError, ModelError
from omc.keras.host import variables_of
from omc.keras.nesting import nesting_of
from tests.keras.either import only_keras_2
from tests.keras.nested_models import WIDTHS, compiled, data, nested_network, network


def test_widths_that_nobody_trained_are_prepared_by_calibration(trained, tmp_path):
    omc.save(trained, tmp_path / "m.omc")
    model = compiled(omc.load(tmp_path / "m.omc", network()))
    x, y = data()
    for bits in (3, 1):
        with pytest.raises(InputError, match="omc.calibrate"):
            nested.switch(model, bits)
    trained_tables = [t.numpy()[4] for t in nesting_of(model).tables.values()]
    assert omc.calibrate(model, x, (3, 1)) is model
    omc.calibrate(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(32))
    omc.calibrate(model, [(x[:32], y[:32]), (x[32:], y[32:])], 4)
    for table, kept in zip(nesting_of(model).tables.values(), trained_tables):
        np.testing.assert_array_equal(table.numpy()[4], kept)
    losses = {b: nested.switch(model, b).evaluate(x, y, verbose=0)[0] for b in (8, 3, 1)}
    assert losses[3] < 1.7 and np.isfinite(losses[1])


def test_batches_count_by_their_examples():
    x = data(130)[0]
    whole, parts = (nested_network(calibration=c) for c in ([x], [x[:128], x[128:]]))
    for ours, theirs in zip(nesting_of(parts).batchnorms, nesting_of(whole).batchnorms):
        found, wanted = (sets._sets[4]["moving_mean"].numpy() for sets in (ours, theirs))
        np.testing.assert_allclose(found, wanted, rtol=0.2, atol=0.02)


def test_calibration_data_may_be_gone_through_once_and_must_end():
    x = data()[0]
    once = iter([x[:32], x[32:]])
    model = nested_network(calibration=once)
    assert len(nesting_of(model).tables) == 3
    endless = tf.data.Dataset.from_tensors(x).repeat()
    with pytest.raises(InputError, match="take"):
        nested_network(calibration=endless)
    plain = network()
    for wrong in ((x, np.ones(64)), [x, x[..., :2]], [x, x[:0]]):
        with pytest.raises(InputError, match="calibration"):
            omc.nest(plain, WIDTHS, wrong)
    omc.nest(plain, WIDTHS, x)  # Nothing was left half-done.
    with pytest.raises(InputError, match="data"):
        omc.calibrate(plain, [x, x[..., :2]], 3)
    with pytest.raises(InputError, match="omc.calibrate"):
        nested.switch(plain, 3)


@pytest.mark.parametrize("policy", [None, "INT4"])
def test_statistics_of_a_model_that_is_not_nested_become_the_datas(policy):
    x = np.random.default_rng(0).normal(1, 2, (96, 6)).astype("float32")
    inputs = tf.keras.Input((6,))
    hidden = tf.keras.layers.Dense(8, name="first")(inputs)
    hidden = tf.keras.layers.BatchNormalization(name="norm")(hidden)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(2)(hidden))
    if policy is not None:
        omc.wrap(model, policy)
    assert omc.calibrate(model, [x[:64], x[64:]]) is model
    first, norm = model.get_layer("first"), model.get_layer("norm")
    outputs = x.astype(float) @ first.kernel.numpy().astype(float) + first.bias.numpy()
    np.testing.assert_allclose(norm.moving_mean.numpy(), outputs.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), outputs.var(axis=0), rtol=1e-4)
    assert norm.momentum == 0.99
    omc.calibrate(model, x[:64])  # Anew: what was there before does not count.
    np.testing.assert_allclose(norm.moving_mean.numpy(), outputs[:64].mean(axis=0), rtol=1e-4)


def stack(*more, training=None):
    """Dense, BatchNorm, and more layers, on 4 features."""
    inputs = tf.keras.Input((4,))
    hidden = tf.keras.layers.Dense(3)(inputs)
    hidden = tf.keras.layers.BatchNormalization(name="norm")(hidden, training=training)
    for layer in more:
        hidden = layer(hidden)
    return tf.keras.Model(inputs, hidden)


def sorted_inputs(count=1024):
    """Examples in an order, as of a folder of classes: batches differ more than their contents."""
    return np.linspace(-3, 3, count, dtype="float32")[:, None] * np.array(
        [1, 2, -1, 0.5], "float32"
    )


@pytest.mark.parametrize("batches", [lambda x: x, lambda x: [x[:100], x[100:]], lambda x: [x, x]])
def test_statistics_are_those_of_all_data_whatever_its_order_and_batches(batches):
    model, x = stack(), sorted_inputs()
    omc.calibrate(model, batches(x))
    outputs = x.astype(float) @ model.layers[1].kernel.numpy().astype(float)
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean.numpy(), outputs.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), outputs.var(axis=0), rtol=1e-4)
    again = norm.moving_variance.numpy()
    omc.calibrate(model, batches(x))
    # What was there before does not count. Threads add in an order of their own, to the last bit.
    np.testing.assert_allclose(norm.moving_variance.numpy(), again, rtol=1e-6)


def test_a_layer_that_is_called_twice_has_the_statistics_of_both():
    inputs = [tf.keras.Input((4,)) for _ in range(2)]
    norm = tf.keras.layers.BatchNormalization()
    model = tf.keras.Model(inputs, [norm(inputs[0]), norm(inputs[1])])
    x = [np.random.default_rng(seed).normal(seed, 1, (64, 4)).astype("float32") for seed in (0, 5)]
    omc.calibrate(model, [x])
    both = np.concatenate(x).astype(float)
    np.testing.assert_allclose(norm.moving_mean.numpy(), both.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), both.var(axis=0), rtol=1e-4)


class Counts(tf.keras.layers.Layer):
    """Counts its training calls, in a scalar."""

    def build(self, shape):
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

    def call(self, inputs, training=None):
        if training:
            self.calls.assign_add(1.0)
        return inputs


def disturbed():
    """A model whose training calls change a counter, a normalized kernel and recurrent states."""
    inputs = tf.keras.Input((5, 4), batch_size=16)
    hidden = tf.keras.layers.SpectralNormalization(tf.keras.layers.Dense(6))(Counts()(inputs))
    hidden = tf.keras.layers.BatchNormalization(name="norm")(hidden)
    hidden = tf.keras.layers.LSTM(4, stateful=True)(hidden)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(3)(hidden))


def contents(model):
    states = [v for layer in model.layers for v in tf.nest.flatten(getattr(layer, "states", None))]
    held = [v for v in variables_of(model) if "moving" not in v.name]
    return [np.asarray(v.numpy()).tobytes() for v in [*held, *filter(tf.is_tensor, states)]]


@pytest.mark.parametrize("prepare", ["plain", "wrapped", "nested"])
def test_nothing_but_statistics_changes(prepare):
    model = disturbed()
    x = np.random.default_rng(0).normal(size=(32, 5, 4)).astype("float32")
    batches = [x[:16], x[16:]]
    before = contents(model)
    if prepare == "wrapped":
        omc.wrap(model, "INT8")
        before = contents(model)
    if prepare == "nested":
        omc.nest(model, (8, 4), batches, fixed=())
        counter = next(v for v in variables_of(model) if "calls" in v.name)
        assert counter.numpy() == 0
        return
    omc.calibrate(model, batches)
    assert contents(model) == before
    assert np.any(model.get_layer("norm").moving_mean.numpy() != 0)


class Inferring(tf.keras.Model):
    """Calls its BatchNorm in inference mode, whatever its own."""

    def __init__(self):
        super().__init__()
        self.dense, self.norm = tf.keras.layers.Dense(3), tf.keras.layers.BatchNormalization()

    def call(self, inputs):
        return self.norm(self.dense(inputs), training=False)


@pytest.mark.parametrize(
    "way",
    [
        "layer",
        "model",
        pytest.param("graph", marks=only_keras_2("fit() overrides a graph's training=False")),
        "call",
    ],
)
def test_where_all_batchnorm_is_frozen_an_error_says_so(way):
    model = Inferring() if way == "call" else stack(training=False if way == "graph" else None)
    if way == "call":
        model(sorted_inputs())
    elif way != "graph":
        (model if way == "model" else model.get_layer("norm")).trainable = False
    before = model.get_weights()
    with pytest.raises(ModelError, match="frozen"):
        omc.calibrate(model, sorted_inputs())
    for ours, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


def test_frozen_layers_keep_their_statistics_where_others_do_not():
    model = stack(tf.keras.layers.BatchNormalization(name="other"))
    model.get_layer("norm").trainable = False
    omc.calibrate(model, sorted_inputs())
    np.testing.assert_array_equal(model.get_layer("norm").moving_mean.numpy(), 0)
    assert np.any(model.get_layer("other").moving_variance.numpy() != 1)


@pytest.mark.parametrize("scale", [1e25, 3e38])
def test_data_whose_statistics_leave_float32_is_refused(scale):
    model = stack(tf.keras.layers.BatchNormalization())
    with pytest.raises(InputError, match="data"):
        omc.calibrate(model, sorted_inputs() * np.float32(scale / 6))
    np.testing.assert_array_equal(model.get_layer("norm").moving_mean.numpy(), 0)
    assert model.get_layer("norm").momentum == 0.99


def test_without_batchnorm_calibration_changes_nothing():
    model = tf.keras.Sequential([tf.keras.layers.Dense(3)])
    model.build((None, 4))
    before = model.get_weights()
    omc.calibrate(model, np.ones((4, 4), "float32"))
    for ours, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("interrupt", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("bits", [None, (7, 5)])
def test_an_interrupted_calibration_leaves_the_model_as_it_was(interrupt, bits, tmp_path):
    calls = {"left": None}

    class Fuse(tf.keras.layers.Layer):
        def call(self, x):
            if calls["left"] is not None:
                calls["left"] -= 1
                if calls["left"] < 0:
                    raise interrupt
            return x

        def compute_output_shape(self, shape):
            return shape

    def build():
        tf.keras.utils.set_random_seed(0)
        dense = tf.keras.layers.Dense
        layers = [dense(8), tf.keras.layers.BatchNormalization(), Fuse(), dense(8), dense(2)]
        return tf.keras.Sequential([tf.keras.Input((4,)), *layers])

    rng = np.random.default_rng(0)
    x, other = (rng.standard_normal((64, 4)).astype(np.float32) + shift for shift in (0, 1))
    model = omc.nest(build(), (8, 4, 2), x)
    omc.nested.switch(model, 2)
    before = [np.asarray(getattr(v, "buffer", v)) for v in variables_of(model)]
    outputs = model(x).numpy()
    for calls_left in range(1, 40):
        calls["left"] = calls_left
        try:
            omc.calibrate(model, other, bits)
        except (interrupt, InputError):  # What fails in the first call is the data's.
            calls["left"] = None
        else:
            break
        after = [np.asarray(getattr(v, "buffer", v)) for v in variables_of(model)]
        assert len(after) == len(before)
        for found, wanted in zip(after, before):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(model(x), outputs)
        assert nesting_of(model).prepared == {8, 4, 2}
    assert 3 < calls_left < 39
    calls["left"] = None
    omc.save(model, tmp_path / "m.omc")
    omc.load(tmp_path / "m.omc", build())


@pytest.mark.parametrize("how", ["nest", "load", "calibrate"])
def test_sets_of_a_frozen_model_train_once_it_is_not(how, tmp_path):
    def build():
        tf.keras.utils.set_random_seed(0)
        dense, norm = tf.keras.layers.Dense, tf.keras.layers.BatchNormalization
        return tf.keras.Sequential([tf.keras.Input((4,)), dense(8), norm(), dense(8), dense(2)])

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 4)).astype(np.float32), rng.integers(0, 2, 64)
    model, widths = build(), (8, 4)
    if how == "load":
        omc.save(omc.nest(build(), widths, x), tmp_path / "m.omc")
    model.trainable = how == "calibrate"
    if how == "load":
        omc.load(tmp_path / "m.omc", model)
    else:
        omc.nest(model, widths, x)
    if how == "calibrate":
        model.trainable = False
        omc.calibrate(model, x, 6)
    assert not model.trainable_variables
    model.trainable = True
    scales = [v for v in model.trainable_variables if "gamma" in v.name or "beta" in v.name]
    assert len(scales) == (6 if how == "calibrate" else 4)
    compiled(model)
    before = [v.numpy() for v in scales]
    model.fit(x, y, epochs=2, verbose=0)
    trained = [v for v, old in zip(scales, before) if np.any(v.numpy() != old)]
    assert len(trained) == 4
