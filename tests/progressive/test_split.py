"""split(): what the parts say, that the last stage is the model, and what they cost."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import omc
import omc.progressive
from omc import kernels
from omc.codecs import Codec
from omc.errors import FormatError, InputError, InputTypeError, ModelError
from omc.formats import Format
from omc.keras.host import variables_of
from omc.keras.saving import stored_order
from omc.progressive import streams
from tests.progressive.chains import (
    CHAINS,
    batch,
    expected_values,
    network,
    stored,
    values,
)

L = tf.keras.layers


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_every_stage_is_its_codes_decoded_by_themselves(chain):
    model, x = network(), batch()
    plain, dense = network(), [v.numpy() for v in stored_order(model)]
    matrices = [d.ndim > 1 for d in dense]
    stages = [expected_values(d, chain) if m else [d] * len(chain) for d, m in zip(dense, matrices)]
    parts = omc.progressive.split(model, list(chain))
    receiver = omc.progressive.Receiver(network(seed=5))
    for index, part in enumerate(parts):
        receiver.apply(part)
        assert receiver.stage == part.stage == chain[index]
        for variable, each in zip(stored_order(plain), stages):
            variable.assign(each[index])
        assert values(receiver.model) == values(plain)
        np.testing.assert_allclose(receiver.model(x), plain(x), rtol=2e-5, atol=1e-6)
    if chain[-1] == "FP32":
        assert values(receiver.model) == values(model)


@pytest.mark.parametrize(
    "target, chain, transform",
    [
        ("INT8", ["INT3", "INT4", "INT8"], "pvt"),
        ("S1E3M7", ["S1E3M0", "S1E3M7"], "pvt"),
        ("S1E3M7", ["INT4", "S1E3M7"], None),
        ("S1E3M5+2", ["S1E3M1", "S1E3M5+2"], "pvt"),
        ("INT8", ["INT4", "INT8"], None),
    ],
)
def test_a_wrapped_model_arrives_as_it_is_stored(target, chain, transform):
    policy = omc.Policy(
        target, overrides={"conv/kernel": "INT2", "hidden/kernel": "FP32"}, transform=transform
    )
    model = omc.wrap(network(), policy)
    receiver = omc.progressive.Receiver(network(seed=5))
    for part in omc.progressive.split(model, chain):
        receiver.apply(bytes(part))
    assert stored(receiver.model) == stored(model)
    seeds = [v._seed is None for v in stored_order(receiver.model) if hasattr(v, "buffer")]
    assert not any(seeds)


def test_a_base_is_what_a_switch_to_its_width_computes_half_a_step_lower():
    model, plain, x = omc.wrap(network(), "INT8"), network(), batch()
    (base, _) = omc.progressive.split(model, ["INT4", "INT8"])
    receiver = omc.progressive.Receiver(network(seed=5))
    receiver.apply(base)
    for variable, mine in zip(stored_order(model), stored_order(plain)):
        value = variable.read_value()
        if hasattr(variable, "buffer"):
            codec = variable.codec
            value = omc.nested.codec_at(codec, 4).decode(variable.buffer)
            value -= 0.5 * codec.transform_of(variable.buffer.read_value())[0]
        mine.assign(value)
    for variable, mine in zip(stored_order(receiver.model), stored_order(plain)):
        np.testing.assert_allclose(variable.numpy(), mine.numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(receiver.model(x), plain(x), rtol=1e-4, atol=1e-6)


FORMATS = st.sampled_from(
    ["INT2", "INT3", "INT4", "INT7", "INT8", "S1E2M0", "S1E3M3", "S0E4M3", "S1E5M10", "S1E8M7"]
    + ["S1E4M14", "FP32"]
)


@given(
    low=FORMATS.filter(lambda name: streams.can_predict(Format.parse(name))),
    high=FORMATS,
    shape=st.sampled_from([(0,), (1,), (9,), (64,), (13, 17), (8, 131)]),
    size=st.sampled_from([0.0, 1e-12, 0.05, 1e30]),
    transform=st.booleans(),
    segment=st.sampled_from([3, 16, 1 << 15]),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_a_buffer_comes_back_given_any_other(low, high, shape, size, transform, segment, seed):
    random, before = np.random.default_rng(seed), streams.SEGMENT
    dense = tf.constant(random.normal(0, size, shape).astype(np.float32))
    low = Codec(Format.parse(low), shape, transform)
    high = Codec(Format.parse(high), shape, transform)
    target = high.encode(dense).numpy()
    streams.SEGMENT = segment
    try:
        for given_ in [(), (low.encode(dense), low), (random.bytes(low.nbytes), low)]:
            if given_ and isinstance(given_[0], bytes):  # Any bits at all: NaN scales too.
                given_ = np.frombuffer(given_[0], np.uint8), low
            data = list(streams.encode(target, high, *given_))
            with kernels.pure():
                assert data == list(streams.encode(target, high, *given_))
            found = np.zeros(high.nbytes, np.uint8)
            for where, piece in streams.decode(data, high, *given_):
                for start, stop in streams.ranges(high, *where):
                    found[start:stop], piece = piece[: stop - start], piece[stop - start :]
            if data[0]:
                found[-8:] = np.frombuffer(data[0], np.uint8)
            np.testing.assert_array_equal(found, target)
    finally:
        streams.SEGMENT = before


@pytest.mark.parametrize("name", ["INT2", "INT8", "S1E3M7", "S0E4M3", "S1E8M7", "S1E5M10"])
def test_the_table_of_predictions_is_the_formats_specification(name):
    fmt = Format.parse(name)
    codes = np.random.default_rng(0).integers(0, 2**fmt.bits, 300)
    expected = [fmt.decode(int(code)) for code in codes]
    np.testing.assert_array_equal(streams._values(fmt)[codes], expected)
    units = np.random.default_rng(0).normal(0, min(fmt.max, 1e30), 300)
    got = streams._nearest(units, Codec(fmt, (300,)))
    scalar = np.array([fmt.encode(float(u)) for u in units])
    same = got == scalar
    zero = scalar == 2 ** (fmt.bits - 1)  # -0, which a prediction never is.
    assert (same | (zero & (got == 0))).all()


@pytest.fixture(scope="module")
def trained():
    """A model of 165,000 weights, trained on scikit-learn's digits."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    tf.keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    normal = tf.keras.initializers.RandomNormal  # Keras' others are cut off.
    dense = [L.Dense(n, "relu", kernel_initializer=normal(0, 0.06, n)) for n in (512, 256)]
    model = tf.keras.Sequential([tf.keras.Input((64,)), *dense, L.Dense(10)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x / 16, y, epochs=4, verbose=0)
    return model


def test_a_base_of_4_bits_is_a_tenth_and_deltas_cost_no_more_than_the_target(trained):
    dense = sum(4 * v.shape.num_elements() for v in variables_of(trained))
    base, delta = omc.progressive.split(trained, ["INT4", "INT8"])
    (direct,) = omc.progressive.split(trained, ["INT8"])
    print(dense, base.nbytes, delta.nbytes, direct.nbytes)
    assert base.nbytes < dense / 10
    assert base.nbytes + delta.nbytes <= 1.03 * direct.nbytes + 512
    parts = omc.progressive.split(trained, ["INT4", "INT8", "FP32"])
    (direct,) = omc.progressive.split(trained, ["FP32"])
    assert sum(part.nbytes for part in parts) <= 1.03 * direct.nbytes + 1024


def test_what_does_not_change_is_not_sent_again():
    policy = omc.Policy("INT8", overrides={"conv/kernel": "INT2"})
    base, *deltas = omc.progressive.split(omc.wrap(network(), policy), ["INT2", "INT4", "INT8"])
    everything = range(len(stored_order(network())))
    assert [entry.place for entry in base.entries] == list(everything)
    for delta in deltas:  # The convolution is whole with the base, the vectors are too.
        assert [entry.shape for entry in delta.entries] == [(84, 13), (13, 3)]


def test_the_same_model_gives_the_same_bytes():
    model = network()
    parts = [omc.progressive.split(model, ["INT4", "FP32"]) for _ in range(2)]
    assert list(map(bytes, parts[0])) == list(map(bytes, parts[1]))


@pytest.mark.parametrize(
    "stages, error, argument",
    [
        ("INT4", InputTypeError, "stages"),
        (7, InputTypeError, "stages"),
        ([], InputError, "stages"),
        (["INT9"], FormatError, "stages"),
        (["INT8", "INT4"], InputError, "stages"),
        (["INT4", "INT4"], InputError, "stages"),
        (["INT4+4", "FP32"], InputError, "stages"),
        (["S1E4M14", "FP32"], InputError, "stages"),
    ],
)
def test_stages_that_are_no_chain(stages, error, argument):
    with pytest.raises(error) as caught:
        omc.progressive.split(network(), stages)
    assert caught.value.argument == argument


def test_stages_that_end_elsewhere_than_a_wrapped_model():
    model = omc.wrap(network(), "INT8")
    for stages in (["INT4"], ["INT4", "FP32"], ["INT4", "S1E3M4"]):
        with pytest.raises(InputError, match="'INT8', the widest"):
            omc.progressive.split(model, stages)


def test_models_that_cannot_be_split():
    with pytest.raises(InputTypeError, match="tf.keras.Model"):
        omc.progressive.split("model", ["INT4"])
    with pytest.raises(ModelError, match="a built model"):
        omc.progressive.split(tf.keras.Sequential([L.Dense(3)]), ["INT4"])
    model = network()
    model.layers[-1].kernel.assign(tf.fill([13, 3], np.nan))
    with pytest.raises(InputError, match="NaN or Inf"):
        omc.progressive.split(model, ["INT4"])
