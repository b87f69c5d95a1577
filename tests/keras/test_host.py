"""The Keras that `tf.keras` is, and the private names of Keras 2 that we rely on."""

import pathlib
import re

import pytest
import tensorflow as tf

from omc.errors import InputTypeError, KerasError
from omc.keras import host, versions
from tests.keras.either import only_keras_2

OMC = pathlib.Path(__file__).resolve().parents[2] / "omc"
THIN = {OMC / "keras" / "keras2", OMC / "keras" / "keras3"}


def test_private_names_of_keras_stand_in_the_thin_parts():
    private = re.compile(r"\b(tf_)?keras\.src\b|^\s*(import|from) (tf_)?keras\b", re.MULTILINE)
    found = [path for path in OMC.rglob("*.py") if private.search(path.read_text("utf-8"))]
    assert {path.parent for path in found} <= THIN
    assert ".src." in (OMC / "keras" / "keras2" / "host.py").read_text("utf-8")


def test_it_is_the_keras_that_tensorflow_uses():
    assert tf.keras.layers.Layer.__module__.startswith(f"{host.ROOT}.src.")
    old = tuple(map(int, tf.__version__.split(".")[:2])) < (2, 16)
    assert host.ROOT == ("keras" if old or host.MAJOR == 3 else "tf_keras")


def test_both_thin_parts_have_the_same_names():
    for name in ("host", "adapters"):
        source = (OMC / "keras" / f"{name}.py").read_text("utf-8")
        imported = re.findall(
            r"from omc\.keras\.keras([23])\.(\w+) import(?: \(([^)]*)\)| (.*))", source
        )
        names = {"2": set(), "3": set()}
        for major, module, many, few in imported:
            found = {part.strip() for part in (many or few).split(",") if part.strip()}
            names[major] |= {(module, part) for part in found}
        assert names["2"] == names["3"] and names["2"], name


@only_keras_2("has a test of its own names")
def test_what_a_call_sees_is_what_we_take_it_to_be():
    """Names that a release may move, one assertion each."""
    from omc.keras.keras2 import host as keras2

    seen = {}

    class Looking(tf.keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(1,))

        def call(self, x, training=None):
            seen["inside"] = host.in_layer_call()
            seen["dtype"] = host.compute_dtype()
            seen["variable"] = type(self.w)
            with host.Call(self).again():
                seen["again"] = keras2.base_layer_utils.call_context().training
                seen["cast"] = (self.w + 0).dtype
            return x * self.w

    layer = Looking(dtype="mixed_float16")
    layer(tf.ones([2, 1]), training=True)
    assert seen["inside"] and not host.in_layer_call()
    assert seen["dtype"] == tf.float16 and host.compute_dtype() is None
    assert issubclass(seen["variable"], keras2.AutoCastVariable)
    assert seen["again"] is True and seen["cast"] == tf.float16
    node = tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1)]).layers[0]
    assert isinstance(node.inbound_nodes[0], keras2.Node)
    scaled = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD())
    assert isinstance(scaled, keras2.LossScaleOptimizer)
    assert callable(keras2.base_layer_utils.make_variable)


class _Keras3:
    """Stands for `tf.keras` where it is Keras 3."""

    __version__ = "3.15.1"

    class config:  # noqa: N801 - as Keras names it
        backend = staticmethod(lambda: "tensorflow")


def test_of_a_newer_tensorflow_without_the_flag_keras_is_keras_3(monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.21.0")
    monkeypatch.setattr(tf, "keras", _Keras3)
    monkeypatch.delenv(versions.LEGACY, raising=False)
    assert versions._find() == (3, "keras")


@pytest.mark.parametrize(
    "name, value, got",
    [("backend", "jax", "'jax'"), ("version", "3.3.0", "Keras 3.3.0")],
)
def test_a_keras_3_that_does_not_fit_is_one_error(name, value, got, monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.21.0")
    monkeypatch.setattr(tf, "keras", _Keras3)
    monkeypatch.delenv(versions.LEGACY, raising=False)
    if name == "backend":
        monkeypatch.setattr(_Keras3.config, "backend", staticmethod(lambda: value))
    else:
        monkeypatch.setattr(_Keras3, "__version__", value)
    with pytest.raises(KerasError) as caught:
        versions._find()
    assert got in caught.value.got and isinstance(caught.value, ImportError)


def test_a_legacy_keras_that_is_not_installed_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.19.1")
    monkeypatch.setenv(versions.LEGACY, "1")

    def missing(name):
        raise ImportError("No module named 'tf_keras'")

    monkeypatch.setattr(versions.importlib, "import_module", missing)
    with pytest.raises(KerasError, match="tf_keras") as caught:
        versions._find()
    assert "pip install 'tf-keras==2.19.*'" in caught.value.tip


def test_a_model_of_the_other_keras_is_named_as_one():
    other = "keras" if host.ROOT == "tf_keras" else "tf_keras"
    foreign = type("Sequential", (), {"__module__": f"{other}.src.engine.sequential"})
    with pytest.raises(InputTypeError, match=f"got {other}") as caught:
        host.check_model(foreign())
    assert f"tf.keras is Keras {host.MAJOR}" in caught.value.tip
