"""Models built compressed: the bits that `wrap` makes, without ever being dense."""

import functools
import threading

import numpy as np
import pytest
import tensorflow as tf

import models
import omc
from omc.errors import ArtifactError, InputError, ModelError
from omc.keras import CompressedVariable
from omc.keras.adapters import SLOTS_FOLLOW
from omc.keras.host import MAJOR, value_of, variables_of
from omc.measurement import measure_peak
from tests.keras.either import only_keras_3
from tests.own_process import heap_peaks

L = tf.keras.layers
SMALL = models.CONFORMERS["tiny"]
ZOO = {
    "conformer": functools.partial(models.conformer, 20, 80, **SMALL),
    "streaming": functools.partial(models.conformer, 20, 80, **models.CONFORMERS["streaming_tiny"]),
    "keyword_cnn": models.keyword_cnn,
    "keyword_lstm": models.keyword_lstm,
    "lstm_lm": models.lstm_lm,
    "mlp": models.mlp,
    "resnet8": models.resnet8,
    "resnet8_batch": functools.partial(models.resnet8, norm="batch"),
    "resnet20": models.resnet20,
    "transformer": models.transformer,
}
POLICIES = {
    "all": omc.Policy("S1E3M7"),
    "partial": omc.Policy("INT8", fraction=0.6, seed=3),
    "everything, nearest": omc.Policy("INT4", weight_matrices_only=False, rounding="nearest"),
}


def stored(model):
    """What each variable is: kind, bytes, stream of rounding, reason."""
    rows = omc.memory_report(model).rows
    found = []
    for variable, row in zip({id(v): v for v in variables_of(model)}.values(), rows):
        packed = isinstance(variable, CompressedVariable)
        value = variable.buffer if packed else variable
        stream = packed and variable._stream is not None and int(variable._stream)
        found.append((type(variable), value.numpy().tobytes(), stream, row.format, row.reason))
    return found


def both(build, policy):
    """The same model, wrapped and born compressed."""
    tf.keras.utils.set_random_seed(1)
    wrapped = omc.wrap(build(), policy)
    tf.keras.utils.set_random_seed(1)
    with omc.init_compressed(policy):
        born = build()
    return wrapped, born


# Every model under partial quantization, which decides last; the other policies once.
CASES = [(name, "partial") for name in ZOO] + [("conformer", name) for name in POLICIES]


@pytest.mark.parametrize("name, policy", sorted(set(CASES)))
def test_the_same_bits_as_wrap(name, policy):
    wrapped, born = both(ZOO[name], POLICIES[policy])
    assert stored(born) == stored(wrapped)
    assert any(isinstance(v, CompressedVariable) for v in variables_of(born))


class Bare(L.Layer):
    """A variable of its own making, shared penalties, a table."""

    def build(self, shape):
        variable = tf.Variable if MAJOR == 2 else tf.keras.Variable
        self.own = variable(tf.random.normal([shape[-1], 6]), name="own")
        self.kernel = self.add_weight(name="kernel", shape=[6, 5], regularizer="l2")
        super().build(shape)

    def call(self, x):
        return tf.matmul(tf.matmul(x, self.own), self.kernel)


def bare():
    return tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(8), Bare(), L.Dense(3)])


def mixed():
    policy = tf.keras.mixed_precision.Policy("mixed_bfloat16")
    layers = [L.Dense(16, dtype=policy), L.LSTM(6, dtype=policy), L.Dense(3, dtype="float32")]
    return tf.keras.Sequential([tf.keras.Input((5, 4)), *layers])


def einsum(subscripts, x, weight):
    """An op of a functional model, on a symbolic tensor and a weight."""
    return (tf if MAJOR == 2 else tf.keras.ops).einsum(subscripts, x, weight)


def multiplied():
    x = tf.keras.Input((6,))
    layer = L.Dense(6, use_bias=False, kernel_regularizer="l2")
    twice = einsum("bi,io->bo", layer(x), layer.kernel)
    return tf.keras.Model(x, L.Add()([twice, L.Dense(6)(x)]))


def shared():
    table, x = L.Embedding(30, 8), tf.keras.Input((5,), dtype=tf.int32)
    inner = tf.keras.Sequential([tf.keras.Input((5, 8)), L.GRU(8), L.Dense(8, "relu")])
    y = inner(table(x))
    return tf.keras.Model(x, einsum("bi,oi->bo", y, table.embeddings))


BUILDS = {"bare": bare, "mixed": mixed, "multiplied": multiplied, "shared": shared}


