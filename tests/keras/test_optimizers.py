"""Every Keras optimizer moves a wrapped model as it moves a plain one on the decoded weights."""

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, variables_of

L = tf.keras.layers
optimizers = tf.keras.optimizers
X = tf.random.stateless_normal([16, 12], [1, 1])
Y = tf.random.stateless_normal([16, 8], [1, 2])
SCHEDULE = optimizers.schedules.ExponentialDecay(0.05, 1, 0.5)

OPTIMIZERS = {
    "SGD": dict(learning_rate=0.1),
    "SGD momentum": dict(learning_rate=0.1, momentum=0.9),
    "SGD nesterov": dict(learning_rate=0.1, momentum=0.9, nesterov=True),
    "Adam": dict(learning_rate=0.01),
    "Adam amsgrad": dict(learning_rate=0.01, amsgrad=True),
    "AdamW": dict(learning_rate=0.01, weight_decay=0.1),
    "Adagrad": dict(learning_rate=0.1),
    "RMSprop": dict(learning_rate=0.01),
    "RMSprop centered": dict(learning_rate=0.01, centered=True, momentum=0.5),
    "Adadelta": dict(learning_rate=1.0),
    "Adafactor": dict(learning_rate=0.01),
    "Adamax": dict(learning_rate=0.01),
    "Nadam": dict(learning_rate=0.01),
    "Ftrl": dict(learning_rate=0.1),
    "Lion": dict(learning_rate=0.01),
}
if MAJOR == 3:  # Which has two more.
    OPTIMIZERS |= {"Lamb": dict(learning_rate=0.01), "Muon": dict(learning_rate=0.01)}
