"""Nested models in parts: a stage computes what a switch to its width does."""

import numpy as np
import pytest

import omc
import omc.progressive
from omc.errors import InputError, ModelError
from tests.progressive.chains import batch, nested, network, stored


@pytest.mark.parametrize(
    "options, stages",
    [
        ({}, ["INT2", "INT4", "INT8"]),
        ({"activations": None, "batchnorm": "shared"}, ["INT4", "INT6", "INT8"]),
        ({"policy": "S1E3M4", "bits": (8, 6, 5)}, ["S1E3M1", "S1E3M4"]),
    ],
)
def test_a_stage_is_a_switch(options, stages, tmp_path):
    model, x = nested(**options), batch()
    model.compile("sgd", "mse")
    omc.nested.switch(model, omc.Format.parse(stages[0]).bits)
    parts = omc.progressive.split(model, stages)
    device = omc.progressive.Receiver(network(seed=5), tmp_path)
    for part in parts:
        device.apply(part)
        bits = omc.Format.parse(part.stage).bits
        omc.nested.switch(model, bits)
        np.testing.assert_allclose(device.model(x), model(x), rtol=1e-5, atol=1e-6)
        if part.index:  # Lower widths are there still; rounded twice until the last stage.
            before = stored(device.model)
            for each in (model, device.model):
                omc.nested.switch(each, omc.Format.parse(stages[0]).bits)
            if part is parts[-1]:
                np.testing.assert_allclose(device.model(x), model(x), rtol=1e-5, atol=1e-6)
            else:
                omc.nested.switch(device.model, bits)
                assert stored(device.model) == before
    for each in (model, device.model):
        omc.nested.switch(each, omc.Format.parse(stages[-1]).bits)
    assert stored(device.model) == stored(model)
    again = omc.progressive.Receiver(network(seed=6), tmp_path)
    assert stored(again.model) == stored(model)
    omc.save(again.model, tmp_path / "m.omc")
    assert stored(omc.load(tmp_path / "m.omc", network(seed=7))) == stored(model)


def test_a_lower_stage_trains_at_its_widths():
    device = omc.progressive.Receiver(network(seed=5))
    device.apply(omc.progressive.split(nested(), ["INT4", "INT8"])[0])
    with pytest.raises(InputError):
        omc.nested.switch(device.model, 8)
    device.model.compile("sgd", "mse")
    before = stored(device.model)
    device.model.fit(batch(), np.zeros((4, 3)), epochs=2, verbose=0)
    assert stored(device.model) != before and np.isfinite(device.model(batch())).all()


def test_stages_that_are_no_widths():
    model = nested()
    for stages in (["S1E2M1", "INT8"], ["INT5", "INT8"], ["INT3", "INT8"]):
        with pytest.raises(InputError) as caught:
            omc.progressive.split(model, stages)
        assert caught.value.argument == "stages"
    with pytest.raises(ModelError, match="nearest"):
        omc.progressive.split(nested(rounding="shift"), ["INT4", "INT8"])
