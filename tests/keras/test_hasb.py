"""Widths that are drawn for each layer in training (HASB): by the formulas, and learned from."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import omc
from omc.errors import InputError, InputTypeError, ModelError
from omc.keras import joint_training
from omc.keras.host import variables_of
from omc.keras.nesting import Options, added_variables, nesting_of
from omc.keras.switching import Draw, Switching
from tests.keras.nested_models import LOSS, compiled, data, name_of, nested_network, network

L = tf.keras.layers
WIDTHS = (8, 4, 2)
TRACES = (1.0, 9.0, 2.0)  # Mean 4: the second alone is sensitive.


def switching(**options):
    return Switching(**{"traces": TRACES, "epochs": 4, "batches": 4, "seed": 3, **options})


# The draw.


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), st.sets(st.integers(1, 8), min_size=2)
)
def test_the_roulettes_are_the_papers(traces, widths):
    widths = tuple(sorted(widths, reverse=True))
    found = Switching(tuple(traces), 1, 1).of([""] * len(traces)).probabilities(widths)
    mean = float(sum(np.array(traces, np.longdouble)) / len(traces))
    for row, trace in zip(found, traces):
        if abs(trace - mean) < 1e-9:
            continue
        wanted = (
            [b / sum(widths) for b in widths] if trace > mean else [1 / len(widths)] * len(widths)
        )
        np.testing.assert_allclose(row, wanted, rtol=1e-12)


def drawn(chosen, steps, widths=WIDTHS):
    """Indices [steps, variables] of many passes."""
    every = tf.function(lambda step: chosen.draw(widths, step).indices, autograph=False)
    return np.stack([every(tf.constant(step, tf.int64)).numpy() for step in range(steps)])


def _chi_square(found, wanted):
    """Chance of a count as far from what is wanted, or farther."""
    counts = np.bincount(found, minlength=len(wanted))
    return stats.chisquare(counts, np.asarray(wanted) * len(found)).pvalue


def test_widths_come_as_often_as_the_roulette_says():
    found = drawn(switching(epochs=1), 3000)
    even, wide = [1 / 3] * 3, np.array(WIDTHS) / sum(WIDTHS)
    for column, wanted in zip(found.T, (even, wide, even)):
        assert _chi_square(column, wanted) > 1e-4
    assert _chi_square(found[:, 1], even) < 1e-9
    # Each for itself: of two insensitive layers all nine pairs are as likely.
    assert _chi_square(3 * found[:, 0] + found[:, 2], [1 / 9] * 9) > 1e-4


def test_below_sigma_one_the_others_share_a_width_that_is_even():
    found = drawn(switching(epochs=10**6), 1500)  # Sigma is 1e-6.
    assert (found == found[:, :1]).all()
    assert _chi_square(found[:, 0], [1 / 3] * 3) > 1e-4
    half = drawn(switching(epochs=2, batches=10**6), 1500)  # Sigma is 1/2.
    pair = half[:, 0] == half[:, 2]
    # Both keep (1/4), one does or none (3/4): alike by chance in a third of those.
    assert _chi_square(pair.astype(int), [0.5, 0.5]) > 1e-4


def test_sigma_grows_by_the_epoch_and_ends_at_one():
    plan = switching(epochs=4, batches=5)
    found = [float(plan.sigma(tf.constant(step, tf.int64))) for step in range(0, 90, 3)]
    wanted = [min((batch // 5 + 1) / 4, 1.0) for batch in range(30)]
    assert found == pytest.approx(wanted)
    assert joint_training.steps_a_batch(Options(WIDTHS, switching=plan)) == 3
    assert joint_training.steps_a_batch(Options(WIDTHS)) == len(WIDTHS)


def test_a_draw_is_of_the_seed_and_the_step():
    one, again, other = (drawn(switching(epochs=1, seed=seed), 40) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (one[0] != one).any()


# The step.


@pytest.mark.parametrize("options", [{}, {"activations": 3, "norm": False}])
def test_a_step_at_drawn_widths_is_one_at_these_widths(options):
    """Weights, scales, quantizers and BatchNorm sets move as if what is drawn were fixed."""
    places, (x, y) = (2, 0, 1), map(tf.constant, data(16))
    ends = []
    for fixed in (True, False):
        policy = omc.Policy("INT8", rounding="nearest")
        model = compiled(nested_network(policy=policy, **options))
        state = nesting_of(model)
        joint_training.training.build_optimizer(model)

        @tf.function(autograph=False)
        def step(indices, model=model, state=state, fixed=fixed):
            widths = tuple(WIDTHS[place] for place in places)
            with joint_training._using(state, widths if fixed else Draw(WIDTHS, indices)):
                outputs, _ = joint_training._step(model, state, x, y, None, tf.one_hot(y, 5))
            return outputs

        outputs = step(tf.constant(places))
        scales = [variable.learned_scale.numpy() for variable in state.variables]
        buffers = [variable.buffer.numpy() for variable in state.variables]
        ends.append(
            [outputs.numpy(), scales, *buffers, *(v.numpy() for v in added_variables(model))]
        )
        assert np.abs(scales).min() > 0
    for one, other in zip(*ends):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_only_the_drawn_sets_of_batchnorm_change():
    model = nested_network()
    state = nesting_of(model)
    x = tf.constant(data(16)[0])

    def statistics():
        return np.stack(
            [[s._sets[b]["moving_mean"].numpy()[:8] for b in WIDTHS] for s in state.batchnorms]
        )

    before = statistics()
    run = tf.function(lambda indices: _forward(model, state, indices, x), autograph=False)
    run(tf.constant([1, 2, 0]))
    moved = np.abs(statistics() - before).max(axis=2) > 0
    # Each layer's set is that of the convolution before it; the first's, fixed, of the next.
    assert moved.tolist() == [[False, True, False], [False, True, False], [False, False, True]]
    assert "call" not in vars(state.batchnorms[0].layer)
    state.use(8)
    assert state.batchnorms[1].layer.moving_mean is state.batchnorms[1]._sets[8]["moving_mean"]


def _forward(model, state, indices, x):
    with Draw(WIDTHS, indices).used_by(state):
        return model(x, training=True)


def _after_fit(epochs=2, optimizer=None, **options):
    model = compiled(nested_network(switching=switching(**options)), optimizer)
    history = model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model, history.history["loss"]


def test_training_learns_is_of_the_seed_and_takes_three_steps_a_batch():
    rates = [tf.keras.optimizers.SGD(0.05, momentum=0.9) for _ in range(2)]
    (model, losses), (again, same) = (_after_fit(3, optimizer) for optimizer in rates)
    assert losses[-1] < losses[0] and losses == same
    assert int(model.optimizer.iterations) == 3 * 4 * 3
    assert nesting_of(model).bits == 8
    assert not any("call" in vars(sets.layer) for sets in nesting_of(model).batchnorms)
    for one, other in zip(nesting_of(model).variables, nesting_of(again).variables):
        np.testing.assert_array_equal(one.buffer.numpy(), other.buffer.numpy())


def test_embeddings_and_what_has_no_quantizer_switch_too():
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((6,), dtype=tf.int32)
    x = L.LSTM(8)(L.Embedding(11, 8)(inputs))
    model = tf.keras.Model(inputs, L.Dense(3)(x))
    x = np.random.default_rng(0).integers(0, 11, (16, 6)).astype(np.int32)
    plan = Switching((1.0, 2.0, 3.0, 4.0), 1, 4)
    omc.nest(model, (8, 4, 2), x, fixed=(), switching=plan)
    embedding = nesting_of(model).variables[0]

    @tf.function(autograph=False)
    def rows(indices):
        with Draw((8, 4, 2), indices).used_by(nesting_of(model)):
            return embedding.sparse_read(tf.constant([3, 0]))

    for place, bits in enumerate((8, 4, 2)):
        found = rows(tf.constant([place, 0, 0, 0]))
        nesting_of(model).use(bits)
        np.testing.assert_array_equal(found, embedding.numpy()[[3, 0]])
    nesting_of(model).use(8)
    model.compile("adam", LOSS)
    losses = model.fit(x, x[:, 0] % 3, batch_size=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


# Where it comes from, and goes to.


def test_traces_of_a_model_decide_which_layers_are_sensitive():
    model, (x, y) = network(), data()
    plan = omc.mixed_precision.hasb(model, [(x, y)], epochs=2, batches=4, loss=LOSS, probes=2)
    names = [name_of(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
    assert list(plan.traces) == names
    nested = omc.nest(network(), WIDTHS, x, switching=plan.of(names[1:-1]))
    kept = nesting_of(nested).options.switching
    assert kept.traces == tuple(plan.traces[name] for name in names[1:-1])
    mean = np.mean(kept.traces)
    assert kept.sensitive == tuple(trace >= mean for trace in kept.traces)


def test_it_is_saved_and_goes_on_and_leaves_other_files_as_they_were(tmp_path):
    model, _ = _after_fit()
    omc.save(model, tmp_path / "hasb.omc")
    plain = nested_network()
    omc.save(plain, tmp_path / "joint.omc")
    assert b"switching" not in (tmp_path / "joint.omc").read_bytes()
    loaded = omc.load(tmp_path / "hasb.omc", network())
    assert nesting_of(loaded).options == nesting_of(model).options
    assert nesting_of(omc.load(tmp_path / "hasb.omc", plain)).options.switching is None
    for target in (loaded, plain):
        for bits in WIDTHS:
            ours, theirs = (
                omc.nested.switch(m, bits).predict(data()[0], verbose=0) for m in (model, target)
            )
            np.testing.assert_array_equal(ours, theirs)
    compiled(loaded).fit(*data(), batch_size=16, verbose=0)
    assert int(loaded.optimizer.iterations) == 4 * 3


def test_mistakes_are_typed_errors_that_change_nothing():
    x, _ = data()
    plain = network()
    before = [v.numpy() for v in variables_of(plain)]
    for options, error, text in (
        ({"switching": "hasb"}, InputTypeError, "switching"),
        ({"switching": switching(), "bits": 8}, InputError, "two widths"),
        ({"switching": switching(traces=(1.0, 2.0))}, InputError, "3 traces"),
        (
            {"switching": switching(traces={"elsewhere/kernel": 1.0})},
            InputError,
            "a trace for each",
        ),
    ):
        with pytest.raises(error, match=text):
            omc.nest(plain, **{"bits": WIDTHS, "calibration": x, **options})
    for variable, value in zip(variables_of(plain), before):
        np.testing.assert_array_equal(variable.numpy(), value)
    for options, error, text in (
        ({"traces": 3}, InputTypeError, "traces"),
        ({"traces": (1.0, "2")}, InputTypeError, "traces"),
        ({"traces": (1.0, float("nan"))}, InputError, "traces"),
        ({"epochs": 0}, InputError, "epochs"),
        ({"batches": 2.5}, InputTypeError, "batches"),
        ({"seed": None}, InputTypeError, "seed"),
    ):
        with pytest.raises(error, match=text):
            switching(**options)
    hasb, batch = omc.mixed_precision.hasb, [data()]
    for model, options, error in (
        ("model", {}, InputTypeError),
        (tf.keras.Sequential([L.Dense(2)]), {}, ModelError),
        (nested_network(), {}, ModelError),
        (plain, {"loss": None}, InputError),
        (plain, {"epochs": 0}, InputError),
    ):
        with pytest.raises(error):
            hasb(model, batch, **{"epochs": 1, "batches": 1, "loss": LOSS, **options})
