"""Native ops inside TFF's unmodified `worker_binary`, where simulated clients train.

What is relied on. The worker of the pinned TFF 0.87.0 links TensorFlow 2.14 statically and exports
none of it, so `tf.load_op_library`'s way is closed to it. But it is no different inside: a library
that is compiled against the same headers and whose undefined symbols are set to the places where
the worker has them can register its ops there as in any TensorFlow. Three things must hold, and
each is checked, or the worker runs on without the ops (slower, the same results):

- *It is that worker*, by its build id (`BUILD_ID`): before it is started (`environment`), and in
  the worker itself before anything is touched (`bind.cc`).
- *Every symbol is there*: `build.py` reads the worker's symbol table and writes the address of each
  symbol that the ops need into the library; one that is missing fails the build.
- *Its structures are ours.* The worker was built with a later Abseil than TensorFlow's headers
  bring. Two differences matter: the inline namespace of all its names, lts_20230802 for
  lts_20230125; and `absl::Duration`, which has the alignment 4 instead of 8 and so moves two fields
  of `OpKernelContext::Params` (device 0x30 -> 0x28, inputs 0xb0 -> 0xa8). `build.py` compiles the
  ops with an overlay of the two headers; `layout.h` asserts the offsets.

That the ops then compute the right bits is checked from outside, for each worker to which a
runtime connects (`omc.learning.worker_ops`).

How it comes in. LD_PRELOAD holds a small library (`preload.cc`), which wraps the C library's
`__libc_start_main`: just before the worker's `main` it loads the ops, binds them and runs their
constructors (`bind.cc`), then takes both variables out of the environment, so that nothing that the
worker starts inherits them. Another worker than this one needs a new look at the three things:
`nm`, and a disassembly of any kernel's `Compute` for the two offsets.
"""

import hashlib
import importlib.util
import os
import pathlib
import platform
import struct
import sys

from omc.kernels import compiling

BUILD_ID = "ebc6e8a53811b09dfb65e05c4e78fdfb7af7aed6"
"""Of the worker in the wheel of TFF 0.87.0 for x86-64 Linux."""

SWITCH = "OMC_WORKER_OPS"
"""Environment variable; 0 leaves workers that are started or connected to without the ops."""

FOLDER = pathlib.Path(__file__).parent
_PRELOAD, _LIBRARY = "LD_PRELOAD", "OMC_WORKER_LIBRARY"
_OWN_SOURCES = ("build.py", "bind.cc", "layout.h", "preload.cc")
_PT_NOTE, _NT_GNU_BUILD_ID = 4, 3


class Unavailable(Exception):
    """Why a worker goes without the ops, in a few words. No mistake: the pure path serves."""


def switched_off():
    """Whether the user wants workers without the ops."""
    return os.environ.get(SWITCH) == "0"


def environment():
    """Environment variables (dict) that bring the ops into a worker; LD_PRELOAD keeps the user's.

    Raises:
        Unavailable: There are no ops for this worker, or the user wants none.
    """
    if switched_off():
        raise Unavailable(f"{SWITCH}=0")
    try:
        check_machine()
        preload, library = paths()
        if not all(path.exists() for path in (preload, library, digests())):
            raise Unavailable("they are not built: python -m omc.kernels.build")
        if not whole():
            raise Unavailable(f"{library.name} is damaged: python -m omc.kernels.build")
    except OSError as error:
        raise Unavailable(str(error)) from error
    if any(separator in str(preload) for separator in ": "):
        raise Unavailable(f"{_PRELOAD} takes no path with a space or a colon: {preload.parent}")
    others = os.environ.get(_PRELOAD)
    preloads = f"{preload}:{others}" if others else str(preload)
    return {_PRELOAD: preloads, _LIBRARY: str(library)}


def check_machine():
    """Raises `Unavailable` unless this is x86-64 Linux with glibc and TFF's worker is ours."""
    if sys.platform != "linux" or not compiling.X86 or platform.libc_ver()[0] != "glibc":
        raise Unavailable("they are for x86-64 Linux with glibc alone")
    found = build_id(binary())
    if found != BUILD_ID:
        raise Unavailable(f"TFF's worker has the build id {found}, not TFF 0.87.0's {BUILD_ID}")


def binary():
    """Path of the installed TFF's worker; TFF itself is not imported.

    Raises:
        Unavailable: There is none.
    """
    spec = importlib.util.find_spec("tensorflow_federated")
    path = pathlib.Path(spec.origin).parent / "data" / "worker_binary" if spec else None
    if path is None or not path.exists():
        raise Unavailable("TensorFlow Federated is not installed")
    return path


def build_id(path):
    """Build id of an ELF64 file as hex digits, or None: what the linker made of its content."""
    with open(path, "rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":
            return None
        (offset,) = struct.unpack_from("<Q", header, 32)  # Of the segments' table.
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        segments = file.read(size * count)
        for start in range(0, size * count, size):
            kind, _, place, _, _, length = struct.unpack_from("<IIQQQQ", segments, start)
            if kind == _PT_NOTE:
                file.seek(place)
                found = _note(file.read(length))
                if found:
                    return found
    return None


def _note(notes):
    """Build id in a segment of notes, which are name, content and their lengths, or None."""
    start = 0
    while start + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, start)
        name = start + 12
        content = name + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[content : content + size].hex()
        start = content + (size + 3) // 4 * 4
    return None


def paths():
    """Where the preloaded library and that of the ops lie, for these sources (pathlib.Path)."""
    sources = [FOLDER / name for name in _OWN_SOURCES]
    digest = compiling.digest(BUILD_ID, sources=sources)
    return tuple(FOLDER / f"libomc-{part}-{digest}.so" for part in ("preload", "worker"))


def digests():
    """Where their digests lie, in the form of `sha256sum`; written last."""
    return paths()[1].with_suffix(".sha256")


def whole():
    """Whether the libraries are there as they were built."""
    files = paths()
    if not all(path.exists() for path in (*files, digests())):
        return False
    return digests().read_bytes() == sha256sums(*files)


def sha256sums(*files):
    """What `sha256sum` prints for these files, by their names alone (bytes)."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    return "".join(lines).encode()
