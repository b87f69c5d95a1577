"""Builds the libraries for TFF's worker; `python -m omc.kernels.build` calls it.

The ops are compiled against TensorFlow's headers with an overlay, and linked twice: once to learn
which symbols nobody but the worker has, then with the table of where the worker has them.
"""

import os
import shutil

import tensorflow as tf

from omc.kernels import compiling, worker
from omc.kernels.compiling import Unit

# Header, what TensorFlow's has and what the worker was built with; see the package's docstring.
_OVERLAY = (
    ("absl/base/options.h", "lts_20230125", "lts_20230802"),
    (
        "absl/time/time.h",
        "  int64_t rep_hi_;\n",
        "  typedef int64_t Aligned4 __attribute__((aligned(4)));\n  Aligned4 rep_hi_;\n",
    ),
)
_TOOLS = ("nm", "objcopy", "readelf")
# A section that the dynamic linker does not know: these constructors run when bind.cc says so.
_SET_ASIDE = ".init_array=omc_constructors,alloc,load,data,contents"
# Places that bind.cc can fill: a pointer, and the two kinds of entries in the table of addresses.
_RELOCATIONS = {"R_X86_64_64", "R_X86_64_GLOB_DAT", "R_X86_64_JUMP_SLOT"}


def build(objects):
    """Builds both libraries unless they are there and whole.

    Args:
        objects: `compiling.Objects`.

    Returns:
        pathlib.Path of the one with the ops.

    Raises:
        Unavailable: Not for this machine, this TFF, or these tools.
        RuntimeError: The compiler fails, or the worker lacks a symbol.
    """
    preload, library = worker.paths()
    digests = worker.digests()
    if worker.whole():
        return library
    worker.check_machine()
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if missing:
        raise worker.Unavailable(f"no {missing[0]}: install binutils")
    compiling.put(_preload(objects), preload)
    compiling.put(_library(objects), library)
    sums = os.path.join(objects.folder, digests.name)
    with open(sums, "wb") as file:
        file.write(worker.sha256sums(preload, library))
    compiling.put(sums, digests)
    compiling.remove_stale(worker.FOLDER, "libomc-*", {preload, library, digests})
    return library


def _preload(objects):
    made = objects.compile([Unit("preload.cc", worker.FOLDER / "preload.cc", ("-fno-exceptions",))])
    # As needed: it calls nothing of C++'s library, which must not come in before the worker's.
    return _link(objects, "preload.so", made, ["-Wl,--as-needed", "-ldl"])


def _library(objects):
    flags = ("-I" + _overlay(objects.folder), *tf.sysconfig.get_compile_flags())
    flags += ("-include", str(worker.FOLDER / "layout.h"), "-DOMC_SIDE_BY_SIDE")
    units = [Unit(f"worker-{name}", compiling.FOLDER / name, flags) for name in compiling.OPS]
    ops, plain = objects.compile(units), objects.compile(compiling.plain_units())
    wanted = _unresolved(_link(objects, "unbound.so", [*ops, *plain], []))
    symbols = _symbols(wanted)
    names = os.path.join(objects.folder, "symbols.txt")
    with open(names, "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in symbols)
    for path in ops:
        # Weak: for others that it cannot find, the dynamic linker refuses the whole library.
        compiling.run(
            ["objcopy", f"--weaken-symbols={names}", f"--rename-section={_SET_ASIDE}", path]
        )
    with open(os.path.join(objects.folder, "symbols.h"), "w", encoding="utf-8") as file:
        file.write(f'constexpr char kBuildId[] = "{worker.BUILD_ID}";\n')
        file.write("constexpr Symbol kSymbols[] = {\n")
        file.writelines(f'    {{"{name}", {address:#x}}},\n' for name, address in symbols.items())
        file.write("};\n")
    flags = ("-I" + objects.folder,)
    bind = objects.compile([Unit("bind.cc", worker.FOLDER / "bind.cc", flags)])
    exported = os.path.join(objects.folder, "exported.txt")
    with open(exported, "w", encoding="utf-8") as file:
        file.write("{ global: omc_worker_ops; local: *; };\n")
    # Whatever the compiler is set up to do: bind.cc fills the table of addresses, so it must be
    # neither filled nor closed to writing before.
    flags = ["-Wl,-z,lazy", "-Wl,-z,norelro", f"-Wl,--version-script={exported}"]
    linked = _link(objects, "worker.so", [*ops, *plain, *bind], flags)
    _check_relocations(linked, symbols)
    return linked


def _overlay(folder):
    """Folder of headers that come before TensorFlow's."""
    overlay = os.path.join(folder, "overlay")
    for name, old, new in _OVERLAY:
        with open(os.path.join(tf.sysconfig.get_include(), name), encoding="utf-8") as file:
            text = file.read()
        if text.count(old) != 1:
            raise RuntimeError(f"{name} of this TensorFlow is not the one of 2.14")
        target = os.path.join(overlay, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new))
    return overlay


def _link(objects, name, made, flags):
    linked = os.path.join(objects.folder, name)
    compiling.run([*objects.compiler, "-shared", *made, "-o", linked, *flags])
    return linked


def _unresolved(library):
    """Names of the symbols that neither the library has nor those that it is linked with."""
    lines = compiling.run(["nm", "--dynamic", "--undefined-only", library]).splitlines()
    found = {tuple(line.split()[-2:]) for line in lines}
    # With a version ("malloc@GLIBC_2.2.5"): found. Weak ones are the compiler's, and may be absent.
    return sorted(name for kind, name in found if kind == "U" and "@" not in name)


def _symbols(wanted):
    """Dict from name to address in the worker, from its first byte."""
    wanted, found = set(wanted), {}
    for line in compiling.run(["nm", "--defined-only", str(worker.binary())]).splitlines():
        address, kind, name = line.split(maxsplit=2)
        if name in wanted and (kind.isupper() or kind in "uvw"):
            found[name] = int(address, 16)
    missing = sorted(wanted - set(found))
    if missing:
        raise RuntimeError(f"TFF's worker lacks {', '.join(missing[:5])}")
    return found


def _check_relocations(library, symbols):
    for line in compiling.run(["readelf", "--relocs", "--wide", library]).splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[4] in symbols and fields[2] not in _RELOCATIONS:
            raise RuntimeError(f"{fields[4]} in a place of type {fields[2]}")
