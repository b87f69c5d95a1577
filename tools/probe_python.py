"""Says whether the interpreter running it can hold OMC's environment (for find_python.sh).

Prints "ok" and exits 0, or prints what it is instead and exits 1. Runs on any Python, 2.7 included,
since an unfit interpreter is exactly what it has to survive.
"""

import os
import platform
import sys


def _verdict():
    implementation = platform.python_implementation()
    version = implementation + " " + platform.python_version()
    if implementation != "CPython" or not (3, 9) <= sys.version_info[:2] <= (3, 11):
        return version
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return version + " on " + platform.system() + " " + platform.machine()
    if sys.maxsize <= 2**32:
        return version + ", 32-bit"
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        libc = ""
    if not libc.startswith("glibc "):
        return version + " without glibc"
    if tuple(int(part) for part in libc.split()[1].split(".")[:2]) < (2, 31):
        return version + " with " + libc
    try:
        import ensurepip
        import venv  # noqa: F401

        ensurepip.version()
    except Exception:  # Distributions strip these modules in several ways.
        return version + " without venv or ensurepip"
    return "ok"


if __name__ == "__main__":
    verdict = _verdict()
    print(verdict)
    sys.exit(verdict != "ok")
