"""export: a SavedModel that is packed on disk, serves without OMC and says what the model says."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import omc
from omc.errors import ArtifactError, ModelError
from omc.keras import CompressedVariable
from omc.keras.host import MAJOR, variables_of
from tests.keras.either import only_keras_2

L = tf.keras.layers


def shaken(model):
    """The model with statistics and biases that are not those of a new one."""
    for index, variable in enumerate(variables_of(model)):
        if not isinstance(variable, CompressedVariable):
            noise = tf.random.stateless_uniform(variable.shape, [index, 0], 0.5, 1.5)
            variable.assign(noise)
    return model


_SERVE = """
import sys
import numpy as np
import tensorflow as tf

served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
inputs = dict(np.load(sys.argv[2]))
outputs = served(**{name: tf.constant(value) for name, value in inputs.items()})
np.savez(sys.argv[3], **outputs)
assert "omc" not in sys.modules
"""


def served(folder, tmp_path, **inputs):
    """Outputs of an exported model, in a process that has TensorFlow alone."""
    np.savez(tmp_path / "in.npz", **inputs)
    arguments = [str(folder), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "custom gradients" not in done.stderr
    return dict(np.load(tmp_path / "out.npz"))


def folder_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_exported_model_is_packed_and_serves_without_omc(tmp_path):
    layers = [L.Dense(512, "relu"), L.BatchNormalization(), L.Dense(512), L.Dense(8)]
    model = omc.wrap(tf.keras.Sequential([tf.keras.Input((512,), name="x"), *layers]), "S1E3M7")
    before = [variable.handle for variable in variables_of(model)]
    omc.export(shaken(model), tmp_path / "served")
    report = omc.memory_report(model)
    assert folder_bytes(tmp_path / "served" / "variables") <= 1.01 * report.stored_bytes
    assert folder_bytes(tmp_path / "served") <= report.stored_bytes + 120_000
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
    for variable, handle in zip(variables_of(model), before):
        assert variable.handle is handle
    x = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    outputs = served(tmp_path / "served", tmp_path, x=x)
    (y,) = outputs.values()
    np.testing.assert_allclose(y, model(x), rtol=1e-4, atol=1e-4)


class Subclassed(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.norm = L.Dense(8), L.BatchNormalization()
        self.drop = L.Dropout(0.5)

    def call(self, x, training=None):
        y = self.drop(self.norm(self.body(x), training=training), training=training)
        return {"sum": tf.reduce_sum(y, 1), "all": y}


def subclassed():
    model = Subclassed()
    model(tf.ones([2, 6]))
    return model


def two_inputs():
    a, b = tf.keras.Input((6,), name="a"), tf.keras.Input((None,), dtype=tf.int32, name="b")
    tokens = L.Bidirectional(L.LSTM(4))(L.Embedding(30, 6)(b))
    x = L.Concatenate()([L.Dense(4)(a), tokens])
    return tf.keras.Model([a, b], [L.Dense(3, name="left")(x), L.Dense(2, name="right")(x)])


def words():
    """A lookup table, which is a resource but no variable."""
    text = tf.keras.Input((1,), dtype=tf.string, name="text")
    ids = L.StringLookup(vocabulary=["one", "two", "three"])(text)
    return tf.keras.Model(text, L.Dense(2, name="y")(L.Flatten()(L.Embedding(5, 4)(ids))))


def convolutions():
    image = tf.keras.Input((9, 9, 3), name="image")
    x = L.BatchNormalization()(L.Conv2D(12, 3, strides=2, activation="relu")(image))
    x = L.DepthwiseConv2D(2)(L.Conv2DTranspose(6, 2)(x))
    return tf.keras.Model(image, L.Dense(8, name="head")(L.Flatten()(x)))


NUMBERS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
TOKENS = np.arange(15, dtype=np.int32).reshape(5, 3)
IMAGES = np.random.default_rng(1).normal(size=(2, 9, 9, 3)).astype(np.float32)
FIRST = {2: "input_1", 3: "input_0"}[MAJOR]  # Keras 2 names a subclassed model's input itself.
EXPORTS = {
    "subclassed": (subclassed, {FIRST: NUMBERS}),
    "two_inputs": (two_inputs, {"a": NUMBERS, "b": TOKENS}),
    "words": (words, {"text": np.array([["two"], ["four"]])}),
    "convolutions": (convolutions, {"image": IMAGES}),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exported_outputs_equal_the_models(tmp_path, name):
    build, inputs = EXPORTS[name]
    model = shaken(omc.wrap(build(), omc.Policy("INT8", fraction=0.8)))
    omc.export(model, tmp_path / "served")
    loaded = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    values = [tf.constant(value) for value in inputs.values()]
    want = model(values if len(values) > 1 else values[0])
    if not isinstance(want, dict):
        want = dict(zip(model.output_names, tf.nest.flatten(want)))
    outputs = loaded(**dict(zip(inputs, values)))
    assert set(outputs) == set(want)
    for key, value in want.items():
        np.testing.assert_allclose(outputs[key], value, rtol=1e-5, atol=1e-5)


def test_an_exported_graph_asks_for_nothing_special(tmp_path):
    """No XLA, which a server need not have, and none of our gradients."""
    model = omc.wrap(tf.keras.Sequential([tf.keras.Input((300,)), L.Dense(300)]), "S1E3M7")
    model(tf.ones([1, 300]))  # Large enough for XLA here.
    omc.export(model, tmp_path / "served")
    content = (tmp_path / "served" / "saved_model.pb").read_bytes()
    library = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def.library
    nodes = [node for function in library.function for node in function.node_def]
    assert any(node.op == "Bitcast" for node in nodes)
    assert not any("Xla" in name for owner in [*library.function, *nodes] for name in owner.attr)
    assert not any("_gradient_op_type" in node.attr for node in nodes)
    assert all(tf.raw_ops.__dict__.get(node.op) or node.op.startswith("__") for node in nodes)


def test_export_paths(tmp_path):
    model = omc.wrap(tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(4)]), "INT8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    omc.export(model, tmp_path / "empty")
    assert tf.saved_model.contains_saved_model(str(tmp_path / "empty"))
    for name in ("empty", "full", "full/file", "full/file/below"):
        with pytest.raises(ArtifactError) as caught:
            omc.export(model, tmp_path / name)
        assert caught.value.argument == "path"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
    assert (tmp_path / "full" / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_a_model_whose_inputs_are_unknown_is_not_exported(tmp_path):
    class Built(Subclassed):
        def build(self, shape):
            self.body.build(shape)
            self.norm.build((None, 8))
            super().build(shape)

    model = Built()
    model.build((None, 6))
    with pytest.raises(ModelError, match="call the model on a batch"):
        omc.export(omc.wrap(model, "INT8"), tmp_path / "served")
    assert not list(tmp_path.iterdir())


NO_FORMATS = only_keras_2("save() writes no SavedModel and refuses save_format")


@pytest.mark.parametrize(
    "way",
    [
        lambda model, path: tf.saved_model.save(model, path),
        lambda model, path: model.export(path),
        pytest.param(lambda model, path: model.save(path, save_format="tf"), marks=NO_FORMATS),
        pytest.param(
            lambda model, path: tf.keras.models.save_model(model, path, save_format="tf"),
            marks=NO_FORMATS,
        ),
    ],
    ids=["tf.saved_model.save", "export", "save", "save_model"],
)
def test_other_ways_to_a_saved_model_name_the_one_that_works(tmp_path, way):
    model = omc.wrap(tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(4)]), "INT8")
    with pytest.raises(ModelError, match=r"omc.export\(.*omc.save\(.*\.keras"):
        way(model, str(tmp_path / "other"))