UNDER_FIT = ("SGD", "nesterov", "Adam", "AdamW", "Adagrad", "RMSprop", "Ftrl")
OPTIONS = {
    "clipnorm": dict(clipnorm=0.1),
    "global_clipnorm": dict(global_clipnorm=0.1),
    "clipvalue": dict(clipvalue=0.01),
    "weight_decay": dict(weight_decay=0.1),
    "ema": dict(use_ema=True, ema_momentum=0.5),
    "ema_overwrite": dict(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "schedule": dict(learning_rate=SCHEDULE),
}
if MAJOR == 3:
    OPTIONS |= {"accumulation": dict(gradient_accumulation_steps=3)}


NEAREST = omc.Policy("S1E3M7", rounding="nearest")  # A plain step then tells the code.


def make(name, **options):
    return getattr(optimizers, name.split()[0])(**{**OPTIMIZERS[name], **options})


def dense_model():
    return tf.keras.Sequential([tf.keras.Input((12,)), L.Dense(16, "tanh"), L.Dense(8)])


def stepper(model, optimizer, loop):
    """A function that trains `model` for one step."""
    if loop in ("fit", "jit", "run_eagerly"):
        model.compile(
            optimizer, "mse", jit_compile=loop == "jit", run_eagerly=loop == "run_eagerly"
        )
        return lambda: model.train_on_batch(X, Y)

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    return tf.function(step) if loop == "own" else step


def assert_near(wrapped, plain, roundings, start):
    """Each weight is the plain one within `roundings` half code steps.

    Where a step rounds more than once, the steps are those of the larger of the values at its start
    and at its end.
    """
    for ours, theirs, before in zip(variables_of(wrapped), variables_of(plain), start):
        value, want = ours.numpy(), theirs.numpy()
        if not isinstance(ours, CompressedVariable):
            np.testing.assert_allclose(value, want, rtol=1e-3, atol=1e-5)
            continue
        scale, offset = (float(t) for t in ours.codec.transform_of(ours.buffer.read_value()))
        fmt = ours.codec.format
        largest = np.abs(want - offset)
        if roundings > 1:
            largest = np.maximum(largest, np.abs(before - offset))
        units = largest / scale
        exponent = np.floor(np.log2(np.maximum(units, fmt.min_normal)))
        half_step = scale * 2.0 ** (exponent - fmt.mantissa_bits - 1)
        assert np.all(np.abs(value - want) <= 1.02 * roundings * half_step + 5e-6), ours.name


def train_side_by_side(name, loop, roundings=1, steps=3, **options):
    """Steps both models, the plain one each time from the weights that the wrapped one holds."""
    wrapped, plain = omc.wrap(dense_model(), NEAREST), dense_model()
    ours, theirs = make(name, **options), make(name, **options)
    our_step = stepper(wrapped, ours, loop)
    # Eager is quicker, but Nadam counts in Python: in plain Keras too it differs from a trace.
    their_step = stepper(plain, theirs, loop if name == "Nadam" else "eager")
    start = wrapped.get_weights()
    for _ in range(steps):
        before = wrapped.get_weights()
        plain.set_weights(before)
        our_step()
        their_step()
        assert_near(wrapped, plain, roundings, before)
    moved = [np.any(old != new) for old, new in zip(start, wrapped.get_weights())]
    assert all(moved)
    return wrapped, plain, ours, theirs


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_the_plain_step_rounded_once(name):
    loop = "fit" if name.split()[-1] in UNDER_FIT else "eager"  # Tracing takes its time.
    # Keras decays weights in a store of its own; FTRL stores whole new values, which may refit.
    train_side_by_side(name, loop, roundings={"AdamW": 2, "Ftrl": 3}.get(name, 1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sparse_gradients(name):
    """The rows of an embedding that a batch looks up move as in plain Keras, eagerly."""

    def build():
        layers = [L.Embedding(30, 12), L.Flatten(), L.Dense(8)]
        return tf.keras.Sequential([tf.keras.Input((4,), dtype=tf.int32), *layers])

    tokens = tf.constant(np.random.default_rng(0).integers(0, 20, (16, 4)), tf.int32)
    wrapped, plain = omc.wrap(build(), NEAREST), build()
    start = wrapped.get_weights()
    plain.set_weights(start)
    for model in (wrapped, plain):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(tokens) - Y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        make(name).apply_gradients(zip(gradients, model.trainable_variables))
    roundings = {"SGD nesterov": 2, "AdamW": 2, "Ftrl": 3}.get(name, 1)
    assert_near(wrapped, plain, roundings, start)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("option", OPTIONS)
def test_options(option, name):
    roundings = 2 if option in ("weight_decay", "ema_overwrite") else 1
    loop = "fit" if name == "Adam" else "eager"
    wrapped, plain, ours, theirs = train_side_by_side(name, loop, roundings, **OPTIONS[option])
    if "ema" in option:
        ours.finalize_variable_values(wrapped.trainable_variables)
        theirs.finalize_variable_values(plain.trainable_variables)
        # The averages differ by what every step rounded, halved with each step after it.
        assert_near(wrapped, plain, 4, wrapped.get_weights())


@pytest.mark.parametrize("loop", ["own", "eager", "jit", "run_eagerly"])
@pytest.mark.parametrize("option", ["global_clipnorm", "ema_overwrite"])
def test_options_in_other_loops(option, loop):
    roundings = 2 if option == "ema_overwrite" else 1
    train_side_by_side("Adam", loop, roundings, **OPTIONS[option])


def test_an_optimizer_that_compiles_its_updates():
    """Keras sets `jit_compile` on GPUs: every update is then a compiled function of its own."""
    model = omc.wrap(dense_model(), "S1E3M7")
    before = model.get_weights()
    optimizer = optimizers.Adam(0.01)
    optimizer.jit_compile = True
    model.compile(optimizer, "mse")
    model.fit(X, Y, verbose=0)
    assert all(np.any(old != new) for old, new in zip(before, model.get_weights()))


def minimize(optimizer, loss, variables):
    """As `optimizer.minimize`, which Keras 3 does not have."""
    if MAJOR == 2:
        return optimizer.minimize(loss, variables)
    with tf.GradientTape() as tape:
        value = loss()
    return optimizer.apply_gradients(zip(tape.gradient(value, variables), variables))


def test_minimize_and_a_rate_set_between_steps():
    model = omc.wrap(dense_model(), "S1E3M7")
    optimizer = optimizers.SGD(0.1)
    optimizer.learning_rate = 0.0
    before = [v.buffer.numpy() for v in variables_of(model) if isinstance(v, CompressedVariable)]
    variables = model.trainable_variables
    minimize(optimizer, lambda: tf.reduce_mean((model(X) - Y) ** 2), variables)
    after = [v.buffer.numpy() for v in variables_of(model) if isinstance(v, CompressedVariable)]
    for old, new in zip(before, after):
        np.testing.assert_array_equal(old, new)
    optimizer.learning_rate = 0.1
    minimize(optimizer, lambda: tf.reduce_mean((model(X) - Y) ** 2), variables)
    assert np.any(model.layers[0].kernel.buffer.numpy() != before[0])
