"""Nested models: each width computes, is switched to, saved, shown and refused as it should be."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc import nested
from omc.errors import ArtifactError, InputError, InputTypeError, ModelError
from omc.keras.host import value_of, variables_of
from omc.keras.nesting import added_variables, nesting_of
from tests.keras.nested_models import (
    LOSS,
    WIDTHS,
    L,
    compiled,
    data,
    dense_copy,
    load_checkpoint,
    name_of,
    nested_network,
    network,
    save_checkpoint,
)


def test_each_width_computes_what_plain_keras_does_with_its_weights():
    model, (x, _) = nested_network(activations=None), data()
    state = nesting_of(model)
    for bits in (8, 2, 4):
        assert omc.nested.switch(model, bits) is model
        formats = {v.codec.format for v in state.variables}
        assert formats == {nested.format_at("INT8", bits)}
        np.testing.assert_allclose(
            model.predict(x, verbose=0), dense_copy(model)(x), rtol=1e-3, atol=1e-4
        )


def test_first_and_last_matrix_are_fixed_or_as_one_says():
    names = [v.name for v in nesting_of(nested_network()).variables]
    assert [name.split("/")[0].rstrip("_0123456789") for name in names] == ["conv2d"] * 2 + [
        "dense"
    ]
    assert len(nesting_of(nested_network(fixed=())).variables) == 5
    model = network()
    first = name_of(model.layers[1].kernel)
    state = nesting_of(omc.nest(model, WIDTHS, data()[0], fixed=(first,)))
    assert len(state.variables) == 4
    with pytest.raises(InputError, match="fixed"):
        nested_network(fixed=("no/such",))
    with pytest.raises(InputTypeError, match="fixed"):
        nested_network(fixed="conv*")


def test_a_layer_computes_with_quantized_activations():
    model = nested_network(norm=False, activations=3)
    state = nesting_of(model)
    omc.nested.switch(model, 4)
    variable = state.variables[-1]
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    layer = next(layer for layer in layers if value_of(layer.kernel) is variable)
    h = tf.random.stateless_normal([7, variable.shape[0]], [1, 2])
    quantizer = variable.input_quantizer
    assert quantizer.bits == 3
    scale, offset = (float(part) for part in quantizer.parameters())
    q = np.clip(np.rint((h - offset) / np.float32(scale)), 0, 7) * scale + offset
    expected = np.maximum(q @ variable.numpy() + layer.bias.numpy(), 0)
    np.testing.assert_allclose(layer(h), expected, rtol=1e-4, atol=1e-5)


def test_activations_that_no_quantizer_meets_stay_as_they_are():
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((6, 4))
    outputs = L.Dense(3)(L.LSTM(8)(L.Dense(8)(inputs)))
    model = tf.keras.Model(inputs, outputs)
    omc.nest(model, (8, 4), np.ones((8, 6, 4), np.float32), fixed=())
    state = nesting_of(model)
    assert len(state.variables) == 4 and len(state.tables) == 2  # The LSTM's kernels have none.
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6, 4)), np.ones((8, 3)), verbose=0)


def test_switching_keeps_the_stored_bits_and_the_functions(trained):
    x, _ = data()
    buffers = [v.buffer.numpy() for v in nesting_of(trained).variables]
    outputs = {bits: nested.switch(trained, bits).predict(x, verbose=0) for bits in (8, 2, 4)}
    assert np.abs(outputs[8] - outputs[2]).max() > 0.01
    traces = trained.predict_function.experimental_get_tracing_count()
    for bits in (2, 8, 4, 8):
        np.testing.assert_array_equal(
            nested.switch(trained, bits).predict(x, verbose=0), outputs[bits]
        )
    assert trained.predict_function.experimental_get_tracing_count() == traces
    for variable, buffer in zip(nesting_of(trained).variables, buffers):
        np.testing.assert_array_equal(variable.buffer.numpy(), buffer)
    nested.switch(trained, 4)
    with contextlib.suppress(RuntimeError), omc.at_width(trained, 2):
        assert nesting_of(trained).bits == 2
        raise RuntimeError
    assert nesting_of(trained).bits == 4
    nested.switch(trained, 8)


def test_compiling_anew_forgets_what_other_widths_traced():
    model = compiled(nested_network())
    x, y = data()
    nested.switch(model, 2).evaluate(x, y, verbose=0)
    nested.switch(model, 8)
    model.compile(
        "sgd", LOSS, metrics=["accuracy", tf.keras.metrics.SparseTopKCategoricalAccuracy(2)]
    )
    assert len(nested.switch(model, 2).evaluate(x, y, verbose=0)) == 3


def test_a_nested_model_is_saved_and_loaded_bit_for_bit(trained, tmp_path):
    x, y = data()
    path = tmp_path / "nested.omc"
    nested.switch(trained, 4)
    expected = trained.predict(x, verbose=0)
    omc.save(trained, path)
    for target in (network(), nested_network()):
        loaded = omc.load(path, target)
        assert nesting_of(loaded).bits == 4
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
        for bits in (8, 2):
            ours, theirs = (nested.switch(m, bits).predict(x, verbose=0) for m in (loaded, trained))
            np.testing.assert_array_equal(ours, theirs)
            nested.switch(trained, 4)
    compiled(loaded).fit(x, y, verbose=0)
    nested.switch(trained, 8)


def test_an_artifact_of_other_widths_is_refused_and_changes_nothing(trained, tmp_path):
    omc.save(trained, tmp_path / "nested.omc")
    omc.save(omc.wrap(network(), "INT8"), tmp_path / "plain.omc")
    others = [
        (nested_network(bits=(8, 2)), "nested.omc"),
        (nested_network(activations=None), "nested.omc"),
        (omc.wrap(network(), "S1E3M7"), "nested.omc"),
        (nested_network(), "plain.omc"),
        (network(norm=False), "nested.omc"),
    ]
    for model, name in others:
        before = [v.numpy() for v in variables_of(model)]
        with pytest.raises(ArtifactError, match="path"):
            omc.load(tmp_path / name, model)
        for variable, value in zip(variables_of(model), before):
            np.testing.assert_array_equal(variable.numpy(), value)


def test_an_export_serves_the_width_in_use(trained, tmp_path):
    x, _ = data()
    expected = nested.switch(trained, 2).predict(x, verbose=0)
    omc.export(trained, tmp_path / "served")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    (found,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    nested.switch(trained, 8)


def test_the_report_has_every_variable_with_its_reason(trained):
    report = omc.memory_report(trained)
    assert len(report.rows) == len(variables_of(trained))
    reasons = {row.name.rsplit("/", 1)[-1]: row.reason for row in report.rows}
    assert reasons["gamma_2bit"] == "BatchNorm set of 2 bits"
    assert reasons["kernel_inputs"] == "quantizers of activations"
    assert sum(row.reason.startswith("nested, read at 8, 4, 2") for row in report.rows) == 3


def test_what_reads_weights_to_change_them_reads_all_bits():
    """A constraint, weight decay and averages at 2 bits would leave 2 bits of the weights."""
    constraint = tf.keras.constraints.MaxNorm(1e6)
    tf.keras.utils.set_random_seed(0)
    inputs = x = tf.keras.Input((16,))
    for _ in range(3):
        x = L.Dense(16, kernel_constraint=constraint)(x)
    model = omc.nest(tf.keras.Model(inputs, x), (8, 2), activations=None, distillation=0)
    optimizer = tf.keras.optimizers.AdamW(1e-4, weight_decay=0.1, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, "mse")
    values = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    model.fit(values, values, epochs=2, verbose=0)
    assert len(np.unique(nesting_of(model).variables[0].numpy())) > 60
    average = optimizer._model_variables_moving_average[2]
    np.testing.assert_allclose(average, nesting_of(model).variables[0].numpy(), atol=0.02)


@pytest.mark.parametrize("bits", [4, 2])
def test_setting_what_was_got_keeps_all_stored_bits(bits):
    model = nested_network()
    nested.switch(model, bits)
    before = [v.buffer.numpy() for v in nesting_of(model).variables]
    model.set_weights(model.get_weights())
    for variable, buffer in zip(nesting_of(model).variables, before):
        np.testing.assert_array_equal(variable.buffer.numpy(), buffer)
    model.set_weights([2 * value for value in model.get_weights()])
    assert np.isfinite(model.predict(data()[0], verbose=0)).all()


@pytest.mark.parametrize("name", ["checkpoint", "m.weights.h5"])
def test_checkpoints_and_weights_of_keras_restore_every_width(name, trained, tmp_path):
    other = nested_network(calibration=data(seed=5)[0] * 2)
    if name == "checkpoint":
        save_checkpoint(trained, tmp_path / name)
        load_checkpoint(other, tmp_path / name).assert_existing_objects_matched()
    else:
        trained.save_weights(tmp_path / name)
        other.load_weights(tmp_path / name)
    for theirs, ours in zip(added_variables(trained), added_variables(other)):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert {v.name.count("/") for v in added_variables(other)} == {1}  # Under its layer's name.


def test_inside_at_width_keras_evaluates_at_it():
    model, (x, y) = compiled(nested_network()), data()
    losses = {b: nested.switch(model, b).evaluate(x, y, verbose=0)[0] for b in WIDTHS}
    nested.switch(model, 8)
    for bits in (2, 4):
        with omc.at_width(model, bits):
            assert model.evaluate(x, y, verbose=0)[0] == losses[bits]
        assert model.evaluate(x, y, verbose=0)[0] == losses[8]


def test_minifloats_nest_by_their_mantissa():
    model = compiled(nested_network(policy="S1E3M7", bits=(11, 7, 5)))
    x, y = data()
    losses = model.fit(x, y, batch_size=16, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert nested.switch(model, 7) is model
    assert nesting_of(model).variables[0].codec.format.name == "S1E3M3+4"


def test_misuse_is_a_typed_error_and_changes_nothing(trained):
    x, _ = data()
    plain, wrapped = network(), omc.wrap(network(), "INT8")
    for model in (plain, wrapped):
        with pytest.raises(ModelError, match="omc.nest"):
            nested.switch(model, 4)
        with pytest.raises(ModelError, match="omc.nest"):
            omc.calibrate(model, x, 4)
    with pytest.raises(ModelError, match="not nested yet"):
        omc.nest(trained, WIDTHS, x)
    with pytest.raises(InputError, match="1 to 8"):
        nested.switch(trained, 9)
    before = [v.numpy() for v in variables_of(plain)]
    for options, error, text in (
        ({"bits": (9, 4)}, InputError, "bits"),
        ({"bits": ()}, InputError, "bits"),
        ({"bits": (4, 4)}, InputError, "bits"),
        ({"bits": (4.5,)}, InputTypeError, "bits"),
        ({"bits": "84"}, InputTypeError, "bits"),
        ({"calibration": None}, InputError, "calibration"),
        ({"calibration": 7}, InputTypeError, "calibration"),
        ({"calibration": x[:0]}, InputError, "calibration"),
        ({"calibration": x[:, :7]}, InputError, "calibration"),
        ({"calibration": x * np.nan}, InputError, "calibration"),
        ({"calibration": []}, InputError, "calibration"),
        ({"calibration": {"a": x}}, InputTypeError, "calibration"),
        ({"activations": "float"}, InputTypeError, "activations"),
        ({"activations": 9}, InputError, "activations"),
        ({"batchnorm": "one"}, InputError, "batchnorm"),
        ({"distillation": 1.5}, InputError, "distillation"),
        ({"rounding": "up"}, InputError, "rounding"),
        ({"policy": "FP32"}, InputError, "compresses weight matrices"),
        ({"policy": omc.Policy("INT8", transform=None)}, InputError, "policy"),
        ({"policy": "INT4"}, InputError, "1 to 4"),
    ):
        with pytest.raises(error, match=text):
            omc.nest(plain, **{"bits": WIDTHS, "calibration": x, **options})
        for variable, value in zip(variables_of(plain), before):
            np.testing.assert_array_equal(variable.numpy(), value)
    with pytest.raises(InputTypeError, match="model"):
        omc.nest("model", WIDTHS, x)
