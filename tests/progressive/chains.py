"""Models, chains and what each stage ought to be, made without omc.progressive."""

import hashlib
import struct

import numpy as np
import tensorflow as tf

import omc
from omc.formats import Format
from omc.keras.host import MAJOR, variables_of
from omc.keras.saving import stored_order

L = tf.keras.layers
DROPOUT_SEED = {2: None, 3: 1}[MAJOR]  # Keras 3 draws one as it makes the layer, not in training.
CHAINS = [
    ("INT4", "INT8", "FP32"),
    ("S1E3M3", "S1E3M7", "FP32"),
    ("INT4", "S1E3M7", "FP32"),
    ("INT2", "INT3", "INT5", "INT8"),
    ("INT4", "S1E2M3", "INT8", "S1E5M10", "FP32"),
    ("S0E3M2", "S1E4M14"),
    ("S1E8M7", "FP32"),
    ("FP32",),
    ("INT8",),
]


def network(seed=0, width=13):
    """A small plain model with biases, statistics, and a counter."""
    tf.keras.utils.set_random_seed(seed)
    inputs = tf.keras.Input((6, 5, 2))
    x = L.Conv2D(7, 3, activation="relu", name="conv")(inputs)
    x = L.BatchNormalization()(x)
    x = L.Dense(width, activation="tanh", name="hidden")(L.Flatten()(x))
    model = tf.keras.Model(inputs, L.Dense(3, name="head")(L.Dropout(0.5, seed=DROPOUT_SEED)(x)))
    for variable in variables_of(model):
        if variable.shape.rank == 1:
            variable.assign(np.random.default_rng(seed).uniform(0.5, 1.5, variable.shape))
    return model


def changed(seed=0, noise=0.3):
    """The model of `network(seed)` with another head."""
    model, rng = network(seed), np.random.default_rng(7)
    for variable in model.layers[-1].variables:
        variable.assign_add(rng.normal(0, noise, variable.shape))
    return model


def nested(seed=0, **options):
    """The model, nested at 8, 6, 4 and 2 bits."""
    given = {"bits": (8, 6, 4, 2), "calibration": batch(), "fixed": ("head/kernel",), **options}
    return omc.nest(network(seed), **given)


def batch():
    return np.random.default_rng(1).normal(size=(4, 6, 5, 2)).astype(np.float32)


def values(model):
    """Bytes of every variable's dense value."""
    return [np.asarray(v.numpy()).tobytes() for v in stored_order(model)]


def stored(model):
    """What a model stores: formats and bytes, or the raw values."""
    found = []
    for variable in stored_order(model):
        if hasattr(variable, "buffer"):
            found.append((variable.codec, variable.buffer.numpy().tobytes()))
        else:
            found.append((None, variable.numpy().tobytes()))
    return found


def is_inside(low, high):
    """Whether a format's codes can be read out of another's."""
    if low.kind == "int" or high.kind != low.kind:
        return low.kind == high.kind
    return (low.sign_bits, low.exponent_bits) == (high.sign_bits, high.exponent_bits)


def expected_values(weights, chain):
    """Dense values of a weight matrix at every stage, by `omc.compress` and `omc.nested`."""
    last = omc.compress(weights, chain[-1])
    stages = [last]
    for name in reversed(chain[:-1]):
        fmt = Format.parse(name)
        above = [stage for stage in stages if is_inside(fmt, stage.format)]
        if above:
            stages.insert(0, centred(omc.nested.extract(above[-1], fmt.bits), above[-1]))
        else:
            stages.insert(0, omc.compress(omc.decompress(last), name))
    return [omc.decompress(stage).numpy() for stage in stages]


def centred(narrow, wide):
    """Without the bias of ties that go up: half a step of the wide codes lower."""
    if narrow.format.kind != "int" or narrow.format == wide.format:
        return narrow
    trailer = narrow.buffer.numpy()[-8:].view("<f4").copy()
    trailer[1] -= np.float32(0.5) * wide.buffer.numpy()[-8:].view("<f4")[0]
    buffer = np.concatenate([narrow.buffer.numpy()[:-8], trailer.view(np.uint8)])
    return type(narrow)(tf.constant(buffer), narrow.codec)


def sealed(data):
    """Bytes under a right checksum and length, whatever they say."""
    data = data[:8] + struct.pack("<Q", len(data)) + data[16:-32]
    return data + hashlib.sha256(data).digest()