@pytest.mark.parametrize(
    "name, fraction", [("bare", 0.5), ("mixed", 0.5), ("multiplied", 1.0), ("shared", 1.0)]
)
def test_it_trains_as_a_wrapped_one(name, fraction):
    results = []
    for model in both(BUILDS[name], omc.Policy("S1E4M8", fraction=fraction, seed=1)):
        model.compile(tf.keras.optimizers.Adam(0.01), "mse")
        rng = np.random.default_rng(0)
        shape = (16, *model.input_shape[1:])
        is_integer = tf.as_dtype(model.inputs[0].dtype).is_integer
        x = rng.integers(0, 30, shape) if is_integer else rng.normal(size=shape)
        y = rng.normal(size=(16, model.output_shape[-1]))
        losses = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
        served = [row.served for row in omc.memory_report(model).rows]
        results.append((losses, stored(model), served))
    assert results[0] == results[1]


def test_weights_that_are_set_inside_are_packed_anew(tmp_path):
    plain = bare()
    for weight in variables_of(plain):
        weight.assign(weight * 7.0 + 1.0)  # Far from what was initialised.
    plain.save_weights(tmp_path / "m.weights.h5")
    for fraction in (1.0, 0.5):
        policy = omc.Policy("INT4", fraction=fraction)
        with omc.init_compressed(policy):
            set_ = bare()
            set_.set_weights(plain.get_weights())
        with omc.init_compressed(policy):
            loaded = bare()
            loaded.load_weights(tmp_path / "m.weights.h5")
        copy = bare()
        copy.set_weights(plain.get_weights())
        assert stored(set_) == stored(loaded) == stored(omc.wrap(copy, policy))
    before = stored(set_)
    set_.set_weights(set_.get_weights())  # Afterwards transforms are kept, as always.
    assert stored(set_) == before


def test_a_whole_keras_file_comes_back_compressed(tmp_path):
    models.mlp().save(tmp_path / "m.keras")
    with omc.init_compressed("INT8"):
        born = tf.keras.models.load_model(tmp_path / "m.keras")
    wrapped = omc.wrap(tf.keras.models.load_model(tmp_path / "m.keras"), "INT8")
    assert stored(born) == stored(wrapped)


def test_layers_that_were_there_are_packed_with_the_others():
    def build(base):
        return tf.keras.Sequential([tf.keras.Input((4,)), base, L.Dense(3)])

    tf.keras.utils.set_random_seed(0)
    base = L.Dense(9)
    base.build([None, 4])
    with omc.init_compressed("INT8"):
        born = build(base)
    assert [type(v) is CompressedVariable for v in variables_of(born)] == [True, False, True, False]


def test_an_artifact_is_loaded_into_it(tmp_path):
    wrapped, born = both(ZOO["resnet8"], POLICIES["partial"])
    for variable in variables_of(wrapped):
        variable.assign_add(tf.fill(variable.shape, tf.cast(0.01, variable.dtype)))
    for coded in (False, True):
        omc.save(wrapped, tmp_path / "m.omc", coded=coded)
        omc.load(tmp_path / "m.omc", born)
        # How a variable's rounding goes on is not in the artifact.
        assert [row[:2] for row in stored(born)] == [row[:2] for row in stored(wrapped)]


WIDTH, LAYERS = 512, 32


def dense_stack():
    dense = [L.Dense(WIDTH, use_bias=False) for _ in range(LAYERS)]
    return tf.keras.Sequential([tf.keras.Input((WIDTH,)), *dense])


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_it_is_never_dense_as_a_whole(fraction):
    policy, dense = omc.Policy("INT8", fraction=fraction), 4 * WIDTH**2
    with omc.init_compressed(policy):
        first = dense_stack()  # What TensorFlow makes once, it makes here.
    del first
    with measure_peak() as building:
        with omc.init_compressed(policy):
            model = dense_stack()
    most = omc.memory_report(model).stored_bytes
    # One variable dense, and what encoding it takes.
    assert building.allocator_bytes < most + 16 * dense
    assert fraction < 1 or most + 16 * dense < LAYERS * dense


LOADING = """
import sys
import tensorflow as tf
import omc
from omc.measurement import heap_peak

layers = [tf.keras.layers.Dense(512, use_bias=False) for _ in range(32)]
model = omc.wrap(tf.keras.Sequential([tf.keras.Input((512,)), *layers]), "INT8")
path = sys.argv[1] + "/model.omc"
omc.save(model, path)
omc.load(path, model)  # What TensorFlow makes once, it makes here.
with heap_peak() as peak:
    omc.load(path, model)
print(peak.bytes)
"""


def test_loading_takes_no_dense_model(tmp_path):
    """32 kernels of 1 MiB dense, 256 KiB stored."""
    (loading,) = heap_peaks(LOADING, tmp_path)
    assert loading < (32 * 0.25 + 1.5) * 2**20


