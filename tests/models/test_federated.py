"""The speech models in a federated round, on TensorFlow Federated's real worker."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import models
from omc.learning import build_fp32_fed_avg, build_weighted_fed_avg, local_runtime
from omc.policies import Policy

FRAMES, FEATURES, OUTPUTS = 24, 8, 6
CONFORMER = functools.partial(
    models.conformer, OUTPUTS, FEATURES, width=16, heads=2, depth=1, kernel=5, channels=8
)
BUILDERS = {
    "conformer": CONFORMER,
    "keyword_lstm": functools.partial(models.keyword_lstm, OUTPUTS, FEATURES, units=12, depth=1),
}


@pytest.fixture(scope="module", autouse=True)
def runtime():
    with local_runtime():
        yield


class Ctc(tf.keras.losses.Loss):
    """TensorFlow Federated wants a Loss and no function."""

    def call(self, labels, logits):
        frames = tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1])
        labels = tf.sparse.from_dense(tf.cast(labels, tf.int32))
        return tf.nn.ctc_loss(labels, logits, None, frames, False, blank_index=-1)


def client(name, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, FRAMES, FEATURES)).astype(np.float32)
    x[1, 17:] = 0
    labels = [4] if name == "keyword_lstm" else [4, 3]
    y = rng.integers(1, OUTPUTS - 1, labels).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(2)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_round_on_codes_comes_close_to_one_in_fp32(name):
    data = [client(name, seed) for seed in (0, 1)]

    def model_fn():
        loss = Ctc()
        if name == "keyword_lstm":
            loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return tff.learning.models.from_keras_model(
            BUILDERS[name](), loss, input_spec=data[0].element_spec
        )

    sgd = tff.learning.optimizers.build_sgdm
    changes = []
    for process in (
        build_fp32_fed_avg(model_fn, sgd(0.01), sgd(1.0)),
        build_weighted_fed_avg(model_fn, Policy("S1E4M14", rounding="nearest"), sgd(0.01)),
    ):
        state = process.initialize()
        before = process.get_model_weights(state).trainable
        after = process.get_model_weights(process.next(state, data).state).trainable
        changes.append([new - old for new, old in zip(after, before)])
    for theirs, ours in zip(*changes):
        # A code step of S1E4M14 is 2^-15 of the largest weight.
        np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=2e-4)
    assert max(np.abs(change).max() for change in changes[1]) > 2e-3
