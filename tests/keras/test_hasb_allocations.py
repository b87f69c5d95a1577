"""Nested models whose layers are read each at a width of its own, said by name or allocated."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.errors import InputError, InputTypeError
from omc.keras.feeding import feeders
from omc.keras.nesting import nesting_of
from tests.keras.nested_models import (
    LOSS,
    compiled,
    data,
    dense_copy,
    name_of,
    nested_network,
    network,
)

L = tf.keras.layers


@pytest.fixture(scope="module")
def model():
    """A nested model that every test leaves as it found it."""
    return compiled(nested_network())


@pytest.fixture(autouse=True)
def _back(request):
    if "model" in request.fixturenames:
        found = request.getfixturevalue("model")
        before = [v.buffer.numpy() for v in nesting_of(found).variables]
        yield
        nested.switch(found, 8)
        for variable, buffer in zip(nesting_of(found).variables, before):
            np.testing.assert_array_equal(variable.buffer.numpy(), buffer)
    else:
        yield


def names(model):
    return [variable.name.split(":")[0] for variable in nesting_of(model).variables]


def bits_of(model):
    return [v.codec.format.bits - v.codec.format.feedback_bits for v in nesting_of(model).variables]


def second_rounding(variable, bits):
    """float64 oracle of a variable's value at a width, from its stored codes alone."""
    full = nested.codec_at(variable.codec, 8)
    codes = full.codes(variable.buffer).numpy().astype(np.float64)
    codes = np.where(codes > 127, codes - 256, codes)
    scale, offset = (np.float64(part) for part in full.transform_of(variable.buffer))
    step = 2.0 ** (8 - bits)
    read = np.clip(np.floor(codes / step + 0.5), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return read * step * scale + offset


@pytest.mark.parametrize("widths", [(4, 2, 8), (2, 8, 4)])
def test_each_layer_reads_what_the_second_rounding_says(widths):
    model, (x, _) = nested_network(activations=None), data()
    allocation = dict(zip(names(model), widths))
    assert nested.switch(model, allocation) is model
    assert bits_of(model) == list(widths)
    for variable, bits in zip(nesting_of(model).variables, widths):
        np.testing.assert_allclose(variable.numpy(), second_rounding(variable, bits), rtol=1e-5)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), dense_copy(model)(x), rtol=1e-3, atol=1e-4
    )


def test_there_and_back_is_exact(model):
    x, y = data()
    conv, other, dense = names(model)
    allocation = {conv: 4, other: 2, dense: 8}
    outputs = {bits: nested.switch(model, bits).predict(x, verbose=0) for bits in (2, 8)}
    mixed = nested.switch(model, allocation).predict(x, verbose=0)
    for bits in (8, 2):
        np.testing.assert_array_equal(
            nested.switch(model, bits).predict(x, verbose=0), outputs[bits]
        )
        with omc.at_width(model, allocation):
            np.testing.assert_array_equal(model.predict(x, verbose=0), mixed)
            assert np.isfinite(model.evaluate(x, y, verbose=0)[0])
            with omc.at_width(model, {conv: 2}):
                assert bits_of(model) == [2, 8, 8]
            assert bits_of(model) == [4, 2, 8]
        assert nesting_of(model).bits == bits
    assert np.abs(mixed - outputs[8]).max() > 1e-3 < np.abs(mixed - outputs[2]).max()


def test_layers_are_named_by_variable_layer_or_pattern(model):
    conv, other, dense = names(model)
    for allocation, wanted in (
        ({dense: 2}, [8, 8, 2]),
        ({conv.split("/")[0]: 2}, [2, 8, 8]),
        ({"conv*": 4}, [4, 4, 8]),
        ({conv: 2, "*": 4}, [2, 4, 4]),
        ({"*": 4, conv: 2}, [4, 4, 4]),  # The first that matches counts.
        ({}, [8, 8, 8]),
        (omc.Policy("INT8", overrides={conv: "INT2", other: "INT4"}), [2, 4, 8]),
        (omc.Policy("INT4"), [4, 4, 4]),
    ):
        nested.switch(model, allocation)
        assert bits_of(model) == wanted
    assert nesting_of(model).bits == 4  # One for all is a width as any other.


def test_quantizers_and_batchnorm_sets_are_those_of_the_layers_width(model):
    nested.switch(model, dict(zip(names(model), (2, 4, 8))))
    state = nesting_of(model)
    for variable, bits in zip(state.variables, (2, 4, 8)):
        assert (variable.input_quantizer.row, variable.input_quantizer.bits) == (bits, bits)
    # Convolutions: one fixed, then the two that were read at 2 and 4 bits.
    used = [
        next(b for b in (8, 4, 2) if sets.layer.gamma is sets._sets[b]["gamma"])
        for sets in state.batchnorms
    ]
    assert used == [2, 2, 4]


