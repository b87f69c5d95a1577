"""The federated process end to end, on TFF's real worker."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc.codecs import Codec
from omc.errors import FormatError, InputError, InputTypeError
from omc.learning import build_fp32_fed_avg, build_weighted_fed_avg, local_runtime, traffic
from omc.learning.models import ModelPlan, untuned
from omc.policies import Policy

SGD = tff.learning.optimizers.build_sgdm
RNG = np.random.default_rng(0)
CLIENTS = [
    (
        RNG.normal(size=(size, 12)).astype(np.float32),
        RNG.integers(0, 4, size).astype(np.int32),
    )
    for size in (9, 20, 5, 14)
]


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with local_runtime():
        yield


def data(index, batch=5):
    return tf.data.Dataset.from_tensor_slices(CLIENTS[index]).batch(batch)


ALL = [0, 1, 2, 3]


def keras_model():
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((12,)),
            layers.Dense(16, "relu", kernel_initializer=tf.keras.initializers.HeUniform(1)),
            layers.Reshape((4, 4, 1)),
            layers.Conv2D(6, 2, kernel_initializer=tf.keras.initializers.HeUniform(2)),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(16, "tanh", kernel_initializer=tf.keras.initializers.HeUniform(3)),
            layers.Dense(4, kernel_initializer=tf.keras.initializers.HeUniform(4)),
        ]
    )


def model_fn():
    return tff.learning.models.from_keras_model(
        keras_model(),
        input_spec=data(0).element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )


def run(process, rounds=2, clients=ALL):
    state, outputs = process.initialize(), []
    for _ in range(rounds):
        output = process.next(state, [data(client) for client in clients])
        state = output.state
        outputs.append(output.metrics)
    weights = process.get_model_weights(state)
    return [np.asarray(w) for w in (*weights.trainable, *weights.non_trainable)], outputs


@pytest.fixture(scope="module")
def fp32():
    return run(build_fp32_fed_avg(model_fn, SGD(0.1), SGD(1.0)))


@pytest.mark.parametrize("uplink", ["weights", "update"])
def test_without_quantization_it_is_tffs_own_fed_avg(fp32, uplink):
    weights, metrics = run(build_weighted_fed_avg(model_fn, "FP32", SGD(0.1), uplink=uplink))
    for ours, theirs in zip(weights, fp32[0]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    train = metrics[-1]["client_work"]["train"]
    assert train["num_examples"] == sum(len(labels) for _, labels in CLIENTS)
    np.testing.assert_allclose(
        train["loss"], fp32[1][-1]["client_work"]["train"]["loss"], rtol=1e-4
    )
    ours, theirs = traffic(metrics[0]), traffic(fp32[1][0])
    assert ours["parameter_bytes"] == theirs["parameter_bytes"]
    assert ours["downlink_bytes"] == theirs["downlink_bytes"]


def wide_model_fn():
    dense = [tf.keras.layers.Dense(2500, "relu"), tf.keras.layers.Dense(4)]  # 30,000 weights; few.
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential([tf.keras.Input((12,)), *dense]),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        input_spec=data(0).element_spec,
    )


def test_tffs_own_compression_is_a_peer_whose_bytes_are_counted():
    sent = {}
    for compressed in (False, True):
        process = build_fp32_fed_avg(wide_model_fn, SGD(0.1), SGD(1.0), compressed)
        output = process.next(process.initialize(), [data(client) for client in ALL])
        sent[compressed] = traffic(output.metrics)
        assert 0 < output.metrics["client_work"]["train"]["loss"] < 10
    assert sent[True]["downlink_bytes"] == sent[False]["downlink_bytes"]
    small = 4 * (2500 + 2500 * 4 + 4)  # Below TFF's threshold, in float32.
    assert 0 < sent[False]["uplink_bytes"] - 4 * 30_000 - small < 200  # Names and shapes.
    packed = 30_000 * 8 / 28 * 4  # TFF's encoder fills 28 bits of each int32.
    assert 0 < sent[True]["uplink_bytes"] - packed - small < 200


@pytest.mark.parametrize("uplink", ["weights", "update"])
@pytest.mark.parametrize("client_optimizer", [SGD(0.1), SGD(0.05, 0.9)], ids=["sgd", "momentum"])
def test_wide_formats_come_close_to_fp32(uplink, client_optimizer):
    theirs, _ = run(build_fp32_fed_avg(model_fn, client_optimizer, SGD(1.0)))
    policy = Policy("S1E4M14", fraction=0.5)
    ours, _ = run(build_weighted_fed_avg(model_fn, policy, client_optimizer, uplink=uplink))
    for mine, want in zip(ours, theirs):
        np.testing.assert_allclose(mine, want, rtol=1e-2, atol=2e-3)


def manual_round(policy, batch=5):
    """One round with plain Keras and the codec alone, uplink "weights": an independent oracle."""
    with tf.Graph().as_default():
        plan = ModelPlan.of(model_fn, policy)
    codecs = [planned.codec for planned in plan.planned[: plan.num_trainable]]
    total, weight = None, 0
    for features, labels in CLIENTS:
        model = keras_model()
        stored = [
            codec and codec.encode(v.read_value())
            for codec, v in zip(codecs, model.trainable_variables)
        ]
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for start in range(0, len(labels), batch):
            for codec, buffer, v in zip(codecs, stored, model.trainable_variables):
                if codec:
                    v.assign(codec.decode(buffer))
            with tf.GradientTape() as tape:
                logits = model(features[start : start + batch], training=True)
                value = loss(labels[start : start + batch], logits)
            gradients = tape.gradient(value, model.trainable_variables)
            for i, (codec, g) in enumerate(zip(codecs, gradients)):
                if codec:
                    stored[i] = codec.add(stored[i], -0.1 * g)
                else:
                    model.trainable_variables[i].assign_sub(0.1 * g)
        result = [
            codec.decode(buffer) if codec else v.read_value()
            for codec, buffer, v in zip(codecs, stored, model.trainable_variables)
        ]
        scaled = [len(labels) * value for value in result]
        total = scaled if total is None else [a + b for a, b in zip(total, scaled)]
        weight += len(labels)
    return [np.asarray(value) / weight for value in total]


@pytest.mark.parametrize(
    "options",
    [{}, {"transform": None}, {"weight_matrices_only": False}],
    ids=["default", "no transform", "everything quantized"],
)
def test_a_round_is_the_weighted_mean_of_clients_that_train_on_codes(options):
    policy = Policy("S1E3M7", rounding="nearest", **options)
    weights, _ = run(build_weighted_fed_avg(model_fn, policy, SGD(0.1)), rounds=1)
    for ours, want in zip(weights, manual_round(policy)):
        # A code can differ where a sum lies within float error of the middle of two codes.
        different = np.abs(ours - want) > 1e-5 + 1e-4 * np.abs(want)
        assert different.mean() < 0.02
        np.testing.assert_allclose(ours, want, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("uplink", ["weights", "update"])
def test_bytes_are_those_of_packed_payloads(uplink):
    process = build_weighted_fed_avg(model_fn, Policy("S1E3M7"), SGD(0.1), uplink=uplink)
    _, metrics = run(process, rounds=1)
    counted = traffic(metrics[0])
    variables = [(tuple(v.shape), v.trainable) for v in keras_model().variables]
    codes = [Codec(omc.Format.parse("S1E3M7"), s).nbytes for s, _ in variables if len(s) > 1]
    plain = [4 * int(np.prod(s)) for s, _ in variables if len(s) == 1]
    assert counted["clients"] == 4
    assert counted["parameter_bytes"] == sum(codes) + sum(plain)
    # A serialized tensor has a header of a few bytes.
    assert 0 <= counted["downlink_bytes"] - counted["parameter_bytes"] < 20 * len(variables)
    statistics = sum(4 * int(np.prod(s)) for s, trainable in variables if not trainable)
    assert 0 <= counted["downlink_bytes"] - counted["uplink_bytes"] - statistics < 40
    measured = metrics[0]["client_work"]["traffic"]
    assert 0 < metrics[0]["distributor"]["distortion"] < 1e-4
    assert (measured["uplink_distortion"] > 0) == (uplink == "update")


def test_each_client_and_round_has_its_own_subset():
    process = build_weighted_fed_avg(model_fn, Policy("INT8", fraction=0.5), SGD(0.1))
    state, seen = process.initialize(), collections.defaultdict(set)
    for _ in range(4):
        for client in (0, 1, 2):
            output = process.next(state, [data(client)])
            seen[client].add(traffic(output.metrics)["parameter_bytes"])
        state = output.state
    assert all(len(sizes) > 1 for sizes in seen.values())
    assert len(set.union(*seen.values())) > 2


def test_same_seed_same_result():
    def weights(seed):
        policy = Policy("S1E2M3", fraction=0.5, rounding="stochastic", seed=seed)
        process = build_weighted_fed_avg(model_fn, policy, SGD(0.1), uplink="update")
        return run(process, rounds=2)[0]

    first, second, other = weights(1), weights(1), weights(2)
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(first, other))


def test_a_diverged_client_does_not_spoil_the_round(fp32):
    broken = (np.full((5, 12), np.nan, np.float32), np.zeros(5, np.int32))
    process = build_weighted_fed_avg(model_fn, "S1E3M7", SGD(0.1))
    bad = tf.data.Dataset.from_tensor_slices(broken).batch(5)
    with_bad = process.next(process.initialize(), [data(0), bad]).state
    without = process.next(process.initialize(), [data(0)]).state
    for a, b in zip(
        process.get_model_weights(with_bad).trainable, process.get_model_weights(without).trainable
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    alone = process.next(process.initialize(), [bad]).state
    for a, b in zip(
        process.get_model_weights(alone).trainable,
        process.get_model_weights(process.initialize()).trainable,
    ):
        np.testing.assert_array_equal(a, b)


BUILDS = pytest.mark.parametrize(
    "build",
    [
        lambda: build_fp32_fed_avg(model_fn, SGD(0.1), SGD(1.0)),
        lambda: build_weighted_fed_avg(model_fn, Policy("S1E3M7", fraction=0.5), SGD(0.1)),
    ],
    ids=["fp32", "omc"],
)


@BUILDS
def test_clients_have_no_tuner_to_wait_for(build):
    assert untuned(data(0)).options().autotune.enabled is False
    written = tff.framework.serialize_computation(build().next).SerializeToString()
    assert b"OptionsDataset" in written


@BUILDS
def test_a_client_without_data_downloads_and_counts_for_nothing(build):
    process = build()
    state = process.initialize()

    def next_round(*datasets):
        output = process.next(state, list(datasets))
        weights = process.get_model_weights(output.state)
        return [np.asarray(w) for w in weights.trainable], traffic(output.metrics)

    with_it, counted = next_round(data(0), data(1).take(0), data(2))
    without, fewer = next_round(data(0), data(2))
    for ours, want in zip(with_it, without):
        np.testing.assert_array_equal(ours, want)
    assert (counted["clients"], counted["answers"]) == (3, 2)
    assert counted["uplink_bytes"] == fewer["uplink_bytes"] > 0
    assert counted["downlink_bytes"] > 0.3 * fewer["downlink_bytes"]

    alone, counted = next_round(data(0).take(0), data(1).take(0))
    for ours, want in zip(alone, process.get_model_weights(state).trainable):
        np.testing.assert_array_equal(ours, np.asarray(want))
    assert (counted["clients"], counted["answers"], counted["uplink_bytes"]) == (2, 0, 0)


def test_it_is_a_learning_process_whose_weights_can_be_set():
    process = build_weighted_fed_avg(model_fn, "INT8")
    assert isinstance(process, tff.learning.templates.LearningProcess)
    state = process.initialize()
    weights = process.get_model_weights(state)
    doubled = tff.learning.models.ModelWeights(
        [2 * w for w in weights.trainable], list(weights.non_trainable)
    )
    again = process.get_model_weights(process.set_model_weights(state, doubled))
    np.testing.assert_allclose(again.trainable[0], 2 * weights.trainable[0])
    weights.assign_weights_to(keras_model())


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (InputTypeError, "model_fn", dict(model_fn="model")),
        (InputTypeError, "model_fn", dict(model_fn=keras_model)),
        (FormatError, "format", dict(policy="S1E1M1")),
        (InputTypeError, "policy", dict(policy=3)),
        (InputError, "overrides", dict(policy=Policy("INT8", overrides={"nothing": "INT4"}))),
        (InputError, "uplink", dict(uplink="both")),
        (InputTypeError, "client_optimizer_fn", dict(client_optimizer_fn=tf.keras.optimizers.SGD)),
        (InputTypeError, "server_optimizer_fn", dict(server_optimizer_fn=0.1)),
    ],
)
def test_errors_name_the_argument(error, argument, arguments):
    with pytest.raises(error) as caught:
        build_weighted_fed_avg(**{"model_fn": model_fn, "policy": "INT8", **arguments})
    assert caught.value.argument == argument
