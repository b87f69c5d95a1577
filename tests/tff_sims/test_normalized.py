"""Normalised SGD: steps of the rate's size, whatever the gradients; fit for one variable a time."""

import numpy as np
import tensorflow as tf

from omc.learning.local_optimizer import LocalOptimizer
from tff_sims.tasks.normalized import NormalizedSgd


def test_a_step_has_the_rates_size_whatever_the_gradients():
    weights = (tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([5.0]), tf.constant([6.0]))
    gradients = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32), np.array([-1e3], np.float32)
    optimizer = NormalizedSgd(0.01)
    results = []
    for scale in (1.0, 1e4):
        state = optimizer.initialize(tf.nest.map_structure(tf.TensorSpec.from_tensor, weights))
        given = (*(tf.constant(scale * g) for g in gradients), None)
        state, moved = optimizer.next(state, weights, given)
        results.append(moved)
        assert state == optimizer.initialize(None)
    expected = weights[0] - 0.01 * gradients[0] / 2.5, [5.01], weights[2]  # rms: sqrt(25 / 4)
    for moved in results:
        for found, value in zip(moved, expected):
            np.testing.assert_allclose(found, value, rtol=1e-6)


def test_no_gradient_is_no_step():
    _, moved = NormalizedSgd(0.1).next({"learning_rate": 0.1}, tf.ones([3]), tf.zeros([3]))
    np.testing.assert_array_equal(moved, 1.0)


def test_the_rate_can_be_set_and_weights_need_not_be_decoded():
    optimizer = NormalizedSgd(0.1)
    state = optimizer.set_hparams(optimizer.initialize(None), {"learning_rate": 0.5})
    assert optimizer.get_hparams(state) == {"learning_rate": 0.5}
    assert not LocalOptimizer(optimizer)._reads_weights
