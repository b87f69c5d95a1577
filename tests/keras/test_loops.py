"""Loops of recurrent layers: their dense gradients do not pile up."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.measurement.peaks import measure_peak

L = tf.keras.layers
UNITS, STEPS = 256, 64
DENSE = 4 * 4 * UNITS**2  # Bytes of an LSTM's recurrent kernel in float32.


def model_of(*layers, compressed=True):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([tf.keras.Input((STEPS, 8)), *layers, L.Dense(1)])
    return omc.wrap(model, "INT8") if compressed else model


def step_of(model):
    """A traced step of gradients: of sums, which take all of a loop's iterations."""

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x, training=True)))
        gradients = tape.gradient(loss, model.trainable_variables)
        return [tf.reduce_sum(tf.abs(tf.convert_to_tensor(gradient))) for gradient in gradients]

    x = tf.constant(np.random.default_rng(0).standard_normal((4, STEPS, 8)), tf.float32)
    return step, x


def at_once(step, x):
    """How many iterations each loop of a step may run at once, forward and backward: a list."""
    graph = step.get_concrete_function(x).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    loops = [node for node in nodes if node.op in ("While", "StatelessWhile")]
    return [node.attr["parallel_iterations"].i for node in loops]


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.LSTM(8),
        lambda: L.GRU(8),
        lambda: L.SimpleRNN(8),
        lambda: L.Bidirectional(L.LSTM(8)),
        lambda: L.RNN([L.LSTMCell(8), L.GRUCell(8)]),
        lambda: L.LSTM(8, dropout=0.5),  # Does not run again.
    ],
    ids=["LSTM", "GRU", "SimpleRNN", "Bidirectional", "RNN", "dropout"],
)
def test_the_loops_of_compressed_layers_run_one_iteration_at_a_time(make):
    assert set(at_once(*step_of(model_of(make())))) == {1}
    assert 1 not in at_once(*step_of(model_of(make(), compressed=False)))  # As Keras has it.


def test_the_peak_has_no_gradient_for_each_step():
    step, x = step_of(model_of(L.LSTM(UNITS)))
    step(x)
    peaks = []
    for _ in range(3):
        with measure_peak() as peak:
            step(x)
        peaks.append(peak.allocator_bytes)
    # The kernel, its gradient so far and of one step, and the sum; 32 would be alive without it.
    assert max(peaks) < 8 * DENSE
