"""Artifacts: variables on disk, in one safetensors file that checks itself.

What is packed stays packed: the buffers of `omc.codecs` are written byte for byte. The layout
is described in docs/wire_format.md. A checksum covers every byte of the file, and writing is
atomic: the file at `path` is the old one or the new one, never a part.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import stat
import uuid
import zlib
from typing import Optional

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from omc import coding
from omc.codecs import Codec
from omc.errors import ArtifactError, InputTypeError
from omc.formats import FP32, Format
from omc.tensor_files import Tensors, read_head

VERSION = 2
"""Newest version of the container. Only files with coded tensors need it; others are of 1."""

LIMIT = 1 << 30
"""Bytes that the coded tensors of a file may take once decoded, unless the reader knows better."""

_VERSION = re.compile(rb'"omc_artifact":"([0-9]{1,9})"')
# Fixed width, so that digest and size can be put in when the file is complete.
_CHECKSUM = re.compile(rb'"checksum":"sha256:([0-9a-f]{64}):([0-9]{16})"')
_BLANK = f"sha256:{'0' * 64}:{'0' * 16}"
_NODE = re.compile(r"^\{\{.*?\}\} ")  # With which TensorFlow's messages begin.
_CHUNK = 1 << 20
_NATIVE = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One variable of an artifact.

    Attributes:
        name: Its name when it was saved; for people, not for matching.
        shape: Shape of the dense variable, a tuple of ints.
        codec: `Codec` of a packed variable, None for a raw one.
        data: Array; the packed buffer (uint8 [codec.nbytes]), or the value, of `shape`.
    """

    name: str
    shape: tuple
    codec: Optional[Codec]
    data: np.ndarray

    @property
    def dtype(self):
        """Name of the dense variable's dtype."""
        return "float32" if self.codec else self.data.dtype.name


@dataclasses.dataclass(frozen=True)
class StoredEntry:
    """As `Entry`, of a file that is open: `data` reads from it, each time anew.

    Attributes:
        name, shape, codec: As in `Entry`.
        dtype: Name of the dense variable's dtype.
        tensors: The file's `Tensors`.
        where: (name of the tensor, first element, number of elements).
    """

    name: str
    shape: tuple
    codec: Optional[Codec]
    dtype: str
    tensors: object
    where: tuple

    @property
    def data(self):
        """Array, as in `Entry`."""
        values = self.tensors.slice(*self.where)
        if self.codec is None:
            return values.view(tf.as_dtype(self.dtype).as_numpy_dtype).reshape(self.shape)
        return values


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What a file holds.

    Attributes:
        kind: What the entries are together, for example "model".
        entries: Tuple of `Entry`, or of `StoredEntry`.
        properties: dict of what holds for all entries, as JSON has it.
    """

    kind: str
    entries: tuple
    properties: dict = dataclasses.field(default_factory=dict)


def write(path, artifact, coded=False):
    """Writes an artifact, atomically.

    Args:
        path: File, str or os.PathLike; an old one is replaced, through a link too.
        artifact: `Artifact`.
        coded: Whether buffers and float32 values go through `omc.coding` where that is shorter.

    Raises:
        InputTypeError: `path` is no path, or a variable holds strings.
        ArtifactError: The file cannot be written; what was there is untouched, nothing is left.
    """
    path = checked_path(path)
    tensors, table = _packed(artifact.entries)
    content = {"entries": table, "properties": artifact.properties}
    names = _encode(tensors, table) if coded else []
    if names:
        content["coded"] = names
    content = json.dumps(content)
    metadata = {
        "omc_artifact": str(VERSION if names else 1),
        "kind": artifact.kind,
        "checksum": _BLANK,
        "content": base64.b64encode(zlib.compress(content.encode(), 9)).decode(),
    }
    with replacing(path) as temporary:
        with open(temporary, "xb"):  # For its mode, which safetensors makes narrower.
            mode = stat.S_IMODE(os.stat(path if os.path.exists(path) else temporary).st_mode)
        safetensors.numpy.save_file(tensors, temporary, metadata)
        os.chmod(temporary, mode)
        _seal(temporary)
        os.replace(temporary, path)


def read(path, kind, limit=LIMIT):
    """Reads an artifact, checking every byte.

    Args:
        path: File, str or os.PathLike.
        kind: The kind that is wanted.
        limit: Most bytes that its coded tensors may take once decoded; checked before they do.

    Returns:
        `Artifact`.

    Raises:
        InputTypeError: `path` is no path.
        ArtifactError: No such file, no artifact, truncated, altered, newer, or of another kind.
    """
    with opened(path, kind, limit) as found:
        entries = tuple(Entry(e.name, e.shape, e.codec, e.data) for e in found.entries)
    return dataclasses.replace(found, entries=entries)


@contextlib.contextmanager
def opened(path, kind, limit=LIMIT):
    """As `read`, a context in which each variable's data is read only when it is asked for.

    Every byte is checked first. Coded tensors are decoded at once, so that whatever is wrong with
    them shows before anything is used. Arguments and errors are those of `read`.

    Yields:
        `Artifact` of `StoredEntry`.
    """
    path = checked_path(path)
    with contextlib.ExitStack() as stack:
        with _telling(path):
            file = stack.enter_context(open(path, "rb"))
            _verify(file, path)
            with safetensors.safe_open(path, framework="np") as checked:
                metadata = checked.metadata()  # It checks the header that `Tensors` reads.
            tensors = Tensors(file)
            content = json.loads(zlib.decompress(base64.b64decode(metadata["content"])))
            _decode(tensors, content, path, limit)
            entries = tuple(_unpacked(content["entries"], tensors))
            found = Artifact(metadata["kind"], entries, content["properties"])
        if found.kind != kind:
            expected = f"an artifact of kind {kind!r}"
            tip = "omc.load reads models, omc.progressive.load reads parts."
            raise ArtifactError("path", expected, f"{path!r} of {found.kind!r}", tip)
        yield found


@contextlib.contextmanager
def _telling(path):
    """Errors of reading become ArtifactErrors."""
    try:
        yield
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(
            "path", "a file that can be read", f"{path!r}: {error.strerror}"
        ) from error
    except (safetensors.SafetensorError, zlib.error, LookupError, TypeError, ValueError) as error:
        raise _unusable(path, f"malformed ({type(error).__name__}: {error})") from error


def checked_path(path):
    """The file's absolute path, links followed.

    Raises:
        InputTypeError: It is no str or os.PathLike.
        ArtifactError: It is there, but no regular file.
    """
    path = _real(path)
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a directory" if os.path.isdir(path) else "no regular file"
        tip = "name a file in it: model.omc, say."
        raise ArtifactError("path", "the path of a file", f"{path!r}, which is {what}", tip)
    return path


def checked_folder(path):
    """The absolute path, links followed, of a folder to make.

    Raises:
        InputTypeError: It is no str or os.PathLike.
        ArtifactError: It is there, but no empty folder.
    """
    path = _real(path)
    if os.path.exists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        tip = "name another, or remove it first."
        raise ArtifactError("path", "a folder that is new or empty", f"{path!r}, which exists", tip)
    return path


def _real(path):
    try:
        return os.path.realpath(os.fsdecode(path))
    except (TypeError, ValueError) as error:
        got = repr(path) if isinstance(path, (str, bytes)) else type(path).__name__
        raise InputTypeError("path", "a path, str or os.PathLike", got) from error


@contextlib.contextmanager
def replacing(path):
    """A name beside `path`, to write a file or folder to and then to move it; gone in any case.

    Args:
        path: Where the result is to stand, an absolute path.

    Raises:
        ArtifactError: For an OSError, or one of safetensors or TensorFlow, inside.
    """
    temporary = os.path.join(os.path.dirname(path), f".omc-{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    except (OSError, safetensors.SafetensorError, tf.errors.OpError) as error:
        raise ArtifactError(
            "path",
            "a place that can be written to, with enough room",
            f"{path!r}: {getattr(error, 'strerror', None) or _NODE.sub('', str(error))}",
            "what was there before is untouched.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if os.path.isdir(temporary) else os.unlink(temporary)


def _packed(entries):
    """(tensors by name, table for the metadata) of entries.

    A packed buffer is a tensor of its own. Raw variables are joined, one tensor a dtype: a header
    of safetensors takes some 70 bytes a tensor, more than many a bias.
    """
    tensors, table, raw = {}, [], {}
    for index, entry in enumerate(entries):
        row = {"name": entry.name, "shape": list(entry.shape)}
        if entry.data.dtype.hasobject:
            got = f"{entry.name!r} of dtype {entry.data.dtype}"
            raise InputTypeError("artifact", "variables of numbers or bools", got)
        if entry.codec:
            tensors[str(index)] = np.ascontiguousarray(entry.data)
            row.update(format=entry.codec.format.name, transform=entry.codec.transform)
        else:
            raw.setdefault(entry.dtype, []).append(np.asarray(entry.data).reshape(-1))
            row.update(dtype=entry.dtype)
        table.append(row)
    for dtype, arrays in raw.items():
        joined = np.concatenate(arrays)
        tensors[dtype] = joined if dtype in _NATIVE else joined.view(np.uint8)
    return tensors, table


def _unpacked(table, tensors):
    """Yields the `StoredEntry`s of a table; the inverse of `_packed`."""
    starts = {}
    for index, row in enumerate(table):
        shape = tuple(row["shape"])
        if "format" in row:
            codec = Codec(Format.parse(row["format"]), shape, row["transform"])
            key, start, count = str(index), 0, codec.nbytes
            if tensors.dtype(key) != np.uint8 or tensors.size(key) != count:
                raise ValueError(f"entry {index} has {tensors.size(key)} bytes, not {count}")
            yield StoredEntry(row["name"], shape, codec, "float32", tensors, (key, start, count))
            continue
        key = row["dtype"]
        start, count = starts.get(key, 0), math.prod(shape)
        starts[key] = start + count
        width = 1 if key in _NATIVE else tf.as_dtype(key).size
        if (start + count) * width > tensors.size(key):
            raise ValueError(f"entry {index} ends beyond its {tensors.size(key)} values")
        if key in _NATIVE and tensors.dtype(key) != np.dtype(key):
            raise ValueError(f"entry {index} of {key} is in a tensor of {tensors.dtype(key)}")
        where = key, start * width, count * width
        yield StoredEntry(row["name"], shape, None, key, tensors, where)


def _encode(tensors, table):
    """Codes, in place, the tensors that it shortens; returns their names."""
    names = []
    for name, codec in _codecs(table).items():
        data = coding.encode_buffer(tensors[name].view(np.uint8), codec)
        if len(data) < tensors[name].nbytes:
            tensors[name] = np.frombuffer(data, np.uint8)
            names.append(name)
    return names


def _decode(tensors, content, path, limit):
    """Restores, in place, the tensors that `_encode` coded."""
    names = content.get("coded", [])
    codecs = _codecs(content["entries"]) if names else {}
    size = sum(codecs[name].nbytes for name in names)
    if size > limit:
        expected = f"an artifact of at most {limit} bytes in coded variables"
        raise ArtifactError("path", expected, f"{path!r}, which says {size}")
    for name in names:
        tensors.decode(name, codecs[name])


def _codecs(table):
    """Dict of tensor's name -> the Codec of what can be coded: buffers, joined float32 values."""
    codecs, values = {}, 0
    for index, row in enumerate(table):
        shape = tuple(row["shape"])
        if "format" in row:
            codecs[str(index)] = Codec(Format.parse(row["format"]), shape, row["transform"])
        elif row["dtype"] == "float32":
            values += math.prod(shape)
    if values:
        codecs["float32"] = Codec(FP32, (values,), transform=False)
    return codecs


