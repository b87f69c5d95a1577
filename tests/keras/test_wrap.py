"""wrap(): same mathematics as plain Keras on the decoded weights, nothing dense left."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import InputError, InputTypeError, ModelError
from omc.keras import CompressedVariable, schedule
from omc.keras.adapters import SLOTS_FOLLOW
from omc.keras.host import MAJOR, value_of, variables_of
from tests.keras.either import only_keras_2

L = tf.keras.layers


def dense_model():
    return tf.keras.Sequential(
        [tf.keras.Input((12,)), L.Dense(16, "relu", kernel_regularizer="l2"), L.Dense(8)]
    )


def sequence_model():
    return tf.keras.Sequential([tf.keras.Input((5, 12)), L.Dense(16, "tanh"), L.Dense(8)])


def conv_model():
    return tf.keras.Sequential(
        [
            tf.keras.Input((9, 9, 3)),
            L.Conv2D(8, 3, padding="same", activation="relu"),
            L.Conv2D(8, (3, 2), strides=2),
            L.Conv2D(4, 2, dilation_rate=2),
            L.Flatten(),
            L.Dense(8),
        ]
    )


def fallback_model():
    """Layers without a transient version of their own."""
    tokens = tf.keras.Input((6,), dtype=tf.int32)
    x = L.Embedding(30, 12)(tokens)
    x = x + L.MultiHeadAttention(2, 6)(x, x)
    x = L.LayerNormalization()(L.Conv1D(12, 3, padding="same")(x))
    x = L.Bidirectional(L.LSTM(6, return_sequences=True))(x)
    x = L.GRU(8)(L.TimeDistributed(L.Dense(8))(x))
    return tf.keras.Model(tokens, L.Dense(8)(x))


def shared_model():
    """One layer used twice, and a nested model."""
    inputs = tf.keras.Input((12,))
    shared = L.Dense(12, "tanh")
    inner = tf.keras.Sequential([L.Dense(10, "relu"), L.BatchNormalization(), L.Dense(8)])
    return tf.keras.Model(inputs, inner(shared(shared(inputs))))


MODELS = [dense_model, sequence_model, conv_model, fallback_model, shared_model]


def batch(model, seed=0, count=16):
    rng = np.random.default_rng(seed)
    shape = (count, *model.input_shape[1:])
    if model.inputs[0].dtype == tf.int32:
        return tf.constant(rng.integers(0, 30, shape), tf.int32)
    return tf.constant(rng.normal(size=shape), tf.float32)


def target(model, x):
    return tf.random.stateless_normal(model(x).shape, [1, 2])


def pair(build, fmt="S1E3M7"):
    """A wrapped model and a plain one on its decoded weights."""
    wrapped, plain = omc.wrap(build(), omc.Policy(fmt, rounding="nearest")), build()
    plain.set_weights([v.numpy() for v in variables_of(wrapped)])
    return wrapped, plain


def loss_and_gradients(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        loss += sum(model.losses, tf.constant(0.0))
    gradients = tape.gradient(loss, model.trainable_variables)
    return [loss, *(tf.convert_to_tensor(gradient) for gradient in gradients)]


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("build", MODELS)
def test_forward_and_gradients_equal_plain_keras(build, graph):
    wrapped, plain = pair(build)
    x = batch(plain)
    y = target(plain, x)
    run = tf.function(loss_and_gradients) if graph else loss_and_gradients
    for ours, theirs in zip(run(wrapped, x, y), loss_and_gradients(plain, x, y)):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "build, optimizer",
    [
        *((dense_model, name) for name in ("sgd", "momentum", "adam")),
        (conv_model, "momentum"),
        (fallback_model, "adam"),
    ],
)
def test_one_fit_step_equals_plain_keras_to_a_code_step(build, optimizer):
    """After a step each weight is the plain one, rounded to the nearest code."""
    make = {
        "sgd": lambda: tf.keras.optimizers.SGD(0.1),
        "momentum": lambda: tf.keras.optimizers.SGD(0.1, momentum=0.9),
        "adam": lambda: tf.keras.optimizers.Adam(0.01),
    }[optimizer]
    wrapped, plain = pair(build)
    x = batch(plain)
    y = target(plain, x)
    for model in (wrapped, plain):
        model.compile(make(), "mse")
        model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    for ours, theirs in zip(variables_of(wrapped), variables_of(plain)):
        value, want = ours.numpy(), theirs.numpy()
        if not isinstance(ours, CompressedVariable):
            np.testing.assert_allclose(value, want, rtol=2e-3, atol=2e-5)
            continue
        scale, offset = (float(t) for t in ours.codec.transform_of(ours.buffer.read_value()))
        fmt = ours.codec.format
        units = np.abs((want - offset) / scale)
        exponent = np.floor(np.log2(np.maximum(units, fmt.min_normal)))
        half_step = scale * 2.0 ** (exponent - fmt.mantissa_bits - 1)
        assert np.all(np.abs(value - want) <= 1.02 * half_step + 2e-5)


def test_training_learns_as_plain_keras_does():
    x, y = batch(dense_model(), count=256), None
    y = tf.tanh(x[:, :8]) * 2
    losses = {}
    for name, model in zip(("omc", "plain"), pair(dense_model, "S1E5M10")):
        model.compile(tf.keras.optimizers.Adam(0.01), "mse")
        history = model.fit(x, y, epochs=30, batch_size=32, shuffle=False, verbose=0).history
        losses[name] = history["loss"][-1]
        assert np.isfinite(model.evaluate(x, y, verbose=0))
        assert model.predict(x, verbose=0).shape == y.shape
    assert losses["omc"] < 1.1 * losses["plain"] + 0.01


@pytest.mark.parametrize("build", MODELS)
def test_the_dense_originals_are_gone(build):
    model = build()
    originals = [weakref.ref(v) for v in variables_of(model) if len(v.shape) >= 2]
    names = [v.name for v in variables_of(model)]
    shapes = [w.shape for w in model.get_weights()]
    omc.wrap(model, "INT8")
    gc.collect()
    assert originals
    assert [ref().name for ref in originals if ref() is not None and "bias" not in ref().name] == []
    assert [v.name for v in variables_of(model)] == names
    assert [w.shape for w in model.get_weights()] == shapes


def test_a_step_without_gradient_keeps_every_code():
    model = omc.wrap(dense_model(), "S1E2M3")
    model.compile(tf.keras.optimizers.SGD(0.0), "mse")
    before = [v.buffer.numpy() for v in variables_of(model) if isinstance(v, CompressedVariable)]
    x = batch(model)
    model.fit(x, target(model, x), epochs=3, verbose=0)
    model.set_weights(model.get_weights())
    after = [v.buffer.numpy() for v in variables_of(model) if isinstance(v, CompressedVariable)]
    assert before
    for old, new in zip(before, after):
        np.testing.assert_array_equal(old, new)


def test_stochastic_rounding_is_repeatable_and_moves_what_nearest_loses():
    def train(rounding, seed):
        tf.keras.utils.set_random_seed(0)
        model = omc.wrap(dense_model(), omc.Policy("INT4", rounding=rounding, seed=seed))
        model.compile(tf.keras.optimizers.SGD(1e-2), "mse")
        start = model.get_weights()[0]
        x = batch(model)
        model.fit(x, target(model, x), epochs=5, shuffle=False, verbose=0)
        return model.get_weights()[0] - start

    assert not np.any(train("nearest", 0))
    moved = train("stochastic", 0)
    assert np.any(moved)
    np.testing.assert_array_equal(moved, train("stochastic", 0))
    assert np.any(moved != train("stochastic", 1))


def test_report_counts_what_exists():
    policy = omc.Policy("S1E3M7", fraction=0.5, seed=3, overrides={"*dense*/bias": "FP32"})
    model = omc.wrap(shared_model(), policy)
    report = omc.memory_report(model)
    by_name = {row.name: row for row in report.rows}
    for variable in variables_of(model):
        row = by_name[variable.name.split(":")[0]]
        stored = variable.buffer if isinstance(variable, CompressedVariable) else variable
        assert row.stored_bytes == stored.numpy().nbytes
        assert row.dense_bytes == 4 * np.prod(variable.shape)
        assert row.reason
    assert report.stored_bytes == sum(row.stored_bytes for row in report.rows)
    assert "of dense" in str(report)
    assert report.as_dict()["ratio"] == report.ratio < 1
    assert omc.memory_report(shared_model()).ratio == 1


def test_report_draws_a_picture(tmp_path):
    omc.memory_report(omc.wrap(dense_model(), "INT8")).plot(tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 1000


def test_the_next_backward_pass_waits_for_the_update_before_it():
    """The order that keeps dense gradients from piling up, seen in the graph of `fit` itself."""
    layers = [L.Dense(6) for _ in range(4)]
    model = omc.wrap(tf.keras.Sequential([tf.keras.Input((6,)), *layers]), "INT8")
    model.compile("sgd", "mse")
    x = batch(model)
    model.fit(x, x, verbose=0)
    graphs = [
        graph
        for graph in schedule._graphs
        if any(owner is value_of(layers[0].kernel) for owner, _ in schedule.backward_reads(graph))
    ]
    reads = dict((owner.name, op) for owner, op in schedule.backward_reads(graphs[0]))
    for above, below in zip(layers[::-1], layers[-2::-1]):
        stores = [
            op
            for op in reads[value_of(below.kernel).name].control_inputs
            if op.type in ("AssignVariableOp", "Omc>UpdateVariable")
        ]
        assert any(schedule.depends(op, reads[value_of(above.kernel).name]) for op in stores)


@pytest.mark.parametrize(
    "name",
    [
        "name.weights.h5",
        pytest.param("weights.h5", marks=only_keras_2("save_weights writes .weights.h5 alone")),
        pytest.param("checkpoint", marks=only_keras_2("save_weights writes .weights.h5 alone")),
    ],
)
def test_saved_weights_serve_plain_and_wrapped_models(name, tmp_path):
    wrapped, plain = pair(shared_model)
    wrapped.save_weights(tmp_path / name)
    again, other = shared_model(), omc.wrap(shared_model(), "S1E3M7")
    again.load_weights(tmp_path / name)
    other.load_weights(tmp_path / name)
    for a, b, c in zip(plain.get_weights(), again.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, atol=np.abs(a).max() / 100)


def test_fit_traces_once():
    model = omc.wrap(dense_model(), "S1E3M7")
    model.compile("sgd", "mse")
    x = batch(model, count=64)
    y = target(model, x)
    traces, train_step = [], model.train_step

    def counted(data):
        traces.append(data)
        return train_step(data)

    model.train_step = counted
    for _ in range(3):
        model.fit(x, y, batch_size=16, verbose=0)
    assert len(traces) == 1


@pytest.mark.parametrize("loop", ["fit", "own"])
def test_sgd_without_momentum_keeps_no_slots(loop):
    model, optimizer = omc.wrap(dense_model(), "INT8"), tf.keras.optimizers.SGD(0.1)
    plain, usual = dense_model(), tf.keras.optimizers.SGD(0.1)
    x = batch(model)
    y = target(model, x)
    for network, trainer in ((model, optimizer), (plain, usual)):
        if loop == "fit":
            network.compile(trainer, "mse")
            network.fit(x, y, verbose=0)
        else:
            gradients = loss_and_gradients(network, x, y)[1:]
            trainer.apply_gradients(zip(gradients, network.trainable_variables))
    assert not [v for v in optimizer.variables if len(v.shape)]
    counts = [len(trainer.variables) for trainer in (optimizer, usual)]
    slots = len(plain.trainable_variables) if MAJOR == 2 else 0  # Keras 3 makes none either.
    assert counts[0] + slots == counts[1]


@only_keras_2("has no legacy optimizers")
@pytest.mark.parametrize("loop", ["fit", "own"])
def test_a_legacy_optimizer_is_refused(loop):
    model, optimizer = omc.wrap(dense_model(), "INT8"), tf.keras.optimizers.legacy.SGD(0.1)
    x = batch(model)
    before = model.get_weights()
    with pytest.raises(InputTypeError, match="legacy.SGD"):
        if loop == "fit":
            model.compile(optimizer, "mse")
            model.fit(x, target(model, x), verbose=0)
        gradients = loss_and_gradients(model, x, target(model, x))[1:]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


# Dense slots of before may go on, but they do not become codes.
WITH_SLOTS = omc.Policy("INT8", slots="S1E8M7" if SLOTS_FOLLOW else None)


def built_optimizer():
    model = dense_model()
    model.compile("adam", "mse")
    x = batch(model)
    model.fit(x, target(model, x), verbose=0)
    return model


def diverged():
    model = dense_model()
    model.layers[0].kernel.assign(np.full((12, 16), np.nan))
    return model


@pytest.mark.parametrize(
    "error, argument, make",
    [
        (InputTypeError, "model", lambda: omc.wrap("model", "INT8")),
        (InputTypeError, "policy", lambda: omc.wrap(dense_model(), None)),
        (ModelError, "model", lambda: omc.memory_report(tf.keras.Sequential([L.Dense(3)]))),
        (ModelError, "model", lambda: omc.wrap(omc.wrap(dense_model(), "INT8"), "INT8")),
        (ModelError, "model", lambda: omc.wrap(built_optimizer(), WITH_SLOTS)),
        (InputError, "model", lambda: omc.wrap(diverged(), "INT8")),
        (InputTypeError, "model", lambda: omc.memory_report([1])),
    ],
)
def test_errors_name_the_argument(error, argument, make):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.argument == argument
    assert "expected" in str(caught.value) and "but got" in str(caught.value)


def test_a_refused_model_is_untouched():
    model = diverged()
    with pytest.raises(InputError):
        omc.wrap(model, "INT8")
    assert not any(isinstance(v, CompressedVariable) for v in variables_of(model))
