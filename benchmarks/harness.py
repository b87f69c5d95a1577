"""What all benchmarks share: interleaved timing, fresh processes, tables, the run's description."""

import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import time
from importlib import metadata

from tff_sims.machine import processor
from tff_sims.tables.grid import Grid as Table  # noqa: F401 - what benchmarks return
from tff_sims.tables.grid import formatted  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ("tensorflow", "keras", "numpy", "ml_dtypes", "safetensors")
_RESULT = "result:"


def target(what, measured, limit, at_most):
    """Row of a table of targets.

    Args:
        what: What is measured.
        measured: Float.
        limit: Float that it is held against.
        at_most: Whether the limit is an upper one.
    """
    met = measured <= limit if at_most else measured >= limit
    bound = f"{'at most' if at_most else 'at least'} {limit:.2f}"
    return {"what": what, "measured": measured, "target": bound, "met": bool(met)}


TARGET_COLUMNS = [
    ("what", "target", ""),
    ("target", "wanted", ""),
    ("measured", "measured", ".3f"),
    ("met", "met", ""),
]


def progress(text):
    """Tells on stderr what long work is doing."""
    print(f"  . {text}", file=sys.stderr, flush=True)


def interleaved(functions, rounds=9, seconds=None, warm_up=1, clock=time.perf_counter):
    """Times functions in turn, A B C A B C ..., so that a busy machine hits all of them alike.

    Args:
        functions: Dict of name -> function without arguments.
        rounds: Most rounds.
        seconds: Time after which no further round begins, but for the third; None for no end.
        warm_up: Rounds before, which do not count.
        clock: What tells the seconds; `time.process_time` for those of the processor alone.

    Returns:
        Dict of name -> list of seconds, one a round.
    """
    for _ in range(warm_up):
        for function in functions.values():
            function()
    taken = {name: [] for name in functions}
    start = time.perf_counter()
    for number in range(rounds):
        if seconds is not None and number >= 3 and time.perf_counter() - start > seconds:
            break
        for name, function in functions.items():
            begin = clock()
            function()
            taken[name].append(clock() - begin)
    return taken


def medians(taken):
    """Dict of name -> median of its seconds."""
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def fit_step(model, x, y):
    """A function that takes a step of `model.fit` on always the same batch.

    Not `train_on_batch`, which makes a tf.data iterator a step: the iterator ends only when its
    tuning thread wakes up, 10, 30, 70, 150 ... 1270, 2550, 5110 ms after its beginning.

    Args:
        model: Compiled `tf.keras.Model`.
        x, y: Tensors, a batch.
    """
    import tensorflow as tf  # Here: most of this module's users start processes and no more.

    model.make_train_function(force=True)
    function = model.train_function
    iterator = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    return lambda: function(iterator)["loss"].numpy()


HEAP = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPU_ALLOCATOR_USE_BFC": "0"}
"""Environment in which every tensor is a malloc of its own, for `omc.measurement.heap_peak`."""


def fresh_process(module, function, environment=None, **arguments):
    """Result of benchmarks.<module>.<function>(**arguments) in a process of its own.

    Args:
        module: Name of a module of this package.
        function: Name of a function in it that returns what JSON can hold.
        environment: Dict of variables to set, such as `HEAP`.
        **arguments: What JSON can hold.

    Returns:
        What the function returned.

    Raises:
        RuntimeError: The process failed; what it wrote to stderr has gone there.
    """
    environment = environment or {}
    program = (
        "import json, os, sys\n"
        f"from benchmarks import {module}\n"
        f"os.environ.update({environment})\n"  # Once more: the package sets an allocator.
        f"result = {module}.{function}(**json.loads(sys.argv[1]))\n"
        f"print('{_RESULT}' + json.dumps(result))\n"
    )
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, "-c", program, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    for line in done.stdout.splitlines():
        if line.startswith(_RESULT):
            return json.loads(line[len(_RESULT) :])
    raise RuntimeError(f"{module}.{function}({arguments}) failed; its stderr stands above")


def write(path, name, quick, tables):
    """Writes a benchmark's tables and what they were made on as JSON.

    Args:
        path: `pathlib.Path` of the file; its folder is made if absent.
        name: The benchmark's name.
        quick: Whether it was the short form.
        tables: List of `Table`.
    """
    result = {
        "benchmark": name,
        **description(quick),
        "tables": [table.as_dict() for table in tables],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def description(quick):
    """What the run ran on: dict of command, versions, processor, threads; no date."""
    from omc import kernels  # Here, so that the log level is set before TensorFlow loads.
    from omc.version import __version__

    module = sys.modules["__main__"].__spec__
    module = module.name.removesuffix(".__main__") if module else "benchmarks"
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "quick": quick,
        "versions": {
            "omc": __version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in _PACKAGES},
        },
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "native_ops": kernels.available(),
        "peaks": "of every tensor",
    }
