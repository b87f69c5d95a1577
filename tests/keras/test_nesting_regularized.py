"""Nested and wrapped models whose weights have penalties, several steps in one graph."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras.host import variables_of

L = tf.keras.layers
LOSS = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 64)


def chain(places, regularizer="l2"):
    tf.keras.utils.set_random_seed(0)
    kinds = [regularizer if place in places else None for place in range(3)]
    layers = [
        L.Dense(units, activation, kernel_regularizer=kind)
        for units, activation, kind in zip((16, 16, 3), ("relu", "relu", None), kinds)
    ]
    return tf.keras.Sequential([tf.keras.Input((8,)), *layers])


def stored(model):
    return [np.asarray(getattr(v, "buffer", v)) for v in variables_of(model)]


@pytest.mark.parametrize("places", [(1,), (0,), (2,), (0, 1, 2)])
def test_fit_in_a_graph_does_what_it_does_eagerly(places):
    found = []
    for eagerly in (False, True):
        model = omc.nest(chain(places), (8, 4), X, policy=omc.Policy("INT8", rounding="nearest"))
        model.compile(tf.keras.optimizers.SGD(0.5), LOSS, run_eagerly=eagerly)
        model.fit(X, Y, batch_size=32, epochs=2, shuffle=False, verbose=0)
        found.append(model.predict(X, verbose=0))
    np.testing.assert_allclose(*found, rtol=0.02, atol=0.02)


def test_switching_trains_penalties_too():
    model = chain((1,))
    switching = omc.mixed_precision.hasb(model, [(X, Y)], epochs=1, batches=2, loss=LOSS)
    omc.nest(model, (8, 4), X, switching=switching)
    model.compile(tf.keras.optimizers.SGD(0.1), LOSS)
    before = model.evaluate(X, Y, verbose=0)
    model.fit(X, Y, epochs=4, verbose=0)
    assert model.evaluate(X, Y, verbose=0) < before


@pytest.mark.parametrize("nest", [False, True], ids=["wrapped", "nested"])
def test_steps_one_after_the_other_in_one_function(nest):
    """As with `steps_per_execution`, but unrolled; beside the same steps taken eagerly."""
    policy = omc.Policy("INT8", rounding="nearest")
    found = []
    for graph in (True, False):
        model = chain((0, 1, 2))
        model = omc.nest(model, (8, 4), X, policy=policy) if nest else omc.wrap(model, policy)
        optimizer = tf.keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)

        def step(model=model, optimizer=optimizer):
            with tf.GradientTape() as tape:
                loss = LOSS(Y, model(X, training=True)) + tf.add_n(model.losses)
            gradients = tape.gradient(loss, model.trainable_variables)
            pairs = zip(gradients, model.trainable_variables)
            optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])

        def steps(model=model, step=step):
            for bits in (8, 4, 8):
                if nest:
                    with omc.at_width(model, bits):
                        step()
                else:
                    step()

        (tf.function(steps, autograph=False) if graph else steps)()
        found.append(model.predict(X, verbose=0))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)
