"""The Conformer of OMC's paper at real size: one client's step on ten seconds of speech."""

import os
import statistics
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: E402 - after its log level is set

import models  # noqa: E402
import omc  # noqa: E402
from benchmarks import harness  # noqa: E402
from omc.keras.adapters import slim  # noqa: E402
from omc.measurement import memory_report  # noqa: E402
from omc.measurement.peaks import measure_peak, process_peak_bytes  # noqa: E402

FEATURES, LABELS, RATE = 80, 40, 1e-4
_FULL = {"size": "large", "outputs": 4096, "frames": 1000, "steps": 3}
_QUICK = {"size": "small", "outputs": 64, "frames": 200, "steps": 2}


class Variant(NamedTuple):
    """How a model is stored and trained.

    Attributes:
        format: "FP32" or the format of the weight matrices.
        how: For FP32 "fit" (plain Keras, whose SGD keeps a slot a weight even without momentum) or
            "lean" (the same without slots); else the fraction of the matrices that is quantized.
    """

    format: str
    how: str

    def __str__(self):
        return f"{self.format} {self.how}"


FIT, LEAN = Variant("FP32", "fit"), Variant("FP32", "lean")
PAPER, FULLY = Variant("S1E3M7", "0.9"), Variant("S1E3M7", "1.0")
VARIANTS = (FIT, LEAN, PAPER, FULLY, Variant("INT8", "1.0"))


def run(quick=False):
    """Memory of each variant in a process of its own; speed of all in one, step after step in turn.

    Args:
        quick: A small model and two seconds of speech.

    Returns:
        List of `harness.Table`.
    """
    sizes = _QUICK if quick else _FULL
    found, seconds = {}, {}
    for recompute in (False, True):
        for variant in VARIANTS:
            harness.progress(f"{variant}{', recomputed' if recompute else ''}: memory")
            found[variant, recompute] = harness.fresh_process(
                "conformer", "memory", variant=list(variant), recompute=recompute, **sizes
            )
        harness.progress(f"speed of all{', recomputed' if recompute else ''}")
        taken = harness.fresh_process("conformer", "speed", recompute=recompute, **sizes)
        for variant in VARIANTS:
            seconds[variant, recompute] = statistics.median(taken[str(variant)])
    weights = found[FIT, False]["parameters"]
    what = f"Conformer of {weights / 1e6:.1f} M weights, {sizes['frames'] / 100:g} s of speech"
    tables = [_memory_table(what, found), _speed_table(what, seconds)]
    if not quick:
        tables.append(_targets(found, seconds))
    return tables


def _memory_table(what, found):
    table = harness.Table(
        "memory",
        f"{what}: memory of a step, MB",
        [
            ("variant", "weights", ""),
            ("recompute", "recomputed", ""),
            ("stored", "stored", ".1f"),
            ("stored_ratio", "x FP32", ".3f"),
            ("peak", "allocator peak", ".1f"),
            ("peak_fit", "x FP32 fit", ".3f"),
            ("peak_lean", "x FP32 lean", ".3f"),
            ("process", "process, steps", ".0f"),
            ("process_fit", "x FP32 fit", ".3f"),
            ("whole", "process, building too", ".0f"),
        ],
    )
    for (variant, recompute), row in found.items():
        fit, lean = found[FIT, recompute], found[LEAN, recompute]
        table.rows.append(
            {
                "variant": str(variant),
                "recompute": recompute,
                "stored": row["stored_bytes"] / 1e6,
                "stored_ratio": row["stored_bytes"] / fit["stored_bytes"],
                "peak": row["peak_bytes"] / 1e6,
                "peak_fit": row["peak_bytes"] / fit["peak_bytes"],
                "peak_lean": row["peak_bytes"] / lean["peak_bytes"],
                "process": row["process_bytes"] / 1e6,
                "process_fit": row["process_bytes"] / fit["process_bytes"],
                "whole": row["whole_process_bytes"] / 1e6,
            }
        )
    return table


def _speed_table(what, seconds):
    table = harness.Table(
        "speed",
        f"{what}: seconds a step, and speed as a multiple of FP32's",
        [
            ("variant", "weights", ""),
            ("recompute", "recomputed", ""),
            ("seconds", "median s", ".3f"),
            ("speed_fit", "x FP32 fit", ".2f"),
            ("speed_lean", "x FP32 lean", ".2f"),
        ],
    )
    for (variant, recompute), taken in seconds.items():
        table.rows.append(
            {
                "variant": str(variant),
                "recompute": recompute,
                "seconds": taken,
                "speed_fit": seconds[FIT, recompute] / taken,
                "speed_lean": seconds[LEAN, recompute] / taken,
            }
        )
    return table


