"""Training many widths at once: steps, scales, sets, and what may not train."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.errors import InputTypeError, ModelError
from omc.keras import joint_training
from omc.keras.distillation import cross_entropy
from omc.keras.host import MAJOR, value_of, variables_of
from omc.keras.nesting import nesting_of
from tests.keras.either import only_keras_2, only_keras_3
from tests.keras.nested_models import (
    LOSS,
    WIDTHS,
    L,
    compiled,
    data,
    dense_copy,
    nested_network,
    network,
)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_step_moves_stored_weights_by_the_gradient_at_the_width(bits):
    """Straight through both roundings: w <- w - lr * dL/dw at the weights as they are read."""
    policy = omc.Policy("INT8", rounding="nearest")
    model = nested_network(norm=False, bits=(bits,), activations=None, policy=policy)
    state, (x, y) = nesting_of(model), data()
    plain = dense_copy(model)
    with tf.GradientTape() as tape:
        loss = LOSS(y, plain(x))
    gradients = dict(
        zip([v.name for v in variables_of(plain)], tape.gradient(loss, variables_of(plain)))
    )
    before = [nested.codec_at(v.codec, 8).decode(v.buffer).numpy() for v in state.variables]
    compiled(model).fit(x, y, batch_size=len(x), verbose=0)
    moved = 0.0
    for variable, old in zip(state.variables, before):
        new = nested.codec_at(variable.codec, 8).decode(variable.buffer).numpy()
        place = [v is variable for v in variables_of(model)].index(True)
        gradient = gradients[variables_of(plain)[place].name].numpy()
        scale, offset = (float(part) for part in variable.codec.transform_of(variable.buffer))
        wanted = np.clip(old - 0.05 * gradient, offset - 127 * scale, offset + 127 * scale)
        assert np.abs(new - wanted).max() <= 0.51 * scale
        moved = max(moved, np.abs(new - old).max())
    assert moved > 0


def test_scales_move_by_the_formula():
    model = nested_network(norm=False, bits=(4, 2), distillation=0.0)
    state, (x, y) = nesting_of(model), data()
    tables = [state.tables[id(v)] for v in state.variables]
    compiled(model)
    with omc.at_width(model, 4), tf.GradientTape() as tape:
        tape.watch([*tables, *(v.learned_scale for v in state.variables)])
        loss = LOSS(y, model(x, training=True))
    sources = [*tables, *(v.learned_scale for v in state.variables)]
    gradients = tape.gradient(loss, sources)
    sizes = [g.numpy()[4] / np.sqrt(15) for g in gradients[:3]]
    weights = []
    for variable, gradient in zip(state.variables, gradients[3:]):
        weights.append(float(gradient) / 16 / np.sqrt(variable.codec.count * 127 / 16))
    every = np.abs([*(s[0] for s in sizes), *weights])
    rate = 0.05 * (1 - np.mean(np.minimum(every, 1)))
    before = [t.numpy()[4] for t in tables]
    with omc.at_width(model, 4):
        joint_training._move_scales(model, state, {id(s): g for s, g in zip(sources, gradients)})
    for table, old, size in zip(tables, before, sizes):
        wanted = old - np.clip(rate * np.clip(size, -1, 1), -0.002 * old[0], 0.002 * old[0])
        np.testing.assert_allclose(table.numpy()[4], wanted, rtol=1e-4, atol=1e-7)
    for variable, size in zip(state.variables, weights):
        step = float(variable.codec.transform_of(variable.buffer)[0]) * 16
        wanted = -np.clip(rate * np.clip(size, -1, 1) / step, -0.002, 0.002)
        assert float(variable.learned_scale) == pytest.approx(wanted, rel=1e-3, abs=1e-8)


def test_etas_are_the_papers():
    found = [joint_training._eta(difference) for difference in (0, 1, 2, 3, 4, 6)]
    assert found == pytest.approx([1, 0.5, 0.1, 0.05, 0.01, 0.001])


def test_a_scale_that_moved_rounds_the_weights_anew_and_keeps_them():
    model = nested_network()
    state = nesting_of(model)
    variable = state.variables[0]
    before, scale = variable.numpy(), float(variable.codec.transform_of(variable.buffer)[0])
    variable.learned_scale.assign(0.2)
    state.variables[1].learned_scale.assign(0.009)
    other = state.variables[1].buffer.numpy()
    joint_training._round_anew(state)
    after = float(variable.codec.transform_of(variable.buffer)[0])
    assert after == pytest.approx(scale * np.exp(0.2), rel=1e-5)
    assert float(variable.learned_scale) == 0.0
    assert np.abs(variable.numpy() - before).max() < 1.01 * after
    np.testing.assert_array_equal(state.variables[1].buffer.numpy(), other)


def test_every_width_learns_and_has_statistics_of_its_own(trained):
    x, y = data()
    untrained = compiled(nested_network())
    sets = nesting_of(trained).batchnorms[0]
    means = [sets._sets[bits]["moving_mean"].numpy() for bits in WIDTHS]
    gammas = [sets._sets[bits]["gamma"].numpy() for bits in WIDTHS]
    assert np.abs(means[0] - means[2]).max() > 1e-3
    assert np.abs(gammas[0] - gammas[2]).max() > 1e-4
    for bits in WIDTHS:
        losses = [
            nested.switch(model, bits).evaluate(x, y, verbose=0)[0]
            for model in (untrained, trained)
        ]
        assert losses[1] < losses[0]
    omc.nested.switch(trained, 8)


def test_shared_sets_differ_in_statistics_only():
    model = compiled(nested_network(batchnorm="shared"))
    model.fit(*data(), batch_size=16, verbose=0)
    for sets in nesting_of(model).batchnorms:
        assert set(sets._sets[2]) == {"moving_mean", "moving_variance"}
    assert sum("gamma" in v.name for v in variables_of(model)) == 3


@pytest.mark.parametrize("steps", [False, True])
def test_a_batch_is_a_step_at_every_width_and_no_more(steps):
    x, y = data(48)
    model = compiled(nested_network())
    if steps:
        pairs = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: True).batch(16)
        model.fit(pairs, epochs=2, verbose=0)
    else:
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 2 * 3 * len(WIDTHS)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_other_optimizers_train_it(optimizer):
    make = {
        "adam": lambda: tf.keras.optimizers.Adam(0.01),
        "momentum": lambda: tf.keras.optimizers.SGD(0.05, momentum=0.9),
    }
    model = compiled(nested_network(policy=omc.Policy("INT8", slots="S1E8M7")), make[optimizer]())
    x, y = data()
    losses = model.fit(x, y, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_what_is_frozen_stays_to_the_bit():
    model = network()
    model.layers[4].trainable = False
    omc.nest(model, WIDTHS, data()[0])
    state, (x, y) = nesting_of(model), data()
    frozen = next(v for v in state.variables if v is value_of(model.layers[4].kernel))
    before = frozen.buffer.numpy(), state.tables[id(frozen)].numpy()
    compiled(model, tf.keras.optimizers.SGD(0.5)).fit(x, y, batch_size=8, epochs=4, verbose=0)
    np.testing.assert_array_equal(frozen.buffer.numpy(), before[0])
    np.testing.assert_array_equal(state.tables[id(frozen)].numpy(), before[1])


def test_sample_weights_may_be_a_column():
    outputs, teacher = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    weights = np.arange(6, dtype=np.float32)
    model = network()
    found = [
        float(cross_entropy(model, teacher, tf.constant(outputs), w))
        for w in (tf.constant(weights), tf.constant(weights[:, None]))
    ]
    assert found[0] == pytest.approx(found[1])


@only_keras_2("has no legacy optimizers")
def test_legacy_optimizers_are_refused():
    model = compiled(nested_network(), tf.keras.optimizers.legacy.SGD())
    with pytest.raises(InputTypeError, match="optimizer"):
        model.fit(*data(), verbose=0)


def test_a_model_whose_optimizer_has_begun_is_refused(tmp_path):
    x, y = data()
    model = compiled(omc.wrap(network(), "INT8"))
    model.fit(x, y, verbose=0)
    with pytest.raises(ModelError, match="optimizer"):
        omc.nest(model, WIDTHS, x)
    model = nested_network()
    nested.switch(model, np.int64(4))
    omc.save(model, tmp_path / "m.omc")


def test_a_subclassed_model_with_a_softmax_and_sample_weights():
    class Classifier(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.stack = [L.Dense(16, "relu"), L.Dense(16, "relu"), L.Dense(3, "softmax")]

        def call(self, x):
            for layer in self.stack:
                x = layer(x)
            return x

    model, x = Classifier(), np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    with pytest.raises(ModelError, match="built"):
        omc.nest(model, (8, 4), x)
    model(x)
    omc.nest(model, (8, 4), x)
    model.compile("adam", "sparse_categorical_crossentropy")
    fitted = model.fit(x, y, sample_weight=np.ones(32), epochs=3, verbose=0)
    assert np.isfinite(fitted.history["loss"]).all()


def test_a_models_own_train_step_is_not_fits_but_ones_own():
    class Own(tf.keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    inputs = tf.keras.Input((4,))
    x = inputs
    for _ in range(3):
        x = L.Dense(4)(x)
    model = Own(inputs, x)
    omc.nest(model, (8, 4), np.ones((4, 4), np.float32))
    model.compile("sgd", "mse")
    batch = tf.ones((4, 4)), tf.ones((4, 4))
    with pytest.raises(ModelError, match="omc.at_width"):
        model.fit(*batch, verbose=0)
    with omc.at_width(model, 4):
        assert np.isfinite(float(Own.train_step(model, batch)["loss"]))


def test_batch_normalization_of_other_kinds():
    inputs = tf.keras.Input((4,))
    older = [(L.experimental.SyncBatchNormalization(), False)] if MAJOR == 2 else []
    for norm, refused in (
        (L.BatchNormalization(renorm=True), True),
        (L.BatchNormalization(synchronized=True), False),
        *older,
    ):
        x = L.Dense(6)(norm(L.Dense(6)(L.Dense(6)(inputs))))
        model = tf.keras.Model(inputs, x)
        if refused:
            with pytest.raises(ModelError, match="renorm"):
                omc.nest(model, (8, 4), np.ones((8, 4), np.float32))
        else:
            omc.nest(model, (8, 4), np.ones((8, 4), np.float32))
            assert nesting_of(model).batchnorms[0].widths == (8, 4)


def test_a_callback_may_switch_and_calibrate():
    model, (x, y) = compiled(nested_network()), data()
    acts = [lambda: nested.switch(model, 4), lambda: omc.calibrate(model, x, (4, 3))]

    def act(epoch, logs):
        acts[epoch]()

    callback = tf.keras.callbacks.LambdaCallback(on_epoch_end=act)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback], validation_data=(x, y))
    assert nesting_of(model).bits == 4


def test_an_output_of_16_bits_is_taught_in_32():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layers = [L.Dense(8, "relu"), L.Dense(8, "relu"), L.Dense(3)]
        model = tf.keras.Sequential([tf.keras.Input((6,)), *layers])
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    x = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    omc.nest(model, (8, 3), x)
    losses = compiled(model).fit(x, np.zeros(32), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("units", [1, 3])
def test_sigmoids_are_taught_each_by_its_own(units):
    x = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    layers = [L.Dense(8, "relu"), L.Dense(8, "relu"), L.Dense(units, "sigmoid")]
    model = tf.keras.Sequential([tf.keras.Input((6,)), *layers])
    teacher, outputs = tf.constant([[0.9] * units]), tf.Variable([[0.4] * units])
    with tf.GradientTape() as tape:
        distance = cross_entropy(model, teacher, outputs, None)
    wanted = -(0.9 * np.log(0.4) + 0.1 * np.log(0.6))
    assert float(distance) == pytest.approx(wanted, rel=1e-4)
    assert (tape.gradient(distance, outputs).numpy() < 0).all()
    model.compile("sgd", "binary_crossentropy")
    omc.nest(model, (8, 3), x).fit(x, np.ones((32, units)), verbose=0)


@only_keras_3("no optimizer sums gradients up")
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_sums_of_gradients_lose_no_set(steps):
    model = nested_network(bits=(8, 4, 2))
    optimizer = tf.keras.optimizers.SGD(0.05, gradient_accumulation_steps=steps)
    compiled(model, optimizer)
    scales = [v for v in model.trainable_variables if "gamma" in v.path or "beta" in v.path]
    assert len(scales) == 18
    before = [v.numpy() for v in scales]
    model.fit(*data(), batch_size=16, epochs=3, verbose=0)
    for variable, old in zip(scales, before):
        assert np.any(variable.numpy() != old), variable.path
