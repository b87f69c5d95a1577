"""The controller-driven process, on TFF's real workers: same results, and what crosses."""

import collections

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError
from omc.learning import (
    build_controlled_fed_avg,
    build_fp32_fed_avg,
    build_weighted_fed_avg,
    local_runtime,
    remote_runtime,
    traffic,
)
from omc.learning.worker_processes import running_workers, workers
from omc.measurement.sockets import CountingProxy
from omc.policies import Policy

SGD = tff.learning.optimizers.build_sgdm
ROUNDS = 3
# HTTP/2 frames, gRPC headers, window updates and pings, per byte and per message; measured by
# `python -m benchmarks.links`.
SHARE, EACH = 0.01, 400


def client(index):
    rng = np.random.default_rng(index)
    size = 3 + 4 * index
    data = rng.normal(size=(size, 12)).astype(np.float32), rng.integers(0, 4, size, np.int32)
    return tf.data.Dataset.from_tensor_slices(data).batch(5)


CLIENTS = range(5)


def model_fn():
    layers, initializer = tf.keras.layers, tf.keras.initializers.HeUniform
    model = tf.keras.Sequential(
        [
            tf.keras.Input((12,)),
            layers.Dense(64, "relu", kernel_initializer=initializer(1)),
            layers.BatchNormalization(),
            layers.Dense(64, "tanh", kernel_initializer=initializer(2)),
            layers.Dense(4, kernel_initializer=initializer(3)),
        ]
    )
    return tff.learning.models.from_keras_model(
        model,
        input_spec=client(0).element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )


POLICY = Policy("S1E3M7", fraction=0.5, rounding="stochastic", seed=3)


def run(process, rounds=ROUNDS, clients=CLIENTS):
    state, metrics = process.initialize(), []
    for _ in range(rounds):
        state, measured = process.next(state, [client(index) for index in clients])
        metrics.append(measured)
    return tf.nest.flatten(process.get_model_weights(state)), metrics


@pytest.fixture(scope="module")
def processes():
    """Processes and what each gives on one local worker."""
    results = collections.OrderedDict()
    with local_runtime():
        for uplink in ("weights", "update"):
            arguments = (model_fn, POLICY, SGD(0.1, 0.9), SGD(0.7, 0.9))
            for build in (build_controlled_fed_avg, build_weighted_fed_avg):
                process = build(*arguments, uplink=uplink)
                results[build.__name__, uplink] = process, run(process)
        process = build_fp32_fed_avg(model_fn, SGD(0.1), SGD(1.0))
        results["fp32"] = process, run(process)
    return results


@pytest.mark.parametrize("uplink", ["weights", "update"])
def test_it_computes_what_the_composed_process_does(processes, uplink):
    _, (ours, metrics) = processes["build_controlled_fed_avg", uplink]
    _, (theirs, expected) = processes["build_weighted_fed_avg", uplink]
    for mine, want in zip(ours, theirs):
        np.testing.assert_allclose(mine, want, rtol=1e-5, atol=1e-6)
    for mine, want in zip(metrics, expected):
        assert traffic(mine) == traffic(want)
        for part in ("distributor", "client_work", "aggregator", "finalizer"):
            tf.nest.map_structure(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
                dict(mine[part]),
                dict(want[part]),
            )