def _targets(found, seconds):
    table = harness.Table(
        "targets",
        "Targets, against what Keras' fit takes and against FP32 without slots",
        harness.TARGET_COLUMNS,
    )
    for variant in (PAPER, FULLY):
        for recompute, limit in ((False, 0.55), (True, 0.45)):
            ours, again = found[variant, recompute], ", recomputed" if recompute else ""
            for base in (FIT, LEAN):
                ratio = ours["peak_bytes"] / found[base, recompute]["peak_bytes"]
                name = f"{variant}{again}: allocator peak, x {base}"
                table.rows.append(harness.target(name, ratio, limit, at_most=True))
                speed = seconds[base, recompute] / seconds[variant, recompute]
                name = f"{variant}{again}: speed, x {base}"
                table.rows.append(harness.target(name, speed, 0.9, at_most=False))
        ratio = found[variant, False]["stored_bytes"] / found[FIT, False]["stored_bytes"]
        name = f"{variant}: parameter bytes, x FP32"
        table.rows.append(harness.target(name, ratio, 0.42, at_most=True))
    return table


def memory(variant, recompute, size, outputs, frames, steps):
    """Bytes of one variant's training steps; for a process of its own.

    Args:
        variant: A `Variant`, or a list of its fields.
        recompute: Whether the blocks keep only their inputs until backward.
        size: Name in `models.CONFORMERS`.
        outputs: Logits of a frame.
        frames: Frames of the utterance, 10 ms each.
        steps: Steps that are measured, after two others.

    Returns:
        Dict: parameters, stored_bytes, peak_bytes (allocator, with weights), process_bytes
        (resident during the steps), whole_process_bytes (resident, from the start).
    """
    model = build(Variant(*variant), recompute, models.CONFORMERS[size], outputs)
    step = harness.fit_step(model, *utterance(frames, outputs))
    for _ in range(2):
        step()
    whole = process_peak_bytes()
    with measure_peak() as peak:
        for _ in range(steps):
            step()
    return {
        "parameters": model.count_params(),
        "stored_bytes": memory_report(model).stored_bytes,
        "peak_bytes": peak.allocator_total_bytes,
        "process_bytes": peak.process_bytes,
        "whole_process_bytes": max(whole, peak.process_bytes),
    }


def speed(recompute, size, outputs, frames, steps):
    """Seconds of each variant's steps, in turn: {str(variant): list}; for a process of its own.

    Arguments as in `memory`; twice as many steps are timed.
    """
    functions, data = {}, utterance(frames, outputs)
    for variant in VARIANTS:
        model = build(variant, recompute, models.CONFORMERS[size], outputs)
        functions[str(variant)] = harness.fit_step(model, *data)
    start = time.perf_counter()
    taken = harness.interleaved(functions, rounds=2 * steps, warm_up=2)
    harness.progress(f"timed after {time.perf_counter() - start:.0f} s")
    return taken


def build(variant, recompute, sizes, outputs):
    """A Conformer, built compressed as the variant says, and compiled with CTC and SGD.

    Args:
        variant: `Variant`.
        recompute: Whether the blocks keep only their inputs until backward.
        sizes: Dict of `models.conformer`'s arguments.
        outputs: Logits of a frame.

    Returns:
        `models.Conformer`.
    """
    optimizer = tf.keras.optimizers.SGD(RATE)
    if variant.format == "FP32":
        model = models.conformer(outputs, FEATURES, **sizes)
    else:
        with omc.init_compressed(omc.Policy(variant.format, fraction=float(variant.how))):
            model = models.conformer(outputs, FEATURES, **sizes)
    if variant == LEAN:
        slim(optimizer)
    if recompute:
        omc.recompute(model, "block_*")
    model.compile(optimizer, ctc)
    return model


def utterance(frames, outputs):
    """Noise for speech and a transcript of `LABELS` labels: (features, labels), batch of one."""
    x = tf.random.stateless_normal([1, frames, FEATURES], [0, 1])
    return x, tf.random.stateless_uniform([1, LABELS], [0, 2], 1, outputs - 1, tf.int32)


def ctc(labels, logits):
    """Connectionist temporal classification: -log p(labels | logits); the last output is the blank.

    Args:
        labels: Integers [batch, labels], filled up with 0.
        logits: float32 [batch, frames, outputs].

    Returns:
        float32 [batch].
    """
    frames = tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1])
    labels = tf.sparse.from_dense(tf.cast(labels, tf.int32))
    return tf.nn.ctc_loss(labels, logits, None, frames, logits_time_major=False, blank_index=-1)
