"""The package as a user meets it: public names, and the core without TFF."""

import importlib.util
import subprocess
import sys

import pytest

import omc

_WITHOUT_EXTRAS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow_federated", "sklearn", "matplotlib", "memray"}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import tensorflow as tf
import omc

model = tf.keras.Sequential([tf.keras.Input((8,)), tf.keras.layers.Dense(16)])
omc.wrap(model, "S1E3M7").compile("sgd", "mse")
model.fit(tf.ones([4, 8]), tf.ones([4, 16]), verbose=0)
assert omc.memory_report(model).ratio < 0.5
omc.save(model, sys.argv[1])
again = tf.keras.Sequential([tf.keras.Input((8,)), tf.keras.layers.Dense(16)])
assert (omc.load(sys.argv[1], again).get_weights()[0] == model.get_weights()[0]).all()
print("fine")
"""


def test_public_names_exist():
    without_tff = importlib.util.find_spec("tensorflow_federated") is None
    for name in omc.__all__:
        if name == "learning" and without_tff:  # Of the extra omc[tff], which has no Keras 3.
            with pytest.raises(ModuleNotFoundError, match="tensorflow_federated"):
                getattr(omc, name)
        else:
            assert getattr(omc, name) is not None


def test_the_core_works_without_tff_and_other_extras(tmp_path):
    command = [sys.executable, "-c", _WITHOUT_EXTRAS, str(tmp_path / "model.omc")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr
