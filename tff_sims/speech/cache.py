"""Arrays kept on disk, with a checksum beside them."""

import contextlib
import fcntl
import hashlib
import io
import os
import pathlib
import zipfile

import numpy as np

from omc.errors import ArtifactError


def folder():
    """Where made data is kept: $OMC_CACHE, else $XDG_CACHE_HOME/omc, else ~/.cache/omc."""
    if os.environ.get("OMC_CACHE"):
        return pathlib.Path(os.environ["OMC_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "omc"


def arrays(name, make):
    """Reads arrays from the cache, or makes them and keeps them.

    NAME.npz has a NAME.npz.sha256 beside it, in the format of `sha256sum -c`. A file that is
    absent, truncated or altered is made anew. Writes go to a temporary file that then takes the
    place, and a second process that wants the same name waits for the first.

    Args:
        name: File name without its ending; has to say everything that decides the arrays.
        make: No-arg function that returns a dict of arrays.

    Returns:
        Dict of arrays.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    path = folder() / f"{name}.npz"
    found = _read(path)
    if found is not None:
        return found
    with _writing():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "w", encoding="utf-8")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _read(path)  # Another process may have made it meanwhile.
        if found is None:
            found = make()
            with _writing():
                _write(path, found)
        return found


@contextlib.contextmanager
def _writing():
    try:
        yield
    except OSError as error:
        tip = "set OMC_CACHE to a folder of yours."
        raise ArtifactError("cache", "a folder that can be written", str(error), tip) from error


def _sums(path):
    return path.with_name(path.name + ".sha256")


def _read(path):
    try:
        content = path.read_bytes()
        expected = _sums(path).read_text(encoding="utf-8").split()[0]
        if hashlib.sha256(content).hexdigest() != expected:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, IndexError, UnicodeDecodeError, ValueError, zipfile.BadZipFile):
        return None


def _write(path, content):
    for left in path.parent.glob(f"{path.name}.*"):
        if left.suffix[1:].isdigit():  # Of a process that was killed while it wrote.
            left.unlink()
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    data = buffer.getvalue()
    # The sum last: without it the arrays do not count.
    _sums(path).unlink(missing_ok=True)
    _replace(path, data)
    _replace(_sums(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())


def _replace(path, data):
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