def test_batchnorm_is_fed_by_the_layer_before_it_in_the_graph():
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((4,))
    x = L.Dense(6)(inputs)
    left, right = L.Dense(6, name="left")(x), L.Dense(6, name="right")(x)
    norms = [L.BatchNormalization(name=name) for name in ("of_right", "of_left", "of_sum")]
    left = L.ReLU()(norms[1](left))
    x = L.Add()([norms[0](right), left])
    body = tf.keras.Sequential([L.Dense(6, name="inner"), L.BatchNormalization(name="of_inner")])
    x = norms[2](L.Dense(6, name="last")(body(x)))
    model = omc.nest(tf.keras.Model(inputs, L.Dense(2)(x)), (8, 4), np.ones((8, 4), np.float32))
    state = nesting_of(model)
    layers = [sets.layer for sets in state.batchnorms]
    owners = [name.split("/")[-2] for name in names(model)]
    found = {
        layer.name: owners[place]
        for layer, place in zip(layers, feeders(model, layers, state.variables))
    }
    wanted = {"of_right": "right", "of_left": "left", "of_inner": "inner", "of_sum": "last"}
    assert found == wanted and [sets.feeder for sets in state.batchnorms] == feeders(
        model, layers, state.variables
    )


def test_statistics_can_be_those_of_an_allocation_and_of_the_widths_again():
    model, (x, _) = nested_network(), data()
    state = nesting_of(model)
    allocation = dict(zip(names(model), (2, 4, 8)))

    def means(sets):
        return {bits: values["moving_mean"].numpy() for bits, values in sets._sets.items()}

    before = [means(sets) for sets in state.batchnorms]
    assert omc.calibrate(model, x, allocation) is model and state.bits == 8
    nested.switch(model, allocation)
    probe = tf.keras.Model(model.inputs[0], [sets.layer.input for sets in state.batchnorms])
    for sets, bits, old in zip(state.batchnorms, (2, 2, 4), before):
        for other in {8, 4, 2} - {bits}:
            np.testing.assert_array_equal(means(sets)[other], old[other])
    first = probe(x)[0].numpy().mean(axis=(0, 1, 2))  # No BatchNorm before it.
    np.testing.assert_allclose(means(state.batchnorms[0])[2], first, rtol=1e-3, atol=1e-4)
    assert np.abs(means(state.batchnorms[2])[4] - before[2][4]).max() > 1e-4
    omc.calibrate(model, x)
    for sets, old in zip(state.batchnorms, before):
        for bits in (4, 2):
            np.testing.assert_allclose(means(sets)[bits], old[bits], rtol=1e-4, atol=1e-5)


