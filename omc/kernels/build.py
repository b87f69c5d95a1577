"""Compiles the native ops against the installed TensorFlow: `python -m omc.kernels.build`.

The library lies beside the sources, under a name that holds a digest of everything it was made
from, so that one of another TensorFlow or of older sources is never loaded.
"""

import argparse
import concurrent.futures
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import tensorflow as tf

_HERE = pathlib.Path(__file__).parent
_SWEEPS = ("sweep.cc", "quantizer.cc")  # Compiled once for each instruction set.
_CODER = ("coder.cc", "coder_lanes.cc")
_HEADERS = ("sweep.h", "coder.h", "coder_bytes.h", "coder_lanes.h", "coder_tables.h")
_OPS = ("ops.cc", "coder_ops.cc")  # Compiled against TensorFlow.
_SOURCES = ("format.cc", "simd.cc", *_HEADERS, *_SWEEPS, *_CODER, *_OPS)
# No contraction of a * b + c, which rounds once where TensorFlow's own ops round twice.
_FLAGS = ["-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
_AVX2 = ["-mavx2", "-mf16c"]
_AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "vl", "dq")]
_INSTRUCTIONS = {"avx2": _AVX2, "avx512": [*_AVX2, *_AVX512, "-mprefer-vector-width=512"]}
_X86 = platform.machine() in ("x86_64", "AMD64")


def library_path():
    """Where the library for these sources, this TensorFlow and this machine lies (pathlib.Path)."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_HERE / name).read_bytes())
    made_for = [tf.version.VERSION, tf.version.COMPILER_VERSION, platform.machine(), *_FLAGS]
    made_for += [flag for flags in _INSTRUCTIONS.values() for flag in flags]
    digest.update("\0".join(made_for).encode())
    return _HERE / f"libomc-{digest.hexdigest()[:16]}.so"


def find_compiler():
    """Command of the C++ compiler (list of str): $CXX, g++, c++ or clang++; None without one."""
    for candidate in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        command = shlex.split(candidate or "")
        if command and shutil.which(command[0]):
            return command
    return None


def build():
    """Compiles the library unless it is there already.

    Returns:
        Its pathlib.Path.

    Raises:
        RuntimeError: There is no compiler, or it fails; the message holds what it said.
    """
    path = library_path()
    if path.exists():
        return path
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler (set CXX, or install g++)")
    with tempfile.TemporaryDirectory() as scratch:
        jobs = [(source, source, tf.sysconfig.get_compile_flags()) for source in _OPS]
        jobs += [(source, source, []) for source in ("format.cc", *_CODER)]
        jobs.append(("simd.cc", "simd", ["-DOMC_X86"] if _X86 else []))
        for name, flags in {"portable": [], **(_INSTRUCTIONS if _X86 else {})}.items():
            for source in _SWEEPS:
                jobs.append((source, f"{source}-{name}", [f"-DOMC_SIMD={name}", *flags]))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: _compile(compiler, scratch, *job), jobs))
        linked = os.path.join(scratch, path.name)
        flags = tf.sysconfig.get_link_flags()
        _run([*compiler, "-shared", *objects, "-o", linked, *flags])
        partial = path.with_suffix(f".{os.getpid()}")
        shutil.copyfile(linked, partial)
        os.replace(partial, path)
    for stale in _HERE.glob("libomc-*.so"):
        if stale != path:
            stale.unlink()
    return path


def _compile(compiler, scratch, source, name, flags):
    target = os.path.join(scratch, f"{name}.o")
    # TensorFlow's own flags come last but for the standard, which the sweeps need too.
    _run([*compiler, "-std=c++17", *_FLAGS, *flags, "-c", str(_HERE / source), "-o", target])
    return target


def _run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stderr[-2000:]}")


def main():
    """Builds and says in one line what came of it; a missing compiler is no failure."""
    parser = argparse.ArgumentParser(
        prog="python -m omc.kernels.build",
        description="Compile OMC's native ops. Without a C++ compiler OMC runs on TensorFlow "
        "alone, with the same results, slower.",
    )
    parser.parse_args()
    if find_compiler() is None:
        print("native ops: no C++ compiler (g++); OMC runs on TensorFlow alone, slower")
        return 0
    start = time.monotonic()
    try:
        path = build()
    except (RuntimeError, OSError) as error:
        print(f"native ops: not built; OMC runs on TensorFlow alone, slower\n{error}")
        return 1
    print(f"native ops: {path.name} ({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
