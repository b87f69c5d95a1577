"""Ranges of nested weights and activations that begin at zero, or far too small, and must grow."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.keras import joint_training
from omc.keras.host import value_of
from omc.keras.nesting import nesting_of
from tests.keras.nested_models import LOSS, L

RNG = np.random.default_rng(0)
X = RNG.standard_normal((512, 6)).astype(np.float32)
Y = np.argmax(X @ RNG.standard_normal((6, 3)), axis=1)


SMALL = tf.keras.initializers.RandomNormal(0, 1e-3, seed=1)


def chain(initializer, after=0):
    """Nothing passes but through the kernel."""
    layers = [L.Dense(32, "relu"), L.Dense(32, kernel_initializer=initializer, name="last")]
    layers += [L.Dense(32, "relu") for _ in range(after)]
    return tf.keras.Sequential([tf.keras.Input((6,)), *layers, L.Dense(3)])


def trained(model, kind, epochs, **options):
    if kind == "wrapped":
        omc.wrap(model, "INT8")
    elif kind == "nested":
        omc.nest(model, (8, 4), X[:128], **options)
    model.compile(tf.keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    model.fit(X, Y, epochs=epochs, verbose=0)
    return model


@pytest.mark.parametrize("initializer, after", [("zeros", 0), (SMALL, 0), (SMALL, 1)])
def test_kernels_grow_from_next_to_nothing_as_plain_ones_do(initializer, after):
    losses, largest = {}, {}
    for kind in ("plain", "wrapped", "nested"):
        tf.keras.utils.set_random_seed(0)
        model = trained(chain(initializer, after), kind, epochs=10)
        losses[kind] = model.evaluate(X, Y, verbose=0)
        largest[kind] = float(np.abs(model.get_layer("last").kernel.numpy()).max())
    losses["nested at 4"] = nested.switch(model, 4).evaluate(X, Y, verbose=0)
    assert max(losses.values()) < losses["plain"] + 0.12
    assert largest["nested"] > largest["wrapped"] / 4


def test_what_is_all_zero_has_the_range_of_hes_initializer():
    for policy in ("INT8", "S1E3M7"):
        for wrapped in (False, True):
            model = chain("zeros", after=1)
            bits = (8, 4) if policy == "INT8" else (11, 5)
            if wrapped:
                omc.wrap(model, policy)
            omc.nest(model, bits, X[:128], policy=policy)
            kernel = model.get_layer("last").kernel
            assert not np.any(kernel.numpy())
            end = float(kernel.codec.transform_of(kernel.buffer)[0]) * kernel.codec.format.max
            assert end == pytest.approx((6 / 32) ** 0.5, rel=0.01)
            # And the activations behind it are about -1 to 1.
            table = nesting_of(model).tables[id(value_of(model.layers[2].kernel))].numpy()
            for width in bits:
                scale, offset = table[width]
                assert offset == -1 and np.rint(offset / scale) == pytest.approx(offset / scale)
                assert scale * (2**width - 1) + offset == pytest.approx(1, abs=1.01 * float(scale))


def test_ranges_that_suit_stay(monkeypatch):
    """Also of the lowest widths, which cut off much."""
    tf.keras.utils.set_random_seed(0)
    doubled = []
    rescale = joint_training._rescale

    def spied(variable, moved, outgrown):
        tf.py_function(lambda o: doubled.append(bool(o)), [outgrown], [])
        return rescale(variable, moved, outgrown)

    monkeypatch.setattr(joint_training, "_rescale", spied)
    model = omc.nest(chain("he_normal", after=1), (8, 2, 1), X[:128])
    before = [table.numpy() for table in nesting_of(model).tables.values()]
    model.compile(tf.keras.optimizers.SGD(0.05), LOSS)
    model.fit(X, Y, epochs=8, verbose=0)
    assert not any(doubled)
    for table, old in zip(nesting_of(model).tables.values(), before):
        assert (table.numpy()[[8, 2, 1], 0] < 1.7 * old[[8, 2, 1], 0]).all()


def test_a_frozen_kernel_keeps_its_range_however_full():
    model = chain(tf.keras.initializers.Constant(0.5))
    model.get_layer("last").trainable = False
    omc.nest(model, (8, 4), X[:128])
    kernel = model.get_layer("last").kernel
    before = kernel.buffer.numpy()
    model.compile(tf.keras.optimizers.SGD(0.1), LOSS)
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(kernel.buffer.numpy(), before)
