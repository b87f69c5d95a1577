"""Models wrapped before they are built are wrapped when they are."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import InputError, ModelError
from omc.keras import CompressedVariable
from omc.keras.deferral import is_deferred
from omc.keras.host import MAJOR, variables_of
from tests.keras.either import only_keras_3
from tests.keras.traces import trace_count

L = tf.keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 12)).astype(np.float32)
Y = RNG.normal(size=(20, 8)).astype(np.float32)


def without_the_huge(x):
    if tf.reduce_sum(tf.abs(x)) > 1e6:  # Needs AutoGraph in a graph.
        x = tf.zeros_like(x)
    return x


if MAJOR == 3:  # Which converts no call: who wants AutoGraph asks for it.
    without_the_huge = tf.function(without_the_huge)


class Network(tf.keras.Model):
    """Layers in a list and a dict, AutoGraph, a second argument, a loss of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = [L.Dense(16, "tanh"), L.Dense(12, "relu")]
        self.heads = {"out": L.Dense(8)}
        self.norm = L.BatchNormalization()

    def call(self, x, training=False):
        x = without_the_huge(x)
        for block in self.blocks:
            x = block(x)
        self.add_loss(1e-3 * tf.reduce_sum(x**2))
        return self.heads["out"](self.norm(x, training=training))


def sequential():
    return tf.keras.Sequential([L.Dense(16, "tanh"), L.BatchNormalization(), L.Dense(8)])


BUILDS = {"subclassed": Network, "sequential": sequential}
COMPRESSED = {"subclassed": 3, "sequential": 2}


def compressed(model):
    return [v for v in variables_of(model) if isinstance(v, CompressedVariable)]


def hooks(model):
    """Names of the model's methods that OMC has put functions of its own in the place of."""
    functions = {name: f for name, f in vars(model).items() if inspect.isfunction(f)}
    return [name for name, f in functions.items() if f.__globals__["__name__"].startswith("omc.")]


@pytest.fixture(params=BUILDS)
def name(request):
    return request.param


