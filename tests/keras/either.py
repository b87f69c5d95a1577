"""What tests that run on Keras 2 and on Keras 3 share."""

import pytest

from omc.keras.host import MAJOR


def only_keras_2(reason):
    """Mark of a test, or of one of its cases, that Keras 3 leaves no meaning to.

    Args:
        reason: What Keras 3 does not have, or refuses; docs/keras.md lists these.
    """
    return pytest.mark.skipif(MAJOR == 3, reason=f"Keras 3: {reason}")


def only_keras_3(reason):
    """Mark of a test, or of one of its cases, of what Keras 2 does not have."""
    return pytest.mark.skipif(MAJOR == 2, reason=f"Keras 2: {reason}")
