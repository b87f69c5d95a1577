"""Whoever holds a weight when it is wrapped, goes on with the compressed one."""

import collections
import dataclasses
import functools
import gc
import types

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import ModelError
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, value_of, variables_of

L = tf.keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype(np.float32)
Y = RNG.normal(size=(64, 6)).astype(np.float32)
GLOBAL = []


@dataclasses.dataclass
class Record:
    weight: object


class Plain:
    __slots__ = ("weight",)


def _slots(weight):
    plain = Plain()
    plain.weight = weight
    return plain


def _globally(weight):
    GLOBAL.append(weight)
    place = len(GLOBAL) - 1
    return lambda: GLOBAL[place]


HOLDERS = {  # weight -> function that reads the weight where it is held
    "closure": lambda w: lambda: w,
    "default": lambda w: lambda held=w: held,
    "partial": lambda w: functools.partial(lambda held: held, w),
    "keyword of a partial": lambda w: functools.partial(lambda held: held, held=w),
    "namespace": lambda w: functools.partial(lambda s: s.w, types.SimpleNamespace(w=w)),
    "dataclass": lambda w: functools.partial(lambda r: r.weight, Record(w)),
    "slots": lambda w: functools.partial(lambda s: s.weight, _slots(w)),
    "set": lambda w: functools.partial(lambda s: next(iter(s)).deref(), {value_of(w).ref()}),
    "deque": lambda w: functools.partial(lambda q: q[0], collections.deque([w])),
    "array": lambda w: functools.partial(lambda a: a[0], np.array([w, None], dtype=object)),
    "generator": lambda w: functools.partial(next, (w for _ in range(10**9))),
    "bound method": lambda w: value_of(w).read_value,
    "global": _globally,
}


class Times(L.Layer):
    """x times a weight that it reads through a holder."""

    def __init__(self, holder):
        super().__init__()
        self._hold = HOLDERS[holder]

    def build(self, shape):
        weight = self.add_weight(
            name="kernel", shape=(shape[-1], shape[-1]), initializer="glorot_uniform"
        )
        self.read = self._hold(weight)

    def call(self, x):
        return tf.matmul(x, self.read())


def layer_model(holder):
    return tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(6), Times(holder)])


class Penalised(L.Layer):
    """x, at the price of what a function gives."""

    def __init__(self, price):
        super().__init__()
        self._price = price

    def call(self, x):
        self.add_loss(self._price())
        return x


def penalty_model(holder):
    model = tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(6), L.Dense(6)])
    read = HOLDERS[holder](model.layers[0].kernel)

    def price():
        return 0.1 * tf.nn.l2_loss(read())

    if MAJOR == 2:
        model.add_loss(price)
    else:  # Which takes losses from a layer's call only.
        model.add(Penalised(price))
    return model


def lambda_model(holder):
    dense = L.Dense(6)
    dense.build((None, 6))
    read = HOLDERS[holder](dense.kernel)
    tied = L.Lambda(lambda x: tf.matmul(x, read(), transpose_b=True))
    return tf.keras.Sequential([tf.keras.Input((6,)), dense, tied])


def trained(model):
    model.compile(tf.keras.optimizers.SGD(0.1), "mse")
    losses = model.fit(X, Y, batch_size=16, epochs=5, shuffle=False, verbose=0).history["loss"]
    return losses, model.get_weights()


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("build", [layer_model, penalty_model, lambda_model])
def test_training_is_plain_keras_own(build, holder):
    plain, model = build(holder), build(holder)
    model.set_weights(plain.get_weights())
    omc.wrap(model, "S1E5M10")
    (losses, weights), (wanted, plain_weights) = trained(model), trained(plain)
    np.testing.assert_allclose(losses, wanted, rtol=2e-3)
    for ours, theirs in zip(weights, plain_weights):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_all_names_of_a_weight_are_one():
    model = layer_model("closure")
    held, inner = model.layers[0].kernel, value_of(model.layers[0].kernel)
    omc.wrap(model, "INT8")
    kernel = model.layers[0].kernel
    assert isinstance(value_of(held), CompressedVariable)
    assert isinstance(inner, CompressedVariable)
    for name in (held, inner):
        assert name.handle is kernel.handle
        name.assign_add(tf.ones([6, 6]))
        np.testing.assert_array_equal(name.numpy(), kernel.numpy())
        kernel.assign(tf.zeros([6, 6]))
        assert not name.numpy().any()
        assert name.served == kernel.served and name.buffer is kernel.buffer