def plain_on_the_same_weights(name, seed=0):
    """The losses of three epochs of plain Keras from the seed's decoded weights."""
    tf.keras.utils.set_random_seed(seed)
    model = BUILDS[name]()
    model(X[:1])
    for variable in variables_of(model):
        if len(variable.shape) >= 2:
            variable.assign(omc.decompress(omc.compress(variable, "S1E5M10")))
    model.compile(tf.keras.optimizers.SGD(0.05), "mse")
    return model.fit(X, Y, epochs=3, batch_size=8, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("how", ["fit", "compiled before", "jit", "run_eagerly"])
def test_the_first_fit_wraps(name, how):
    want = plain_on_the_same_weights(name)
    tf.keras.utils.set_random_seed(0)
    model = BUILDS[name]()
    options = dict(jit_compile=how == "jit", run_eagerly=how == "run_eagerly")
    if how == "compiled before":
        model.compile(tf.keras.optimizers.SGD(0.05), "mse")
    omc.wrap(model, "S1E5M10")
    assert is_deferred(model) and hooks(model)
    if how != "compiled before":
        model.compile(tf.keras.optimizers.SGD(0.05), "mse", **options)
    history = model.fit(X, Y, epochs=3, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["loss"], want, rtol=5e-3)
    assert len(compressed(model)) == COMPRESSED[name] and not is_deferred(model)
    assert hooks(model) == []
    assert MAJOR == 2 or not model.jit_compile  # XLA would keep weights dense.
    assert omc.memory_report(model).ratio < 1
    # As any unbuilt model: one trace that makes the variables, and the one that stays.
    if how == "fit":
        assert trace_count(model.train_function) <= 2
        model.fit(X, Y, batch_size=8, verbose=0)
        assert trace_count(model.train_function) <= 2


def test_the_first_call_wraps(name):
    tf.keras.utils.set_random_seed(0)
    plain = BUILDS[name]()
    plain(X)
    omc.wrap(plain, "S1E3M7")
    tf.keras.utils.set_random_seed(0)
    model = omc.wrap(BUILDS[name](), "S1E3M7")
    with tf.GradientTape() as tape:
        output = model(X)
    assert len(compressed(model)) == COMPRESSED[name]
    assert len(model.losses) == (name == "subclassed")  # Not those of the run on placeholders.
    np.testing.assert_allclose(output, plain(X), rtol=1e-5, atol=1e-6)
    assert None not in tape.gradient(output, model.trainable_variables)


@pytest.mark.parametrize("how", ["function", "predict", "functional"])
def test_any_first_use_wraps(name, how):
    model = omc.wrap(BUILDS[name](), "INT8")
    if how == "function":
        tf.function(lambda x: model(x, training=True))(X)
    elif how == "predict":
        assert model.predict(X, verbose=0).shape == (20, 8)
    else:
        inputs = tf.keras.Input((12,))
        whole = tf.keras.Model(inputs, L.Dense(2)(model(inputs)))
        whole.compile("sgd", "mse")
        whole.fit(X, Y[:, :2], verbose=0)
    assert len(compressed(model)) == COMPRESSED[name]


def test_build_wraps():
    model = omc.wrap(sequential(), "INT8")
    model.build((None, 12))
    assert len(compressed(model)) == 2
    assert model(X).shape == (20, 8)

    class Own(tf.keras.Model):
        def build(self, shape):
            self.dense = L.Dense(8)
            self.dense.build(shape)
            super().build(shape)

        def call(self, x):
            return self.dense(x)

    class Default(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(8)

        def call(self, x):
            return self.dense(x)

    for build in (Own, Default):
        model = omc.wrap(build(), "INT8")
        model.build((None, 12))
        # Keras 3's own `build` of a subclassed model makes no variables.
        made = MAJOR == 2 or build is Own
        assert len(variables_of(model)) == 2 * made and len(compressed(model)) == made
        model(X)
        assert len(compressed(model)) == 1
        model = omc.wrap(build(), "INT8")
        model(X)
        assert len(compressed(model)) == 1
        model = build()
        model.build((None, 12))
        omc.wrap(model, "INT8")
        model(X)
        assert len(compressed(model)) == 1


def built_by_keras():
    """A model whose variables Keras 2 makes in this `build`, and Keras 3 at the first call."""

    class Default(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(8)

        def call(self, x):
            return self.dense(x)

    model = Default()
    model.build((None, 12))
    return model


@pytest.mark.parametrize(
    "use",
    [
        omc.memory_report,
        lambda model: omc.recompute(model, "*"),
        lambda model: omc.save(model, "never.omc"),
        lambda model: omc.memory_report(omc.wrap(model, "INT8")),
    ],
    ids=["memory_report", "recompute", "save", "wrap"],
)
@only_keras_3("build() makes the variables")
def test_a_build_that_makes_no_variables_is_none(use):
    with pytest.raises(ModelError, match="built"):
        use(built_by_keras())
    with pytest.raises(ModelError, match="no variables yet"):
        with omc.init_compressed("INT8"):
            kept = built_by_keras()
    assert kept.built and kept.weights == []


def test_layers_that_nothing_calls_are_no_hindrance():
    class Spare(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.spare = L.Dense(8), L.Dense(8)

        def call(self, x):
            return self.dense(x)

    model = omc.wrap(Spare(), "INT8")
    model(X)
    assert len(compressed(model)) == 1 and not is_deferred(model) and hooks(model) == []
    called = Spare()
    called(X)
    assert len(compressed(omc.wrap(called, "INT8"))) == 1


@pytest.mark.parametrize("how", ["call", "fit"])
def test_a_part_that_waits_keeps_its_own_policy(how):
    class Whole(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.part, self.head = omc.wrap(sequential(), "INT8"), L.Dense(16)

        def call(self, x):
            return self.head(self.part(x))

    model = omc.wrap(Whole(), "INT4")
    if how == "fit":
        model.compile("sgd", "mse")
        model.fit(X, np.zeros([20, 16]), verbose=0)
    else:
        model(X)
    rows = omc.memory_report(model).rows
    assert [row.format for row in rows if row.format != "FP32"] == ["INT8", "INT8", "INT4"]
    assert hooks(model) == hooks(model.part) == []


def test_more_than_one_input_and_batches_of_another_size():
    class Two(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn, self.out = L.Embedding(30, 6), L.GRU(4), L.Dense(8)

        def call(self, inputs, extra=None):
            tokens, features = inputs
            x = tf.concat([self.rnn(self.embed(tokens)), features], -1)
            return self.out(x if extra is None else x + extra)

    model = omc.wrap(Two(), "INT8")
    tokens = tf.constant(RNG.integers(0, 30, (20, 5)))
    assert model((tokens, X), extra=tf.ones([20, 16])).shape == (20, 8)
    assert len(compressed(model)) == 4
    model.compile("adam", "mse")
    model.fit((tokens, X), Y, batch_size=8, verbose=0)  # The last batch has 4.


def test_errors_come_from_the_first_call_and_leave_the_model_marked(name):
    model = omc.wrap(BUILDS[name](), omc.Policy("INT8", overrides={"*/nothing": "INT4"}))
    model.compile("sgd", "mse")
    for _ in range(2):
        with pytest.raises(InputError, match="nothing"):
            model.fit(X, Y, verbose=0)
        with pytest.raises(InputError, match="nothing"):
            model(X)
    assert is_deferred(model) and compressed(model) == []


def eager_only():
    class Eager(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            y = self.dense(x)
            return y * float(y.numpy().max())

    return Eager()


@pytest.mark.parametrize(
    "use, part",
    [
        (lambda: omc.memory_report(omc.wrap(sequential(), "INT8")), "not built yet"),
        (lambda: omc.memory_report(sequential()), "not built yet"),
        (lambda: omc.wrap(omc.wrap(sequential(), "INT8"), "INT8"), "not wrapped yet"),
        (lambda: omc.wrap(tf.keras.Sequential([L.Flatten()]), "INT8")(X), "with variables"),
        (lambda: omc.wrap(eager_only(), "INT8")(X), "run in a graph"),
    ],
)
def test_refusals(use, part):
    with pytest.raises(ModelError, match=part) as caught:
        use()
    assert caught.value.argument == "model"
