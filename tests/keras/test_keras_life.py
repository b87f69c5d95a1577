"""A wrapped model lives as a Keras model: callbacks, saving, loops, inputs, shapes of models."""

import collections
import csv

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import ModelError
from omc.keras import CompressedVariable
from omc.keras.adapters import SLOTS_FOLLOW
from omc.keras.host import MAJOR, variables_of
from tests.keras.either import only_keras_2
from tests.keras.traces import trace_count

L, C = tf.keras.layers, tf.keras.callbacks
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 12)).astype(np.float32)
Y = RNG.normal(size=(32, 8)).astype(np.float32)


def dense_model():
    return tf.keras.Sequential([tf.keras.Input((12,)), L.Dense(16, "tanh"), L.Dense(8)])


def pair(build, fmt="S1E5M10"):
    """A wrapped model and a plain one on its decoded weights."""
    wrapped, plain = omc.wrap(build(), omc.Policy(fmt, rounding="nearest")), build()
    plain.set_weights([v.numpy() for v in variables_of(wrapped)])
    return wrapped, plain


def compressed(model):
    return [v for v in variables_of(model) if isinstance(v, CompressedVariable)]


def codes(model):
    return [v.buffer.numpy() for v in compressed(model)]


def fit(model, x=X, y=Y, epochs=2, **options):
    return model.fit(x, y, epochs=epochs, batch_size=8, shuffle=False, verbose=0, **options)


def assert_same_training(build, x, y, data=None, count=None, **compiling):
    """Both models see the same losses, and end near each other."""
    histories, eager = [], dict(run_eagerly=True, jit_compile=False)  # Quicker than tracing.
    for model, how in zip(models := pair(build), ({}, eager)):
        model.compile(tf.keras.optimizers.SGD(0.05), **{"loss": "mse", **compiling, **how})
        histories.append(fit(model, x, y, **(data or {})).history)
    assert compressed(models[0]) if count is None else len(compressed(models[0])) == count
    for key, values in histories[1].items():
        np.testing.assert_allclose(histories[0][key], values, rtol=1e-2, atol=1e-4)
    for ours, theirs in zip(models[0].get_weights(), models[1].get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=2e-3)
    return models[0]


# --- Loops


@pytest.mark.parametrize(
    "how",
    [
        dict(jit_compile=True),
        dict(run_eagerly=True),
        dict(steps_per_execution=4),
        dict(metrics=["mae"], weighted_metrics=["mse"]),
    ],
    ids=lambda how: next(iter(how)),
)
def test_compile_options(how):
    model = assert_same_training(dense_model, X, Y, dict(validation_data=(X, Y)), **how)
    assert np.isfinite(model.evaluate(X, Y, verbose=0)).all()
    np.testing.assert_allclose(model.predict(X, verbose=0), model(X), rtol=1e-3, atol=1e-5)


def test_fit_evaluate_and_predict_trace_once():
    model = omc.wrap(dense_model(), "S1E3M7")
    model.compile("sgd", "mse")
    for _ in range(3):
        fit(model, epochs=3, validation_data=(X, Y))
        model.evaluate(X, Y, batch_size=8, verbose=0)
        model.predict(X, batch_size=8, verbose=0)
        model.set_weights(model.get_weights())
    for function in (model.train_function, model.test_function, model.predict_function):
        assert trace_count(function) == 1


def test_a_train_step_of_the_users_own():
    class Trainer(tf.keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.abs(self(x, training=True) - y))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
            return {"loss": loss}

    def build():
        inputs = tf.keras.Input((12,))
        return Trainer(inputs, L.Dense(8)(L.Dense(16, "tanh")(inputs)))

    assert_same_training(build, X, Y)


def test_added_losses_and_activity_regularizers():
    class Penalty(L.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 8), regularizer="l2")

        def call(self, x):
            self.add_loss(0.1 * tf.reduce_sum(self.kernel**2))
            return x @ self.kernel

    class Priced(L.Layer):
        def __init__(self, price):
            super().__init__()
            self._price = price

        def call(self, x):
            self.add_loss(self._price())
            return x

    def build():
        model = tf.keras.Sequential(
            [tf.keras.Input((12,)), L.Dense(16, "tanh", activity_regularizer="l2"), Penalty()]
        )

        def price():
            return 0.1 * tf.reduce_sum(tf.abs(model.layers[0].kernel))

        if MAJOR == 2:
            model.add_loss(price)
        else:  # Which takes losses from a layer's call only.
            model.add(Priced(price))
        return model

    assert_same_training(build, X, Y)


def test_several_inputs_and_outputs_and_weighted_samples():
    def build():
        a, b = tf.keras.Input((12,), name="a"), tf.keras.Input((12,), name="b")
        x = L.Concatenate()([L.Dense(6, "tanh")(a), L.Dense(6, "tanh")(b)])
        return tf.keras.Model(
            [a, b], {"one": L.Dense(8, name="one")(x), "two": L.Dense(3, name="two")(x)}
        )

    weights = {"one": np.linspace(0, 1, 32), "two": np.ones(32)}
    assert_same_training(
        build,
        {"a": X, "b": -X},
        {"one": Y, "two": Y[:, :3]},
        dict(sample_weight=weights),
        loss={"one": "mse", "two": "mae"},
        loss_weights={"one": 1.0, "two": 0.5},
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_frozen_layers_keep_their_codes(when):
    model = dense_model()
    if when == "before":
        model.layers[0].trainable = False
    omc.wrap(model, "INT8")
    model.layers[0].trainable = False
    model.compile(tf.keras.optimizers.SGD(0.5), "mse")
    assert [v.name for v in model.trainable_variables] == [v.name for v in model.layers[1].weights]
    before = codes(model)
    fit(model)
    after = codes(model)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.any(before[1] != after[1])
    model.layers[0].trainable = True
    assert len(model.trainable_variables) == 4
    model.compile(tf.keras.optimizers.SGD(0.5), "mse")
    fit(model)
    assert np.any(codes(model)[0] != before[0])


# --- Callbacks


# Keras 3 has no other files of weights than those of the first name.
WEIGHTS = ["a.weights.h5"] + ["a.h5", "checkpoint"] * (MAJOR == 2)


def test_callbacks(tmp_path):
    model = omc.wrap(dense_model(), "S1E3M7")
    model.compile("adam", "mse")
    seen = []
    fit(
        model,
        epochs=3,
        validation_data=(X, Y),
        callbacks=[
            C.ReduceLROnPlateau("loss", patience=0, min_delta=1e9, factor=0.5),
            *(C.ModelCheckpoint(str(tmp_path / name), save_weights_only=True) for name in WEIGHTS),
            C.ModelCheckpoint(str(tmp_path / "model.keras")),
            C.TensorBoard(tmp_path / "board", histogram_freq=1, write_images=True),
            C.CSVLogger(tmp_path / "log.csv"),
            C.TerminateOnNaN(),
            C.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["loss"])),
        ],
    )
    assert len(list(csv.DictReader((tmp_path / "log.csv").open()))) == len(seen) == 3
    assert float(model.optimizer.learning_rate) < 1e-3
    assert list((tmp_path / "board").rglob("events*"))
    for name in WEIGHTS:
        plain, other = dense_model(), omc.wrap(dense_model(), "S1E3M7")
        plain.load_weights(tmp_path / name)
        other.load_weights(tmp_path / name)
        for ours, exact, again in zip(
            model.get_weights(), plain.get_weights(), other.get_weights()
        ):
            np.testing.assert_array_equal(ours, exact)
            np.testing.assert_allclose(again, ours, atol=np.abs(ours).max() / 256)
    whole = tf.keras.models.load_model(tmp_path / "model.keras")
    for ours, exact in zip(model.get_weights(), whole.get_weights()):
        np.testing.assert_array_equal(ours, exact)
    for ours, exact in zip(model.optimizer.variables, whole.optimizer.variables):
        np.testing.assert_array_equal(ours, exact)


