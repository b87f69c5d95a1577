"""What the libraries of native ops share when they are built: compiler, flags, objects, digests.

There are two: one for TensorFlow in this process (`build.py`), one for TFF's worker (`worker/`).
Sources without TensorFlow's headers give the same objects for both and are compiled once.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
from typing import NamedTuple

FOLDER = pathlib.Path(__file__).parent
OPS = ("ops.cc", "coder_ops.cc", "dither_ops.cc")
"""Sources that include TensorFlow's headers."""
X86 = platform.machine() in ("x86_64", "AMD64")

_SWEEPS = ("sweep.cc", "quantizer.cc", "dither.cc")  # Compiled once for each instruction set.
_CODER = ("coder.cc", "coder_lanes.cc")
_CODER_HEADERS = ("coder.h", "coder_bytes.h", "coder_lanes.h", "coder_tables.h")
_HEADERS = ("sweep.h", "random_bits.h", *_CODER_HEADERS)
_SOURCES = ("format.cc", "simd.cc", *_HEADERS, *_SWEEPS, *_CODER, *OPS)
# No contraction of a * b + c, which rounds once where TensorFlow's own ops round twice.
_FLAGS = ["-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
_AVX2 = ["-mavx2", "-mf16c"]
_AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "vl", "dq")]
_INSTRUCTIONS = {"avx2": _AVX2, "avx512": [*_AVX2, *_AVX512, "-mprefer-vector-width=512"]}


class Unit(NamedTuple):
    """One object file to be.

    Attributes:
        name: Its name, without the ending; unique in a build.
        source: Path of what is compiled.
        flags: Compiler's flags beside those that all have.
    """

    name: str
    source: pathlib.Path
    flags: tuple = ()


def plain_units():
    """List of the `Unit`s that know nothing of TensorFlow."""
    units = [Unit(name, FOLDER / name) for name in ("format.cc", *_CODER)]
    units.append(Unit("simd.cc", FOLDER / "simd.cc", ("-DOMC_X86",) if X86 else ()))
    for name, flags in {"portable": [], **(_INSTRUCTIONS if X86 else {})}.items():
        for source in _SWEEPS:
            given = (f"-DOMC_SIMD={name}", *flags)
            units.append(Unit(f"{source}-{name}", FOLDER / source, given))
    return units


def digest(*further, sources=()):
    """16 hex digits of everything that the objects are made from.

    Args:
        *further: Strings that matter too: versions, a library's own flags.
        sources: Paths of files of a library's own.
    """
    found = hashlib.sha256()
    for path in (*(FOLDER / name for name in _SOURCES), *sources):
        found.update(path.read_bytes())
    flags = [*_FLAGS, *(flag for flags in _INSTRUCTIONS.values() for flag in flags)]
    found.update("\0".join([platform.machine(), *flags, *further]).encode())
    return found.hexdigest()[:16]


def find_compiler():
    """Command of the C++ compiler (list of str): $CXX, g++, c++ or clang++; None without one."""
    for candidate in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        command = shlex.split(candidate or "")
        if command and shutil.which(command[0]):
            return command
    return None


class Objects:
    """Object files in one folder, each compiled once however many libraries want it."""

    def __init__(self, compiler, folder):
        """Compiles nothing yet.

        Args:
            compiler: Command, from `find_compiler`.
            folder: Existing folder, str.
        """
        self.compiler = compiler
        self.folder = folder
        self._made = {}

    def compile(self, units):
        """Paths (list of str) of the units' objects, in their order.

        Raises:
            RuntimeError: The compiler fails; the message holds what it said.
        """
        missing = [unit for unit in units if unit.name not in self._made]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for unit, path in zip(missing, pool.map(self._compile, missing)):
                self._made[unit.name] = path
        return [self._made[unit.name] for unit in units]

    def _compile(self, unit):
        target = os.path.join(self.folder, f"{unit.name}.o")
        # A library's own flags come last but for the standard, which the sweeps need too.
        flags = ["-std=c++17", *_FLAGS, *unit.flags]
        run([*self.compiler, *flags, "-c", str(unit.source), "-o", target])
        return target


def run(command):
    """Runs a command (list of str) and returns its output, a str.

    Raises:
        RuntimeError: It fails; the message holds what it said.
    """
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stderr[-2000:]}")
    return result.stdout


def put(made, path):
    """Copies a file to where it is looked for, in one step: nobody ever finds half of it."""
    partial = path.with_suffix(f".{os.getpid()}")
    shutil.copyfile(made, partial)
    os.replace(partial, path)


def remove_stale(folder, pattern, keep):
    """Removes what older sources left behind: files of a pattern, but for those to `keep`."""
    for stale in folder.glob(pattern):
        if stale not in keep:
            stale.unlink(missing_ok=True)
