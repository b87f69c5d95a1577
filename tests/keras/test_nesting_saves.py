"""Nested models in files: what is kept, and what a model has to be like to take it back."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.keras import grids
from omc.keras.host import variables_of
from omc.keras.nesting import nesting_of
from tests.keras.nested_models import L, load_checkpoint, save_checkpoint

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)


def mlp():
    tf.keras.utils.set_random_seed(0)
    layers = [tf.keras.Input((6,))]
    for _ in range(3):
        layers += [L.Dense(8), L.BatchNormalization(), L.ReLU()]
    return tf.keras.Sequential([*layers, L.Dense(3)])


def marked(model, widths):
    """Gives each width's BatchNorm sets values of their own."""
    for bits in widths:
        with omc.at_width(model, bits):
            for layer in model.layers:
                if isinstance(layer, L.BatchNormalization):
                    layer.beta.assign(tf.fill(layer.beta.shape, bits / 8))
                    layer.moving_mean.assign(tf.fill(layer.beta.shape, bits / 16))
    return {bits: nested.switch(model, bits).predict(X, verbose=0) for bits in widths}


def test_every_width_comes_back_with_its_own_sets_whichever_were_calibrated(tmp_path):
    for trained, added in (((6, 4), (8,)), ((6, 4), (3, 8, 5)), ((8, 4), (3, 7))):
        model = omc.nest(mlp(), trained, X)
        for bits in added:
            omc.calibrate(model, X, bits)
        outputs = marked(model, (*trained, *added))
        omc.save(model, tmp_path / "m.omc")
        alike = omc.nest(mlp(), trained, X)
        omc.calibrate(alike, X, added)
        for target in (mlp(), alike):
            loaded = omc.load(tmp_path / "m.omc", target)
            for bits, expected in outputs.items():
                found = nested.switch(loaded, bits).predict(X, verbose=0)
                np.testing.assert_array_equal(found, expected)


def test_keras_files_have_the_sets_in_one_order(tmp_path):
    model, other = (omc.nest(mlp(), (8, 4), X) for _ in range(2))
    omc.calibrate(model, X, 3)
    omc.calibrate(model, X, 6)
    omc.calibrate(other, X, (6, 3))
    outputs = marked(model, (8, 6, 4, 3))
    nested.switch(model, 8)
    for save, load, name in (
        (tf.keras.Model.save_weights, tf.keras.Model.load_weights, "m.weights.h5"),
        (save_checkpoint, load_checkpoint, "checkpoint"),
    ):
        save(model, tmp_path / name)
        load(other, tmp_path / name)
        for bits, expected in outputs.items():
            found = nested.switch(other, bits).predict(X, verbose=0)
            np.testing.assert_allclose(found, expected, atol=0.05)
        nested.switch(other, 8)


def outer(model):
    return tf.keras.Sequential([tf.keras.Input((6,)), model, L.Dense(2)])


def test_a_model_that_holds_a_nested_one_is_no_artifact(tmp_path):
    model = omc.wrap(outer(omc.nest(mlp(), (8, 4), X)), "INT8")
    with pytest.raises(omc.errors.ModelError, match="holds .*, a nested one"):
        omc.save(model, tmp_path / "m.omc")
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_saved_as_any(tmp_path):
    model = omc.nest(mlp(), np.array([8, 4]), X, activations=np.int64(8))
    omc.save(model, tmp_path / "m.omc")
    switching = omc.keras.Switching([np.float32(1), 2], np.int64(1), np.int32(2))
    model = omc.nest(mlp(), (8, 4), X, switching=switching)
    omc.save(model, tmp_path / "m.omc")
    assert nesting_of(omc.load(tmp_path / "m.omc", mlp())).options.switching.batches == 2


@pytest.mark.parametrize(
    "write",
    [
        lambda model, path: model.save(path / "m.keras"),
        lambda model, path: tf.keras.models.save_model(model, path / "m.keras"),
        lambda model, path: tf.keras.models.save_model(model, str(path / "m.h5")),
        lambda model, path: outer(model).save(path / "m.keras"),
        lambda model, path: copy.deepcopy(model),
        lambda model, path: pickle.dumps(model),
    ],
    ids=["save", "save_model", "h5", "outer", "deepcopy", "pickle"],
)
def test_what_keras_could_not_load_again_it_does_not_write(tmp_path, write):
    model = omc.nest(mlp(), (8, 4), X)
    for name in ("m.keras", "m.h5"):
        (tmp_path / name).write_bytes(b"what was there")
    with pytest.raises(omc.errors.ModelError, match="omc.save.*copy before omc.nest"):
        write(model, tmp_path)
    for name in ("m.keras", "m.h5"):
        assert (tmp_path / name).read_bytes() == b"what was there"
    assert tf.keras.models.clone_model(model) is not model  # As ever: a plain one, untrained.
    omc.save(model, tmp_path / "m.omc")
    omc.load(tmp_path / "m.omc", omc.nest(mlp(), (8, 4), X))


