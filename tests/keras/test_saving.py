"""save and load: what a wrapped model stores comes back bit for bit, or not at all."""

import os
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import omc
from omc.errors import ArtifactError, InputTypeError, ModelError
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, variables_of
from omc.keras.saving import stored_order
from tests.keras.traces import trace_count

L = tf.keras.layers
FORMATS = ["S1E3M7", "INT8", "INT4", "S1E2M3", "S0E4M3", "S1E5M10"]


class Gate(L.Layer):
    """Two sublayers of one shape, and variables of other dtypes."""

    def __init__(self, steps_dtype):
        super().__init__()
        self.first, self.second = L.Dense(12, "tanh"), L.Dense(12)
        self.half = self._given("half", [0.5, 2.0], "float16")
        self.brain = self._given("brain", [[1.5]], "bfloat16")
        self.on = self._given("on", True, "bool")
        self.steps = self._given("steps", 7, steps_dtype)

    def _given(self, name, value, dtype):
        value = tf.constant(value, dtype)
        if MAJOR == 2:
            return tf.Variable(value, trainable=False, name=name)
        return self.add_weight(  # Keras 3 does not count others to a model's weights.
            name=name,
            shape=value.shape,
            dtype=dtype,
            initializer=lambda shape, dtype: value,
            trainable=False,
        )

    def call(self, x):
        return self.second(self.first(x))


def network(width=12, steps_dtype="int64"):
    inputs = tf.keras.Input((9, 9, 3), name="image")
    normal = dict(kernel_initializer="random_normal")  # Whose codes take fewer bits than they have.
    x = L.Conv2D(width, 3, strides=2, activation="relu", **normal)(inputs)
    x = L.Conv2D(12, 3, **normal)(L.BatchNormalization()(x))
    x = Gate(steps_dtype)(L.GlobalAveragePooling2D()(x))
    return tf.keras.Model(inputs, L.Dense(8, name="head")(x))


def batch(count=4):
    return tf.random.stateless_normal([count, 9, 9, 3], [1, 2])


def shaken(model):
    """The model with statistics and biases that are not those of a new one."""
    for index, variable in enumerate(variables_of(model)):
        if not isinstance(variable, CompressedVariable) and variable.dtype.is_floating:
            noise = tf.random.stateless_uniform(variable.shape, [index, 0], 0.5, 1.5)
            variable.assign(tf.cast(noise, variable.dtype))
    return model


def saved(path, policy="S1E3M7"):
    model = shaken(omc.wrap(network(), policy))
    omc.save(model, path)
    return model


def contents(model):
    """Everything stored, as (format or dtype, bytes), in an order that freezing does not change."""
    return [
        (v.codec.format.name, v.buffer.numpy().tobytes())
        if isinstance(v, CompressedVariable)
        else (v.dtype.name, v.numpy().tobytes())
        for v in stored_order(model)
    ]


POLICIES = {
    "all": omc.Policy("S1E3M7"),
    "partial": omc.Policy("INT4", fraction=0.5, seed=1),
    "every_vector": omc.Policy("INT8", weight_matrices_only=False),
    "nearest": omc.Policy("INT8", rounding="nearest"),
    "seeded": omc.Policy("INT8", seed=5),
    "mixed": omc.Policy("S1E2M3", overrides={"head/kernel": "FP32", "*/bias": "S1E5M10"}),
    "none": omc.Policy("FP32"),
}


@pytest.mark.parametrize("target", ["wrapped", "plain"])
@pytest.mark.parametrize("name", POLICIES)
def test_stored_bytes_come_back_exactly(tmp_path, name, target):
    model = saved(tmp_path / "m.omc", POLICIES[name])
    other = network()
    if target == "wrapped":
        omc.wrap(other, POLICIES[name])
    assert contents(other) != contents(model)
    assert omc.load(tmp_path / "m.omc", other) is other
    assert contents(other) == contents(model)
    np.testing.assert_array_equal(other(batch()), model(batch()))
    ours, theirs = omc.memory_report(other), omc.memory_report(model)
    assert [(r.format, r.stored_bytes) for r in ours.rows] == [
        (r.format, r.stored_bytes) for r in theirs.rows
    ]


@pytest.mark.parametrize("target", ["wrapped", "plain"])
@pytest.mark.parametrize("name", POLICIES)
def test_coded_files_load_the_same(tmp_path, name, target):
    policy = POLICIES[name]
    model = saved(tmp_path / "m.omc", policy)
    omc.save(model, tmp_path / "coded.omc", coded=True)
    sizes = [(tmp_path / f).stat().st_size for f in ("m.omc", "coded.omc")]
    assert sizes[1] < sizes[0]
    other = omc.wrap(network(), policy) if target == "wrapped" else network()
    omc.load(tmp_path / "coded.omc", other)
    assert contents(other) == contents(model)


@given(
    formats=st.lists(st.sampled_from([*FORMATS, "FP32"]), min_size=3, max_size=3),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=10)
def test_any_formats_and_any_codes_come_back(tmp_path_factory, formats, seed):
    def build():
        return tf.keras.Sequential([tf.keras.Input((5,)), *(L.Dense(5, name=n) for n in "abc")])

    path = tmp_path_factory.mktemp("any") / "m.omc"
    overrides = {f"{layer}/kernel": fmt for layer, fmt in zip("abc", formats)}
    model = omc.wrap(build(), omc.Policy("INT8", overrides=overrides))
    random = np.random.default_rng(seed)
    for v in variables_of(model):
        if isinstance(v, CompressedVariable):  # The scale's bytes too: nothing may look at them.
            v.buffer.assign(random.integers(0, 256, v.nbytes).astype(np.uint8))
    omc.save(model, path)
    assert contents(omc.load(path, build())) == contents(model)


