"""What only Keras 3 has, or does in another way: each beside plain Keras 3."""

import copy

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import InputError, ModelError
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, variables_of

pytestmark = pytest.mark.skipif(MAJOR == 2, reason="of Keras 3")
L = tf.keras.layers
X = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)
Y = X[:, :3]


def network(**options):
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential(
        [tf.keras.Input((20,)), L.Dense(32, "relu", **options), L.Dense(3, name="head")]
    )


def fit(model, epochs=2, optimizer="adam", **options):
    if optimizer is not None:
        model.compile(optimizer, "mse", **options)
    return model.fit(X, Y, epochs=epochs, verbose=0, shuffle=False).history["loss"]


def served(model):
    return {v.served for v in variables_of(model) if isinstance(v, CompressedVariable)}


def test_private_names_are_what_we_take_them_to_be():
    """Names that a release may move, one assertion each."""
    from keras.src import backend
    from keras.src.backend.common import global_state
    from keras.src.backend.tensorflow.optimizer import TFOptimizer

    model = network()
    layer = model.layers[0]
    assert isinstance(layer.kernel._value, tf.Variable) and layer.kernel._regularizer is None
    assert layer._trainable_variables[0] is layer.kernel and layer._non_trainable_variables == []
    assert layer._losses == [] and layer._seed_generators == [] and layer._metrics == []
    assert not layer._tracker.locked or callable(layer._tracker.unlock)
    assert isinstance(tf.keras.optimizers.SGD(), TFOptimizer)
    assert callable(backend.Variable._deferred_initialize) and callable(layer._maybe_build)
    inside = []

    class Looking(L.Layer):
        def call(self, x):
            inside.append(global_state.get_global_attribute("current_call_ctx"))
            return x

    Looking()(X)
    assert inside[-1] is not None
    assert global_state.get_global_attribute("current_call_ctx") is None
    fit(model, 1)
    assert model._loss_tracker.result() > 0 and model._distribute_strategy is None
    assert model.jit_compile is False and model.layers[0].supports_jit


def test_a_model_goes_on_with_its_optimizer_when_it_is_wrapped_in_between(tmp_path):
    plain, wrapped = network(), network()
    for model in (plain, wrapped):
        fit(model)
    model.save(tmp_path / "m.keras")
    loaded = tf.keras.models.load_model(tmp_path / "m.keras")  # With the optimizer's slots.
    expected = fit(plain, optimizer=None)
    for model in (wrapped, loaded):
        omc.wrap(model, "S1E4M14")
        np.testing.assert_allclose(fit(model, optimizer=None), expected, rtol=1e-3)
        assert served(model) == {"transient"}
    with pytest.raises(ModelError, match="slots"):  # Those that are there are dense.
        omc.wrap(fit_and_return(network()), omc.Policy("S1E3M7", slots="S1E8M7"))


def fit_and_return(model):
    fit(model, 1)
    return model


def test_low_rank_updates_train_over_a_kernel_that_stays_codes():
    plain, wrapped = network(), omc.wrap(network(), "S1E4M14")
    for model in (plain, wrapped):
        tf.keras.utils.set_random_seed(3)
        model.layers[0].enable_lora(2)
    before = np.array(variables_of(wrapped)[0].buffer)
    np.testing.assert_allclose(fit(wrapped), fit(plain), rtol=1e-3)
    np.testing.assert_array_equal(wrapped.layers[0]._kernel.buffer, before)
    assert served(wrapped) == {"transient"}


