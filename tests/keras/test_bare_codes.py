"""Policies without a transform, as the ablation needs them: bare codes stored, trained and kept."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import ArtifactError, InputError
from omc.formats import Format
from omc.keras import CompressedVariable
from omc.keras.host import variables_of

L = tf.keras.layers
RNG = np.random.default_rng(0)
FORMATS = ["S1E3M7", "S1E2M3", "S1E5M10", "S1E4M14", "INT8", "INT4+4"]


def values_nearest(values, name):
    """The format's own values nearest to `values`, by the scalar specification."""
    fmt = Format.parse(name)
    return np.vectorize(lambda v: fmt.decode(fmt.encode(float(v))))(values).astype(np.float32)


def network(size=1.0, outputs=4):
    model = tf.keras.Sequential(
        [tf.keras.Input((6,)), L.Dense(16, "relu"), L.LayerNormalization(), L.Dense(outputs)]
    )
    rng = np.random.default_rng(3)
    for variable in variables_of(model):
        variable.assign(rng.normal(0, size, variable.shape))
    return model


@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_those_of_compress_without_transform(name):
    plain = network(size=2.0)
    dense = [v.numpy() for v in variables_of(plain)]
    policy = omc.Policy(name, transform=None, weight_matrices_only=False)
    model = omc.wrap(plain, policy)
    packed = [v for v in variables_of(model) if isinstance(v, CompressedVariable)]
    assert len(packed) >= 5  # Biases and normalizations too; a bias of 4 may be too small to gain.
    dense = dict(zip([v.name for v in variables_of(model)], dense))
    for variable in packed:
        bare = omc.compress(dense[variable.name], name, transform=None)
        np.testing.assert_array_equal(variable.buffer, bare.buffer)
        assert variable.nbytes == bare.nbytes == variable.codec.nbytes


def test_bare_codes_are_a_trailer_shorter_and_the_report_says_why():
    with_transform = omc.wrap(network(), omc.Policy("INT8"))
    without = omc.wrap(network(), omc.Policy("INT8", transform="none"))
    for ours, theirs in zip(variables_of(without), variables_of(with_transform)):
        if isinstance(ours, CompressedVariable):
            assert ours.nbytes == theirs.nbytes - 8
    assert "quantized without transform" in str(omc.memory_report(without))
    assert omc.Policy("INT8", transform="none") == omc.Policy("INT8", transform=None)


@pytest.mark.parametrize("name", ["S1E3M7", "S1E2M3"])
def test_a_training_step_is_numpys(name):
    """value' = nearest(value - rate * gradient), in the format's own range."""
    layer = L.Dense(5, use_bias=False)
    model = tf.keras.Sequential([tf.keras.Input((8,)), layer])
    layer.kernel.assign(RNG.normal(0, 1, (8, 5)))
    stored = values_nearest(layer.kernel.numpy(), name)
    omc.wrap(model, omc.Policy(name, transform=None, rounding="nearest"))
    model.compile(tf.keras.optimizers.SGD(0.5), "mse")
    x = RNG.normal(size=(16, 8)).astype(np.float32)
    y = RNG.normal(size=(16, 5)).astype(np.float32)
    for _ in range(3):
        model.fit(x, y, batch_size=16, verbose=0)
        gradient = 2 * x.T.astype(np.float64) @ (x @ stored.astype(np.float64) - y) / y.size
        wanted = values_nearest(stored - 0.5 * gradient, name)
        got = layer.kernel.numpy()
        np.testing.assert_array_equal(got, values_nearest(got, name))  # On the format's grid.
        # A sum within float error of the middle of two codes may fall on either side.
        assert np.mean(got != wanted) <= 1 / wanted.size
        stored = got
    assert np.any(stored != 0)


def test_what_leaves_the_range_saturates_and_what_is_too_small_vanishes():
    layer = L.Dense(4, use_bias=False)
    model = tf.keras.Sequential([tf.keras.Input((4,)), layer])
    layer.kernel.assign(np.array([[100.0, -100, 0.01, -0.01]] * 4, np.float32))
    omc.wrap(model, omc.Policy("S1E2M3", transform=None, rounding="nearest"))
    np.testing.assert_array_equal(layer.kernel.numpy()[0], [7.5, -7.5, 0, 0])
    layer.kernel.assign_add(tf.fill([4, 4], 1000.0))
    np.testing.assert_array_equal(layer.kernel, np.full((4, 4), 7.5))
    layer.kernel.assign_sub(tf.fill([4, 4], 0.01))  # Below half a step: nothing moves.
    np.testing.assert_array_equal(layer.kernel, np.full((4, 4), 7.5))


def test_saved_loaded_and_exported_as_they_stand(tmp_path):
    policy = omc.Policy("S1E3M7", transform=None, weight_matrices_only=False)
    model, x = omc.wrap(network(), policy), RNG.normal(size=(3, 6)).astype(np.float32)
    omc.save(model, tmp_path / "bare.omc")
    for other in (network(2.0), omc.wrap(network(2.0), policy)):
        omc.load(tmp_path / "bare.omc", other)
        for ours, theirs in zip(variables_of(other), variables_of(model)):
            if isinstance(theirs, CompressedVariable):
                np.testing.assert_array_equal(ours.buffer, theirs.buffer)
                assert ours.codec == theirs.codec and not ours.codec.transform
        np.testing.assert_array_equal(other(x), model(x))
    with pytest.raises(ArtifactError, match="S1E3M7 without transform"):
        omc.load(tmp_path / "bare.omc", omc.wrap(network(), "S1E3M7"))

    omc.export(model, tmp_path / "exported")
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    (served,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(served, model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transform", ["log", True, 0, ""])
def test_other_transforms_are_refused(transform):
    with pytest.raises(InputError, match="transform.*'pvt' or None") as caught:
        omc.Policy("INT8", transform=transform)
    assert caught.value.argument == "transform"
