"""No trace outlives its width: functions of Keras, layers and users read as the model is read."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.keras.host import MAJOR
from omc.keras.nesting import nesting_of
from tests.keras.nested_models import LOSS, L, compiled
from tests.keras.traces import trace_count

X = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class Block(L.Layer):
    """A layer whose call may be a function, or call one."""

    def __init__(self, traced):
        super().__init__()
        self.dense, self.norm = L.Dense(8), L.BatchNormalization(momentum=0.5)
        if traced == "call":
            self.call = tf.function(self.call)
        self.inner = tf.function(self._inner) if traced == "inner" else self._inner

    def build(self, shape):
        # Keras 3 builds in a call on symbols, whose trace keeps initial values of what is new.
        self.dense.build(shape)
        self.norm.build((*shape[:-1], 8))
        super().build(shape)

    def _inner(self, x, training):
        return tf.nn.relu(self.norm(self.dense(x), training=training))

    def call(self, x, training=False):
        return self.inner(x, training)


def blocks(traced):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([L.Dense(8), Block(traced), Block(traced), L.Dense(3)])
    model.build((None, 6))
    return model


def mlp():
    tf.keras.utils.set_random_seed(0)
    layers = [L.Dense(8, "relu") for _ in range(3)]
    return tf.keras.Sequential([tf.keras.Input((6,)), *layers, L.Dense(3)])


@pytest.mark.parametrize("traced", ["call", "inner"])
def test_layers_that_call_functions_are_as_those_that_do_not(traced):
    policy = omc.Policy("INT8", rounding="nearest")
    models = [omc.nest(blocks(kind), (8, 2), X, policy=policy) for kind in (None, traced)]
    for step in range(2):
        for bits in (8, 2):
            plain, other = (nested.switch(model, bits).predict(X, verbose=0) for model in models)
            np.testing.assert_allclose(other, plain, atol=1e-3)
            np.testing.assert_allclose(models[1](X), plain, atol=1e-3)
        if not step:
            assert np.abs(plain - nested.switch(models[0], 8).predict(X, verbose=0)).max() > 0.01
            assert [len(nesting_of(model).tables) for model in models] == [2, 2]
            for model in models:
                compiled(model).fit(X, Y, batch_size=32, shuffle=False, verbose=0)


def test_functions_of_all_who_share_a_layer_follow_the_width():
    model = omc.nest(mlp(), (8, 2), X, fixed=())
    features = tf.keras.Model(model.inputs[0], model.layers[2].output)
    inputs = tf.keras.Input((6,))
    outer = compiled(tf.keras.Model(inputs, L.Dense(3)(model(inputs))))
    mine = tf.function(model)
    outputs = {}
    for bits in (8, 2, 8, {"*": 2}, 2):
        nested.switch(model, bits)
        for each in (features, outer):
            np.testing.assert_allclose(each.predict(X, verbose=0), each(X), atol=1e-4)
        np.testing.assert_allclose(mine(X), model(X), atol=1e-4)
        assert outer.evaluate(X, Y, verbose=0)[0] == pytest.approx(float(LOSS(Y, outer(X))), 1e-3)
        outputs[str(bits)] = features.predict(X, verbose=0)
    assert np.abs(outputs["8"] - outputs["2"]).max() > 0.01
    assert mine.experimental_get_tracing_count() == 2  # One a width.


def test_what_was_traced_before_nesting_follows_too():
    model = omc.wrap(mlp(), "INT8")
    outer = tf.keras.Sequential([tf.keras.Input((6,)), model])
    mine = tf.function(model)
    mine(X), outer.predict(X, verbose=0)
    omc.nest(model, (2,), X, fixed=())
    np.testing.assert_allclose(mine(X), model(X), atol=1e-4)
    np.testing.assert_allclose(outer.predict(X, verbose=0), model(X), atol=1e-4)


def train_traces(model):
    if MAJOR == 2:
        return trace_count(model.train_tf_function)
    return trace_count(inspect.getclosurevars(model.train_function).nonlocals["function"])


def test_one_trace_trains_all_widths_whichever_is_in_use():
    model = compiled(omc.nest(mlp(), (8, 2), X))
    model.fit(X, Y, verbose=0)
    traces = train_traces(model)
    nested.switch(model, 2)
    model.fit(X, Y, verbose=0)
    assert train_traces(model) == traces
    assert nesting_of(model).bits == 2
    assert model.make_train_function() is model.train_function is not None
    np.testing.assert_allclose(model.predict(X, verbose=0), model(X), atol=1e-4)


def test_drawn_widths_reach_functions_inside():
    model = blocks("call")
    switching = omc.keras.Switching([1.0, 2.0], epochs=1, batches=2)
    omc.nest(model, (8, 4, 2), X, switching=switching)
    for _ in range(2):  # The second training has a graph of its own.
        losses = compiled(model).fit(X, Y, batch_size=32, epochs=2, verbose=0).history["loss"]
        assert np.isfinite(losses).all()
