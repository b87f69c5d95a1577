"""What TFF's federated averaging takes beside ours: TFF's own results, or a typed error."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError
from omc.learning import build_controlled_fed_avg, build_weighted_fed_avg, local_runtime

SGD = tff.learning.optimizers.build_sgdm
WEIGHTING = tff.learning.ClientWeighting
SIZES = (3, 20, 0)
BUILDS = {"composed": build_weighted_fed_avg, "controlled": build_controlled_fed_avg}


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with local_runtime():
        yield


def data(index):
    rng = np.random.default_rng(index)
    x = rng.normal(size=(SIZES[index], 6)).astype(np.float32)
    y = rng.integers(0, 3, SIZES[index]).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(5)


def model_fn():
    initializer = tf.keras.initializers.HeUniform(1)
    dense = tf.keras.layers.Dense(3, kernel_initializer=initializer)
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential([tf.keras.Input((6,)), dense]),
        input_spec=data(0).element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


@pytest.mark.parametrize("weighting", list(WEIGHTING), ids=lambda weighting: weighting.name)
@pytest.mark.parametrize("build", BUILDS)
def test_clients_weigh_as_in_tff(build, weighting):
    clients = [data(client) for client in range(2)]  # TFF counts one without data as 1, too.
    theirs = tff.learning.algorithms.build_weighted_fed_avg(
        model_fn, SGD(0.1), client_weighting=weighting
    )
    ours = BUILDS[build](model_fn, "FP32", SGD(0.1), client_weighting=weighting)
    results = []
    for process in (ours, theirs):
        state = process.initialize()
        for _ in range(2):
            state = process.next(state, clients).state
        results.append(process.get_model_weights(state).trainable)
    for mine, expected in zip(*results):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)


def test_a_client_without_data_has_no_weight():
    ours = build_weighted_fed_avg(model_fn, "FP32", SGD(0.1), client_weighting=WEIGHTING.UNIFORM)
    states = []
    for clients in ((0, 1), (0, 1, 2)):
        state = ours.next(ours.initialize(), [data(client) for client in clients]).state
        states.append(ours.get_model_weights(state).trainable)
    for two, three in zip(*states):
        np.testing.assert_allclose(two, three, rtol=1e-6)


def by_metrics(metrics):
    return collections.OrderedDict(metrics)


@pytest.mark.parametrize(
    "error, arguments",
    [
        (InputTypeError, {"client_weighting": by_metrics}),
        (InputTypeError, {"client_weighting": "uniform"}),
        (InputError, {"model_aggregator": tff.aggregators.MeanFactory()}),
        (InputError, {"model_aggregator": tff.learning.robust_aggregator()}),
        (InputError, {"model_distributor": model_fn}),
        (InputError, {"use_experimental_simulation_loop": True}),
    ],
    ids=["function", "text", "mean", "robust", "distributor", "loop"],
)
@pytest.mark.parametrize("build", BUILDS)
def test_what_does_not_fit_is_refused_by_name(build, error, arguments):
    with pytest.raises(error) as caught:
        BUILDS[build](model_fn, "INT8", **arguments)
    assert caught.value.argument in arguments and caught.value.tip
