"""Nested precision: decoding at every width, and what a joint step takes, beside one of a width."""

import time

import numpy as np
import tensorflow as tf

import models
import omc
from benchmarks import harness
from omc import nested
from omc.codecs import Codec
from omc.formats import Format
from omc.measurement import heap_peak

WIDTHS = (8, 6, 4, 3, 2)
_COUNTS, _QUICK_COUNTS = (1 << 22, 1 << 16), (1 << 16,)
_METHODS = ("FP32", "INT8", "joint")
_LIMIT = 1.15


def run(quick=False):
    """Times of decoding, and peaks and seconds of steps.

    Args:
        quick: Small sizes and few repeats.

    Returns:
        List of `harness.Table`.
    """
    return [_decoding(quick), *_steps(quick)]


def _decoding(quick):
    table = harness.Table(
        "nested_decode",
        "Decoding at a width: out of INT8's codes, and out of codes of that width alone (native)",
        [
            ("weights", "weights", ",d"),
            ("bits", "bits", "d"),
            ("nested_ns", "out of INT8, ns/weight", ".3f"),
            ("nested_to_8", "x INT8 at 8", ".2f"),
            ("alone_ns", "alone, ns/weight", ".3f"),
            ("alone_to_8", "x INT8 at 8", ".2f"),
            ("copy_ns", "copy of the result, ns/weight", ".3f"),
        ],
    )
    for count in _QUICK_COUNTS if quick else _COUNTS:
        harness.progress(f"decoding {count:,} weights")
        values = np.random.default_rng(0).standard_normal(count).astype(np.float32)
        stored = omc.compress(values, "INT8")
        functions = {"copy": _repeated(tf.identity, tf.constant(values), copy=True)}
        for bits in range(8, 1, -1):
            codec = nested.codec_at(stored.codec, bits)
            functions[bits, "nested"] = _repeated(codec.decode, stored.buffer)
            alone = Codec(Format.parse(f"INT{bits}"), (count,))
            functions[bits, "alone"] = _repeated(alone.decode, alone.encode(values))
        taken = harness.medians(harness.interleaved(functions, rounds=5 if quick else 15))
        each = {key: seconds / _REPEATS / count * 1e9 for key, seconds in taken.items()}
        for bits in range(8, 1, -1):
            table.rows.append(
                {
                    "weights": count,
                    "bits": bits,
                    "nested_ns": each[bits, "nested"],
                    "nested_to_8": each[bits, "nested"] / each[8, "nested"],
                    "alone_ns": each[bits, "alone"],
                    "alone_to_8": each[bits, "alone"] / each[8, "nested"],
                    "copy_ns": each["copy"],
                }
            )
    return table


_REPEATS = 8


def _repeated(function, tensor, copy=False):
    """A function that runs another several times, each time in a graph of one op."""
    traced = tf.function(lambda x: tf.raw_ops.DeepCopy(x=x) if copy else function(x))

    def run():
        for _ in range(_REPEATS):
            traced(tensor)

    return run


def _steps(quick):
    table = harness.Table(
        "nested_step",
        f"A step of fit: peak with weights, and seconds; joint at {WIDTHS} bits",
        [
            ("model", "model", ""),
            ("batch", "batch", "d"),
            ("method", "method", ""),
            ("peak_mb", "peak MB", ".1f"),
            ("to_int8", "x INT8's", ".3f"),
            ("seconds", "seconds a step", ".4f"),
            ("seconds_to_fp32", "x FP32's", ".2f"),
            ("stored_mb", "stored MB", ".2f"),
        ],
    )
    cases = (("resnet8", 32), ("dense", 64)) if quick else (("resnet8", 128), ("dense", 64))
    for model, batch in cases:
        found = {}
        for method in _METHODS:
            harness.progress(f"{model}: a step of {method}")
            arguments = {"model": model, "batch": batch, "method": method, "quick": quick}
            found[method] = harness.fresh_process("nested", "step", **arguments)
            taken = harness.fresh_process("nested", "peak", harness.HEAP, **arguments)
            found[method]["peak_bytes"] = taken
        for method, row in found.items():
            table.rows.append(
                {
                    "model": model,
                    "batch": batch,
                    "method": method,
                    "peak_mb": row["peak_bytes"] / 1e6,
                    "to_int8": row["peak_bytes"] / found["INT8"]["peak_bytes"],
                    "seconds": row["seconds"],
                    "seconds_to_fp32": row["seconds"] / found["FP32"]["seconds"],
                    "stored_mb": row["stored_bytes"] / 1e6,
                }
            )
    targets = harness.Table("targets", "Targets of joint training", harness.TARGET_COLUMNS)
    for row in table.rows:
        if row["method"] == "joint":
            what = f"peak of a joint step of {row['model']}, x INT8's own"
            targets.rows.append(harness.target(what, row["to_int8"], _LIMIT, at_most=True))
    return table, targets


def step(model, batch, method, quick):
    """Seconds of a step, in this process.

    Args:
        model: "resnet8" (with BatchNorm) or "dense", 8 x Dense(1024).
        batch: Examples.
        method: "FP32", "INT8" (wrapped, of one width) or "joint".
        quick: Whether few steps are timed.

    Returns:
        Dict of seconds and stored_bytes.
    """
    built, take = _step(model, batch, method, quick)
    seconds = []
    for _ in range(3 if quick else 10):
        begin = time.perf_counter()
        take()
        seconds.append(time.perf_counter() - begin)
    stored = omc.memory_report(built).stored_bytes
    return {"seconds": float(np.median(seconds)), "stored_bytes": stored}


def peak(model, batch, method, quick):
    """Most that a step allocates, weights included, every malloc counted: the least of three.

    Args:
        model, batch, method, quick: As for `step`; to be run in `harness.HEAP`.

    Returns:
        int, bytes.
    """
    built, take = _step(model, batch, method, quick)
    found = []
    for _ in range(3):
        with heap_peak() as taken:  # Slots, which a step makes anew, count from the second one on.
            for _ in range(2):
                take()
        found.append(taken.bytes)
    return min(found) + omc.memory_report(built).stored_bytes


def _step(model, batch, method, quick):
    """(the built model, a function that takes a step of its training), traced."""
    rng = np.random.default_rng(0)
    if model == "resnet8":
        built = models.resnet8()
        x, classes = rng.standard_normal((batch, 32, 32, 3)).astype(np.float32), 10
    else:
        units = 512 if quick else 1024
        layers = [tf.keras.layers.Dense(units, "relu") for _ in range(8)]
        built = tf.keras.Sequential([tf.keras.Input((units,)), *layers, tf.keras.layers.Dense(10)])
        x, classes = rng.standard_normal((batch, units)).astype(np.float32), 10
    y = rng.integers(0, classes, batch)
    if method == "INT8":
        omc.wrap(built, "INT8")
    elif method == "joint":
        omc.nest(built, WIDTHS, x)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(tf.keras.optimizers.SGD(0.01, momentum=0.9), loss)
    take = harness.fit_step(built, tf.constant(x), tf.constant(y))
    take()
    return built, take
