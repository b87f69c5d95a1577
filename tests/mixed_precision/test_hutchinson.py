"""Hessian traces against second differences of a float64 loss written in numpy."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import InputError, InputTypeError
from omc.keras.host import variables_of
from omc.mixed_precision import hutchinson, objectives, traces

L = tf.keras.layers
CROSS_ENTROPY = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def examples(count=12, features=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, features)).astype(np.float32), np.arange(count) % 3


def small():
    tf.keras.utils.set_random_seed(1)
    return tf.keras.Sequential([tf.keras.Input((5,)), L.Dense(4, "tanh"), L.Dense(3)])


def numpy_loss(weights, x, y):
    """Mean cross-entropy of `small`, float64."""
    kernel, bias, last, last_bias = weights
    logits = np.tanh(x.astype(np.float64) @ kernel + bias) @ last + last_bias
    logits -= logits.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y])


def second_difference(weights, index, direction, x, y, step=1e-4):
    """d^2 loss / dt^2 along a direction of one weight array."""

    def at(t):
        moved = list(weights)
        moved[index] = weights[index] + t * direction
        return numpy_loss(moved, x, y)

    return (at(step) - 2 * at(0.0) + at(-step)) / step**2


def hessian(weights, index, x, y):
    """Matrix of second derivatives of one weight array."""
    units = np.eye(weights[index].size).reshape(-1, *weights[index].shape)
    diagonal = [second_difference(weights, index, unit, x, y) for unit in units]
    found = np.diag(diagonal)
    for i, j in zip(*np.triu_indices(len(units), 1)):
        both = second_difference(weights, index, units[i] + units[j], x, y)
        found[i, j] = found[j, i] = (both - diagonal[i] - diagonal[j]) / 2
    return found


def as_float64(model):
    return [variable.numpy().astype(np.float64) for variable in variables_of(model)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_products_are_second_differences(packed, index):
    model, (x, y) = small(), examples()
    if packed:
        omc.wrap(model, "INT8")
    v = np.random.default_rng(2).choice([-1.0, 1.0], variables_of(model)[index].shape)
    value = objectives.loss_function(model, CROSS_ENTROPY)
    got = hutchinson._product(value, (x, y), variables_of(model)[index], v.astype(np.float32))
    expected = second_difference(as_float64(model), index, v, x, y)
    assert float(got) == pytest.approx(expected, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_traces_come_as_near_the_exact_ones_as_their_variance_says(packed):
    model, (x, y), probes = small(), examples(), 100
    if packed:
        omc.wrap(model, "INT4")
    kernels = [variables_of(model)[0], variables_of(model)[2]]
    got = traces(model, kernels, [(x, y)], CROSS_ENTROPY, probes=probes)
    for trace, index in zip(got, (0, 2)):
        exact = hessian(as_float64(model), index, x, y)
        variance = 2 * (np.sum(exact**2) - np.sum(np.diag(exact) ** 2)) / probes
        assert abs(trace - np.trace(exact)) < 3.5 * np.sqrt(variance)
    assert np.trace(exact) > 3.5 * np.sqrt(variance)  # So that a trace of 0 would fail.


def test_probes_are_signs_of_either_kind():
    draws = np.stack([hutchinson._rademacher((50, 50), (3, 1, probe, 0)) for probe in range(40)])
    assert set(np.unique(draws)) == {-1.0, 1.0}
    assert abs(draws.mean()) < 4 / np.sqrt(draws.size)
    assert np.abs(draws.mean(axis=0)).max() < 5.5 / np.sqrt(40)
    assert np.abs(draws.reshape(40, -1) @ draws.reshape(40, -1).T / 2500 - np.eye(40)).max() < 0.1


def test_one_probe_is_exact_where_the_hessian_is_diagonal():
    # Squared error of a linear layer on unit vectors: d^2 loss / dw^2 = 2 / (4 * 3), 12 weights.
    model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3, use_bias=False)])
    data = [(np.eye(4, dtype=np.float32), np.zeros((4, 3), np.float32))]
    assert traces(model, variables_of(model), data, "mse", probes=1) == [pytest.approx(2.0)]


def test_batches_count_by_their_examples():
    model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3, use_bias=False)])
    x, y = np.eye(4, dtype=np.float32), np.zeros((4, 3), np.float32)
    parts = [(x[:1], y[:1]), (x[1:], y[1:])]
    assert traces(model, variables_of(model), parts, "mse", probes=1) == [pytest.approx(2.0)]


def test_sample_weights_count():
    model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3, use_bias=False)])
    data = [(np.eye(4, dtype=np.float32), np.zeros((4, 3), np.float32), np.full(4, 5.0, "f4"))]
    for loss in ("mse", tf.keras.losses.MeanSquaredError()):
        assert traces(model, variables_of(model), data, loss, probes=1) == [pytest.approx(10.0)]


def mixed():
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential(
        [
            tf.keras.Input((6,), dtype=tf.int32),
            L.Embedding(9, 4),
            L.Conv1D(4, 3, activation="tanh"),
            L.BatchNormalization(),
            L.LSTM(5),
            L.Dense(3),
        ]
    )


def test_packed_weights_have_the_traces_of_plain_ones_at_the_stored_values():
    model, plain = omc.wrap(mixed(), "INT8"), mixed()
    for variable, stored in zip(variables_of(plain), variables_of(model)):
        variable.assign(stored.numpy())
    x, y = np.random.default_rng(0).integers(0, 9, (8, 6)), np.arange(8) % 3
    kernels = [
        i for i, v in enumerate(variables_of(plain)) if "kernel" in v.name or "emb" in v.name
    ]
    got, expected = (
        traces(m, [variables_of(m)[i] for i in kernels], [(x, y)], CROSS_ENTROPY, probes=2)
        for m in (model, plain)
    )
    assert len(kernels) == 5 and np.abs(expected).min() > 0
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_the_seed_alone_decides():
    model, data = small(), [examples()]
    first, again, other = (
        traces(model, [variables_of(model)[0]], data, CROSS_ENTROPY, probes=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again != other
    # And each variable has draws of its own, whoever comes with it.
    both = traces(
        model, [variables_of(model)[0], variables_of(model)[2]], data, CROSS_ENTROPY, probes=2
    )
    assert both[0] == first[0]


def test_the_compiled_loss_serves_with_its_penalties_and_leaves_no_trace():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((4,)),
            L.Dense(3, use_bias=False, kernel_regularizer=tf.keras.regularizers.L2(0.5)),
        ]
    )
    model.compile("sgd", "mse")
    data = [(np.eye(4, dtype=np.float32), np.zeros((4, 3), np.float32))]
    before = [variable.numpy() for variable in variables_of(model)]
    # 2 as above, and 12 weights times the second derivative of 0.5 w^2, which is 1.
    assert traces(model, model.trainable_variables, data, probes=1) == [pytest.approx(14.0)]
    for variable, value in zip(variables_of(model), before):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert all(float(metric.result()) == 0 for metric in model.metrics)


def test_a_variable_that_the_loss_does_not_know_has_none():
    model = small()
    assert traces(model, [tf.Variable([1.0, 2.0])], [examples()], CROSS_ENTROPY) == [0.0]


@pytest.mark.parametrize(
    "error, argument, change",
    [
        (InputError, "data", dict(data=None)),
        (InputError, "data", dict(data=[])),
        (InputError, "data", dict(data=[(np.full((2, 5), np.nan, "f4"), np.array([0, 1]))])),
        (InputError, "data", dict(data=tf.data.Dataset.from_tensors(examples()).repeat())),
        (InputTypeError, "data", dict(data=examples()[0])),
        (InputTypeError, "data", dict(data=7)),
        (InputError, "loss", dict(loss=None)),
        (InputError, "probes", dict(probes=0)),
        (InputTypeError, "probes", dict(probes=1.5)),
    ],
)
def test_mistakes(error, argument, change):
    model = small()
    arguments = {"data": [examples()], "loss": CROSS_ENTROPY, "probes": 1, **change}
    with pytest.raises(error, match=f"`{argument}`"):
        traces(model, [variables_of(model)[0]], **arguments)