def _seal(path):
    """Puts size and digest into a written file and has it on the disk."""
    with open(path, "r+b") as file:
        head, size = read_head(file), os.fstat(file.fileno()).st_size
        place = _CHECKSUM.search(head)
        head[slice(*place.span(2))] = b"%016d" % size
        digest = _digest(head, place, file)
        file.seek(place.start(1))
        file.write(digest + b":%016d" % size)
        file.flush()
        os.fsync(file.fileno())


def _verify(file, path):
    """Raises the ArtifactError of a file that is not, byte for byte, one that `_seal` closed."""
    head, size = read_head(file), os.fstat(file.fileno()).st_size
    version, checksum = _VERSION.search(head), _CHECKSUM.search(head)
    if version and int(version[1]) > VERSION:
        tip = "install a newer omc."
        got = f"{path!r} of version {int(version[1])}"
        raise ArtifactError("path", f"an artifact of version {VERSION} or older", got, tip)
    if not version or not checksum:
        short = head[8:9] == b"{" and size < 8 + int.from_bytes(head[:8], "little")
        raise _unusable(path, "truncated within its head" if short else "no OMC artifact")
    if size != int(checksum[2]):
        what = "truncated" if size < int(checksum[2]) else "altered"
        raise _unusable(path, f"{what}: {size} bytes instead of {int(checksum[2])}")
    if _digest(head, checksum, file) != checksum[1]:
        raise _unusable(path, "altered: its checksum is another")


def _digest(head, checksum, file):
    """Hex digest (bytes) of `head` and what follows it in `file`, with zeros for the digest."""
    start, end = checksum.span(1)
    digest = hashlib.sha256(head[:start] + b"0" * 64 + head[end:])
    for chunk in iter(lambda: file.read(_CHUNK), b""):
        digest.update(chunk)
    return digest.hexdigest().encode()


def _unusable(path, what):
    return ArtifactError(
        "path", "a whole, unaltered OMC artifact", f"{path!r}, which is {what}", "fetch it again."
    )
