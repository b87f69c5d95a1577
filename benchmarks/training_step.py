"""Time and allocator peak of a training step of Dense stacks, OMC next to FP32."""

import statistics
import time

from benchmarks import harness, stacks
from benchmarks.stacks import FIT, LOOP, Variant
from omc.measurement import memory_report
from omc.measurement.peaks import measure_peak

# (layers, units, batches of the speed, batches of the peak, whether the pure path too)
_GRID = (
    (16, 2048, (16, 64, 256, 1024, 4096), (16, 64, 256, 1024, 4096), True),
    (4, 512, (64, 1024), (64,), False),
    (16, 1024, (64, 1024), (64,), False),
    (16, 2736, (64, 1024), (64,), False),
)
_QUICK = ((4, 1024, (16, 64), (16, 64), True),)
_PEAK_STEPS, _PEAK_SECONDS = 5, 3
# Above so many weights x tokens a step takes seconds, and only the chief formats are measured.
_HEAVY = 10**11
_CHIEF = ("FP32", "S1E3M7", "INT8")

_STACK = [
    ("weights", "weights", ",d"),
    ("layers", "layers", ""),
    ("batch", "batch", ""),
    ("format", "format", ""),
    ("path", "path", ""),
    ("loop", "loop", ""),
]
# (format, path) -> limits of the issue for 16 x Dense(2048): peak at 64, speed at 64 and at 1,024
_LIMITS = {
    ("S1E3M7", "native"): (0.42, 0.85, 0.95),
    ("INT8", "native"): (None, 0.85, 0.95),
    ("INT4", "native"): (0.28, None, None),
    ("S1E3M7", "pure"): (0.55, 0.45, 0.80),
    ("INT8", "pure"): (None, 0.45, 0.80),
}


def run(quick=False):
    """Speed with all variants in one process, step after step in turn; peaks in fresh processes.

    Args:
        quick: One small stack.

    Returns:
        List of `harness.Table`.
    """
    grid = _QUICK if quick else _GRID
    speed = harness.Table(
        "speed",
        "Seconds a step, and speed as a multiple of FP32's",
        [
            *_STACK,
            ("rounds", "rounds", ""),
            ("median_seconds", "median s", ".4f"),
            ("min_seconds", "min s", ".4f"),
            ("speed_fit", "x FP32 fit", ".2f"),
            ("speed_fit_min", "by min", ".2f"),
            ("speed_loop", "x FP32 loop", ".2f"),
            ("speed_loop_min", "by min", ".2f"),
        ],
    )
    peak = harness.Table(
        "peak",
        "Allocator peak of a step, and as a multiple of FP32's",
        [
            *_STACK,
            ("stored_mb", "stored MB", ".1f"),
            ("peak_mb", "peak MB", ".1f"),
            ("peak_fit", "x FP32 fit", ".3f"),
            ("peak_loop", "x FP32 loop", ".3f"),
        ],
    )
    for layers, units, batches, _, pure in grid:
        sizes = {"layers": layers, "units": units, "pure": pure}
        found = harness.fresh_process("training_step", "seconds", batches=batches, **sizes)
        for batch in batches:
            speed.rows += _speed_rows(layers, units, batch, found[str(batch)])
    for layers, units, _, batches, pure in grid:
        for batch, found in _peaks(layers, units, batches, pure).items():
            peak.rows += _peak_rows(layers, units, batch, found)
    targets = harness.Table(
        "targets", "Targets, 16 x Dense(2048), against both FP32 loops", harness.TARGET_COLUMNS
    )
    targets.rows = list(_target_rows(speed.rows, peak.rows))
    return [speed, peak, *([targets] if targets.rows else [])]


def _chosen(layers, units, batch, pure):
    heavy = layers * units**2 * batch > _HEAVY
    return [v for v in stacks.variants(pure and not heavy) if not heavy or v.format in _CHIEF]


