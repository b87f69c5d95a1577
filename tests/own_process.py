"""Programs in a process of their own: where a figure must not depend on what tests ran before."""

import os
import pathlib
import subprocess
import sys

ROOT = str(pathlib.Path(__file__).resolve().parents[1])


def printed(program, *arguments, **variables):
    """The words that a program prints; its allocator is TensorFlow's choice unless given."""
    environment = {**os.environ, "PYTHONPATH": ROOT, **variables}
    if "TF_CPU_ALLOCATOR_USE_BFC" not in variables:
        environment.pop("TF_CPU_ALLOCATOR_USE_BFC", None)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def heap_peaks(program, *arguments):
    """Integers that a program prints, of `omc.measurement.heap_peak`: exact to the byte.

    The allocator's figure counts pieces, up to twice their tensors (`omc.measurement.peaks`); which
    pieces there are depends on the process' past. So it does with Python's own objects, which come
    in arenas of 1 MiB unless each is one malloc.
    """
    words = printed(program, *arguments, TF_ENABLE_ONEDNN_OPTS="0", PYTHONMALLOC="malloc")
    return [int(word) for word in words]
