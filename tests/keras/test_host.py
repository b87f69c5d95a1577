"""The Keras 2 of this TensorFlow: what private names we rely on, and what is no Keras 2."""

import pathlib
import re

import pytest
import tensorflow as tf

from omc.errors import KerasError
from omc.keras import host

OMC = pathlib.Path(__file__).resolve().parents[2] / "omc"


def test_private_names_of_keras_stand_in_one_file():
    private = re.compile(r"\b(tf_)?keras\.src\b|^\s*(import|from) (tf_)?keras\b", re.MULTILINE)
    found = [path for path in OMC.rglob("*.py") if private.search(path.read_text("utf-8"))]
    assert found == []
    assert ".src." in (OMC / "keras" / "host.py").read_text("utf-8")


def test_it_is_the_keras_that_tensorflow_uses():
    assert tf.keras.layers.Layer.__module__.startswith(f"{host.ROOT}.src.")
    old = tuple(map(int, tf.__version__.split(".")[:2])) < (2, 16)
    assert host.ROOT == ("keras" if old else "tf_keras")


def test_what_a_call_sees_is_what_we_take_it_to_be():
    """Names that a release may move, one assertion each."""
    seen = {}

    class Looking(tf.keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight("w", (1,))

        def call(self, x, training=None):
            seen["inside"] = host.in_layer_call()
            seen["dtype"] = host.compute_dtype()
            seen["variable"] = type(self.w)
            calling = host.LayerCall(self)
            with calling.again(), calling.autocast():
                seen["again"] = host.base_layer_utils.call_context().training
                seen["cast"] = (self.w + 0).dtype
            return x * self.w

    layer = Looking(dtype="mixed_float16")
    layer(tf.ones([2, 1]), training=True)
    assert seen["inside"] and not host.in_layer_call()
    assert seen["dtype"] == tf.float16 and host.compute_dtype() is None
    assert issubclass(seen["variable"], host.AutoCastVariable)
    assert seen["again"] is True and seen["cast"] == tf.float16
    node = tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1)]).layers[0]
    assert isinstance(node.inbound_nodes[0], host.Node)
    scaled = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD())
    assert isinstance(scaled, host.LossScaleOptimizer)
    assert callable(host.base_layer_utils.make_variable)


def test_keras_3_is_one_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.19.1")
    monkeypatch.delenv(host.LEGACY, raising=False)
    with pytest.raises(KerasError) as caught:
        host._root()
    assert "TensorFlow 2.19.1" in caught.value.got and "Keras 3" in caught.value.got
    assert "pip install 'tf-keras==2.19.*'" in caught.value.tip
    assert "TF_USE_LEGACY_KERAS=1" in caught.value.tip
    assert isinstance(caught.value, ImportError)


def test_a_legacy_keras_that_is_not_installed_is_the_same_error(monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.19.1")
    monkeypatch.setenv(host.LEGACY, "1")

    def missing(name):
        raise ImportError("No module named 'tf_keras'")

    monkeypatch.setattr(host.importlib, "import_module", missing)
    with pytest.raises(KerasError, match="tf_keras"):
        host._root()
