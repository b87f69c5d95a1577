"""Peak resident memory of a process that trains, less that of the bare imports."""

import statistics

import numpy as np
import tensorflow as tf

from benchmarks import harness, stacks
from benchmarks.stacks import FIT, Variant
from omc.measurement.peaks import measure_peak, process_peak_bytes

_STACK = {"layers": 16, "units": 2048, "batch": 64, "steps": 5}
_QUICK = {"layers": 4, "units": 1024, "batch": 64, "steps": 2}
_REPEATS = 2


def run(quick=False):
    """VmHWM of fresh processes that build a stack, wrap it and run `model.fit`.

    Args:
        quick: A small stack, one format, once.

    Returns:
        List of `harness.Table`.
    """
    sizes = _QUICK if quick else _STACK
    title = "{layers} x Dense({units}), batch {batch}, {steps} steps of fit: MB over the imports"
    table = harness.Table(
        "process",
        title.format(**sizes),
        [
            ("format", "format", ""),
            ("path", "path", ""),
            ("imports_mb", "imports alone", ".0f"),
            ("whole_mb", "whole run", ".0f"),
            ("whole_ratio", "x FP32", ".3f"),
            ("training_mb", "from fit on", ".0f"),
            ("training_ratio", "x FP32", ".3f"),
        ],
    )
    variants = [v for v in stacks.variants() if v.loop == "fit"][: 2 if quick else None]
    found = {variant: [] for variant in variants}
    imports = []
    for _ in range(1 if quick else _REPEATS):
        imports.append(harness.fresh_process("process", "imports_alone"))
        for variant in variants:
            harness.progress(f"process of {variant}")
            result = harness.fresh_process("process", "train", variant=list(variant), **sizes)
            found[variant].append(result)
    bare = statistics.median(imports)
    medians = {
        variant: [statistics.median(column) - bare for column in zip(*results)]
        for variant, results in found.items()
    }
    for variant, (whole, training) in medians.items():
        table.rows.append(
            {
                **variant._asdict(),
                "imports_mb": bare / 1e6,
                "whole_mb": whole / 1e6,
                "whole_ratio": whole / medians[FIT][0],
                "training_mb": training / 1e6,
                "training_ratio": training / medians[FIT][1],
            }
        )
    return [table]


def imports_alone():
    """Peak resident bytes of a process that has imported this module and done no more."""
    return process_peak_bytes()


def train(variant, layers, units, batch, steps):
    """(peak of the whole run, peak from `fit` on), resident bytes; for a process of its own."""
    variant = Variant(*variant)
    model = stacks.build(variant, layers, units)
    x = np.random.default_rng(0).normal(size=(batch, units)).astype(np.float32)
    model.compile(tf.keras.optimizers.SGD(stacks.RATE), "mse")
    before = process_peak_bytes()
    with measure_peak() as peak, stacks.path(variant):
        data = tf.data.Dataset.from_tensors((x, x)).repeat()
        model.fit(data, steps_per_epoch=steps, verbose=0)
    return max(before, peak.process_bytes), peak.process_bytes
