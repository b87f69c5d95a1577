"""What an optimizer reads of codes is dense when its gradient comes, not when the step begins."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras.update_order import after_gradient, after_gradients, gradient_for
from omc.measurement.peaks import measure_peak

L = tf.keras.layers
DENSE = 512 * 512 * 4  # Bytes of a kernel.


def peak_above_idle(depth, optimizer, policy):
    tf.keras.utils.set_random_seed(0)
    layers = [L.Dense(512, "relu", use_bias=False) for _ in range(depth)]
    model = tf.keras.Sequential([tf.keras.Input((512,)), *layers])
    omc.wrap(model, policy)
    model.compile(optimizer(), "mse")
    x = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    data = tf.data.Dataset.from_tensors((x, x)).repeat()
    model.fit(data, steps_per_epoch=2, verbose=0)
    with measure_peak() as peak:
        model.fit(data, steps_per_epoch=2, verbose=0)
    return peak.allocator_bytes


@pytest.mark.parametrize(
    "optimizer, slots",
    [
        (lambda: tf.keras.optimizers.Adam(1e-4), "S1E8M7"),
        (lambda: tf.keras.optimizers.AdamW(1e-4, weight_decay=0.01), "S1E8M7"),
        (lambda: tf.keras.optimizers.SGD(1e-4, momentum=0.9, nesterov=True), "S1E5M10"),
        (lambda: tf.keras.optimizers.SGD(1e-4, weight_decay=0.01), None),
        (lambda: tf.keras.optimizers.RMSprop(1e-4, momentum=0.9, centered=True), "S1E8M7"),
        (lambda: tf.keras.optimizers.Nadam(1e-4), "S1E8M7"),
    ],
    ids=["Adam", "AdamW", "momentum", "decay", "RMSprop", "Nadam"],
)
def test_the_peak_of_a_step_does_not_grow_with_the_layers(optimizer, slots):
    """Of ten layers more, all slots or decayed weights at once would be ten kernels and more."""
    policy = omc.Policy("S1E3M7", slots=slots)
    few, many = (peak_above_idle(depth, optimizer, policy) for depth in (6, 16))
    assert many - few < 5 * DENSE


def test_a_gradient_is_awaited_in_its_own_graph_and_no_longer_than_its_update():
    variable, slot = tf.Variable([1.0, 2.0]), tf.Variable([0.0, 0.0])

    @tf.function
    def step(gradient, other):
        assert gradient_for(variable) is None
        with after_gradients([gradient], [variable]):
            assert gradient_for(variable) is gradient and gradient_for(slot) is None
            with after_gradient(tf.IndexedSlices(other, tf.constant([0, 1]))):
                assert gradient_for(slot) is other and gradient_for(variable) is gradient
            with tf.Graph().as_default():
                assert gradient_for(variable) is None
        assert gradient_for(variable) is None
        return gradient

    step(tf.constant([1.0, 1.0]), tf.constant([1.0, 1.0]))
    with after_gradients([tf.constant([1.0, 1.0])], [variable]):
        assert gradient_for(variable) is None  # Eager steps run in order anyway.
