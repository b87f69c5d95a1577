"""omc.allocate: the best formats, as a policy for any such model, with a report that is true."""

import fractions
import json

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.codecs import Codec
from omc.errors import FormatError, InputError, InputTypeError, ModelError
from omc.formats import Format
from omc.keras import CompressedVariable
from omc.keras.host import variables_of
from omc.mixed_precision import STRATEGIES, Allocation, Allocator, Solution, allocate
from omc.policies import VariableSpec
from tests.mixed_precision.problems import problem, tried
from tests.mixed_precision.sample import ALLOCATOR, BATCH, CROSS_ENTROPY, MODEL, build

L = tf.keras.layers


def squared_error(kernel, fmt):
    difference = omc.decompress(omc.compress(kernel, fmt)).numpy() - kernel.numpy()
    return float(np.sum(difference.astype(np.float64) ** 2))


def test_errors_are_those_of_the_codec_and_the_best_is_found():
    policy = ALLOCATOR.allocate(bits=3.4)
    kernels = [v for v in variables_of(MODEL) if "kernel" in v.name]
    formats = ALLOCATOR._measured.formats
    losses = [[squared_error(kernel, fmt) for fmt in formats] for kernel in kernels]
    counts = [int(tf.size(k)) for k in kernels]
    costs = np.outer(counts, [fmt.bits for fmt in formats])
    all_of_them = tried(problem(losses, (costs, int(3.4 * sum(counts)))))
    assert policy.loss == pytest.approx(min(all_of_them.values()), rel=1e-6)
    assert policy.optimal and policy.bound == pytest.approx(policy.loss)
    for name in STRATEGIES:
        other = ALLOCATOR.allocate(bits=3.4, strategy=name)
        assert other.bound <= policy.loss <= other.loss * (1 + 1e-12)


def test_any_formats_may_be_mixed():
    formats = ["FP32", "S1E3M7", "S1E2M3", "INT4", "int4", omc.Format.parse("INT2")]
    policy = allocate(MODEL, bits=20, formats=formats)
    assert policy.budgets[0].used <= 20
    model = omc.wrap(build(), policy)
    assert omc.memory_report(model).stored_bytes == policy.stored_bytes
    assert set(policy.widths.values()) > {"FP32"}
    everything = allocate(MODEL, bits=32, formats=formats)
    assert set(everything.widths.values()) == {"FP32"} and everything.loss == 0


def test_the_policy_says_what_is_allocated_and_how():
    base = omc.Policy("INT8", overrides={"*conv*": "INT8"}, rounding="nearest", seed=7)
    policy = allocate(build(), bits=2, policy=base)
    assert (policy.rounding, policy.seed) == ("nearest", 7)
    assert set(policy.widths.values()) == {"INT2"} and len(policy.widths) == 2
    model = omc.wrap(build(), policy)
    assert "INT8" in {r.format for r in omc.memory_report(model).rows if "conv" in r.name}
    everything = omc.Policy("INT8", weight_matrices_only=False)
    assert len(allocate(MODEL, bits=4, policy=everything).widths) > 3


def test_bare_codes_have_errors_of_their_own():
    bare = omc.Policy("INT8", transform=None)
    policy = allocate(MODEL, bits=8, policy=bare, formats=["S1E3M4", "INT8"])
    assert set(policy.widths.values()) == {"S1E3M4"}  # Bare integers round small weights to 0.
    assert omc.memory_report(omc.wrap(build(), policy)).stored_bytes == policy.stored_bytes


def test_it_fits_any_model_of_the_architecture_whatever_its_names():
    policy = ALLOCATOR.allocate(bits=3.4)
    tf.keras.backend.clear_session()
    first, second = build(), build()  # "dense" again, and "dense_2".
    for model in (first, second):
        omc.wrap(model, policy)
    formats = [
        [v.codec.format.name for v in variables_of(m) if isinstance(v, CompressedVariable)]
        for m in (first, second)
    ]
    assert formats == [list(policy.widths.values())] * 2 and len(set(formats[0])) > 1
    other = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(9), L.Dense(9)])
    with pytest.raises(InputError, match="`overrides`"):
        omc.wrap(other, policy)


def test_it_lives_through_save_and_load(tmp_path):
    policy = ALLOCATOR.allocate(bits=3.4)
    model = omc.wrap(build(), policy)
    omc.save(model, tmp_path / "m.omc")
    for fresh in (build(seed=1), omc.wrap(build(seed=1), policy)):
        omc.load(tmp_path / "m.omc", fresh)
        assert omc.memory_report(fresh).stored_bytes == policy.stored_bytes
        for got, expected in zip(variables_of(fresh), variables_of(model)):
            np.testing.assert_array_equal(got.numpy(), expected.numpy())


