"""Mistakes with `omc.coding`, and with coded artifacts."""

import numpy as np
import tensorflow as tf

import omc
from omc import artifacts, coding
from tests.error_cases.registry import case

SYMBOLS = np.arange(60) % 7
CONTEXT = np.arange(60) % 2
STORED = omc.compress(np.linspace(-1, 1, 60), "INT8")
BUFFER = STORED.buffer.numpy()
OTHER = np.roll(BUFFER, 1)


def mistake(name, function, *arguments, **named):
    """Registers a call that goes wrong."""
    case(name)(lambda _: function(*arguments, **named))


encoded = coding.encode(SYMBOLS)
within = coding.encode(SYMBOLS, context=CONTEXT)
after = coding.encode_buffer(BUFFER, STORED.codec, given=OTHER)

mistake("symbols that are not integers", coding.encode, SYMBOLS / 2)
mistake("symbols beyond 32 bits", coding.encode, np.array([2**40]))
mistake("symbols of too many dimensions", coding.encode, np.zeros([1] * 9, int))
mistake("context that is not of integers", coding.encode, SYMBOLS, context=CONTEXT / 2)
mistake("context beyond 0 .. 255", coding.encode, SYMBOLS, context=CONTEXT + 255)
mistake("context of another shape", coding.encode, SYMBOLS, context=CONTEXT[1:])
mistake("coded data that is no bytes", coding.decode, SYMBOLS)
mistake("damaged coded stream", coding.decode, encoded[:-1])
mistake("coded stream of too many symbols", coding.decode, encoded, limit=59)
mistake("coded stream of another shape", coding.decode, encoded, shape=(6, 10))
mistake("decoding without the context", coding.decode, within)
mistake("buffer that is no uint8 array", coding.encode_buffer, SYMBOLS / 2, STORED.codec)
mistake("buffer of another length", coding.encode_buffer, BUFFER[1:], STORED.codec)
mistake(
    "given buffer of another length", coding.encode_buffer, BUFFER, STORED.codec, given=BUFFER[1:]
)
mistake("decoding without the given buffer", coding.decode_buffer, after, STORED.codec)
mistake("decoding given another buffer", coding.decode_buffer, after, STORED.codec, given=BUFFER)


@case("coded stream of a newer version")
def _(_):
    coding.decode(bytes([encoded[0] + 1]) + encoded[1:])


@case("coded artifact larger than allowed")
def _(folder):
    model = tf.keras.Sequential([tf.keras.Input((64,)), tf.keras.layers.Dense(64)])
    omc.save(omc.wrap(model, "INT8"), folder / "model.omc", coded=True)
    artifacts.read(folder / "model.omc", "model", limit=100)
