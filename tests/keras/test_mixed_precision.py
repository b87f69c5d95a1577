"""Keras' mixed precision policies: compute in 16 bits, gradients and updates in float32."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, trainable_variables, value_of, variables_of

L = tf.keras.layers
POLICIES = ["mixed_float16", "mixed_bfloat16"]


@pytest.fixture(params=POLICIES)
def policy(request):
    tf.keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    tf.keras.mixed_precision.set_global_policy("float32")


def sequential(shape, *layers, dtype=tf.float32):
    return tf.keras.Sequential([tf.keras.Input(shape, dtype=dtype), *layers])


def dense_model():
    return sequential(
        (12,), L.Dense(16, "tanh", kernel_regularizer="l2"), L.BatchNormalization(), L.Dense(8)
    )


def attention_model():
    inputs = tf.keras.Input((5, 12))
    x = L.LayerNormalization()(L.MultiHeadAttention(2, 6)(inputs, inputs))
    return tf.keras.Model(inputs, L.Dense(8)(L.Flatten()(x)))


MODELS = {
    "dense": dense_model,
    "dense_3d": lambda: sequential((5, 12), L.Dense(8), L.GlobalAveragePooling1D()),
    "conv": lambda: sequential(
        (9, 9, 3), L.Conv2D(8, 3), L.DepthwiseConv2D(3), L.BatchNormalization(), L.Flatten()
    ),
    "lstm": lambda: sequential((5, 12), L.LSTM(8)),
    "embedding": lambda: sequential(
        (6,), L.Embedding(30, 12), L.Flatten(), L.Dense(8), dtype=tf.int32
    ),
    "attention": attention_model,
}


def batch(model, count=16):
    rng = np.random.default_rng(0)
    shape = (count, *model.input_shape[1:])
    if model.inputs[0].dtype == tf.int32:
        x = tf.constant(rng.integers(0, 30, shape), tf.int32)
    else:
        x = tf.constant(rng.normal(size=shape), tf.float32)
    return x, tf.constant(rng.normal(size=(count, model.output_shape[-1])), tf.float32)


def loss_and_gradients(model, x, y):
    with tf.GradientTape() as tape:
        output = model(x, training=True)
        loss = tf.reduce_mean((tf.cast(output, tf.float32) - y) ** 2)
        loss += sum(model.losses, tf.constant(0.0))
    return output.dtype, [loss, *tape.gradient(loss, model.trainable_variables)]


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_forward_and_gradients_equal_plain_mixed_precision(build, policy):
    wrapped, plain = omc.wrap(build(), "S1E5M10"), build()
    plain.set_weights(wrapped.get_weights())
    assert not [v for v in variables_of(wrapped) if "kernel" in v.name and hasattr(v, "_variable")]
    x, y = batch(plain)
    compute = tf.keras.mixed_precision.global_policy().compute_dtype
    tolerance = 2e-3 if compute == "float16" else 1.6e-2  # Two units in the last place.
    dtype, ours = loss_and_gradients(wrapped, x, y)
    _, theirs = loss_and_gradients(plain, x, y)
    assert dtype == compute
    theirs = [tf.convert_to_tensor(want) for want in theirs]
    names = ["loss", *(v.name for v in trainable_variables(plain))]
    sizes = {name: np.abs(want).max() for name, want in zip(names, theirs)}
    for name, got, want in zip(names, ours, theirs):
        got = tf.convert_to_tensor(got)
        assert got.dtype == want.dtype == tf.float32
        # Softmax takes the key's bias out again: its gradient is what rounding leaves of others.
        size = sizes[name.replace("key/bias", "query/bias")]
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * size + 1e-6)


def test_reads_have_the_compute_dtype_only_inside_a_layer(policy):
    seen = {}

    class Reader(L.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(12, 8))

        def call(self, x):
            seen["read"] = (self.kernel.read_value() if MAJOR == 2 else self.kernel.value).dtype
            seen["convert"] = tf.convert_to_tensor(self.kernel).dtype
            seen["gather"] = tf.gather(self.kernel, [1, 2]).dtype
            seen["plus"] = (self.kernel + 1).dtype
            seen["index"] = self.kernel[0].dtype
            return tf.matmul(x, self.kernel)

    model = omc.wrap(sequential((12,), Reader()), "INT8")
    kernel = model.layers[0].kernel
    assert isinstance(value_of(kernel), CompressedVariable)
    seen.clear()
    model(tf.ones([2, 12]))
    compute = tf.keras.mixed_precision.global_policy().compute_dtype
    assert {tf.as_dtype(dtype) for dtype in seen.values()} == {tf.as_dtype(compute)}
    assert len(seen) == 5
    assert kernel.dtype == kernel.read_value().dtype == kernel.numpy().dtype == tf.float32


USES = {  # Of what a layer reads: a tensor to Keras 3, a variable that casts itself to Keras 2.
    "operators": lambda v, x: 2 * v - v / 3 + abs(-v) ** 2,
    "product": lambda v, x: x @ v,
    "product with it": lambda v, x: v @ tf.ones([8, 3], x.dtype),
    "comparison": lambda v, x: tf.stack([v > 0, v == v * 1, v != v * 1]),
    "index": lambda v, x: v[1:, 0],
    "function": lambda v, x: tf.reshape(v, [-1]),
    "rows": lambda v, x: tf.gather(v, [3, 1]),
}
if MAJOR == 3:
    USES |= {
        "iteration": lambda v, x: tf.stack([row for row in v] * len(v)),
        "attributes": lambda v, x: [*v.get_shape().as_list(), *v.numpy().shape, v.ndim],
        "array": lambda v, x: np.asarray(v),
    }


@pytest.mark.parametrize("name", USES)
def test_what_a_layer_reads_is_used_as_plain_keras_own(name, policy):
    class User(L.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(12, 8))

        def call(self, x, name=None):
            if name is None:
                return tf.matmul(x, self.kernel)
            return USES[name](self.kernel.value if MAJOR == 3 else self.kernel, x)

    wrapped, plain = omc.wrap(sequential((12,), User()), "S1E5M10"), sequential((12,), User())
    plain.set_weights(wrapped.get_weights())
    x = tf.ones([2, 12])
    got, want = (tf.convert_to_tensor(m.layers[0](x, name=name)) for m in (wrapped, plain))
    assert got.dtype == want.dtype
    np.testing.assert_allclose(
        tf.cast(got, tf.float32), tf.cast(want, tf.float32), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("how", [{}, {"jit_compile": True}, {"run_eagerly": True}])
def test_fit_follows_plain_mixed_precision(policy, how):
    wrapped, plain = omc.wrap(dense_model(), "S1E5M10"), dense_model()
    plain.set_weights(wrapped.get_weights())
    x, y = batch(plain, 32)
    losses = []
    for model, options in ((wrapped, how), (plain, {"run_eagerly": True})):
        model.compile(tf.keras.optimizers.Adam(0.01), "mse", **options)
        scaled = type(model.optimizer).__name__.startswith("LossScale")
        assert scaled == (policy == "mixed_float16")
        history = model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-2)


def test_a_step_whose_scaled_gradients_overflow_changes_no_code():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = omc.wrap(dense_model(), "INT8")
        x, y = batch(model)
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(
            tf.keras.optimizers.SGD(0.1), initial_scale=2.0**40
        )
        model.compile(optimizer, "mse")
        before = model.layers[0].kernel.buffer.numpy()
        model.train_on_batch(x, y)
        np.testing.assert_array_equal(model.layers[0].kernel.buffer.numpy(), before)
        scale = optimizer._loss_scale._current_loss_scale if MAJOR == 2 else optimizer.dynamic_scale
        assert float(scale) == 2.0**39
        scale.assign(2.0**10)
        model.train_on_batch(x, y)
        assert np.any(model.layers[0].kernel.buffer.numpy() != before)
        # SGD without momentum still keeps no slots: only the step counter and the scale's own.
        assert not [v for v in optimizer.inner_optimizer.variables if v.shape.rank]
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def test_saved_weights_serve_other_policies(policy, tmp_path):
    wrapped = omc.wrap(dense_model(), "S1E3M7")
    names = ["name.weights.h5"] if MAJOR == 3 else ["name.weights.h5", "checkpoint"]
    for name in names:
        wrapped.save_weights(tmp_path / name)
    tf.keras.mixed_precision.set_global_policy("float32")
    for name in names:
        plain = dense_model()
        plain.load_weights(tmp_path / name)
        for ours, theirs in zip(wrapped.get_weights(), plain.get_weights()):
            np.testing.assert_array_equal(ours, theirs)


def test_gradients_are_as_near_to_float32s_as_plain_ones(policy):
    tf.keras.mixed_precision.set_global_policy("float32")
    exact = attention_model()
    tf.keras.mixed_precision.set_global_policy(policy)
    wrapped, plain = omc.wrap(attention_model(), "S1E5M10"), attention_model()
    plain.set_weights(wrapped.get_weights())
    exact.set_weights(wrapped.get_weights())
    x, y = batch(plain)
    _, want = loss_and_gradients(exact, x, y)

    def distances(model):
        _, got = loss_and_gradients(model, x, y)
        pairs = zip(map(tf.convert_to_tensor, got), map(tf.convert_to_tensor, want))
        return np.array([np.linalg.norm(a.numpy() - b.numpy()) for a, b in pairs])

    # TensorFlow's Einsum in 16 bits is 2.5 times as far as the products Keras 3 has in its place.
    assert np.all(distances(wrapped) <= 1.2 * distances(plain) + 1e-6)
