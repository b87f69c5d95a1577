"""A client's optimizer, one variable at a time: it decodes weights only where they matter."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc.learning.local_optimizer import LocalOptimizer

BUILD = tff.learning.optimizers


@pytest.mark.parametrize(
    "optimizer, reads",
    [
        (BUILD.build_sgdm(0.1), False),
        (BUILD.build_sgdm(0.1, momentum=0.9), False),
        (BUILD.build_adam(0.001), False),
        (BUILD.build_adafactor(0.01), True),  # Steps in proportion to the weights.
        (BUILD.build_adamw(0.1, weight_decay=0.1), True),
        (BUILD.build_adamw(0.0003), True),  # TFF's own decay is 0.004.
        (BUILD.build_adamw(0.001, weight_decay=0.001), True),
        (BUILD.build_adamw(0.001, weight_decay=0.0), False),
    ],
)
def test_steps_are_those_of_the_optimizer_and_weights_are_read_where_they_count(optimizer, reads):
    assert LocalOptimizer(optimizer)._reads_weights == reads
    start = np.random.default_rng(0).normal(size=[7, 5]).astype(np.float32)
    variable, expected = tf.Variable(start), tf.constant(start)
    local = LocalOptimizer(optimizer)
    slot, state = local.initialize(variable), optimizer.initialize(tf.TensorSpec([7, 5]))
    for seed in range(3):
        gradient = tf.random.stateless_normal([7, 5], [0, seed])
        slot = local.apply(slot, variable, gradient)
        state, expected = optimizer.next(state, expected, gradient)
    np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(variable, start, atol=1e-4)
