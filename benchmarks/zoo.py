"""Whole models: peak memory and time of a training step, and what wrapping takes."""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: E402 - after its log level is set

import models  # noqa: E402
import omc  # noqa: E402
from benchmarks import harness  # noqa: E402
from omc.keras import CompressedVariable  # noqa: E402
from omc.keras.adapters import slim  # noqa: E402
from omc.keras.host import variables_of  # noqa: E402
from omc.measurement.peaks import measure_peak  # noqa: E402

FORMAT = "S1E3M7"
IMAGE, BATCH, CLASSES = 96, 8, 1000
VOCABULARY, TOKENS = 10_000, 32
IMAGE_MODELS = (
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "ResNet50",
    "DenseNet121",
    "Xception",
    "ConvNeXtTiny",
)
MODELS = (*IMAGE_MODELS, "lstm_lm", "transformer")
QUICK = ("MobileNetV3Small", "lstm_lm", "transformer")


def run(quick=False):
    """One SGD step of whole models of `model.fit`, S1E3M7 against FP32.

    Images are 96 x 96 with 1000 classes, text has 32 tokens of 10,000; batch 8. Memory is that of
    a fresh process for each configuration, time that of one process in which FP32 and OMC take
    turns. FP32 is measured twice: "FP32" is what Keras does, whose SGD keeps a dense slot a weight
    even without momentum; "lean" is the same plain model without those slots, the harder
    comparison. Peaks are the allocator's, with weights.

    In a convolutional network most of the peak is activations, which compressed weights do not
    touch: `weight_share` is how much of the lean FP32 peak the dense weights are, and the ratio
    cannot fall below about 1 - weight_share.

    Args:
        quick: Three models instead of nine.

    Returns:
        List of dicts, one a model: parameters, stored_ratio (stored / dense bytes), wrap_seconds,
        peak_bytes of FP32, lean and OMC, their ratios, weight_share, step_seconds of FP32 and OMC,
        step_ratio (OMC / FP32 time), first_step_seconds (with tracing) of FP32 and OMC, and
        transient_share: the part of compressed bytes that layers got transiently, not kept from
        forward to backward (None where it is not recorded).
    """
    heads = ("model", "M weights", "stored", "wrap s", "FP32 MB", "lean MB", "OMC MB")
    heads += ("x FP32", "x lean", "weights", "step s", "x time", "transient")
    print(f"{heads[0]:18}" + "".join(f"{head:>10}" for head in heads[1:]), flush=True)
    rows = []
    for name in QUICK if quick else MODELS:
        dense, lean, ours = (
            harness.fresh_process("zoo", "measure", name=name, mode=mode)
            for mode in ("FP32", "lean", FORMAT)
        )
        taken = harness.fresh_process("zoo", "speed", name=name)
        dense_seconds, our_seconds = (statistics.median(taken[mode]) for mode in ("FP32", FORMAT))
        row = {
            "model": name,
            "parameters": dense["parameters"],
            "stored_ratio": ours["stored_bytes"] / dense["stored_bytes"],
            "wrap_seconds": ours["wrap_seconds"],
            "fp32_peak_bytes": dense["peak_bytes"],
            "lean_peak_bytes": lean["peak_bytes"],
            "omc_peak_bytes": ours["peak_bytes"],
            "peak_ratio": ours["peak_bytes"] / dense["peak_bytes"],
            "peak_ratio_lean": ours["peak_bytes"] / lean["peak_bytes"],
            "weight_share": lean["stored_bytes"] / lean["peak_bytes"],
            "fp32_step_seconds": dense_seconds,
            "omc_step_seconds": our_seconds,
            "step_ratio": our_seconds / dense_seconds,
            "fp32_first_step_seconds": dense["first_step_seconds"],
            "omc_first_step_seconds": ours["first_step_seconds"],
            "transient_share": ours["transient_share"],
        }
        rows.append(row)
        share = row["transient_share"]
        print(
            f"{name:18}{row['parameters'] / 1e6:10.2f}{row['stored_ratio']:10.3f}"
            f"{row['wrap_seconds']:10.1f}{row['fp32_peak_bytes'] / 1e6:10.1f}"
            f"{row['lean_peak_bytes'] / 1e6:10.1f}{row['omc_peak_bytes'] / 1e6:10.1f}"
            f"{row['peak_ratio']:10.3f}{row['peak_ratio_lean']:10.3f}{row['weight_share']:10.2f}"
            f"{row['omc_step_seconds']:10.3f}{row['step_ratio']:10.2f}"
            f"{'-' if share is None else format(share, '.3f'):>10}",
            flush=True,
        )
    return rows


def build(name):
    """A model of the zoo in its published size, with random weights; unbuilt nowhere."""
    tf.keras.utils.set_random_seed(0)
    if name in IMAGE_MODELS:
        return getattr(tf.keras.applications, name)(
            weights=None,
            input_shape=(IMAGE, IMAGE, 3),
            classes=CLASSES,
            classifier_activation=None,
        )
    if name == "lstm_lm":
        return models.lstm_lm(VOCABULARY)
    return models.transformer(VOCABULARY, TOKENS)


def batch(name):
    """Random inputs and targets of a model: (x, y)."""
    if name in IMAGE_MODELS:
        x = tf.random.uniform([BATCH, IMAGE, IMAGE, 3])
        return x, tf.random.uniform([BATCH], maxval=CLASSES, dtype=tf.int32)
    tokens = tf.random.uniform([BATCH, TOKENS + 1], maxval=VOCABULARY, dtype=tf.int32)
    return tokens[:, :-1], tokens[:, 1:]


def measure(name, mode):
    """Figures of one model in this process, which should be a fresh one.

    Args:
        name: One of MODELS.
        mode: "FP32" (plain Keras), "lean" (plain Keras, SGD without slots), or a format's name.

    Returns:
        Dict: parameters, stored_bytes, wrap_seconds, first_step_seconds, peak_bytes,
        transient_share.
    """
    model, wrap_seconds = _compiled(name, mode)
    step = harness.fit_step(model, *batch(name))
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    step()
    with measure_peak() as peak:
        step()
        step()
    return {
        "parameters": model.count_params(),
        "stored_bytes": omc.memory_report(model).stored_bytes,
        "wrap_seconds": wrap_seconds,
        "first_step_seconds": first,
        "peak_bytes": peak.allocator_total_bytes,
        "transient_share": _transient_share(model),
    }


def speed(name, rounds=9):
    """Seconds of FP32's and OMC's steps, in turn: {mode: list}; for a process of its own."""
    functions, data = {}, batch(name)
    for mode in ("FP32", FORMAT):
        model, _ = _compiled(name, mode)
        functions[mode] = harness.fit_step(model, *data)
    return harness.interleaved(functions, rounds, warm_up=2)


def _compiled(name, mode):
    model = build(name)
    start = time.perf_counter()
    if mode not in ("FP32", "lean"):
        omc.wrap(model, mode)
    wrap_seconds = time.perf_counter() - start
    optimizer = tf.keras.optimizers.SGD(0.01)
    if mode == "lean":
        slim(optimizer)
    model.compile(optimizer, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, wrap_seconds


def _transient_share(model):
    """Part of the compressed variables' dense bytes that layers got transiently."""
    compressed = [v for v in variables_of(model) if isinstance(v, CompressedVariable)]
    if not any(getattr(variable, "served", None) for variable in compressed):
        return None
    sizes = [(v.shape.num_elements(), v.served == "transient") for v in compressed]
    return sum(size for size, transient in sizes if transient) / sum(size for size, _ in sizes)
