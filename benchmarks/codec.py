"""Speed of the codec: nanoseconds a weight, next to copying the dense result."""

import statistics
import time

import numpy as np
import tensorflow as tf

from omc.compressed import Codec
from omc.formats import Format

SHAPE = (2048, 2048)
FORMATS = ("S1E2M3", "S1E3M7", "S1E5M10", "S1E4M14", "INT4", "INT8")


def run():
    """Decode and update of 4 M weights, compiled by XLA and op by op, in ns a weight.

    Returns:
        List of dicts: format, mode, decode_ns, update_ns, and both as multiples of a memory copy.
    """
    weights = np.random.default_rng(0).normal(0, 0.044, SHAPE).astype(np.float32)
    delta = tf.constant(weights * 1e-3)
    copy = _nanoseconds(lambda: tf.raw_ops.DeepCopy(x=delta))
    print(f"copy of the dense result: {copy:.2f} ns a weight")
    print(f"{'format':10}{'mode':6}{'decode ns':>10}{'x copy':>8}{'update ns':>11}{'x copy':>8}")
    rows = []
    for name in FORMATS:
        codec = Codec(Format.parse(name), SHAPE)
        buffer = codec.encode(tf.constant(weights))
        for mode in ("xla", "ops"):
            jit = mode == "xla" or None
            # The codec compiles itself; a plain function around its parts shows TFF's worker.
            decode = codec.decode if jit else tf.function(codec._decode)
            update = codec.add if jit else tf.function(lambda b, d, c=codec: _op_by_op(c, b, d))
            row = {
                "format": name,
                "mode": mode,
                "decode_ns": _nanoseconds(lambda f=decode, b=buffer: f(b)),
                "update_ns": _nanoseconds(lambda f=update, b=buffer: f(b, delta)),
                "copy_ns": copy,
            }
            rows.append(row)
            print(
                f"{name:10}{mode:6}{row['decode_ns']:10.2f}{row['decode_ns'] / copy:8.1f}"
                f"{row['update_ns']:11.2f}{row['update_ns'] / copy:8.1f}",
                flush=True,
            )
    return rows


def _op_by_op(codec, buffer, delta):
    return codec.add(buffer, delta)


def _nanoseconds(function, repeats=7):
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / np.prod(SHAPE) * 1e9