def test_no_low_rank_update_where_activations_are_quantized():
    """It would take the quantizer's place."""

    def deep():
        layers = [L.Dense(16, "relu", name=f"d{i}") for i in range(3)]
        return tf.keras.Sequential([tf.keras.Input((20,)), *layers, L.Dense(3)])

    nested = omc.nest(deep(), (8, 4), calibration=X)
    before = nested.predict(X, verbose=0)
    with pytest.raises(ModelError, match="enable_lora of 'd1'"):
        nested.layers[1].enable_lora(2)
    np.testing.assert_array_equal(nested.predict(X, verbose=0), before)
    updated = deep()
    updated.layers[1].enable_lora(2)
    with pytest.raises(ModelError, match="enable_lora of 'd1'"):
        omc.nest(updated, (8, 4), calibration=X)
    free = omc.nest(deep(), (8, 4), activations=None, calibration=X)
    before = free.predict(X, verbose=0)
    free.layers[1].enable_lora(2)
    np.testing.assert_allclose(free.predict(X, verbose=0), before, rtol=1e-5, atol=1e-6)


def test_a_copy_of_a_wrapped_weight_is_a_plain_one():
    kernel = omc.wrap(network(), "INT8").layers[0].kernel
    copied = copy.deepcopy(kernel)
    assert type(copied) is tf.keras.Variable and copied.dtype == "float32"
    np.testing.assert_array_equal(copied.numpy(), kernel.numpy())
    copied.assign(copied * 2.0)
    assert not np.array_equal(copied.numpy(), kernel.numpy())


def test_keras_own_quantization_is_refused_and_changes_nothing():
    wrapped = omc.wrap(network(), "S1E3M7")
    before = wrapped.predict(X, verbose=0)
    for model in (wrapped, tf.keras.Sequential([tf.keras.Input((20,)), wrapped])):
        with pytest.raises(ModelError, match=r"quantize\(\)"):
            model.quantize("int8")
    np.testing.assert_array_equal(wrapped.predict(X, verbose=0), before)


def test_stateless_calls_are_refused():
    wrapped = omc.wrap(network(), "S1E3M7")
    values = [tf.zeros(v.shape) for v in wrapped.trainable_variables]
    with pytest.raises(ModelError, match="stateless"):
        wrapped.stateless_call(values, [], X)


def test_no_one_compiles_codes_with_xla():
    """Which Keras 3 may choose by itself, and which keeps weights dense."""
    wrapped = omc.wrap(network(), "S1E3M7")
    with pytest.warns(UserWarning, match="jit_compile"):
        wrapped.compile("sgd", "mse", jit_compile=True)
    assert not wrapped.jit_compile
    compiled = network()
    compiled.compile("sgd", "mse", jit_compile=True)
    omc.wrap(compiled, "S1E3M7")
    assert not compiled.jit_compile
    outer = tf.keras.Sequential([tf.keras.Input((20,)), omc.wrap(network(), "S1E3M7")])
    outer.compile("sgd", "mse")
    assert not outer.jit_compile


def test_patterns_match_paths_with_and_without_the_models_name():
    model = network()
    policy = omc.Policy("S1E3M7", overrides={f"{model.name}/head/kernel": "INT8"})
    other = omc.Policy("S1E3M7", overrides={"head/kernel": "INT8"})
    formats = [row.format for row in omc.memory_report(omc.wrap(model, policy)).rows]
    assert formats == ["S1E3M7", "FP32", "INT8", "FP32"]
    assert [row.format for row in omc.memory_report(omc.wrap(network(), other)).rows] == formats
    with omc.init_compressed(other):
        born = network()
    assert [row.format for row in omc.memory_report(born).rows] == formats
    inputs = tf.keras.Input((20,))
    functional = tf.keras.Model(inputs, L.Dense(3)(L.Dense(4)(inputs)))
    for model in (network(), functional):
        with pytest.raises(InputError, match="overrides"):
            omc.wrap(model, omc.Policy("S1E3M7", overrides={"kernel": "INT8"}))


