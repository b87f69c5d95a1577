"""Size of a saved model and the time to save and load it, next to Keras' and safetensors' files."""

import pathlib
import tempfile

import safetensors.numpy
import tensorflow as tf

import omc
from benchmarks import harness, stacks
from benchmarks.stacks import LOOP, Variant
from omc.measurement import memory_report

_SIZES, _QUICK = (16, 2048), (4, 1024)
FORMATS = ("S1E5M10", "S1E3M7", "INT8", "INT4")


def run(quick=False):
    """omc.save of a stack of Dense, beside safetensors, .keras and .h5 of the same weights.

    Args:
        quick: A small stack, two formats.

    Returns:
        List of `harness.Table`.
    """
    layers, units = _QUICK if quick else _SIZES
    table = harness.Table(
        "artifact",
        f"{layers} x Dense({units}) on disk",
        [
            ("file", "file", ""),
            ("format", "format", ""),
            ("stored_bytes", "stored bytes", ",d"),
            ("file_bytes", "file bytes", ",d"),
            ("to_stored", "file / stored", ".5f"),
            ("to_safetensors", "x safetensors FP32", ".3f"),
            ("save_seconds", "save s", ".3f"),
            ("load_seconds", "load s", ".3f"),
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        writers, stored = _writers(folder, layers, units, FORMATS[1:3] if quick else FORMATS)
        harness.progress("save and load every file in turn")
        functions = {}
        for name, (_, _, save, load) in writers.items():
            functions[name, "save"], functions[name, "load"] = save, load
        each = harness.medians(harness.interleaved(functions, rounds=2 if quick else 5, seconds=20))
        dense = (folder / "m.safetensors").stat().st_size
        for name, (path, fmt, _, _) in writers.items():
            size = path.stat().st_size
            table.rows.append(
                {
                    "file": name,
                    "format": fmt,
                    "stored_bytes": stored[fmt],
                    "file_bytes": size,
                    "to_stored": size / stored[fmt],
                    "to_safetensors": size / dense,
                    "save_seconds": each[name, "save"],
                    "load_seconds": each[name, "load"],
                }
            )
    return [table]


def _writers(folder, layers, units, formats):
    """{name: (file, format, save, load)} and {format: stored bytes}."""
    plain = stacks.build(LOOP, layers, units)
    arrays = folder / "m.safetensors"
    keras, h5 = folder / "m.keras", folder / "m.weights.h5"

    def save_arrays():
        names = {v.name: v.numpy() for v in plain.variables}
        safetensors.numpy.save_file(names, arrays)

    def load_arrays():
        values = safetensors.numpy.load_file(arrays)
        for variable in plain.variables:
            variable.assign(values[variable.name])

    writers = {
        "safetensors": (arrays, "FP32", save_arrays, load_arrays),
        ".keras": (
            keras,
            "FP32",
            lambda: plain.save(keras),
            lambda: tf.keras.models.load_model(keras),
        ),
        ".weights.h5": (
            h5,
            "FP32",
            lambda: plain.save_weights(h5),
            lambda: plain.load_weights(h5),
        ),
    }
    stored = {"FP32": memory_report(plain).stored_bytes}
    for fmt in formats:
        harness.progress(f"build {fmt}")
        model, path = stacks.build(Variant(fmt, "native"), layers, units), folder / f"{fmt}.omc"
        stored[fmt] = memory_report(model).stored_bytes
        writers[f"omc.save, {fmt}"] = (
            path,
            fmt,
            lambda m=model, p=path: omc.save(m, p),
            lambda m=model, p=path: omc.load(p, m),
        )
    return writers, stored