def test_mixed_precision_variables_and_what_they_stand_around():
    layer = L.Dense(6, dtype="mixed_float16")
    model = tf.keras.Sequential([tf.keras.Input((6,)), layer])
    held = layer.kernel
    inner = held._variable if MAJOR == 2 else held._value
    omc.wrap(model, "INT8")
    layer.kernel.assign_add(tf.ones([6, 6]))
    for variable in (held, inner):
        np.testing.assert_array_equal(variable.numpy(), layer.kernel.numpy())


def network(units=64):
    return tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(units), L.Dense(6)])


def called(model):
    model(X)


def predicted(model):
    model.predict(X, verbose=0)


def evaluated(model):
    model.compile(loss="mse")
    model.evaluate(X, Y, verbose=0)


def traced(model):
    tf.function(lambda x: model(x))(X)


def with_relu(model):
    return tf.keras.Model(model.inputs, tf.keras.layers.ReLU()(model.outputs[0]))


def part_of_another(model):
    with_relu(model).predict(X, verbose=0)


@pytest.mark.parametrize("use", [called, predicted, evaluated, traced, part_of_another])
def test_a_model_that_was_used_before_keeps_nothing_dense(use):
    model = network()
    use(model)
    handles = [v.handle for v in variables_of(model) if len(v.shape) == 2]
    omc.wrap(model, "INT8")
    gc.collect()
    for handle in handles:
        holders = [h for h in gc.get_referrers(handle) if h is not handles]
        assert [type(h).__name__ for h in holders if not isinstance(h, types.FrameType)] == []


def test_functions_traced_before_see_the_compressed_weights():
    model = network()
    other = with_relu(model)
    other.predict(X, verbose=0)
    step = tf.function(lambda x: model(x))
    step(X)
    omc.wrap(model, "S1E5M10")
    model.layers[0].kernel.assign_add(tf.ones([6, 64]))
    want = model(X).numpy()
    np.testing.assert_allclose(step(X), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other.predict(X, verbose=0), np.maximum(want, 0), atol=1e-4)


def test_a_function_that_is_a_layers_own_is_traced_anew():
    class Traced(L.Dense):
        @tf.function
        def call(self, x):
            return super().call(x)

    model = tf.keras.Sequential([tf.keras.Input((6,)), Traced(6)])
    model(X)
    model.predict(X, verbose=0)
    omc.wrap(model, "INT8")
    model.layers[0].kernel.assign(tf.eye(6))
    np.testing.assert_allclose(model(X), X, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(model.predict(X, verbose=0), X, rtol=0.02, atol=0.02)


def test_a_concrete_function_is_refused_by_name():
    model = network()
    kernel = model.layers[0].kernel
    concrete = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([None, 6]))
    with pytest.raises(ModelError, match="dense.*/.*concrete function"):
        omc.wrap(model, "INT8")
    assert model.layers[0].kernel is kernel
    assert not isinstance(value_of(kernel), CompressedVariable)
    np.testing.assert_allclose(concrete(tf.constant(X)), model(X), rtol=1e-6)
    del concrete
    omc.wrap(model, "INT8")
    assert isinstance(value_of(model.layers[0].kernel), CompressedVariable)


@pytest.mark.parametrize("make", [tf.keras.optimizers.SGD, tf.keras.optimizers.Adam])
def test_an_optimizer_of_ones_own_loop_goes_on(make):
    plain, model = network(), network()
    model.set_weights(plain.get_weights())
    results = []
    for network_ in (plain, model):
        optimizer = make(0.01)
        for step in range(6):
            if step == 3 and network_ is model:
                omc.wrap(model, "S1E5M10")
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((network_(X) - Y) ** 2)
            weights = network_.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        results.append(float(loss))
    assert results[0] == pytest.approx(results[1], rel=1e-3)
