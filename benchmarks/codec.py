"""Speed of the codec in ns a weight, beside copies of the dense result."""

import numpy as np
import tensorflow as tf

from benchmarks import harness, loops
from omc.codecs import Codec
from omc.formats import Format

FORMATS = ("S1E2M3", "S1E3M7", "S1E4M3", "S1E5M10", "S1E4M14", "INT2", "INT4", "INT8")
_WORKS = ("decode", "add", "stochastic")
_LIMITS = {"decode": 1.0, "add": 3.0}  # As multiples of a copy.
_SIZES = {  # weights -> (shape, calls in one measurement, most rounds)
    1 << 22: ((2048, 2048), 4, 9),
    1 << 16: ((256, 256), 64, 25),
}
_QUICK = {1 << 20: ((1024, 1024), 4, 3), 1 << 16: ((256, 256), 64, 5)}
_QUICK_FORMATS = ("S1E3M7", "INT8")


def run(quick=False):
    """Decode and `Codec.add` on every path of the codec, for 4 M and 64 k weights.

    Args:
        quick: Only S1E3M7 and INT8, and 1 M weights instead of 4 M.

    Returns:
        List of `harness.Table`.
    """
    formats, sizes = (_QUICK_FORMATS, _QUICK) if quick else (FORMATS, _SIZES)
    table = _table()
    for count, (shape, calls, rounds) in sizes.items():
        weights = np.random.default_rng(0).normal(0, 0.044, shape).astype(np.float32)
        for name in formats:
            harness.progress(f"codec {count:,} weights {name}")
            table.rows += _rows(name, weights, calls, rounds)
    rows = list(_target_rows(table.rows))
    targets = harness.Table("targets", "Targets of the native ops", harness.TARGET_COLUMNS, rows)
    return [table, targets]


def _table():
    columns = [("weights", "weights", ",d"), ("format", "format", ""), ("mode", "mode", "")]
    for work, heading in zip(_WORKS, ("decode", "add", "stochastic add")):
        columns += [
            (f"{work}_ns", f"{heading}, ns/weight", ".3f"),
            (f"{work}_to_copy_1", "x copy, 1 thread", ".2f"),
            (f"{work}_to_copy_all", "x copy, all threads", ".2f"),
        ]
    columns += [
        ("copy_1_ns", "copy, 1 thread, ns/weight", ".3f"),
        ("copy_all_ns", "copy, all threads, ns/weight", ".3f"),
    ]
    return harness.Table("codec", "The codec, beside copies of the dense result", columns)


def _rows(name, weights, calls, rounds):
    codec = Codec(Format.parse(name), weights.shape)
    buffer = codec.encode(tf.constant(weights))
    delta = tf.constant(np.random.default_rng(1).normal(0, 1e-4, weights.shape), tf.float32)
    functions = loops.copies(tf.constant(weights), calls)
    for mode in loops.modes():
        with loops.path(mode):
            decode = loops.looped(lambda _, b: codec.decode(b), calls)
            functions[mode, "decode"] = loops.bound(decode, codec.decode(buffer), buffer)
            for work, seed in (("add", None), ("stochastic", tf.constant([3, 7]))):
                add = loops.looped(lambda b, d, s=seed: codec.add(b, d, s), calls)
                functions[mode, work] = loops.bound(add, buffer, delta)
    each = harness.medians(harness.interleaved(functions, rounds, seconds=10))
    for mode in loops.modes():
        row = {"weights": weights.size, "format": name, "mode": mode}
        for work in _WORKS:
            time = loops.nanoseconds(each, (mode, work), weights.size * calls)
            row[f"{work}_ns"] = time
            for key, value in loops.to_copies(each, time, weights.size * calls).items():
                row[f"{work}_{key}" if key.startswith("to_") else key] = value
        yield row


def _target_rows(rows):
    """One row for each size, work and copy: the format that is farthest off."""
    native = [row for row in rows if row["mode"] == "native"]
    for weights in {row["weights"]: None for row in native}:
        same = [row for row in native if row["weights"] == weights]
        for work, limit in _LIMITS.items():
            for copy, threads in (("copy_1", "1 thread"), ("copy_all", "all threads")):
                key = f"{work}_to_{copy}"
                known = [row for row in same if row[key] is not None]
                if not known:
                    continue
                worst = max(known, key=lambda row, k=key: row[k])
                what = f"{work}, {weights:,} weights, x copy by {threads}"
                what += f"; worst of {len(known)} formats, {worst['format']}"
                if len(known) < len(same):
                    what += f" ({len(same) - len(known)} lost in noise)"
                yield harness.target(what, worst[key], limit, at_most=True)
