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

VERSION = 2
"""Newest version of the container. Only files with coded tensors need it; others are of 1."""

LIMIT = 1 << 30
"""Bytes that the coded tensors of a file may take once decoded, unless the reader knows better."""

_VERSION = re.compile(rb'"omc_artifact":"([0-9]{1,9})"')
# Fixed width, so that digest and size can be put in when the file is complete.
_CHECKSUM = re.compile(rb'"checksum":"sha256:([0-9a-f]{64}):([0-9]{16})"')
_BLANK = f"sha256:{'0' * 64}:{'0' * 16}"
_NODE = re.compile(r"^\{\{.*?\}\} ")  # With which TensorFlow's messages begin.
_LONGEST_HEADER = 100_000_000  # The format's own limit.
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
class Artifact:
    """What a file holds.

    Attributes:
        kind: What the entries are together, for example "model".
        entries: Tuple of Entry.
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
    path = checked_path(path)
    try:
        with open(path, "rb") as file:
            _verify(file, path)
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        content = json.loads(zlib.decompress(base64.b64decode(metadata["content"])))
        _decode(tensors, content, path, limit)
        entries = tuple(_unpacked(content["entries"], tensors))
        found = Artifact(metadata["kind"], entries, content["properties"])
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(
            "path", "a file that can be read", f"{path!r}: {error.strerror}"
        ) from error
    except (safetensors.SafetensorError, zlib.error, LookupError, TypeError, ValueError) as error:
        raise _unusable(path, f"malformed ({type(error).__name__}: {error})") from error
    if found.kind != kind:
        raise ArtifactError("path", f"an artifact of kind {kind!r}", f"{path!r} of {found.kind!r}")
    return found


def checked_path(path):
    """The file's absolute path, links followed.

    Raises:
        InputTypeError: It is no str or os.PathLike.
        ArtifactError: It is there, but no regular file.
    """
    path = _real(path)
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a directory" if os.path.isdir(path) else "no regular file"
        raise ArtifactError("path", "the path of a file", f"{path!r}, which is {what}")
    return path


def checked_folder(path):
    """The absolute path, links followed, of a folder to make.

    Raises:
        InputTypeError: It is no str or os.PathLike.
        ArtifactError: It is there, but no empty folder.
    """
    path = _real(path)
    if os.path.exists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise ArtifactError("path", "a folder that is new or empty", f"{path!r}, which exists")
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
    """Yields the entries of a table; the inverse of `_packed`."""
    starts = dict.fromkeys(tensors, 0)
    for index, row in enumerate(table):
        shape = tuple(row["shape"])
        if "format" in row:
            codec = Codec(Format.parse(row["format"]), shape, row["transform"])
            data = tensors.pop(str(index))
            if data.dtype != np.uint8 or data.shape != (codec.nbytes,):
                raise ValueError(f"entry {index} has {data.nbytes} bytes, not {codec.nbytes}")
            yield Entry(row["name"], shape, codec, data)
            continue
        key = row["dtype"]
        values = tensors[key] if key in _NATIVE else _as_dtype(tensors[key], key)
        count, start = int(np.prod(shape, dtype=np.int64)), starts[key]
        starts[key] += count
        yield Entry(row["name"], shape, None, values[start : start + count].reshape(shape))


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
        buffer = coding.decode_buffer(tensors[name], codecs[name])
        tensors[name] = buffer.view(np.float32) if codecs[name].format.is_fp32 else buffer


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


def _as_dtype(octets, name):
    return octets.view(tf.as_dtype(name).as_numpy_dtype)


def _seal(path):
    """Puts size and digest into a written file and has it on the disk."""
    with open(path, "r+b") as file:
        head, size = _head(file), os.fstat(file.fileno()).st_size
        place = _CHECKSUM.search(head)
        head[slice(*place.span(2))] = b"%016d" % size
        digest = _digest(head, place, file)
        file.seek(place.start(1))
        file.write(digest + b":%016d" % size)
        file.flush()
        os.fsync(file.fileno())


def _verify(file, path):
    """Raises the ArtifactError of a file that is not, byte for byte, one that `_seal` closed."""
    head, size = _head(file), os.fstat(file.fileno()).st_size
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


def _head(file):
    """Length and header of a safetensors file (bytearray), as far as they are there."""
    head = file.read(8)
    return bytearray(head + file.read(min(int.from_bytes(head, "little"), _LONGEST_HEADER)))


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
