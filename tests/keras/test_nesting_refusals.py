"""What `omc.nest` takes, what it refuses, and that a refusal changes nothing."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras.host import variables_of
from omc.keras.nesting import nesting_of
from omc.policies import VariableSpec
from tests.keras.either import only_keras_2
from tests.keras.nested_models import L

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)


def mlp(count=4):
    tf.keras.utils.set_random_seed(0)
    layers = [L.Dense(8, "relu", name=f"d{place}") for place in range(count)]
    return tf.keras.Sequential([tf.keras.Input((6,)), *layers, L.Dense(3, name="head")])


@pytest.mark.parametrize(
    "options, formats",
    [
        ({"overrides": {"head/kernel": "FP32"}}, ["INT8", "INT8", "INT8", "INT8", "FP32"]),
        ({"overrides": {"d1/kernel": "INT4"}}, ["INT8", "INT4", "INT8", "INT8", "INT8"]),
        ({"overrides": {"d2/*": "FP32"}}, ["INT8", "INT8", "FP32", "INT8", "INT8"]),
        ({"fraction": 0.6, "seed": 3}, None),
    ],
)
def test_a_policy_is_of_the_whole_model(options, formats):
    policy = omc.Policy("INT8", **options)
    model = omc.nest(mlp(), (4, 2), X, policy=policy, fixed=())
    twin = omc.wrap(mlp(), policy)
    found, wanted = (
        [getattr(layer.kernel, "codec", None) for layer in each.layers] for each in (model, twin)
    )
    stored = [None if codec is None else f"INT{codec.format.bits}" for codec in found]
    assert stored == [None if codec is None else codec.format.name for codec in wanted]
    if formats:
        assert stored == [None if name == "FP32" else name for name in formats]
    nested_ones = [VariableSpec.of(v).name.split("/")[-2] for v in nesting_of(model).variables]
    assert nested_ones == [layer.name for layer, s in zip(model.layers, stored) if s is not None]
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, np.zeros(64), verbose=0)


def held_by_a_concrete_function():
    model = mlp()
    return model, tf.function(model).get_concrete_function(tf.TensorSpec((None, 6)))


def renormalizing():
    norm = L.BatchNormalization(renorm=True)
    return tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(8), L.Dense(8), norm, L.Dense(3)]), 0


class Fails(L.Layer):
    def __init__(self, when):
        super().__init__()
        self.when, self.dense = when, L.Dense(8)

    def call(self, x, training=False):
        y = self.dense(x)
        if self.when == "training" and training:
            raise RuntimeError("no training")
        if self.when == "compressed" and hasattr(self.dense.kernel, "codec"):
            raise RuntimeError("no codes")
        return y


def failing(when):
    norm = [L.BatchNormalization()]
    layers = [tf.keras.Input((6,)), L.Dense(8), Fails(when), L.Dense(8), *norm, L.Dense(3)]
    return tf.keras.Sequential(layers), None


@pytest.mark.parametrize("calibration", [X, None])
@pytest.mark.parametrize(
    "make", [held_by_a_concrete_function, renormalizing, lambda: failing("training")]
)
def test_a_refusal_changes_nothing(make, calibration):
    model, _held = make()
    for variable in variables_of(model)[:4:2]:  # A range that would be cut.
        variable.assign(tf.tensor_scatter_nd_update(variable, [[0, 0]], [9.0]))
    before = model.get_weights()
    options = {"calibration": calibration} if calibration is not None else {"activations": None}
    with pytest.raises(omc.OmcError, match="model|calibration"):
        omc.nest(model, (8, 4, 2), **options)
    for variable, value in zip(variables_of(model), before):
        assert not hasattr(variable, "codec")
        np.testing.assert_array_equal(variable.numpy(), value)
    assert nesting_of(model) is None


def test_what_fails_under_way_leaves_a_wrapped_model_as_it_was():
    model, _ = failing("compressed")
    with pytest.raises(RuntimeError, match="no codes"):
        omc.nest(model, (8, 2), X)
    assert nesting_of(model) is None  # It is wrapped: only codes made the layer fail.
    model.layers[1].when = "never"
    model.compile("sgd", "mse")
    model.fit(X, X[:, :3], verbose=0)
    before = [v.buffer.numpy() if hasattr(v, "codec") else v.numpy() for v in variables_of(model)]
    model.layers[1].when, model.optimizer = "compressed", None
    with pytest.raises(omc.OmcError, match="no codes"):
        omc.nest(model, (8, 2), X)
    original, seen = type(model.layers[1]).call, []

    def call(self, x, training=False):
        seen.append(training)
        if len(seen) == 5:  # Sets and tables are there by then.
            raise RuntimeError("late")
        return original(self, x, training)

    model.layers[1].when, model.layers[1].call = (
        "never",
        lambda *a, **k: call(model.layers[1], *a, **k),
    )
    with pytest.raises(RuntimeError, match="late"):
        omc.nest(model, (8, 2), X)
    assert len(variables_of(model)) == len(before)
    for variable, value in zip(variables_of(model), before):
        stored = variable.buffer if hasattr(variable, "codec") else variable
        np.testing.assert_array_equal(stored.numpy(), value)
    model.layers[1].call = lambda *a, **k: original(model.layers[1], *a, **k)
    omc.nested.switch(omc.nest(model, (8, 2), X), 2)
    model.compile("sgd", "mse")
    model.fit(X, X[:, :3], verbose=0)


class Inner(tf.Module):
    def __init__(self, seed):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal([8, 8], [seed, 1]), name="w")
        self.dense, self.norm = L.Dense(8), L.BatchNormalization()


class Holder(L.Layer):
    def __init__(self):
        super().__init__()
        self.parts = [Inner(seed) for seed in (1, 2)]

    def call(self, x, training=False):
        for part in self.parts:
            x = part.norm(tf.nn.relu(part.dense(tf.matmul(x, part.w))), training=training)
        return x


@only_keras_2("layers do not track what a tf.Module holds")
def test_weights_may_lie_in_modules(tmp_path):
    def make():
        tf.keras.utils.set_random_seed(0)
        return tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(8), Holder(), L.Dense(3)])

    model = omc.nest(make(), (8, 2), X)
    state = nesting_of(model)
    assert len(state.variables) == len(state.tables) == 4 and len(state.batchnorms) == 2
    assert [sets.feeder for sets in state.batchnorms] == [1, 3]
    model.compile("sgd", "mse")
    model.fit(X, X[:, :3], verbose=0)
    omc.nested.switch(model, {state.variables[0].name.split(":")[0]: 2})
    outputs = {bits: omc.nested.switch(model, bits).predict(X, verbose=0) for bits in (8, 2)}
    omc.save(model, tmp_path / "m.omc")
    loaded = omc.load(tmp_path / "m.omc", make())
    for bits, expected in outputs.items():
        found = omc.nested.switch(loaded, bits).predict(X, verbose=0)
        np.testing.assert_array_equal(found, expected)


def test_ragged_and_sparse_inputs_calibrate_batchnorm():
    tail = [L.Dense(8), L.Dense(8), L.BatchNormalization(), L.Dense(3)]
    mean = L.Lambda(lambda r: tf.reduce_mean(r.to_tensor(), 1))
    ids = tf.keras.Input((None,), ragged=True, dtype=tf.int32)
    words = tf.keras.Sequential([ids, L.Embedding(20, 8), mean, *tail])
    ragged = tf.ragged.constant([[1, 2, 3], [4], [5, 6]], dtype=tf.int32)
    sparse = tf.sparse.from_dense(np.where(X > 0.5, X, 0.0))
    tail = [L.Dense(8), L.Dense(8), L.BatchNormalization(), L.Dense(3)]
    rows = tf.keras.Sequential([tf.keras.Input((6,), sparse=True), *tail])
    for model, batch in ((words, ragged), (rows, sparse)):
        model(batch)
        for data in (batch, [batch, batch]):
            if nesting_of(model) is None:
                omc.nest(model, (8, 2), data)
            omc.calibrate(model, data)
        assert np.isfinite(omc.nested.switch(model, 2)(batch)).all()


class Own(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.stack = [L.Dense(8, name=f"dense_{place}") for place in range(3)]

    def call(self, x):
        for layer in self.stack:
            x = layer(x)
        return x


def test_calibration_says_what_is_wrong_with_it():
    norm = tf.keras.Sequential([*mlp().layers[:3], L.BatchNormalization(), L.Dense(3)])
    norm.build((None, 6))
    own = Own()
    own(X)
    for model, data, text in (
        (mlp(), X[:, :5], "=.None, 6., found shape=.64, 5.|'d0'.* axis -1 .* 6, .* .64, 5."),
        (own, X[:, :5], r"(layer 'own(_[0-9]+)?'|Own\.call).*dense_0.*axis -1.*6.*5"),
        (mlp(), [(X, np.zeros(3)), X[:, :4]], "incompatible"),
        (mlp(), np.zeros((8, 6), np.float32), "not all 0"),
        (mlp(), np.full((8, 6), 3e38, np.float32), "finite outputs"),
        (norm, X[:1], "two examples"),
    ):
        with pytest.raises(omc.errors.InputError, match=text):
            omc.nest(model, (8, 4), data)
    with pytest.raises(omc.errors.InputTypeError, match="alrs"):
        omc.nest(mlp(), (8, 4), X, alrs="no")
