"""What a model_fn may build: mixed precision as TFF's own; everything else refused by name."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc.errors import InputError, ModelError
from omc.keras import CompressedVariable
from omc.learning import build_fp32_fed_avg, build_weighted_fed_avg, local_runtime
from omc.learning.models import ModelPlan

L = tf.keras.layers
SGD = tff.learning.optimizers.build_sgdm
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 32, 6)).astype(np.float32)
Y = (X @ RNG.normal(size=(6, 3))).astype(np.float32)


def data(client):
    return tf.data.Dataset.from_tensor_slices((X[client], Y[client])).batch(8)


def keras_model(dtype=None):
    init = tf.keras.initializers.HeUniform
    first = L.Dense(16, "tanh", dtype=dtype, kernel_initializer=init(1))
    last = L.Dense(3, dtype="float32", kernel_initializer=init(2))
    return tf.keras.Sequential([tf.keras.Input((6,)), first, last])


def model_fn_of(build):
    def model_fn():
        return tff.learning.models.from_keras_model(
            build(), input_spec=data(0).element_spec, loss=tf.keras.losses.MeanSquaredError()
        )

    return model_fn


def trained(process):
    state = process.initialize()
    for _ in range(2):
        state = process.next(state, [data(0), data(1)]).state
    return process.get_model_weights(state).trainable


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_as_tffs_own(dtype):
    model_fn = model_fn_of(lambda: keras_model(dtype))
    with local_runtime():
        wanted = trained(build_fp32_fed_avg(model_fn, SGD(0.05), SGD(1.0)))
        got = trained(build_weighted_fed_avg(model_fn, "S1E4M14", SGD(0.05)))
    for ours, theirs in zip(got, wanted):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_mixed_precision_layers_hold_codes():
    plan = ModelPlan.of(model_fn_of(lambda: keras_model("mixed_float16")), "INT8")
    payload = [
        tf.zeros(planned.spec.shape) if codec is None else codec.encode(tf.ones(codec.shape))
        for planned, codec in zip(plan.planned, plan.codecs)
    ]
    model = plan.build(payload)
    kernel = model.trainable_variables[0]
    assert isinstance(kernel, CompressedVariable) and kernel.autocast
    model.forward_pass(next(iter(data(0))))
    assert kernel.served == "transient"


def set_to(write):
    def build():
        model = keras_model()
        write(model)
        return model

    return build


WEIGHTS = [np.ones((6, 16)), np.zeros(16), np.ones((16, 3)), np.zeros(3)]
PLAIN = keras_model()
WRAPPED = omc.wrap(keras_model(), "INT8")
REFUSED = {
    "float16": (lambda _: keras_model("float16"), "dense.*kernel.*float16"),
    "bfloat16": (lambda _: keras_model("bfloat16"), "dense.*kernel.*bfloat16"),
    "float64": (lambda _: keras_model("float64"), "dense.*kernel.*float64"),
    "set_weights": (lambda _: set_to(lambda m: m.set_weights(WEIGHTS))(), "sets 'dense.*kernel"),
    "h5": (lambda f: set_to(lambda m: m.load_weights(f / "w.h5"))(), "sets 'dense.*kernel"),
    "keras": (lambda f: set_to(lambda m: m.load_weights(f / "w.weights.h5"))(), "sets 'dense"),
    "tf": (lambda f: set_to(lambda m: m.load_weights(str(f / "w")))(), "sets 'dense.*kernel"),
    "assign": (lambda _: set_to(lambda m: m.layers[1].kernel.assign(WEIGHTS[2]))(), "sets 'dense"),
    "plain": (lambda _: PLAIN, "dense.*kernel.*elsewhere"),
    "wrapped": (lambda _: WRAPPED, "dense.*kernel.*elsewhere"),
    "part": (lambda _: tf.keras.Sequential([WRAPPED, L.Dense(3)]), "builds its model"),
    "unbuilt": (lambda _: tf.keras.Sequential([L.Dense(3)]), "builds its model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_by_name(name, tmp_path):
    for file in ("w.h5", "w.weights.h5", "w"):
        PLAIN.save_weights(str(tmp_path / file))
    build, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        build_weighted_fed_avg(model_fn_of(lambda: build(tmp_path)), "INT8", SGD(0.1))
    assert caught.value.argument == "model_fn" and caught.value.tip


@pytest.mark.parametrize("name", ["wrap", "load"])
def test_wrapping_inside_is_refused(name, tmp_path):
    omc.save(WRAPPED, tmp_path / "m.omc")
    write = {
        "wrap": lambda m: omc.wrap(m, "INT8"),
        "load": lambda m: omc.load(tmp_path / "m.omc", m),
    }
    with pytest.raises(ModelError, match="model_fn"):
        build_weighted_fed_avg(model_fn_of(set_to(write[name])), "INT8", SGD(0.1))


def test_the_way_out_starts_from_given_weights():
    with local_runtime():
        process = build_weighted_fed_avg(model_fn_of(keras_model), "INT8", SGD(0.1))
        given = keras_model()
        weights = tff.learning.models.ModelWeights.from_model(given)
        state = process.set_model_weights(process.initialize(), weights)
        got = process.get_model_weights(state).trainable
    for ours, theirs in zip(got, given.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
