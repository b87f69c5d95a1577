"""Transfer learning: a wrapped base, a new head on it, later all of it trained."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

import omc
from omc.errors import InputError, ModelError
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, variables_of

L = tf.keras.layers
PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "keras.md"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 12)).astype(np.float32)
Y = (X[:, :3] * 2 + X[:, 3:6]).astype(np.float32)


def base_model():
    first = L.Dense(32, "tanh", name="first", kernel_regularizer="l2")
    return tf.keras.Sequential([tf.keras.Input((12,)), first, L.Dense(32, "tanh", name="second")])


def stacked(base):
    return tf.keras.Sequential([base, L.Dense(16, "relu", name="third"), L.Dense(3, name="fourth")])


def functional(base):
    outputs = L.Dense(3, name="fourth")(L.Dense(16, "relu", name="third")(base.outputs[0]))
    return tf.keras.Model(base.inputs, outputs)


def added(base):
    base.add(L.Dense(16, "relu", name="third"))
    base.add(L.Dense(3, name="fourth"))
    return base


HEADS = [stacked, functional, added]


def fitted(model, epochs=10, rate=0.01):
    model.compile(tf.keras.optimizers.Adam(rate), "mse")
    return model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def formats(model):
    return [row.format for row in omc.memory_report(model).rows]


def names(model):
    """Keras' own names of a model's weights."""
    if MAJOR == 2:
        return [weight.name.split(":")[0] for weight in model.weights]
    return [weight.path for weight in model.weights]


def short(name):
    """ "layer/weight", for paths of Keras 3 may begin with a model's name."""
    return "/".join(name.split("/")[-2:])


def rows(model):
    return {short(row.name): (row.format, row.reason) for row in omc.memory_report(model).rows}


def codes(model):
    return [v.buffer.numpy() for v in variables_of(model) if isinstance(v, CompressedVariable)]


def freeze(model, frozen):
    for name in ("first", "second"):
        for layer in model._flatten_layers():
            if layer.name == name:
                layer.trainable = not frozen


@pytest.mark.parametrize("head", HEADS)
def test_from_end_to_end_as_plain_keras(head, tmp_path):
    plain_base, base = base_model(), base_model()
    base.set_weights(plain_base.get_weights())
    omc.wrap(base, "S1E5M10")
    plain, model = head(plain_base), head(base)
    for part in (plain, model):
        part.build((None, 12))
    model.set_weights(plain.get_weights())
    # Frozen: only the head learns.
    before = codes(model)
    losses = []
    for part in (plain, model):
        freeze(part, True)
        losses.append(fitted(part))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[1][-1] < losses[1][0]
    for old, new in zip(before, codes(model)):
        np.testing.assert_array_equal(old, new)
    # Unfrozen, the head wrapped as well.
    losses = []
    for part in (plain, model):
        freeze(part, False)
        part.compile("adam", "mse")
        if part is model:
            omc.wrap(part, "S1E4M14")
        losses.append(fitted(part, rate=0.003))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    kernels = {row.name: row.format for row in omc.memory_report(model).rows if "ker" in row.name}
    assert list(kernels.values()) == ["S1E5M10", "S1E5M10", "S1E4M14", "S1E4M14"]
    # Saved and loaded, into a plain model and into itself.
    omc.save(model, tmp_path / "m.omc")
    again = head(base_model())
    again.build((None, 12))
    omc.load(tmp_path / "m.omc", again)
    want = model.predict(X, verbose=0)
    np.testing.assert_array_equal(again.predict(X, verbose=0), want)
    assert formats(again) == formats(model)
    fitted(model, epochs=1)
    omc.load(tmp_path / "m.omc", model)
    np.testing.assert_array_equal(model.predict(X, verbose=0), want)


@pytest.mark.parametrize("head", HEADS)
def test_a_plain_head_is_reported_saved_and_loaded(head, tmp_path):
    model = head(omc.wrap(base_model(), "INT8"))
    model.build((None, 12))
    report = {row.name: row for row in omc.memory_report(model).rows}
    assert list(report) == names(model)
    for variable, row in zip(variables_of(model), report.values()):
        compressed = isinstance(variable, CompressedVariable)
        assert row.format == ("INT8" if compressed else "FP32")
        stored = variable.buffer if compressed else variable
        assert row.stored_bytes == stored.numpy().nbytes
    assert rows(model)["third/kernel"] == ("FP32", "added after the wrap")
    omc.save(model, tmp_path / "m.omc")
    other = head(omc.wrap(base_model(), "INT8"))
    other.build((None, 12))
    omc.load(tmp_path / "m.omc", other)
    for ours, theirs in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    omc.export(model, tmp_path / "served")
    assert len(omc.progressive.split(model, ["INT4", "INT8"])) == 2


def test_rows_follow_pop_and_add():
    model = omc.wrap(base_model(), "INT8")
    first = rows(model)
    model.pop()
    assert rows(model) == {k: v for k, v in first.items() if k.startswith("first")}
    model.add(L.Dense(24, name="new"))
    assert rows(model)["new/kernel"] == ("FP32", "added after the wrap")
    omc.wrap(model, "INT4")
    assert rows(model)["new/kernel"] == ("INT4", "quantized")
    assert rows(model)["first/kernel"] == first["first/kernel"]


def test_wrapping_the_rest_leaves_what_was_decided():
    model = stacked(omc.wrap(base_model(), omc.Policy("INT8", overrides={"second/*": "FP32"})))
    model.build((None, 12))
    before = codes(model)
    with pytest.raises(InputError, match="overrides"):
        omc.wrap(model, omc.Policy("INT4", overrides={"first/kernel": "INT4"}))
    omc.wrap(model, omc.Policy("INT4", overrides={"fourth/kernel": "S1E3M7"}))
    got = rows(model)
    assert got["first/kernel"][0] == "INT8" and got["second/kernel"][0] == "FP32"
    assert got["third/kernel"][0] == "INT4" and got["fourth/kernel"][0] == "S1E3M7"
    np.testing.assert_array_equal(codes(model)[0], before[0])
    with pytest.raises(ModelError, match="wrapped"):
        omc.wrap(model, "INT4")


def test_an_unbuilt_head_on_a_wrapped_base_is_wrapped_at_its_first_call():
    class Whole(tf.keras.Model):
        def __init__(self, base):
            super().__init__()
            self.base, self.head = base, L.Dense(16)

        def call(self, x):
            return self.head(self.base(x))

    model = omc.wrap(Whole(omc.wrap(base_model(), "INT8")), "INT4")
    model(X)
    assert sorted(f for f in formats(model) if f != "FP32") == ["INT4", "INT8", "INT8"]


def test_the_page_runs(tmp_path, monkeypatch):
    (block,) = re.findall(
        r"## Transfer learning.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S
    )
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)  # noqa: S102 - The documentation's own text.
    kinds = [row.format for row in omc.memory_report(names["model"]).rows if "ker" in row.name]
    assert kinds == ["INT8", "INT8", "S1E3M7", "S1E3M7"]
    assert (tmp_path / "model.omc").exists()