def test_a_wrapped_model_becomes_nested_as_the_one_that_was_saved(tmp_path):
    model = omc.nest(mlp(), (8, 4), X)
    outputs = marked(model, (8, 4))
    omc.save(model, tmp_path / "m.omc")
    with omc.init_compressed("INT8"):
        born = mlp()
    for target in (born, omc.wrap(mlp(), "INT8")):
        target.predict(X, verbose=0)
        loaded = omc.load(tmp_path / "m.omc", target)
        np.testing.assert_array_equal(loaded.predict(X, verbose=0), outputs[4])
        for bits, expected in outputs.items():
            found = nested.switch(loaded, bits).predict(X, verbose=0)
            np.testing.assert_array_equal(found, expected)
    loaded.compile("sgd", "mse")
    loaded.fit(X, X[:, :3], verbose=0)
    used = omc.wrap(mlp(), "INT8")
    used.compile("sgd", "mse")
    used.fit(X, X[:, :3], verbose=0)
    before = [v.numpy() for v in variables_of(used)]
    with pytest.raises(omc.errors.ModelError, match="optimizer"):
        omc.load(tmp_path / "m.omc", used)
    for variable, value in zip(variables_of(used), before):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_an_artifact_of_other_widths_says_what_differs(tmp_path):
    omc.save(omc.nest(mlp(), (8, 4), X), tmp_path / "m.omc")
    omc.save(omc.wrap(mlp(), "INT8"), tmp_path / "plain.omc")
    for options, name, text in (
        ({"bits": (8, 2)}, "m.omc", r"with trained widths \[8, 4\] instead of \[8, 2\], widths"),
        ({"alrs": False}, "m.omc", "with alrs True instead of False. Tip"),
        ({}, "plain.omc", "with no widths. Tip"),
    ):
        model = omc.nest(mlp(), **{"bits": (8, 4), "calibration": X, **options})
        with pytest.raises(omc.errors.ArtifactError, match=text):
            omc.load(tmp_path / name, model)


def test_ones_own_loop_changes_all_stored_bits():
    """A constraint, weight decay and averages at 2 bits would leave 2 bits of the weights."""
    tf.keras.utils.set_random_seed(0)
    constraint = tf.keras.constraints.MaxNorm(1.0)
    layers = [L.Dense(16, kernel_constraint=constraint) for _ in range(3)]
    model = tf.keras.Sequential([tf.keras.Input((6,)), *layers, L.Dense(3)])
    omc.nest(model, (8, 2), activations=None)
    optimizer = tf.keras.optimizers.AdamW(1e-3, weight_decay=0.1, use_ema=True)

    @tf.function
    def step():
        with omc.at_width(model, 2), tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(X, training=True)))
        with omc.at_width(model, 2):
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    for _ in range(3):
        step()
    kernel = model.layers[1].kernel
    assert len(np.unique(kernel.numpy())) > 60
    assert np.linalg.norm(kernel.numpy(), axis=0).max() < 1.05
    nested.switch(model, 2)
    assert len(np.unique(kernel.numpy())) <= 4


def test_dense_values_of_all_bits_get_their_codes_back(tmp_path):
    tf.keras.utils.set_random_seed(0)
    model, other = (omc.nest(mlp(), (8, 3), X * scale, fixed=()) for scale in (1, 2))
    other.set_weights([np.random.default_rng(1).permuted(w) * 0.7 for w in other.get_weights()])
    model.compile(tf.keras.optimizers.SGD(0.3), "mse")
    model.fit(X, X[:, :3], epochs=3, verbose=0)
    kept, state = model.get_weights(), nesting_of(model)
    codes = [v.codec.codes(v.buffer).numpy() for v in state.variables]
    outputs = {bits: nested.switch(model, bits).predict(X, verbose=0) for bits in (8, 3)}
    nested.switch(model, 8)
    model.save_weights(tmp_path / "m.weights.h5")
    save_checkpoint(model, tmp_path / "checkpoint")
    model.fit(X, X[:, :3], epochs=3, verbose=0)  # The scales move on.
    for target, restore in (
        (model, lambda: model.set_weights(kept)),
        (other, lambda: other.load_weights(tmp_path / "m.weights.h5")),
        (model, lambda: load_checkpoint(model, tmp_path / "checkpoint")),
    ):
        nested.switch(target, 8)
        restore()
        for variable, wanted in zip(nesting_of(target).variables, codes):
            np.testing.assert_array_equal(variable.codec.codes(variable.buffer), wanted)
        for bits, expected in outputs.items():
            found = nested.switch(target, bits).predict(X, verbose=0)
            assert np.abs(found - expected).mean() < 1e-3
        nested.switch(target, 8)
        target.set_weights([w * 1.5 + 0.1 for w in target.get_weights()])


def test_what_lies_on_no_grid_is_rounded_as_ever():
    rng = np.random.default_rng(0)
    codec = omc.codecs.Codec(omc.Format.parse("INT8"), (16, 8))
    coarse = rng.integers(-7, 8, (16, 8)) * 0.1
    for values in (rng.standard_normal((16, 8)), coarse, np.zeros((16, 8)), np.full((16, 8), 3.0)):
        assert grids.assigned(codec, tf.constant(values, tf.float32)) is None
    buffer = codec.encode(tf.constant(rng.standard_normal((16, 8)), tf.float32))
    found = grids.assigned(codec, codec.decode(buffer))
    np.testing.assert_array_equal(codec.codes(found), codec.codes(buffer))
