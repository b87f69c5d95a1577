"""init_compressed() on Keras 3: not there yet."""

import contextlib

from omc.errors import KerasError


@contextlib.contextmanager
def init_compressed(policy):
    """As of Keras 2 (docs/keras.md), where models are built compressed.

    Args:
        policy: `omc.Policy`, or a format's name.

    Raises:
        KerasError: Always.
    """
    raise KerasError(
        "init_compressed",
        "Keras 2, as tf.keras",
        "Keras 3",
        "build the model and omc.wrap it, or set TF_USE_LEGACY_KERAS=1 and use tf-keras.",
    )
    yield