def test_early_stopping_restores_the_best_weights():
    model = omc.wrap(dense_model(), "S1E3M7")
    model.compile(tf.keras.optimizers.SGD(0.5), "mse")
    kept = []
    stop = C.EarlyStopping("loss", mode="max", patience=2, restore_best_weights=True)
    keep = C.LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(model.get_weights()))
    fit(model, epochs=5, callbacks=[stop, keep])
    assert len(kept) == 3
    for now, best in zip(model.get_weights(), kept[0]):
        np.testing.assert_allclose(now, best, atol=np.abs(best).max() / 256)


def test_backup_and_restore_resumes(tmp_path):
    def model_and_options():
        tf.keras.utils.set_random_seed(0)
        model = omc.wrap(dense_model(), "S1E3M7")
        model.compile("adam", "mse", run_eagerly=True)
        return model, dict(epochs=3)

    class Interrupted(C.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    model, options = model_and_options()
    with pytest.raises(InterruptedError):
        fit(model, callbacks=[C.BackupAndRestore(tmp_path), Interrupted()], **options)
    again, options = model_and_options()
    epochs = []
    count = C.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    fit(again, callbacks=[C.BackupAndRestore(tmp_path), count], **options)
    assert epochs == [2] and int(again.optimizer.iterations) == 12


# --- Weights


@pytest.mark.parametrize("fmt", ["S1E3M7", "S1E2M3", "S0E4M4", "S1E5M10", "INT2", "INT4", "INT8"])
def test_getting_and_setting_weights_keeps_every_code(fmt):
    model = omc.wrap(dense_model(), fmt)
    model.compile(tf.keras.optimizers.SGD(0.5), "mse", run_eagerly=True)
    for _ in range(3):
        model.train_on_batch(X, Y)
        before = codes(model)
        model.set_weights(model.get_weights())
        for old, new in zip(before, codes(model)):
            np.testing.assert_array_equal(old, new)


NO_OTHER_FILES = only_keras_2("save_weights() takes names in .weights.h5 only")


@pytest.mark.parametrize(
    "name",
    [
        "w.weights.h5",
        pytest.param("w.h5", marks=NO_OTHER_FILES),
        pytest.param("w", marks=NO_OTHER_FILES),
    ],
)
def test_saving_and_loading_weights_keeps_every_code(name, tmp_path):
    model = omc.wrap(dense_model(), "S1E3M7")
    model.compile("adam", "mse", run_eagerly=True)
    model.train_on_batch(X, Y)
    before = codes(model)
    model.save_weights(tmp_path / name)
    model.load_weights(tmp_path / name)
    for old, new in zip(before, codes(model)):
        np.testing.assert_array_equal(old, new)


def test_what_keras_says_about_a_model_stays():
    plain = dense_model()
    lines = {False: [], True: []}
    plain.summary(print_fn=lines[False].append)
    count, names = plain.count_params(), [v.name for v in variables_of(plain)]
    model = omc.wrap(plain, "INT8")
    model.summary(print_fn=lines[True].append)
    assert lines[True] == lines[False]
    assert model.count_params() == count
    assert [v.name for v in variables_of(model)] == names


def test_a_clone_is_plain_and_can_be_wrapped():
    model = omc.wrap(dense_model(), "INT8")
    for clone in (
        tf.keras.models.clone_model(model),
        tf.keras.models.model_from_json(model.to_json()),
    ):
        assert compressed(clone) == []
        clone.set_weights(model.get_weights())
        np.testing.assert_array_equal(clone(X), model(X))
        assert len(compressed(omc.wrap(clone, "INT8"))) == 2


# --- Shapes of models


def containers():
    """Layers and variables in lists, tuples, named tuples and dicts."""
    Pair = collections.namedtuple("Pair", "left right")

    class Branch(L.Layer):
        def __init__(self):
            super().__init__()
            self.rows = [L.Dense(6, "tanh"), (L.Dense(6, "tanh"),)]
            self.named = {"deep": {"er": L.Dense(8)}}

        def build(self, shape):
            weights = [self.add_weight(name=f"kernel_{i}", shape=(12, 6)) for i in range(4)]
            self.pair, self.named_pair = tuple(weights[:2]), Pair(*weights[2:])

        def call(self, x):
            y = self.rows[0](x) + self.rows[1][0](x)
            y += x @ self.pair[0] + x @ self.pair[1]
            y += x @ self.named_pair.left - x @ self.named_pair.right
            return self.named["deep"]["er"](y)

    return tf.keras.Sequential([tf.keras.Input((12,)), Branch()])


def tied_functional():
    inputs = tf.keras.Input((12,))
    dense = L.Dense(8, use_bias=False)
    if MAJOR == 2:
        hidden = tf.tanh(dense(inputs))
        back = tf.matmul(hidden, dense.kernel, transpose_b=True)
    else:
        hidden = tf.keras.ops.tanh(dense(inputs))
        back = tf.keras.ops.einsum("bo,io->bi", hidden, dense.kernel)
    return tf.keras.Model(inputs, dense(back))


def shared_variable():
    class Tied(L.Layer):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def build(self, shape):
            self.kernel = self.other.kernel

        def call(self, x):
            return tf.matmul(x, self.kernel, transpose_b=True)

    first = L.Dense(8, "tanh")
    return tf.keras.Sequential([tf.keras.Input((12,)), first, Tied(first), L.Dense(8)])


def nested():
    inner = tf.keras.Sequential([L.Dense(10, "relu"), tf.keras.Sequential([L.Dense(12)])])
    inputs = tf.keras.Input((12,))
    return tf.keras.Model(inputs, L.Dense(8, kernel_constraint="max_norm")(inner(inner(inputs))))


@pytest.mark.parametrize(
    "build, count", [(containers, 7), (tied_functional, 1), (shared_variable, 2), (nested, 3)]
)
def test_shapes_of_models(build, count):
    assert_same_training(build, X, Y, count=count)


def test_a_wrapped_part_of_a_plain_model():
    part = omc.wrap(dense_model(), "S1E5M10")
    inputs = tf.keras.Input((12,))
    whole = tf.keras.Model(inputs, L.Dense(8)(part(inputs)))
    whole.compile("adam", "mse")
    losses = fit(whole, epochs=5).history["loss"]
    assert losses[-1] < losses[0] and len(compressed(whole)) == 2
    # Where slots go on with what is wrapped later, those that are to be stored in codes do not.
    policy = omc.Policy("INT8", slots="S1E8M7" if SLOTS_FOLLOW else None)
    with pytest.raises(ModelError, match="a part of which is wrapped, and whose optimizer"):
        omc.wrap(whole, policy)
    if not SLOTS_FOLLOW:
        whole.compile("adam", "mse")
    assert len(compressed(omc.wrap(whole, "INT8"))) == 3
    more = fit(whole, epochs=5).history["loss"]
    assert more[-1] < losses[-1]


# --- Refusals


def under_a_strategy(outside):
    strategy = tf.distribute.OneDeviceStrategy("cpu:0")
    with strategy.scope():
        model = dense_model()
        if not outside:
            return omc.wrap(model, "INT8")
    return omc.wrap(model, "INT8")


@pytest.mark.parametrize(
    "make, part",
    [
        (lambda: under_a_strategy(False), "OneDeviceStrategy"),
        (lambda: under_a_strategy(True), "OneDeviceStrategy"),
        (
            lambda: omc.wrap(tf.keras.Sequential([tf.keras.Input((2,)), L.Flatten()]), "INT8"),
            "has none",
        ),
    ],
)
def test_refusals(make, part):
    with pytest.raises(ModelError, match=part) as caught:
        make()
    assert caught.value.argument == "model" and caught.value.tip
