"""What tests of nested models share."""

import pytest

from tests.keras.nested_models import compiled, data, nested_network


@pytest.fixture(scope="module")
def trained():
    """A joint model after two epochs, for tests that leave it as it is."""
    model = compiled(nested_network())
    model.fit(*data(), batch_size=16, epochs=2, verbose=0)
    return model
