"""Calibration: widths that nobody trained, and the data that they are prepared with."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.errors import InputError
from omc.keras.nesting import nesting_of
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
    batches = outputs[:64], outputs[64:]  # Means of batches, by their sizes.
    for value, of in ((norm.moving_mean, np.mean), (norm.moving_variance, np.var)):
        wanted = np.average([of(batch, axis=0) for batch in batches], axis=0, weights=[64, 32])
        np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-4)
    assert norm.momentum == 0.99
    omc.calibrate(model, x[:64])  # Anew: what was there before does not count.
    np.testing.assert_allclose(norm.moving_mean.numpy(), outputs[:64].mean(axis=0), rtol=1e-4)


def test_statistics_stay_where_layers_are_frozen_or_data_is_refused():
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(3), tf.keras.layers.BatchNormalization(), tf.keras.layers.Dense(2)]
    )
    model.build((None, 4))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    with pytest.raises(InputError, match="data"):
        omc.calibrate(model, [x, np.full_like(x, 3e38)])
    np.testing.assert_array_equal(model.layers[1].moving_mean.numpy(), 0)
    model.layers[1].trainable = False
    omc.calibrate(model, x)
    np.testing.assert_array_equal(model.layers[1].moving_mean.numpy(), 0)


def test_without_batchnorm_calibration_changes_nothing():
    model = tf.keras.Sequential([tf.keras.layers.Dense(3)])
    model.build((None, 4))
    before = model.get_weights()
    omc.calibrate(model, np.ones((4, 4), "float32"))
    for ours, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)
