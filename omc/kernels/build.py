"""Compiles the native ops: `python -m omc.kernels.build`.

One library for the installed TensorFlow, and one for TFF's worker (`omc.kernels.worker`). Each lies
beside its sources, under a name that holds a digest of everything it was made from, so that one of
another TensorFlow or of older sources is never loaded. Those of other TensorFlows stay, for other
environments may share this folder.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time

import tensorflow as tf

from omc.kernels import compiling, worker
from omc.kernels.compiling import find_compiler
from omc.kernels.worker import build as worker_build

_PREFIX = f"libomc-tf{tf.version.VERSION}"


def library_path():
    """Where the library for these sources, this TensorFlow and this machine lies (pathlib.Path)."""
    digest = compiling.digest(tf.version.VERSION, tf.version.COMPILER_VERSION)
    return compiling.FOLDER / f"{_PREFIX}-{digest}.so"


def build(objects=None):
    """Compiles the library unless it is there already.

    Args:
        objects: `compiling.Objects` of a build that goes on; None for one of its own.

    Returns:
        Its pathlib.Path.

    Raises:
        RuntimeError: There is no compiler, or it fails; the message holds what it said.
    """
    path = library_path()
    if path.exists():
        return path
    with contextlib.nullcontext(objects) if objects else _scratch() as objects:
        flags = tuple(tf.sysconfig.get_compile_flags())
        ops = [compiling.Unit(name, compiling.FOLDER / name, flags) for name in compiling.OPS]
        made = objects.compile([*ops, *compiling.plain_units()])
        linked = os.path.join(objects.folder, path.name)
        flags = tf.sysconfig.get_link_flags()
        compiling.run([*objects.compiler, "-shared", *made, "-o", linked, *flags])
        compiling.put(linked, path)
    compiling.remove_stale(path.parent, f"{_PREFIX}-*.so", {path})
    return path


@contextlib.contextmanager
def _scratch():
    """`compiling.Objects` in a folder that goes with the context."""
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler (set CXX, or install g++)")
    with tempfile.TemporaryDirectory() as folder:
        yield compiling.Objects(compiler, folder)


def main():
    """Builds both and says in a line each what came of it; a missing compiler is no failure."""
    parser = argparse.ArgumentParser(
        prog="python -m omc.kernels.build",
        description="Compile OMC's native ops, for this process and for TFF's worker. Without a "
        "C++ compiler OMC runs on TensorFlow alone, with the same results, slower.",
    )
    parser.parse_args()
    if find_compiler() is None:
        print("native ops: no C++ compiler (g++); OMC runs on TensorFlow alone, slower")
        return 0
    start = time.monotonic()
    with _scratch() as objects:
        try:
            path = build(objects)
        except (RuntimeError, OSError) as error:
            print(f"native ops: not built; OMC runs on TensorFlow alone, slower\n{error}")
            return 1
        print(f"native ops: {path.name} ({time.monotonic() - start:.0f} s)")
        start = time.monotonic()
        try:
            path = worker_build.build(objects)
        except worker.Unavailable as error:  # No failure: not for this TFF, or this machine.
            print(f"native ops in TFF's worker: none, simulations run slower ({error})")
            return 0
        except (RuntimeError, OSError) as error:
            print(f"native ops in TFF's worker: not built, simulations run slower\n{error}")
            return 1
        print(f"native ops in TFF's worker: {path.name} ({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
