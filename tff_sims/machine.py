"""The machine: what a result was measured on, and how memory is had from it."""

import ctypes
import os
import pathlib
import platform
import signal

_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies.


def processor():
    """The processor's name, with the wide instructions that it has."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    wide = [name for name in ("avx2", "avx512f") if name in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.processor()), *wide])


def end_with_parent():
    """Has this process end (SIGTERM) when the one that started it does, however that dies.

    Linux only; elsewhere nothing happens.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def few_heaps():
    """Has glibc keep two heaps instead of one for each thread, all of which grow over the rounds.

    Call it before TensorFlow starts its threads. MALLOC_ARENA_MAX in the environment takes
    precedence; with another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(-8, 2)  # M_ARENA_MAX