@pytest.mark.parametrize("name", ["EinsumDense", "MultiHeadAttention"])
def test_what_keras_3_rewrites_as_products_is_transient(name):
    def build():
        tf.keras.utils.set_random_seed(0)
        x = inputs = tf.keras.Input((5, 20))
        if name == "EinsumDense":
            x = L.EinsumDense("abc,cde->abde", (5, 4, 5), bias_axes="de")(x)
            x = L.EinsumDense("abde,def->abf", (5, 7))(x)
        else:
            x = L.MultiHeadAttention(2, 8)(x, x)
        return tf.keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))

    plain, wrapped = build(), omc.wrap(build(), "S1E4M14")
    x, losses = np.repeat(X[:, None], 5, 1), []
    for model in (plain, wrapped):
        model.compile(tf.keras.optimizers.SGD(0.01), "mse")
        losses.append(model.fit(x, Y, epochs=2, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert served(wrapped) == {"transient"}


@pytest.mark.parametrize("name", ["Muon", "Lamb", "AdamW", "Lion"])
def test_newer_optimizers_step_as_on_plain_weights(name):
    make = getattr(tf.keras.optimizers, name)
    plain, wrapped = network(), omc.wrap(network(), "S1E4M14")
    expected = fit(plain, optimizer=make(1e-3))
    np.testing.assert_allclose(fit(wrapped, optimizer=make(1e-3)), expected, rtol=1e-3)


def test_accumulated_gradients_averages_and_clipping_together():
    def optimizer():
        return tf.keras.optimizers.Adam(
            1e-2, global_clipnorm=1.0, use_ema=True, gradient_accumulation_steps=2
        )

    plain, wrapped = network(), omc.wrap(network(), "S1E4M14")
    expected = fit(plain, optimizer=optimizer())
    np.testing.assert_allclose(fit(wrapped, optimizer=optimizer()), expected, rtol=1e-3)


def test_a_keras_variable_has_what_the_compressed_one_has():
    model = omc.wrap(network(), "INT8")
    kernel, value = model.layers[0].kernel, variables_of(model)[0]
    assert kernel.value is value and kernel.nbytes == value.nbytes == 20 * 32 + 8
    assert kernel.codec is value.codec and "format=INT8" in repr(kernel)
    np.testing.assert_array_equal(np.asarray(kernel), value.numpy())
    before = value.numpy()
    kernel.assign_add(tf.ones_like(before))  # One codec step, not a dense sum that is refitted.
    np.testing.assert_allclose(value.numpy(), before + 1.0, atol=0.02)
    with pytest.raises(AttributeError, match="nothing_such"):
        kernel.nothing_such  # noqa: B018


OF_OTHER_DTYPES = {
    "multiply": lambda ops, x, v: ops.multiply(x, v),
    "add": lambda ops, x, v: ops.add(v, x),
    "matmul": lambda ops, x, v: ops.matmul(x, v),
    "dot": lambda ops, x, v: ops.dot(x, v),
    "einsum": lambda ops, x, v: ops.einsum("ij,jk->ik", x, v),
    "einsum the other way": lambda ops, x, v: ops.einsum("ij,jk->ik", v, x),
    "einsum of three": lambda ops, x, v: ops.einsum("ij,jk,kl->il", x, v, x),
    "where": lambda ops, x, v: ops.where(x > 0, v, x),
    "concatenate": lambda ops, x, v: ops.concatenate([v, x]),
    "times": lambda ops, x, v: v * x,
    "tensor times": lambda ops, x, v: x * v,
    "tensor less": lambda ops, x, v: x - v,
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
@pytest.mark.parametrize("name", OF_OTHER_DTYPES)
def test_what_meets_another_dtype_is_promoted_as_by_keras(name, dtype):
    """Outside of layers, where nothing casts a weight to a compute dtype."""
    plain = tf.keras.Sequential([tf.keras.Input((3,)), L.Dense(3)])
    wrapped = tf.keras.models.clone_model(plain)
    wrapped.set_weights(plain.get_weights())
    wrapped = omc.wrap(wrapped, "S1E8M23")  # Exact, so that all the difference is the dtype.
    x = tf.cast(tf.reshape(tf.range(-4, 5), [3, 3]), dtype)
    function = OF_OTHER_DTYPES[name]
    expected, got = (
        function(tf.keras.ops, x, model.layers[0].kernel) for model in (plain, wrapped)
    )
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6)
