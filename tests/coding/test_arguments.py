"""Arguments of omc.coding that are none: typed errors, whatever numpy or TensorFlow would say."""

import numpy as np
import pytest

import omc
from omc.errors import CodingError, InputError, InputTypeError

DATA = omc.coding.encode(np.arange(10))
CODEC = omc.codecs.Codec(omc.Format.parse("INT4"), (8, 8))
BUFFER = CODEC.encode(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)).numpy()


@pytest.mark.parametrize(
    "argument, error, given",
    [
        ("shape", InputTypeError, dict(shape=10)),
        ("shape", InputTypeError, dict(shape="10")),
        ("shape", InputTypeError, dict(shape=(10.0,))),
        ("shape", InputTypeError, dict(shape=(None,))),
        ("shape", InputError, dict(shape=(-1,))),
        ("shape", InputError, dict(shape=(2**62, 0))),
        ("limit", InputTypeError, dict(limit="x")),
        ("limit", InputTypeError, dict(limit=None)),
        ("limit", InputTypeError, dict(limit=1e9)),
        ("limit", InputTypeError, dict(limit=True)),
        ("limit", InputError, dict(limit=1 << 80)),
        ("limit", InputError, dict(limit=-1)),
    ],
)
def test_of_decode(argument, error, given):
    with pytest.raises(error) as caught:
        omc.coding.decode(DATA, **given)
    assert caught.value.argument == argument


@pytest.mark.parametrize("shape", [[10], np.array([10]), (np.int64(10),)])
def test_shapes_of_any_kind(shape):
    np.testing.assert_array_equal(omc.coding.decode(DATA, shape=shape), np.arange(10))
    assert omc.coding.decode(DATA, limit=np.int64(10)).size == 10


def test_ragged_rows_and_sizes_that_no_tensor_has():
    for argument, given in (
        ("symbols", ([[1], [1, 2]],)),
        ("context", ([1, 2], [[1], [1, 2]])),
    ):
        with pytest.raises(InputTypeError) as caught:
            omc.coding.encode(*given)
        assert caught.value.argument == argument
    with pytest.raises(InputError) as caught:
        omc.coding.encode(np.zeros((2**33, 0), np.int32))
    assert caught.value.argument == "symbols"


def test_of_buffers():
    data = omc.coding.encode_buffer(BUFFER, CODEC)
    for codec in (None, "INT4", omc.Format.parse("INT4")):
        for call in (omc.coding.encode_buffer, omc.coding.decode_buffer):
            with pytest.raises(InputTypeError) as caught:
                call(BUFFER if call is omc.coding.encode_buffer else data, codec)
            assert caught.value.argument == "codec"
    with pytest.raises(InputTypeError) as caught:
        omc.coding.encode_buffer(None, CODEC)
    assert caught.value.argument == "buffer"
    with pytest.raises(CodingError, match="expected None, as it was coded, but got a buffer"):
        omc.coding.decode_buffer(data, CODEC, BUFFER)
    given = omc.coding.encode_buffer(BUFFER, CODEC, BUFFER)
    with pytest.raises(CodingError, match="the buffer that it was coded given, but got none"):
        omc.coding.decode_buffer(given, CODEC)
