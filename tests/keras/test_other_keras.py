"""Artifacts cross between Keras 2 and Keras 3, bit for bit; each world has a process of its own."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from omc import artifacts
from omc.keras.versions import LEGACY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tf_keras") is None, reason="one Keras alone is installed"
)

_SCRIPT = """
import sys
import numpy as np
import tensorflow as tf
import omc

L = tf.keras.layers

def cnn():
    x = inputs = tf.keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(x)))
    x = L.SeparableConv2D(6, 3, padding="same")(x)
    x = L.DepthwiseConv2D(3)(x)
    inner = [tf.keras.Input((6,)), L.Dense(12, "relu"), L.Dropout(0.1), L.Dense(7)]
    inner = tf.keras.Sequential(inner)
    return tf.keras.Model(inputs, L.Dense(4)(inner(L.GlobalAveragePooling2D()(x))))

def recurrent():
    x = inputs = tf.keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 8)(x)
    x = L.Bidirectional(L.LSTM(5, return_sequences=True))(x)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 5)(x, x))
    return tf.keras.Model(inputs, L.Dense(3)(L.GRU(4)(x)))

def nested():
    x = inputs = tf.keras.Input((8, 8, 3))
    for channels in (6, 8, 8):
        x = L.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    return tf.keras.Model(inputs, L.Dense(4)(L.Flatten()(x)))

build, do, path = {"cnn": cnn, "recurrent": recurrent, "nested": nested}[sys.argv[1]], *sys.argv[2:]
x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
if sys.argv[1] == "recurrent":
    x = np.random.default_rng(0).integers(0, 20, (4, 6)).astype("int32")
model = build()
if do == "save":
    if sys.argv[1] == "nested":
        model = omc.nest(model, bits=(8, 4, 2), calibration=x)
    else:
        model = omc.wrap(model, "S1E3M7")
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "float" in str(weight.dtype):
            weight.assign(weight.numpy() + rng.uniform(0.1, 0.3, weight.shape).astype("float32"))
    omc.save(model, path)
else:
    omc.load(path, model)
    omc.save(model, path + ".again")
np.save(path + "." + do, model(x).numpy())
"""


def _run(legacy, *args):
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", LEGACY: "1" if legacy else "0"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *args], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("saved_by_keras_2", [True, False])
@pytest.mark.parametrize("name", ["cnn", "recurrent", "nested"])
def test_an_artifact_of_one_keras_is_one_of_the_other(name, saved_by_keras_2, tmp_path):
    path = str(tmp_path / "m.omc")
    _run(saved_by_keras_2, name, "save", path)
    _run(not saved_by_keras_2, name, "load", path)
    with artifacts.opened(path, "model") as one, artifacts.opened(path + ".again", "model") as two:
        assert len(one.entries) == len(two.entries) > 4
        for mine, theirs in zip(one.entries, two.entries):
            assert (mine.shape, mine.dtype, mine.codec) == (
                theirs.shape,
                theirs.dtype,
                theirs.codec,
            )
            assert np.asarray(mine.data).tobytes() == np.asarray(theirs.data).tobytes()
        assert one.properties == two.properties
    outputs = [np.load(f"{path}.{did}.npy") for did in ("save", "load")]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-4)