def test_metrics_optimizers_and_other_threads_stay_dense():
    made = []

    def other():
        made.append(L.Dense(8))
        made[0].build([None, 8])

    with omc.init_compressed("INT8"):
        model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(8)])
        metric = tf.keras.metrics.MeanIoU(50)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert isinstance(value_of(model.layers[0].kernel), CompressedVariable)
    for variable in (*metric.variables, made[0].kernel):
        assert not isinstance(value_of(variable), CompressedVariable)
    plain = L.Dense(8)
    plain.build([None, 8])  # After it all is as before.
    assert not isinstance(value_of(plain.kernel), CompressedVariable)


def test_a_view_of_the_model_is_no_second_one():
    with omc.init_compressed("INT8"):
        x = tf.keras.Input((4,))
        y = L.Dense(8)(x)
        whole, view = tf.keras.Model(x, L.Dense(3)(y)), tf.keras.Model(x, y)
    assert "INT8" in str(omc.memory_report(whole))
    np.testing.assert_allclose(view(tf.ones([1, 4])), whole.layers[1](tf.ones([1, 4])))


def unbuilt():
    return tf.keras.Sequential([L.Dense(3)])


def overlapping():
    x, y = tf.keras.Input((4,)), tf.keras.Input((5,))
    shared = L.Dense(8)
    return tf.keras.Model(x, L.Dense(3)(shared(x))), tf.keras.Model(
        [x, y], L.Concatenate()([shared(x), L.Dense(2)(y)])
    )


def trained():
    model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3)])
    model.compile("adam", "mse")
    model.fit(np.ones([2, 4]), np.ones([2, 3]), verbose=0)
    return model


@only_keras_3("an optimizer does not go on when its variables are replaced")
def test_what_was_trained_inside_goes_on():
    def build():
        tf.keras.utils.set_random_seed(0)
        return tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(8), L.Dense(8)])

    def fit(model, compiled):
        if not compiled:
            model.compile(tf.keras.optimizers.Adam(0.01), "mse")
        x = np.random.default_rng(0).normal(size=(16, 6))
        return model.fit(x, x[:, :1] * np.ones(8), batch_size=8, shuffle=False, verbose=0)

    plain = build()
    want = [fit(plain, again).history["loss"] for again in (False, True)]
    with omc.init_compressed("S1E4M14"):
        model = build()
        got = [fit(model, False).history["loss"]]
    got.append(fit(model, True).history["loss"])
    np.testing.assert_allclose(got, want, rtol=1e-3)
    assert [row.format for row in omc.memory_report(model).rows].count("S1E4M14") == 2


def test_what_partial_quantization_leaves_dense_is_not_trained_inside():
    with pytest.raises(ModelError, match="trained"):
        with omc.init_compressed(omc.Policy("S1E4M14", fraction=0.5)):
            model = bare()
            for weight in model.trainable_weights:
                weight.assign_add(tf.ones(weight.shape))
    assert model.built


def not_finite():
    return tf.keras.Sequential(
        [tf.keras.Input((4,)), L.Dense(8, kernel_initializer=tf.constant_initializer(np.nan))]
    )


@pytest.mark.parametrize(
    "build, error, message",
    [
        (lambda: None, ModelError, "built inside"),
        (unbuilt, ModelError, "no variables yet"),
        (overlapping, ModelError, "shares some"),
        (trained, ModelError, "optimizer"),
        (not_finite, InputError, "NaN"),
    ],
    ids=["nothing", "unbuilt", "overlapping", "trained", "NaN"],
)
def test_what_cannot_be_is_refused(build, error, message):
    # Where slots go on with what is wrapped, those that are to be stored in codes do not.
    slots = "S1E8M7" if SLOTS_FOLLOW and build is trained else None
    with pytest.raises(error, match=message):
        with omc.init_compressed(omc.Policy("INT8", slots=slots)):
            kept = build()
    with omc.init_compressed("INT8"):  # And nothing is left behind.
        kept = models.mlp()
    assert isinstance(variables_of(kept)[0], CompressedVariable)


def test_an_override_has_to_match():
    with pytest.raises(InputError, match="nowhere"):
        with omc.init_compressed(omc.Policy("INT8", overrides={"nowhere": "INT4"})):
            kept = models.mlp()
    assert kept.built


def test_one_at_a_time():
    with omc.init_compressed("INT8"):
        kept = models.mlp()
        with pytest.raises(ModelError, match="open"):
            with omc.init_compressed("INT8"):
                pass
    assert isinstance(variables_of(kept)[0], CompressedVariable)


def test_a_disk_without_room_is_a_typed_error(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ArtifactError, match="TMPDIR"):
        with omc.init_compressed(omc.Policy("INT8", fraction=0.5)):
            models.mlp()
