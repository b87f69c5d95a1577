"""What a result was measured on."""

import pathlib
import platform


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
