"""Which Keras `tf.keras` is, decided once, when OMC is imported.

TensorFlow 2.14 and 2.15 come with Keras 2. From 2.16 on `tf.keras` is Keras 3; or, where
TF_USE_LEGACY_KERAS=1 is set and the package tf-keras is installed, the same Keras 2 by another
name.
"""

import importlib
import os

import tensorflow as tf

from omc.errors import KerasError

LEGACY = "TF_USE_LEGACY_KERAS"
_FIRST_WITH_KERAS_3 = (2, 16)
_OLDEST_KERAS_3 = (3, 12)  # Of those that were tried.


def _find():
    """(major version, package) of what `tf.keras` is: (2, "keras"), (2, "tf_keras"), (3, "keras").

    Raises:
        KerasError: It is not installed, is older than what was tried, or computes elsewhere.
    """
    version = tuple(int(part) for part in tf.__version__.split(".")[:2])
    legacy = os.environ.get(LEGACY, "").lower() in ("1", "true")
    if version >= _FIRST_WITH_KERAS_3 and not legacy:
        return 3, _keras_3()
    try:
        root = tf.keras.layers.Layer.__module__.partition(".")[0]
        importlib.import_module(f"{root}.src.engine.base_layer")
    except ImportError as error:
        raise KerasError(
            "tensorflow",
            "Keras 2, as tf.keras" + (f", which {LEGACY} asks for" if legacy else ""),
            f"TensorFlow {tf.__version__}, whose tf.keras cannot be imported as that ({error})",
            f"pip install 'tf-keras=={version[0]}.{version[1]}.*'"
            + (f", or unset {LEGACY} for Keras 3." if legacy else "."),
        ) from error
    return 2, root


def _keras_3():
    backend, version = os.environ.get("KERAS_BACKEND", "tensorflow"), "3"
    try:
        backend, version = tf.keras.config.backend(), tf.keras.__version__
    except (ImportError, AttributeError) as error:  # Also where its backend is not installed.
        if backend == "tensorflow":
            got = f"TensorFlow {tf.__version__}, whose tf.keras cannot be imported ({error})"
            tip = "pip install keras."
            raise KerasError("tensorflow", "Keras 3, as tf.keras", got, tip) from error
    if backend != "tensorflow":
        raise KerasError(
            "keras",
            "Keras on TensorFlow",
            f"Keras {version} on {backend!r}, whose variables OMC cannot store as codes",
            "set KERAS_BACKEND=tensorflow before Keras is imported.",
        )
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_KERAS_3:
        oldest = ".".join(map(str, _OLDEST_KERAS_3))
        tip = f"pip install 'keras>={oldest}', or tf-keras, and set {LEGACY}=1."
        raise KerasError("keras", f"Keras {oldest} or later", f"Keras {version}", tip)
    return "keras"


MAJOR, ROOT = _find()
"""Major version of Keras, and the package that it is: "keras", or "tf_keras"."""