def test_it_trains():
    model = omc.wrap(build(), ALLOCATOR.allocate(bits=4))
    model.compile("adam", CROSS_ENTROPY)
    model.fit(*BATCH[0], epochs=2, verbose=0)
    assert omc.memory_report(model).stored_bytes == ALLOCATOR.allocate(bits=4).stored_bytes


def test_wrapped_models_are_allocated_from_their_stored_values():
    model = omc.wrap(build(), "INT3")
    policy = allocate(model, bits=3)
    assert policy.loss < 1e-4 * ALLOCATOR.allocate(bits=3).loss  # They are on INT3's grid.
    data = {"data": BATCH, "loss": CROSS_ENTROPY}
    assert allocate(model, bits=3.3, **data).sensitivity == "loss"
    hessian = allocate(model, bits=3.3, **data, probes=1, sensitivity="hessian_error")
    assert len([row for row in hessian.rows if row.trace is not None]) == 3


def test_variables_of_one_name_share_a_format():
    inputs = [tf.keras.Input((9,)) for _ in range(2)]
    inner = [tf.keras.Model(each, L.Dense(9, name="d")(each)) for each in inputs]
    model = tf.keras.Sequential([tf.keras.Input((9,)), *inner, L.Dense(30, name="last")])
    names = [VariableSpec.of(v).name for v in variables_of(model)]
    assert names.count("d/kernel") == 2
    policy = allocate(model, stored_bytes=600)
    assert len(policy.widths) == 2
    report = omc.memory_report(omc.wrap(model, policy))
    assert report.stored_bytes == policy.stored_bytes <= 600
    shared = [row.loss for row in policy.rows if row.name == "d/kernel"]
    assert len(set(shared)) == 2  # Each has its own error.
    assert policy.loss == pytest.approx(sum(r.loss for r in policy.rows if r.loss is not None))


def test_a_layer_inside_another_has_a_format_of_its_own_whatever_layer_has_its_name():
    class Outer(L.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inner = L.Dense(9, name="d")

        def build(self, shape):
            self.inner.build(shape)
            super().build(shape)

        def call(self, inputs):
            return self.inner(inputs)

    inputs, rng = tf.keras.Input((9,)), np.random.default_rng(0)
    model = tf.keras.Model(inputs, Outer(name="outer")(L.Dense(9, name="d")(inputs)))
    model.get_layer("d").kernel.assign(rng.integers(-1, 2, (9, 9)))  # On the grid of INT2.
    model.get_layer("outer").inner.kernel.assign(rng.normal(size=(9, 9)))
    policy = allocate(model, bits=5)
    report = omc.memory_report(omc.wrap(model, policy))
    formats = [row.format for row in report.rows if row.name.endswith("kernel")]
    assert formats == list(policy.widths.values()) == ["INT2", "INT8"]


def test_names_with_wildcards_mean_themselves():
    model = tf.keras.Sequential([tf.keras.Input((9,)), L.Dense(9, name="a"), L.Dense(9)])
    specs = [VariableSpec.of(v) for v in variables_of(model)]
    strange = [s._replace(name=f"[{i}]*/kernel") for i, s in enumerate(specs)]
    policy = omc.Policy(
        "INT8", overrides={omc.mixed_precision.allocation.pattern("[0]*/kernel"): "INT4"}
    )
    assert [p.format.name for p in policy.candidates(strange)][0] == "INT4"
    assert [p.format.name for p in policy.candidates(strange)][2] == "INT8"


@pytest.mark.parametrize("sensitivity", ["hessian", "hessian_error", "hasb_printed", "hasb_code"])
def test_objectives_of_the_hessian(sensitivity):
    allocator = Allocator(MODEL, data=BATCH, loss=CROSS_ENTROPY, probes=2)
    policy = allocator.allocate(bits=4, sensitivity=sensitivity)
    error = allocator._measured.errors
    for place, row in enumerate(policy.rows):
        if row.loss is None:
            continue
        bits, n = int(row.format[3:]), np.prod(row.shape)
        expected = {
            "hessian": abs(row.trace) / 4**bits,
            "hessian_error": abs(row.trace) / n * error[place][bits - 2],
            "hasb_printed": row.trace / n * bits,
            "hasb_code": -row.trace / n * bits,
        }[sensitivity]
        assert row.loss == pytest.approx(expected)
    positive = all(row.trace > 0 for row in policy.rows if row.trace is not None)
    if sensitivity == "hasb_printed" and positive:
        assert set(policy.widths.values()) == {"INT2"}  # What it is to be warned of.


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped"])
def test_losses_are_measured_with_one_variable_alone_in_the_format(wrapped):
    """Against plain copies into which the rounded values are written here."""
    model = build()
    if wrapped:
        omc.wrap(model, "INT8")
    allocator = Allocator(model, data=BATCH, loss=CROSS_ENTROPY)
    before = [v.numpy() for v in variables_of(model)]
    policy = allocator.allocate(bits=4, sensitivity="loss")
    for old, variable in zip(before, variables_of(model)):
        np.testing.assert_array_equal(old, variable.numpy())

    def loss(place=None, fmt=None):
        copy = build()
        for index, (variable, value) in enumerate(zip(variables_of(copy), before)):
            if index == place:
                codec = Codec(Format.parse(fmt), value.shape)
                value = codec.decode(codec.encode(value))
            variable.assign(value)
        losses = [CROSS_ENTROPY(y, copy(x)) for x, y in BATCH]
        return np.average(losses, weights=[len(y) for _, y in BATCH])

    shown = [place for place, row in enumerate(policy.rows) if row.loss is not None]
    assert len(shown) == 3
    for place in shown:
        row = policy.rows[place]
        assert row.loss == pytest.approx(loss(place, row.format) - loss(), abs=1e-6)
        assert row.trace is None
    formats = {
        v.codec.format.name for v in variables_of(model) if isinstance(v, CompressedVariable)
    }
    assert formats == ({"INT8"} if wrapped else set())


def test_a_loss_that_is_not_finite_is_refused_and_the_model_as_it_was():
    model = build()
    before = [v.numpy() for v in variables_of(model)]
    calls = []

    def loss(y, prediction):
        calls.append(1)
        return tf.reduce_mean(prediction) + (float("nan") if len(calls) > 3 else 0.0)

    with pytest.raises(InputError, match="data.: expected batches with a finite loss"):
        allocate(model, bits=4, data=BATCH, loss=loss, sensitivity="loss")
    for old, variable in zip(before, variables_of(model)):
        np.testing.assert_array_equal(old, variable.numpy())
    with pytest.raises(InputError, match="data.: expected batches"):
        allocate(model, bits=4, sensitivity="loss")


def test_the_seed_decides_the_probes():
    arguments = dict(bits=4, data=BATCH, loss=CROSS_ENTROPY, probes=1)
    arguments["sensitivity"] = "hessian_error"
    first, again = (allocate(MODEL, seed=3, **arguments) for _ in range(2))
    other = allocate(MODEL, seed=4, **arguments)
    assert first.rows == again.rows != other.rows


def test_the_model_is_left_as_it_is():
    model = build()
    before = [v.numpy() for v in variables_of(model)]
    allocate(model, bits=3, wire_bytes=10**6, data=BATCH, loss=CROSS_ENTROPY, probes=1)
    for variable, value in zip(variables_of(model), before):
        np.testing.assert_array_equal(variable.numpy(), value)
    omc.wrap(model, "INT8")  # And nothing holds its variables, or wrap would have to say so.


def test_the_table_shows_every_variable_and_every_sum():
    policy = ALLOCATOR.allocate(bits=3.4, wire_bytes=4200)
    text = str(policy)
    assert all(v.name.split(":")[0] in text for v in variables_of(MODEL))
    assert f"{policy.stored_bytes:,}" in text and "exact, proven least" in text
    assert f"bits: {policy.budgets[0].used:.4g} of 3.4" in text and "of 4,200" in text
    assert "none below" in str(ALLOCATOR.allocate(bits=3.4, strategy="greedy"))
    assert json.loads(json.dumps(policy.as_dict()))["stored_bytes"] == policy.stored_bytes
    assert "widths=" in repr(policy)


def test_the_picture(tmp_path):
    ALLOCATOR.allocate(bits=3.4).plot(tmp_path / "widths.png")
    ALLOCATOR.allocate(bits=3.4).plot(tmp_path / "widths.svg", most=1)
    assert (tmp_path / "widths.png").stat().st_size > 5000
    assert b"<svg" in (tmp_path / "widths.svg").read_bytes()


def test_a_strategy_of_ones_own():
    def narrowest(problem):
        return Solution((0,) * len(problem.counts))

    policy = ALLOCATOR.allocate(bits=3, strategy=narrowest)
    assert policy.strategy == "narrowest" and set(policy.widths.values()) == {"INT2"}


def test_what_a_strategy_of_ones_own_returns_is_checked():
    count = len(ALLOCATOR.names)
    for solution in (None, (0,) * count, Solution((0,)), Solution((99,) * count), Solution(None)):
        with pytest.raises(InputError, match="returned") as caught:
            ALLOCATOR.allocate(bits=3, strategy=lambda problem, s=solution: s)
        assert caught.value.argument == "strategy"
    with pytest.raises(InputError, match="every budget, but got one that takes"):
        ALLOCATOR.allocate(bits=3, strategy=lambda problem: Solution((6,) * count, True))
    numpys = ALLOCATOR.allocate(bits=3, strategy=lambda p: Solution(np.zeros(count, np.int64)))
    assert set(numpys.widths.values()) == {"INT2"}


def test_names_that_matrices_and_vectors_share_are_allocated_together():
    """A policy would give the vectors the matrix's format, whatever the table said of them."""

    class Named(L.Layer):
        def __init__(self, shape):
            super().__init__()
            self.w = self.add_weight(name="w", shape=shape)

        def call(self, x):
            return x @ self.w if len(self.w.shape) == 2 else x * self.w

    def build_named():
        inputs = tf.keras.Input((16,))
        x = Named((16, 16))(inputs)
        for _ in range(3):
            x = Named((1,))(x)
        return tf.keras.Model(inputs, x)

    for limit in (None, 10**6):
        try:
            policy = allocate(build_named(), stored_bytes=limit or 1)
        except InputError as error:  # The least.
            policy = allocate(build_named(), stored_bytes=int(str(error.expected).split()[0]))
        report = omc.memory_report(omc.wrap(build_named(), policy))
        assert report.stored_bytes == policy.stored_bytes <= policy.budgets[0].limit
        assert [row.format for row in report.rows] == [row.format for row in policy.rows]


def test_an_allocation_is_admitted_by_the_average_that_it_reports():
    model = tf.keras.Sequential([tf.keras.Input((8,)), *(L.Dense(8) for _ in range(3))])
    allocator = Allocator(model)
    for bits in (2.4, 2.7, 3.4, 3.99, 5.7, 7.5):
        policy = allocator.allocate(bits=bits)
        again = allocator.allocate(bits=policy.budgets[0].used)
        assert again.widths == policy.widths and again.loss == policy.loss
        exact = fractions.Fraction(policy.budgets[0].used).limit_denominator(100)
        assert allocator.allocate(bits=exact).widths == policy.widths
        assert allocator.allocate(bits=np.nextafter(policy.budgets[0].used, 0)).loss > policy.loss
    assert set(allocator.allocate(bits=10**9).widths.values()) == {"INT8"}


@pytest.mark.parametrize("kind", [np.array, tuple, set])
def test_formats_may_be_any_collection(kind):
    formats = kind(["INT2", "INT4"])
    assert set(allocate(MODEL, bits=4, formats=formats).widths.values()) == {"INT4"}


def test_numbers_of_numpy_are_numbers():
    policy = allocate(MODEL, stored_bytes=np.int64(5000), bits=np.float32(3.5), seed=np.int64(1))
    assert [use.limit for use in policy.budgets] == [3.5, 5000]
    assert json.loads(json.dumps(policy.as_dict()))["budgets"][1]["limit"] == 5000


def test_batches_that_come_once_serve_every_measurement():
    allocator = Allocator(MODEL, data=(batch for batch in BATCH), loss=CROSS_ENTROPY, probes=1)
    for sensitivity in ("loss", "hessian", "hessian_error"):
        assert allocator.allocate(bits=3, sensitivity=sensitivity).sensitivity == sensitivity


class _Peaks:
    """Peak bytes of a step as a function of what is stored, and how often it was measured."""

    def __init__(self, of_stored):
        self._of_stored, self.count = of_stored, 0

    def __call__(self, policy):
        self.count += 1
        return int(self._of_stored(policy.stored_bytes))


def test_a_peak_that_widths_do_not_change_leaves_the_best():
    peaks = _Peaks(lambda stored: 10_000)
    policy = ALLOCATOR.allocate(peak_bytes=10_000, step_peak=peaks)
    assert set(policy.widths.values()) == {"INT8"} and policy.optimal and peaks.count == 2


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5])
def test_a_peak_is_kept_and_no_proof_is_claimed_for_it(factor):
    peaks = _Peaks(lambda stored: 5_000 + factor * stored)
    widest = ALLOCATOR.allocate(bits=8)
    limit = int(5_000 + factor * 0.7 * widest.stored_bytes)
    policy = ALLOCATOR.allocate(peak_bytes=limit, step_peak=peaks)
    assert policy.budgets[0].used <= limit and not policy.optimal
    assert policy.bound == pytest.approx(widest.loss) and policy.loss > widest.loss
    assert peaks.count <= 10
    # All that the peak allows: a byte more stored would not be.
    best = ALLOCATOR.allocate(stored_bytes=int((limit - 5_000) / factor))
    assert policy.loss <= best.loss * 1.02
    both = ALLOCATOR.allocate(peak_bytes=limit, step_peak=peaks, bits=3)
    assert both.budgets[0].used <= 3 and both.budgets[1].used <= limit
    assert both.bound == pytest.approx(ALLOCATOR.allocate(bits=3).loss)


