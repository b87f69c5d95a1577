"""How the allocator's peak of a training step grows as layers are added."""

import numpy as np

from benchmarks import harness, stacks
from benchmarks.stacks import FIT, LOOP, Variant

_LAYERS, _UNITS, _BATCH = (8, 16, 32), 2048, 64
_QUICK = ((2, 4), 1024, 64)


def run(quick=False):
    """Peaks of stacks of 8, 16 and 32 x Dense(2048) at batch 64, each in a fresh process.

    Args:
        quick: 2 and 4 x Dense(1024), and one format.

    Returns:
        List of `harness.Table`.
    """
    numbers, units, batch = _QUICK if quick else (_LAYERS, _UNITS, _BATCH)
    measured = [v for v in stacks.variants() if v.format != "INT8"]
    table = harness.Table(
        "growth",
        f"MB that one more Dense({units}) adds to the peak at batch {batch}",
        [
            ("format", "format", ""),
            ("path", "path", ""),
            ("loop", "loop", ""),
            *((f"peak_{number}", f"peak of {number}", ".1f") for number in numbers),
            ("slope_mb", "peak/layer", ".2f"),
            ("stored_mb", "stored/layer", ".2f"),
            ("activations_mb", "activations/layer", ".2f"),
            ("over", "peak / (stored + activations)", ".2f"),
            ("dense_mb", "dense/layer", ".2f"),
        ],
    )
    for variant in [LOOP, measured[2]] if quick else measured:
        table.rows.append(_row(variant, numbers, units, batch))
    return [table]


def _row(variant: Variant, numbers, units, batch):
    found = []
    for number in numbers:
        harness.progress(f"{number} x Dense({units}): peak of {variant}")
        sizes = {"layers": number, "units": units, "batches": [batch]}
        result = harness.fresh_process("training_step", "peak", variant=list(variant), **sizes)
        found.append(result[str(batch)])
    stored = np.polyfit(numbers, [result["stored_bytes"] for result in found], 1)[0] / 1e6
    slope = np.polyfit(numbers, [result["peak_bytes"] for result in found], 1)[0] / 1e6
    activations = batch * units * 4 / 1e6  # One output a layer, which backward needs.
    row = {f"peak_{n}": result["peak_bytes"] / 1e6 for n, result in zip(numbers, found)}
    return {
        **variant._asdict(),
        **row,
        "slope_mb": slope,
        "stored_mb": stored,
        "activations_mb": activations,
        "over": slope / (stored + activations),
        "dense_mb": (units + 1) * units * 4 / 1e6 * (2 if variant == FIT else 1),
    }