def test_size_is_what_is_stored(tmp_path):
    model = omc.wrap(tf.keras.applications.MobileNetV3Small(weights=None), "INT4")
    omc.save(model, tmp_path / "m.omc")
    assert os.path.getsize(tmp_path / "m.omc") <= 1.01 * omc.memory_report(model).stored_bytes


def test_training_goes_on_after_loading(tmp_path):
    """With the rounding of the saved model, also in a model that was plain."""
    stochastic = omc.Policy("INT4", rounding="stochastic", seed=5)
    saved(tmp_path / "m.omc", stochastic)

    def train(model):
        model.compile("sgd", "mse")
        model.fit(batch(16), tf.ones([16, 8]), shuffle=False, verbose=0)
        return contents(model)

    plain = train(omc.load(tmp_path / "m.omc", network()))
    assert plain == train(omc.load(tmp_path / "m.omc", omc.wrap(network(), stochastic)))
    assert plain != contents(omc.load(tmp_path / "m.omc", network()))


def test_loading_into_a_model_in_use_needs_no_new_trace(tmp_path):
    model = saved(tmp_path / "m.omc")
    want = model.predict(batch(), verbose=0)
    model.compile("adam", "mse")
    model.fit(batch(), tf.ones([4, 8]), verbose=0)
    assert np.any(model.predict(batch(), verbose=0) != want)
    traces = trace_count(model.train_function)
    omc.load(tmp_path / "m.omc", model)
    np.testing.assert_allclose(model.predict(batch(), verbose=0), want, rtol=1e-5, atol=1e-6)
    model.fit(batch(), tf.ones([4, 8]), verbose=0)
    assert trace_count(model.train_function) == traces


@pytest.mark.parametrize("wrapped", [True, False])
def test_frozen_layers_do_not_change_places(tmp_path, wrapped):
    """In `model.variables` a frozen sublayer comes after its equal, and the two would swap."""
    model = saved(tmp_path / "m.omc")
    frozen = network()
    gate = next(layer for layer in frozen.layers if isinstance(layer, Gate))
    gate.first.trainable = False
    if wrapped:
        omc.wrap(frozen, "S1E3M7")
    omc.load(tmp_path / "m.omc", frozen)
    np.testing.assert_array_equal(frozen(batch()), model(batch()))
    assert gate.first.trainable_variables == []


def test_diverged_weights_are_no_hindrance(tmp_path):
    model, other = saved(tmp_path / "m.omc"), network()
    for variable in other.trainable_variables:
        variable.assign(np.full(variable.shape, np.nan))
    omc.load(tmp_path / "m.omc", other)
    np.testing.assert_array_equal(other(batch()), model(batch()))


def one_more():
    return tf.keras.Sequential([network(), L.Dense(8)])


MISMATCHES = {
    "shape": (lambda: network(13), r"variable 0 fits.*\(3, 3, 3, 13\)"),
    "more": (one_more, "of the model's 20 variables"),
    "dtype": (lambda: network(steps_dtype="int32"), "int32.*int64"),
    "format": (lambda: omc.wrap(network(), "INT8"), "in INT8.*in S1E3M7"),
    "partial": (lambda: omc.wrap(network(), "FP32"), "in raw form.*in S1E3M7"),
    "shape_wrapped": (lambda: omc.wrap(network(13), "S1E3M7"), r"\(3, 3, 3, 13\)"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_another_model_is_refused_and_untouched(tmp_path, name):
    saved(tmp_path / "m.omc")
    make, pattern = MISMATCHES[name]
    model = make()
    before, identities = contents(model), [id(v) for v in variables_of(model)]
    with pytest.raises(ArtifactError) as caught:
        omc.load(tmp_path / "m.omc", model)
    assert re.search(pattern, str(caught.value)), caught.value
    assert contents(model) == before and [id(v) for v in variables_of(model)] == identities


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_file_leaves_the_model_untouched(tmp_path, damage, wrapped):
    saved(tmp_path / "m.omc")
    content = bytearray((tmp_path / "m.omc").read_bytes())
    content[-5] ^= 1
    (tmp_path / "m.omc").write_bytes(content if damage == "flip" else content[:-5])
    model = omc.wrap(network(), "S1E3M7") if wrapped else network()
    before = contents(model)
    with pytest.raises(ArtifactError):
        omc.load(tmp_path / "m.omc", model)
    assert contents(model) == before


@pytest.mark.parametrize(
    "error, argument, use",
    [
        (InputTypeError, "model", lambda path: omc.save("model", path)),
        (InputTypeError, "model", lambda path: omc.load(path, [1])),
        (InputTypeError, "path", lambda path: omc.load(network(), path)),
        (InputTypeError, "model", lambda path: omc.export(None, path)),
        (ModelError, "model", lambda path: omc.save(network(), path)),
        (ModelError, "model", lambda path: omc.export(network(), path)),
        (ModelError, "model", lambda path: omc.load(path, tf.keras.Sequential([L.Dense(3)]))),
    ],
)
def test_errors_name_the_argument(tmp_path, error, argument, use):
    with pytest.raises(error) as caught:
        use(tmp_path / "m.omc")
    assert caught.value.argument == argument
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_keras_own_files_hold_the_dense_values(tmp_path, name):
    model = omc.wrap(tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(4)]), "INT8")
    model.save(tmp_path / name)
    again = tf.keras.models.load_model(tmp_path / name)
    for ours, theirs in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