@pytest.mark.parametrize("peak", [None, float("nan"), float("inf"), "1000", 1000.5, -5])
def test_a_peak_that_is_no_count_of_bytes(peak):
    with pytest.raises(InputError, match="whole number of bytes") as caught:
        ALLOCATOR.allocate(peak_bytes=10**6, step_peak=lambda policy: peak)
    assert caught.value.argument == "step_peak"


X, Y = BATCH[0]
SHORT = Y[:3]


@pytest.mark.parametrize(
    "argument, arguments",
    [
        ("data", dict(data=[(X[:0], Y[:0])])),
        ("data", dict(data=[(X[:, :4], Y)])),
        ("data", dict(data=[(X, SHORT)])),
        ("data", dict(data=[(X, None)])),
        ("data", dict(data=[(1.0, 2)])),
        ("data", dict(data=[(None, Y)])),
        ("data", dict(data=[(X, Y + 1000)])),
        ("data", dict(data=[(X, SHORT)], sensitivity="hessian")),
        ("loss", dict(data=BATCH, loss="foo")),
        ("loss", dict(data=BATCH, loss=5)),
        ("seed", dict(data=BATCH, seed=1.5)),
        ("seed", dict(data=BATCH, seed=None)),
        ("probes", dict(data=BATCH, sensitivity="hessian", probes=True)),
    ],
)
def test_data_and_losses_that_do_not_fit_are_named(argument, arguments):
    before = [v.numpy() for v in variables_of(MODEL)]
    with pytest.raises((InputError, InputTypeError)) as caught:
        allocate(MODEL, bits=3, **{"loss": CROSS_ENTROPY, **arguments})
    assert caught.value.argument == argument
    for variable, value in zip(variables_of(MODEL), before):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    "error, argument, arguments",
    [
        (InputError, "bits", {}),
        (InputTypeError, "bits", dict(bits="3")),
        (InputError, "bits", dict(bits=float("nan"))),
        (InputError, "stored_bytes", dict(stored_bytes=-1)),
        (InputTypeError, "wire_bytes", dict(wire_bytes=True)),
        (InputTypeError, "step_peak", dict(peak_bytes=10**9)),
        (InputError, "strategy", dict(bits=3, strategy="best")),
        (InputError, "sensitivity", dict(bits=3, sensitivity="taste")),
        (InputError, "data", dict(bits=3, sensitivity="hessian")),
        (InputError, "loss", dict(bits=3, data=BATCH)),
        (FormatError, "format", dict(bits=3, formats=["INT9"])),
        (InputError, "formats", dict(bits=3, formats=[])),
        (InputTypeError, "formats", dict(bits=3, formats="INT2")),
        (InputTypeError, "policy", dict(bits=3, policy=3)),
        (InputError, "policy", dict(bits=3, policy=omc.Policy("INT8", fraction=0.5))),
        (InputError, "policy", dict(bits=3, policy="FP32")),
        (InputTypeError, "coded_nbytes", dict(bits=3, coded_nbytes=3)),
        (InputError, "coded_nbytes", dict(wire_bytes=9000, coded_nbytes=lambda b, c: 0.5)),
    ],
)
def test_mistakes(error, argument, arguments):
    with pytest.raises(error) as caught:
        allocate(MODEL, **arguments)
    assert caught.value.argument == argument


def test_models_that_cannot_be_allocated():
    with pytest.raises(InputTypeError, match="`model`"):
        allocate("model", bits=3)
    with pytest.raises(ModelError, match="a built model"):
        allocate(tf.keras.Sequential([L.Dense(3)]), bits=3)
    model = build()
    model.layers[-1].kernel.assign(np.nan * model.layers[-1].kernel)
    with pytest.raises(InputError, match="NaN or Inf in"):
        allocate(model, bits=3)


def test_an_allocation_is_a_policy():
    policy = ALLOCATOR.allocate(bits=3)
    assert isinstance(policy, Allocation) and isinstance(policy, omc.Policy)
    assert omc.Policy.of(policy) is policy