def test_it_is_saved_loaded_and_exported_as_it_is_read(tmp_path):
    model, (x, _) = nested_network(), data()
    nested.switch(model, dict(zip(names(model), (2, 4, 8))))
    expected = model.predict(x, verbose=0)
    omc.save(model, tmp_path / "m.omc")
    for target in (network(), nested_network()):
        loaded = omc.load(tmp_path / "m.omc", target)
        assert bits_of(loaded) == [2, 4, 8]
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    ours, theirs = (nested.switch(m, 8).predict(x, verbose=0) for m in (loaded, model))
    np.testing.assert_array_equal(ours, theirs)
    nested.switch(model, dict(zip(names(model), (2, 4, 8))))
    omc.export(model, tmp_path / "served")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    (found,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    formats = {row.name: row.format for row in omc.memory_report(model).rows}
    assert [formats[name] for name in names(model)] == ["INT2+6", "INT4+4", "INT8"]


# Allocations.


def errors_of(model):
    """float64 [variables, widths of (2, 4, 8)]: what the second rounding loses of 8 bits."""
    return np.array(
        [
            [np.sum((second_rounding(v, b) - second_rounding(v, 8)) ** 2) for b in (2, 4, 8)]
            for v in nesting_of(model).variables
        ]
    )


@pytest.mark.parametrize("budget", [2.5, 4.0, 7.0])
def test_an_allocation_is_the_least_of_all_and_is_read_without_training(model, budget):
    allocation = omc.allocate(model, bits=budget)
    assert set(allocation.widths) == set(names(model))
    counts = np.array([v.codec.count for v in nesting_of(model).variables])
    errors = errors_of(model)
    least = min(
        sum(errors[i, place] for i, place in enumerate(places))
        for places in itertools.product(range(3), repeat=3)
        if np.dot(counts, np.array((2, 4, 8))[list(places)]) <= budget * counts.sum()
    )
    assert allocation.loss == pytest.approx(least, rel=1e-4) and allocation.optimal
    nested.switch(model, allocation)
    wanted = [int(allocation.widths[name][3:]) for name in names(model)]
    assert bits_of(model) == wanted
    assert np.dot(counts, wanted) <= budget * counts.sum()


def test_the_objectives_of_the_paper_and_ours_are_options_of_one_interface(model):
    allocator = omc.mixed_precision.Allocator(model, data=[data()], loss=LOSS, probes=2)
    state = nesting_of(model)
    found = {
        name: allocator.allocate(bits=5.0, sensitivity=name)
        for name in ("hessian_error", "hasb_printed", "hasb_code")
    }
    assert state.bits == 8 and all(v.learned_scale is not None for v in state.variables)
    assert all(v.input_quantizer is not None for v in state.variables)
    traces = {row.name: row.trace for row in found["hessian_error"].rows if row.loss is not None}
    counts = [v.codec.count for v in state.variables]
    bits = [int(found["hasb_printed"].widths[name][3:]) for name in names(model)]
    # Minimised, a sum of bits gives the fewest to whatever has a trace above 0.
    assert all(b == 2 for b, name in zip(bits, names(model)) if traces[name] > 0)
    wanted = sum(t / n * b for t, n, b in zip(map(traces.get, names(model)), counts, bits))
    assert found["hasb_printed"].loss == pytest.approx(wanted, rel=1e-5)
    ours = sum(
        abs(traces[name]) / n * row[(2, 4, 8).index(int(found["hessian_error"].widths[name][3:]))]
        for name, n, row in zip(names(model), counts, errors_of(model))
    )
    assert found["hessian_error"].loss == pytest.approx(ours, rel=1e-3, abs=1e-12)


def test_losses_of_a_nested_model_are_of_what_it_computes_at_those_widths(model):
    nested.switch(model, 2)
    allocator = omc.mixed_precision.Allocator(model, data=[data()], loss=LOSS)
    allocation = allocator.allocate(bits=5.0, sensitivity="loss")
    assert bits_of(model) == [2, 2, 2]  # As it was.
    x, y = data()

    def loss(widths):
        nested.switch(model, widths)
        return float(LOSS(y, model(x)))

    rows = {row.name: row.loss for row in allocation.rows if row.loss is not None}
    for name, row in rows.items():
        layer = name.split("/")[0]
        increase = loss({layer: int(allocation.widths[name][3:])}) - loss(8)
        assert row == pytest.approx(increase, abs=1e-6)


def test_stored_bytes_of_an_allocation_are_those_of_a_device_that_has_it_alone(model):
    free = omc.allocate(model, bits=8)
    allocation = omc.allocate(model, stored_bytes=free.stored_bytes - 1000)
    rows = {row.name: row for row in allocation.rows}
    for variable, name in zip(nesting_of(model).variables, names(model)):
        value = omc.CompressedTensor(variable.buffer.read_value(), variable.codec)
        bits = int(rows[name].format[3:])
        assert rows[name].stored_bytes == nested.extract(value, bits).nbytes
    sent = omc.allocate(model, wire_bytes=free.stored_bytes, formats=["INT2", "INT8"])
    assert set(sent.widths.values()) <= {"INT2", "INT8"}


def test_mistakes_are_typed_errors_and_change_nothing(model):
    first = names(model)[0]
    fixed = name_of(model.layers[1].kernel)
    other = tf.keras.Sequential([tf.keras.Input((40,)), L.Dense(40), L.Dense(40)])
    nested.switch(model, {first: 2})
    for bits, error, text in (
        ({"nowhere/kernel": 4}, InputError, "match one of"),
        ({fixed: 4}, InputError, "keeps fixed"),
        ({first: 9}, InputError, "1 to 8"),
        ({first: 3}, InputError, "omc.calibrate"),
        ({first: "4"}, InputTypeError, "integer"),
        ({3: 4}, InputTypeError, "names"),
        ([4, 2, 2], InputTypeError, "integer"),
        (omc.allocate(other, bits=4), InputError, "a policy of this model"),
        (omc.Policy("S1E3M4"), InputError, "a width of INT8"),
        (omc.Policy("FP32"), InputError, "a width of INT8"),
    ):
        for call in (nested.switch, lambda m, b: omc.at_width(m, b).__enter__()):
            with pytest.raises(error, match=text):
                call(model, bits)
        assert bits_of(model) == [2, 8, 8]
    for options, text in (
        ({"policy": "INT4"}, "policy"),
        ({"formats": ["INT3"]}, "formats"),
        ({"formats": ["S1E3M4"]}, "formats"),
    ):
        with pytest.raises(InputError, match=text):
            omc.allocate(model, bits=4.0, **options)
