"""Nested models: each width computes, learns, is saved and is refused as it should be."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.errors import ArtifactError, InputError, InputTypeError, ModelError
from omc.keras import joint_training
from omc.keras.nesting import added_variables, nesting_of

L = tf.keras.layers
WIDTHS = (8, 4, 2)
LOSS = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(norm=True):
    tf.keras.utils.set_random_seed(1)
    inputs = x = tf.keras.Input((8, 8, 3))
    for channels in (8, 12, 12):
        x = L.Conv2D(channels, 3, 2, "same", use_bias=not norm)(x)
        x = L.ReLU()(L.BatchNormalization(momentum=0.5)(x) if norm else x)
    x = L.Dense(16, "relu")(L.Flatten()(x))
    return tf.keras.Model(inputs, L.Dense(5)(x))


def data(count=64, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, count)
    x = rng.standard_normal((count, 8, 8, 3)) + y[:, None, None, None] / 2
    return x.astype(np.float32), y


def compiled(model, optimizer=None):
    model.compile(optimizer or tf.keras.optimizers.SGD(0.05), LOSS, metrics=["accuracy"])
    return model


def nested_network(norm=True, **options):
    options = {"bits": WIDTHS, "calibration": data()[0], **options}
    return omc.nest(network(norm), **options)


@pytest.fixture(scope="module")
def trained():
    """A joint model after two epochs, for tests that leave it as it is."""
    model = compiled(nested_network())
    model.fit(*data(), batch_size=16, epochs=2, verbose=0)
    return model


def dense_copy(model):
    """A plain model with the weights as they are read now."""
    copy = network(any(isinstance(layer, L.BatchNormalization) for layer in model.layers))
    added = {id(variable) for variable in added_variables(model)}
    own = [variable for variable in model.variables if id(variable) not in added]
    for mine, theirs in zip(copy.variables, own):
        mine.assign(theirs.numpy())
    for layer, mine in zip(model.layers, copy.layers):
        if isinstance(layer, L.BatchNormalization):  # Of the set in use.
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            mine.set_weights([getattr(layer, name).numpy() for name in names])
    return copy


def test_each_width_computes_what_plain_keras_does_with_its_weights():
    model, (x, _) = nested_network(activations=None), data()
    state = nesting_of(model)
    for bits in (8, 2, 4):
        assert omc.nested.switch(model, bits) is model
        formats = {v.codec.format for v in state.variables}
        assert formats == {nested.format_at("INT8", bits)}
        np.testing.assert_allclose(
            model.predict(x, verbose=0), dense_copy(model)(x), rtol=1e-3, atol=1e-4
        )


def test_first_and_last_matrix_are_fixed_or_as_one_says():
    names = [v.name for v in nesting_of(nested_network()).variables]
    assert [name.split("/")[0].rstrip("_0123456789") for name in names] == ["conv2d"] * 2 + [
        "dense"
    ]
    assert len(nesting_of(nested_network(fixed=())).variables) == 5
    model = network()
    first = model.layers[1].kernel.name.split(":")[0]
    state = nesting_of(omc.nest(model, WIDTHS, data()[0], fixed=(first,)))
    assert len(state.variables) == 4
    with pytest.raises(InputError, match="fixed"):
        nested_network(fixed=("no/such",))
    with pytest.raises(InputTypeError, match="fixed"):
        nested_network(fixed="conv*")


def test_a_layer_computes_with_quantized_activations():
    model = nested_network(norm=False, activations=3)
    state = nesting_of(model)
    omc.nested.switch(model, 4)
    variable = state.variables[-1]
    layer = next(layer for layer in model.layers if getattr(layer, "kernel", 0) is variable)
    h = tf.random.stateless_normal([7, variable.shape[0]], [1, 2])
    quantizer = variable.input_quantizer
    assert quantizer.bits == 3
    scale, offset = (float(part) for part in quantizer.parameters())
    q = np.clip(np.rint((h - offset) / np.float32(scale)), 0, 7) * scale + offset
    expected = np.maximum(q @ variable.numpy() + layer.bias.numpy(), 0)
    np.testing.assert_allclose(layer(h), expected, rtol=1e-4, atol=1e-5)


def test_activations_that_no_quantizer_meets_stay_as_they_are():
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((6, 4))
    outputs = L.Dense(3)(L.LSTM(8)(L.Dense(8)(inputs)))
    model = tf.keras.Model(inputs, outputs)
    omc.nest(model, (8, 4), np.ones((8, 6, 4), np.float32), fixed=())
    state = nesting_of(model)
    assert len(state.variables) == 4 and len(state.tables) == 2  # The LSTM's kernels have none.
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6, 4)), np.ones((8, 3)), verbose=0)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_step_moves_stored_weights_by_the_gradient_at_the_width(bits):
    """Straight through both roundings: w <- w - lr * dL/dw at the weights as they are read."""
    policy = omc.Policy("INT8", rounding="nearest")
    model = nested_network(norm=False, bits=(bits,), activations=None, policy=policy)
    state, (x, y) = nesting_of(model), data()
    plain = dense_copy(model)
    with tf.GradientTape() as tape:
        loss = LOSS(y, plain(x))
    gradients = dict(zip([v.name for v in plain.variables], tape.gradient(loss, plain.variables)))
    before = [nested.codec_at(v.codec, 8).decode(v.buffer).numpy() for v in state.variables]
    compiled(model).fit(x, y, batch_size=len(x), verbose=0)
    moved = 0.0
    for variable, old in zip(state.variables, before):
        new = nested.codec_at(variable.codec, 8).decode(variable.buffer).numpy()
        place = [v is variable for v in model.variables].index(True)
        gradient = gradients[plain.variables[place].name].numpy()
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
    assert sum("gamma" in v.name for v in model.variables) == 3


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


def test_switching_keeps_the_stored_bits_and_the_functions(trained):
    x, _ = data()
    buffers = [v.buffer.numpy() for v in nesting_of(trained).variables]
    outputs = {bits: nested.switch(trained, bits).predict(x, verbose=0) for bits in (8, 2, 4)}
    assert np.abs(outputs[8] - outputs[2]).max() > 0.01
    kept = nested.switch(trained, 2).predict_function
    assert kept is not None and kept is not nested.switch(trained, 8).predict_function
    for bits in (2, 8, 4, 8):
        np.testing.assert_array_equal(
            nested.switch(trained, bits).predict(x, verbose=0), outputs[bits]
        )
    for variable, buffer in zip(nesting_of(trained).variables, buffers):
        np.testing.assert_array_equal(variable.buffer.numpy(), buffer)
    nested.switch(trained, 4)
    with contextlib.suppress(RuntimeError), omc.at_width(trained, 2):
        assert nesting_of(trained).bits == 2
        raise RuntimeError
    assert nesting_of(trained).bits == 4
    nested.switch(trained, 8)


def test_compiling_anew_forgets_what_other_widths_traced():
    model = compiled(nested_network())
    x, y = data()
    nested.switch(model, 2).evaluate(x, y, verbose=0)
    nested.switch(model, 8)
    model.compile(
        "sgd", LOSS, metrics=["accuracy", tf.keras.metrics.SparseTopKCategoricalAccuracy(2)]
    )
    assert len(nested.switch(model, 2).evaluate(x, y, verbose=0)) == 3


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


def test_a_nested_model_is_saved_and_loaded_bit_for_bit(trained, tmp_path):
    x, y = data()
    path = tmp_path / "nested.omc"
    nested.switch(trained, 4)
    expected = trained.predict(x, verbose=0)
    omc.save(trained, path)
    for target in (network(), nested_network()):
        loaded = omc.load(path, target)
        assert nesting_of(loaded).bits == 4
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
        for bits in (8, 2):
            ours, theirs = (nested.switch(m, bits).predict(x, verbose=0) for m in (loaded, trained))
            np.testing.assert_array_equal(ours, theirs)
            nested.switch(trained, 4)
    compiled(loaded).fit(x, y, verbose=0)
    nested.switch(trained, 8)


def test_an_artifact_of_other_widths_is_refused_and_changes_nothing(trained, tmp_path):
    omc.save(trained, tmp_path / "nested.omc")
    omc.save(omc.wrap(network(), "INT8"), tmp_path / "plain.omc")
    others = [
        (nested_network(bits=(8, 2)), "nested.omc"),
        (nested_network(activations=None), "nested.omc"),
        (omc.wrap(network(), "INT8"), "nested.omc"),
        (nested_network(), "plain.omc"),
        (network(norm=False), "nested.omc"),
    ]
    for model, name in others:
        before = [v.numpy() for v in model.variables]
        with pytest.raises(ArtifactError, match="path"):
            omc.load(tmp_path / name, model)
        for variable, value in zip(model.variables, before):
            np.testing.assert_array_equal(variable.numpy(), value)


def test_an_export_serves_the_width_in_use(trained, tmp_path):
    x, _ = data()
    expected = nested.switch(trained, 2).predict(x, verbose=0)
    omc.export(trained, tmp_path / "served")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    (found,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    nested.switch(trained, 8)


def test_the_report_has_every_variable_with_its_reason(trained):
    report = omc.memory_report(trained)
    assert len(report.rows) == len(trained.variables)
    reasons = {row.name.rsplit("/", 1)[-1]: row.reason for row in report.rows}
    assert reasons["gamma_2bit"] == "BatchNorm set of 2 bits"
    assert reasons["kernel_inputs"] == "quantizers of activations"
    assert sum(row.reason.startswith("nested, read at 8, 4, 2") for row in report.rows) == 3


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


def test_what_reads_weights_to_change_them_reads_all_bits():
    """A constraint, weight decay and averages at 2 bits would leave 2 bits of the weights."""
    constraint = tf.keras.constraints.MaxNorm(1e6)
    tf.keras.utils.set_random_seed(0)
    inputs = x = tf.keras.Input((16,))
    for _ in range(3):
        x = L.Dense(16, kernel_constraint=constraint)(x)
    model = omc.nest(tf.keras.Model(inputs, x), (8, 2), activations=None, distillation=0)
    optimizer = tf.keras.optimizers.AdamW(1e-4, weight_decay=0.1, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, "mse")
    values = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    model.fit(values, values, epochs=2, verbose=0)
    assert len(np.unique(nesting_of(model).variables[0].numpy())) > 60
    average = optimizer._model_variables_moving_average[2]
    np.testing.assert_allclose(average, nesting_of(model).variables[0].numpy(), atol=0.02)


@pytest.mark.parametrize("bits", [4, 2])
def test_setting_what_was_got_keeps_all_stored_bits(bits):
    model = nested_network()
    nested.switch(model, bits)
    before = [v.buffer.numpy() for v in nesting_of(model).variables]
    model.set_weights(model.get_weights())
    for variable, buffer in zip(nesting_of(model).variables, before):
        np.testing.assert_array_equal(variable.buffer.numpy(), buffer)
    model.set_weights([2 * value for value in model.get_weights()])
    assert np.isfinite(model.predict(data()[0], verbose=0)).all()


def test_what_is_frozen_stays_to_the_bit():
    model = network()
    model.layers[4].trainable = False
    omc.nest(model, WIDTHS, data()[0])
    state, (x, y) = nesting_of(model), data()
    frozen = next(v for v in state.variables if v is model.layers[4].kernel)
    before = frozen.buffer.numpy(), state.tables[id(frozen)].numpy()
    compiled(model, tf.keras.optimizers.SGD(0.5)).fit(x, y, batch_size=8, epochs=4, verbose=0)
    np.testing.assert_array_equal(frozen.buffer.numpy(), before[0])
    np.testing.assert_array_equal(state.tables[id(frozen)].numpy(), before[1])


def test_checkpoints_of_tensorflow_restore_every_width(trained, tmp_path):
    x, _ = data()
    trained.save_weights(tmp_path / "checkpoint")
    other = nested_network(calibration=data(seed=5)[0] * 2)
    other.load_weights(tmp_path / "checkpoint").assert_existing_objects_matched()
    for theirs, ours in zip(added_variables(trained), added_variables(other)):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert {v.name.count("/") for v in added_variables(other)} == {1}  # Under its layer's name.


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


def test_inside_at_width_keras_evaluates_at_it():
    model, (x, y) = compiled(nested_network()), data()
    losses = {b: nested.switch(model, b).evaluate(x, y, verbose=0)[0] for b in WIDTHS}
    nested.switch(model, 8)
    for bits in (2, 4):
        with omc.at_width(model, bits):
            assert model.evaluate(x, y, verbose=0)[0] == losses[bits]
        assert model.evaluate(x, y, verbose=0)[0] == losses[8]


def test_a_callback_may_switch_and_calibrate():
    model, (x, y) = compiled(nested_network()), data()
    acts = [lambda: nested.switch(model, 4), lambda: omc.calibrate(model, x, (4, 3))]

    def act(epoch, logs):
        acts[epoch]()

    callback = tf.keras.callbacks.LambdaCallback(on_epoch_end=act)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback], validation_data=(x, y))
    assert nesting_of(model).bits == 4


def test_sample_weights_may_be_a_column():
    outputs, teacher = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    weights = np.arange(6, dtype=np.float32)
    model = network()
    found = [
        float(joint_training._cross_entropy(model, teacher, tf.constant(outputs), w))
        for w in (tf.constant(weights), tf.constant(weights[:, None]))
    ]
    assert found[0] == pytest.approx(found[1])


def test_optimizers_that_cannot_be_are_refused(tmp_path):
    x, y = data()
    model = compiled(nested_network(), tf.keras.optimizers.legacy.SGD())
    with pytest.raises(InputTypeError, match="optimizer"):
        model.fit(x, y, verbose=0)
    model = compiled(omc.wrap(network(), "INT8"))
    model.fit(x, y, verbose=0)
    with pytest.raises(ModelError, match="optimizer"):
        omc.nest(model, WIDTHS, x)
    model = nested_network()
    nested.switch(model, np.int64(4))
    omc.save(model, tmp_path / "m.omc")


def test_batch_normalization_of_other_kinds():
    inputs = tf.keras.Input((4,))
    for norm, refused in (
        (L.BatchNormalization(renorm=True), True),
        (L.experimental.SyncBatchNormalization(), False),
    ):
        x = L.Dense(6)(norm(L.Dense(6)(L.Dense(6)(inputs))))
        model = tf.keras.Model(inputs, x)
        if refused:
            with pytest.raises(ModelError, match="renorm"):
                omc.nest(model, (8, 4), np.ones((8, 4), np.float32))
        else:
            omc.nest(model, (8, 4), np.ones((8, 4), np.float32))
            assert nesting_of(model).batchnorms[0].widths == (8, 4)


def test_minifloats_nest_by_their_mantissa():
    model = compiled(nested_network(policy="S1E3M7", bits=(11, 7, 5)))
    x, y = data()
    losses = model.fit(x, y, batch_size=16, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert nested.switch(model, 7) is model
    assert nesting_of(model).variables[0].codec.format.name == "S1E3M3+4"


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


def test_misuse_is_a_typed_error_and_changes_nothing(trained):
    x, _ = data()
    plain, wrapped = network(), omc.wrap(network(), "INT8")
    for model in (plain, wrapped):
        with pytest.raises(ModelError, match="omc.nest"):
            nested.switch(model, 4)
        with pytest.raises(ModelError, match="omc.nest"):
            omc.calibrate(model, x)
    with pytest.raises(ModelError, match="not nested yet"):
        omc.nest(trained, WIDTHS, x)
    with pytest.raises(InputError, match="1 to 8"):
        nested.switch(trained, 9)
    before = [v.numpy() for v in plain.variables]
    for options, error, text in (
        ({"bits": (9, 4)}, InputError, "bits"),
        ({"bits": ()}, InputError, "bits"),
        ({"bits": (4, 4)}, InputError, "bits"),
        ({"bits": (4.5,)}, InputTypeError, "bits"),
        ({"bits": "84"}, InputTypeError, "bits"),
        ({"calibration": None}, InputError, "calibration"),
        ({"calibration": 7}, InputTypeError, "calibration"),
        ({"calibration": x[:0]}, InputError, "calibration"),
        ({"calibration": x[:, :7]}, InputError, "calibration"),
        ({"calibration": x * np.nan}, InputError, "calibration"),
        ({"calibration": []}, InputError, "calibration"),
        ({"calibration": {"a": x}}, InputTypeError, "calibration"),
        ({"activations": "float"}, InputTypeError, "activations"),
        ({"activations": 9}, InputError, "activations"),
        ({"batchnorm": "one"}, InputError, "batchnorm"),
        ({"distillation": 1.5}, InputError, "distillation"),
        ({"rounding": "up"}, InputError, "rounding"),
        ({"policy": "FP32"}, ModelError, "compressed weight matrices"),
        ({"policy": omc.Policy("INT8", transform=None)}, InputError, "policy"),
        ({"policy": "INT4"}, InputError, "1 to 4"),
    ):
        with pytest.raises(error, match=text):
            omc.nest(plain, **{"bits": WIDTHS, "calibration": x, **options})
        for variable, value in zip(plain.variables, before):
            np.testing.assert_array_equal(variable.numpy(), value)
    with pytest.raises(InputTypeError, match="model"):
        omc.nest("model", WIDTHS, x)


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