def test_two_workers_give_the_same_bits_and_what_crosses_is_what_is_measured(processes):
    process, (alone, _) = processes["build_controlled_fed_avg", "weights"]
    fp32, (fp32_alone, _) = processes["fp32"]
    with running_workers((None, None)) as addresses:
        proxies = [CountingProxy(address) for address in addresses]
        with remote_runtime([proxy.address for proxy in proxies]):
            together, metrics = run(process)
            up, down = sum(p.up for p in proxies), sum(p.down for p in proxies)
            fp32_together, _ = run(fp32)
        for proxy in proxies:
            proxy.close()
    for a, b in zip(alone, together):
        np.testing.assert_array_equal(a, b)
    # TFF's own process adds up clients in another order.
    for a, b in zip(fp32_alone, fp32_together):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    link = collections.Counter()
    for measured in metrics:
        counted, crossed = traffic(measured), measured["link"]
        # Messages hold the payloads and little else.
        for measure, message in (("downlink", "payload"), ("uplink", "result")):
            payload = counted[f"{measure}_bytes"] * len(CLIENTS)
            assert 0 <= crossed[f"{message}_bytes"] - payload < 0.01 * payload + 4096
        assert crossed["data_bytes"] > sum(12 * 4 * (3 + 4 * index) for index in CLIENTS)
        link.update(crossed)
    messages = sum(link.values())
    calls = ROUNDS * (len(CLIENTS) * 12 + 20)
    # All that went through the sockets is known: the payloads are not a part of something larger.
    assert 0 < up + down - messages < SHARE * messages + EACH * calls
    assert link["payload_bytes"] + link["data_bytes"] + link["program_bytes"] < up
    assert link["result_bytes"] < down


def test_the_program_crosses_once_per_lane_and_nothing_grows():
    process = build_controlled_fed_avg(model_fn, POLICY, SGD(0.1))
    datasets = [client(index) for index in CLIENTS]
    with local_runtime():
        state, sizes, programs = process.initialize(), [], []
        (worker,) = workers()
        for number in range(60):
            state, metrics = process.next(state, datasets)
            programs.append(metrics["link"]["program_bytes"])
            if number in (29, 59):
                sizes.append([worker.memory_info().rss, psutil.Process().memory_info().rss])
    assert max(programs[10:]) < 0.2 * programs[0]  # The metrics' computation.
    for before, after in zip(*sizes):
        assert after - before < 8e6


def test_clients_that_fail_or_diverge_and_rounds_without_any():
    broken = (np.full((5, 12), np.nan, np.float32), np.zeros(5, np.int32))
    bad = tf.data.Dataset.from_tensor_slices(broken).batch(5)
    process = build_controlled_fed_avg(model_fn, "S1E3M7", SGD(0.1))
    with local_runtime():
        start = process.initialize()
        alone = process.next(start, [client(1)]).state
        joined, metrics = process.next(start, [client(1), bad, client(2).take(0)])
        none = process.next(start, [])
        only_bad = process.next(start, [bad]).state
    for a, b in zip(*(tf.nest.flatten(process.get_model_weights(s)) for s in (alone, joined))):
        np.testing.assert_array_equal(a, b)
    assert traffic(metrics)["clients"] == 3 and traffic(metrics)["answers"] == 2
    for state in (none.state, only_bad):
        for a, b in zip(
            tf.nest.flatten(process.get_model_weights(state)),
            tf.nest.flatten(process.get_model_weights(start)),
        ):
            np.testing.assert_array_equal(a, b)
    assert none.state.distributor["round"] == 1 and not none.metrics["client_work"]


def test_weights_can_be_set():
    process = build_controlled_fed_avg(model_fn, "INT8")
    state = process.initialize()
    weights = process.get_model_weights(state)
    doubled = tff.learning.models.ModelWeights(
        [2 * w for w in weights.trainable], list(weights.non_trainable)
    )
    again = process.get_model_weights(process.set_model_weights(state, doubled))
    np.testing.assert_array_equal(again.trainable[0], 2 * weights.trainable[0])


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (InputTypeError, "model_fn", dict(model_fn="model")),
        (InputError, "uplink", dict(uplink="both")),
        (InputTypeError, "client_optimizer_fn", dict(client_optimizer_fn=0.1)),
        (InputTypeError, "server_optimizer_fn", dict(server_optimizer_fn=0.1)),
    ],
)
def test_errors_name_the_argument(error, argument, arguments):
    with pytest.raises(error) as caught:
        build_controlled_fed_avg(**{"model_fn": model_fn, "policy": "INT8", **arguments})
    assert caught.value.argument == argument


def test_without_a_runtime_it_says_so():
    process = build_controlled_fed_avg(model_fn, "INT8")
    with pytest.raises(InputError) as caught:
        process.next(process.initialize(), [client(0)])
    assert caught.value.argument == "runtime"