def seconds(layers, units, batches, pure):
    """Seconds of each step: {batch: {str(variant): list}}; runs in a process of its own."""
    models = {}
    for variant in stacks.variants(pure):
        harness.progress(f"{layers} x Dense({units}): build {variant}")
        models[variant] = stacks.build(variant, layers, units)
    found = {}
    for batch in batches:
        harness.progress(f"{layers} x Dense({units}): speed at batch {batch}")
        steps = {
            str(variant): stacks.step_of(models[variant], variant, batch)
            for variant in _chosen(layers, units, batch, pure)
        }
        found[batch] = harness.interleaved(steps, rounds=25, seconds=15, warm_up=0)
    return found


def _speed_rows(layers, units, batch, found):
    def by(choose, variant, base):
        return choose(found[str(base)]) / choose(found[str(variant)])

    median = statistics.median
    for variant in stacks.variants():
        if str(variant) in found:
            taken = found[str(variant)]
            yield _stack_cells(layers, units, batch, variant) | {
                "rounds": len(taken),
                "median_seconds": median(taken),
                "min_seconds": min(taken),
                "speed_fit": by(median, variant, FIT),
                "speed_fit_min": by(min, variant, FIT),
                "speed_loop": by(median, variant, LOOP),
                "speed_loop_min": by(min, variant, LOOP),
            }


def _stack_cells(layers, units, batch, variant):
    cells = {"weights": layers * units**2, "layers": f"{layers} x {units}", "batch": batch}
    return cells | variant._asdict()


def _peaks(layers, units, batches, pure):
    """{batch: {variant: result of `peak`}}, each variant in a process of its own."""
    found = {batch: {} for batch in batches}
    for variant in stacks.variants(pure):
        harness.progress(f"{layers} x Dense({units}): peak of {variant}")
        wanted = [b for b in batches if variant in _chosen(layers, units, b, pure)]
        sizes = {"layers": layers, "units": units, "batches": wanted}
        peaks = harness.fresh_process("training_step", "peak", variant=list(variant), **sizes)
        for batch, result in peaks.items():
            found[int(batch)][variant] = result
    return found


def peak(variant, layers, units, batches):
    """Stored bytes and the allocator's peak of a step: {batch: dict}; for a process of its own."""
    variant = Variant(*variant)
    model = stacks.build(variant, layers, units)
    stored = memory_report(model)
    found = {}
    for batch in batches:
        step = stacks.step_of(model, variant, batch)
        # Which ops overlap differs from step to step: the peak is that of several.
        start = time.perf_counter()
        with measure_peak() as measured:
            for number in range(_PEAK_STEPS):
                if number < 2 or time.perf_counter() - start < _PEAK_SECONDS:
                    step()
        del step
        found[batch] = {
            "stored_bytes": stored.stored_bytes,
            "peak_bytes": measured.allocator_total_bytes,
        }
    return found


def _peak_rows(layers, units, batch, found):
    for variant, result in found.items():
        row = _stack_cells(layers, units, batch, variant)
        row["stored_mb"] = result["stored_bytes"] / 1e6
        row["peak_mb"] = result["peak_bytes"] / 1e6
        row["peak_fit"] = result["peak_bytes"] / found[FIT]["peak_bytes"]
        row["peak_loop"] = result["peak_bytes"] / found[LOOP]["peak_bytes"]
        yield row


def _target_rows(speeds, peaks):
    def value(rows, variant, batch, key):
        for row in rows:
            same = (row["format"], row["path"], row["layers"]) == (*variant, "16 x 2048")
            if same and row["batch"] == batch:
                return row.get(key)
        return None

    for variant, (most, at_64, at_1024) in _LIMITS.items():
        for what, rows, batch, limit in (
            ("peak", peaks, 64, most),
            ("speed", speeds, 64, at_64),
            ("speed", speeds, 1024, at_1024),
        ):
            for base in ("fit", "loop"):
                measured = value(rows, variant, batch, f"{what}_{base}")
                if limit is not None and measured is not None:
                    name = f"{' '.join(variant)}: {what} at {batch} tokens, x FP32 {base}"
                    yield harness.target(name, measured, limit, at_most=what == "peak")
