"""Parts: a base, a delta or an update as bytes, on disk or on the wire.

    4   "OMCP"
    4   version, little-endian as all integers
    8   length of the whole part
    4   length of the header
    -   header: JSON, zlib
    -   payload: the streams of the header's entries, one after another
    32  SHA-256 of everything before

docs/progressive.md says what the header holds. Nothing is decoded, and hardly anything allocated,
before the checksum is seen to be right.
"""

import dataclasses
import hashlib
import json
import math
import mmap
import os
import re
import struct
import zlib
from typing import Optional

from omc import artifacts
from omc.codecs import Codec
from omc.errors import ArtifactError, InputTypeError, OmcError
from omc.formats import FP32, Format
from omc.keras import nesting
from omc.policies import Policy
from omc.progressive import chunks, streams
from omc.progressive.stages import checked_name, is_mixed

VERSION = 4
"""Newest version of the parts; newer are refused.

4 with BatchNorm statistics of each stage, 3 with mixed stages, 2 of updates, 1 else.
"""

_HEAD = struct.Struct("<4sIQI")
_MAGIC = b"OMCP"
_DIGEST_BYTES = 32
_LONGEST_HEADER = 1 << 26
_CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MALFORMED = (ValueError, OverflowError, RecursionError)  # Of JSON from whoever sealed it.


@dataclasses.dataclass(frozen=True)
class Entry:
    """One variable of a part.

    Attributes:
        place: Its place in `omc.keras.saving.stored_order`.
        name: Its name when it was split; for people, not for matching.
        shape: Shape of the dense variable, a tuple of ints.
        codec: `Codec` that it has from this stage on; None for a raw variable.
        dtype: Name of its dtype.
        sizes: Lengths of its trailer and of each segment's stream; () for a raw variable.
    """

    place: int
    name: str
    shape: tuple
    codec: Optional[Codec]
    dtype: str
    sizes: tuple = ()


class Part:
    """A base, a delta or an update; made by `omc.progressive.split`, `load` and `from_bytes`.

    Attributes:
        kind: "base"; "delta"; or "update", the first part of a chain on another one.
        index: Place in the chain, from 0.
        stage: Name of the format that the model has once the part is applied, or "mixed-3.87" where
            variables differ, with 3.87 bits a weight on average.
        stages: Names of all stages of the chain, a tuple.
        base_digest: Digest (hex) of the exact state that it applies to; None for a base.
        digest: Digest (hex) of the exact state that it leads to.
        entries: Tuple of `Entry`: all variables in a base, otherwise those that change.
        sha256: SHA-256 (hex) of its bytes, with which it ends: the part's address.
        calibrated: Whether every stage of the chain has BatchNorm statistics of its own.
        properties: dict of what holds for the model, as JSON has it.
    """

    def __init__(self, data, source="a part"):
        """Reads and checks a part; use `from_bytes` or `load`.

        Args:
            data: bytes, or a memory-mapped file.
            source: What to call it in messages.

        Raises:
            ArtifactError: It is no part, truncated, altered, or newer.
        """
        self._data = memoryview(data)
        payload, header = _checked(self._data, source)
        try:
            self.kind, self.index = header["kind"], int(header["index"])
            self.stages = tuple(map(checked_name, header["stages"]))
            self.stage = self.stages[self.index]
            self.base_digest, self.digest = header["base"], header["digest"]
            digests = [self.digest] + [self.base_digest] * (self.base_digest is not None)
            if not all(map(_is_digest, digests)):
                raise ValueError("digests that are none")
            self.properties = dict(header["properties"])
            self.calibrated = bool(header.get("calibrated", False))
            self.entries = tuple(_entry(row) for row in header["entries"])
            self._raw = {str(d): (int(n), bool(c)) for d, n, c in header["raw"]}
            self._starts, size = {}, payload
            for dtype, (length, _) in self._raw.items():
                self._starts[dtype], size = size, size + length
            for entry in self.entries:
                self._starts[entry.place], size = size, size + sum(entry.sizes)
            whole = "base" if self.base_digest is None else "update"
            if self.kind != ("delta" if self.index else whole) or self.index < 0:
                raise ValueError("a kind that does not fit its place")
            if self.index and self.base_digest is None:
                raise ValueError("a delta on nothing")
            _, version, *_ = _HEAD.unpack_from(self._data)
            if version != _version(self.kind, self.stages, self.calibrated):
                raise ValueError("a version that does not fit its stages")
            self.sha256 = bytes(self._data[-_DIGEST_BYTES:]).hex()
            if size != len(self._data) - _DIGEST_BYTES:
                raise ValueError("a payload of another length")
            if self.kind == "base":
                _check_properties(self.properties, len(self.entries))
        except (*_MALFORMED, OmcError, LookupError, TypeError) as error:
            raise _unusable(source, f"malformed ({type(error).__name__}: {error})") from error

    @classmethod
    def from_bytes(cls, data):
        """The part that bytes from the wire are.

        Args:
            data: bytes, bytearray or memoryview.

        Raises:
            InputTypeError: Something else.
            ArtifactError: They are no part, truncated, altered, or newer.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InputTypeError("data", "bytes", type(data).__name__)
        return cls(bytes(data))

    @staticmethod
    def load(path):
        """As `omc.progressive.load`."""
        return load(path)

    @property
    def nbytes(self):
        """Length of the serialized bytes."""
        return len(self._data)

    def __bytes__(self):
        return bytes(self._data)

    def chunks(self, nbytes=65536, start=0):
        """The part in pieces for the wire, each made when it is asked for (`Download` takes them).

        Args:
            nbytes: Most bytes of the part in one chunk; `omc.progressive.chunks.HEAD_BYTES` more
                say where they belong, and check them.
            start: First byte that is wanted: `Download.offset` of who has some already.

        Returns:
            Iterator of bytes.

        Raises:
            InputTypeError: `nbytes` or `start` is no whole number.
            InputError: Either is out of range.
        """
        return chunks.pieces(self._data, self.sha256, nbytes, start)

    def save(self, path):
        """Writes the part, atomically: `path` is the old file or the new one, on the disk.

        Args:
            path: File, str or os.PathLike.

        Raises:
            InputTypeError: `path` is no path.
            ArtifactError: It cannot be written; what was there is untouched.
        """
        path = artifacts.checked_path(path)
        with artifacts.replacing(path) as temporary:
            with open(temporary, "xb") as file:
                file.write(self._data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(os.path.dirname(path))

    def streams(self, entry):
        """The streams of a packed entry, a list of memoryviews."""
        start, found = self._starts[entry.place], []
        for size in entry.sizes:
            found.append(self._data[start : start + size])
            start += size
        return found

    def raw(self, dtype):
        """(memoryview, whether it is coded) of the joined raw variables of a dtype."""
        length, coded = self._raw[dtype]
        start = self._starts[dtype]
        return self._data[start : start + length], coded

    def __repr__(self):
        return f"<omc.progressive.Part {self.index}: {self.kind} {self.stage}, {self.nbytes} bytes>"


def load(path):
    """Reads a part's file, checking every byte; it stays on disk, mapped into memory.

    Args:
        path: File, str or os.PathLike, which must not be written to while the part is in use.

    Returns:
        `Part`.

    Raises:
        InputTypeError: `path` is no path.
        ArtifactError: No such file, no part, truncated, altered, or newer.
    """
    path = artifacts.checked_path(path)
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise _unusable(repr(path), "empty")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        got = f"{path!r}: {error.strerror}"
        raise ArtifactError("path", "a file that can be read", got) from error
    return Part(data, repr(path))


def assemble(
    kind, index, stages, base, digest, properties, entries, raw, payload, calibrated=False
):
    """Makes a part.

    Args:
        kind, index, stages, properties, entries, calibrated: As the attributes of `Part`.
        base, digest: Digests (hex) of the states before (or None) and after.
        raw: List of (dtype, bytes, whether they are coded).
        payload: List of the entries' streams (bytes), in order.

    Returns:
        `Part`.
    """
    header = {
        "kind": kind,
        "index": index,
        "stages": list(stages),
        "base": base,
        "digest": digest,
        "properties": properties,
        "raw": [[dtype, len(data), coded] for dtype, data, coded in raw],
        "entries": [_row(entry) for entry in entries],
        **({"calibrated": True} if calibrated else {}),
    }
    header = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    body = b"".join([header, *(data for _, data, _ in raw), *payload])
    length = _HEAD.size + len(body) + _DIGEST_BYTES
    head = _HEAD.pack(_MAGIC, _version(kind, stages, calibrated), length, len(header))
    digest = hashlib.sha256(head)
    digest.update(body)
    return Part(b"".join([head, body, digest.digest()]))


def _version(kind, stages, calibrated):
    """Version that a part is of: the oldest that knows all of it."""
    if calibrated:
        return 4
    return 3 if any(map(is_mixed, stages)) else 2 if kind == "update" else 1


def sync_folder(path):
    """Has a folder's names on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _row(entry):
    row = [entry.place, entry.name, list(entry.shape)]
    if entry.codec is None:
        return [*row, entry.dtype]
    return [*row, entry.codec.format.name, entry.codec.transform, list(entry.sizes)]


def _entry(row):
    place, name, shape = int(row[0]), str(row[1]), tuple(int(size) for size in row[2])
    if place < 0 or min(shape, default=0) < 0 or math.prod(shape) >= 1 << 40:
        raise ValueError("a place or shape out of range")
    if len(row) == 4:
        return Entry(place, name, shape, None, str(row[3]))
    fmt = Format.parse(row[3])
    codec = Codec(fmt, shape, bool(row[4]))
    sizes = tuple(int(size) for size in row[5])
    packed = not fmt.is_fp32 and codec.transform
    if min(sizes) < 0 or sizes[0] != packed * streams.TRAILER_BYTES:
        raise ValueError("streams out of range")
    if len(sizes) != 1 + len(streams.segments(codec)):
        raise ValueError("another number of segments")
    return Entry(place, name, shape, codec, "float32", sizes)


def _is_digest(value):
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _check_properties(properties, count):
    """Raises for properties of a base that no `split` writes; `count` are its variables."""
    Policy(FP32, rounding=properties["rounding"], seed=properties["seed"])
    structure = properties.get("nesting")
    if structure is not None:
        nesting.check_described(structure, count)
        Format.parse(structure["format"])


def _checked(data, source):
    """(Where the payload begins, header as JSON) of a part whose every byte is right."""
    if len(data) < _HEAD.size + _DIGEST_BYTES or bytes(data[:4]) != _MAGIC:
        raise _unusable(source, "truncated" if _MAGIC.startswith(bytes(data[:4])) else "no part")
    _, version, length, header_length = _HEAD.unpack_from(data)
    if version > VERSION:
        got, tip = f"{source} of version {version}", "install a newer omc."
        raise ArtifactError("part", f"a part of version {VERSION} or older", got, tip)
    if length != len(data):
        what = "truncated" if len(data) < length else "altered"
        raise _unusable(source, f"{what}: {len(data)} bytes instead of {length}")
    digest, end = hashlib.sha256(), len(data) - _DIGEST_BYTES
    for start in range(0, end, _CHUNK):
        digest.update(data[start : min(start + _CHUNK, end)])
    if digest.digest() != bytes(data[end:]):
        raise _unusable(source, "altered: its checksum is another")
    payload = _HEAD.size + header_length
    try:
        unpacker = zlib.decompressobj()
        header = unpacker.decompress(data[_HEAD.size : payload], _LONGEST_HEADER)
        if version < 1 or not unpacker.eof or payload > end:
            raise ValueError("a header out of range")
        return payload, json.loads(header)
    except (zlib.error, *_MALFORMED) as error:
        raise _unusable(source, f"malformed ({type(error).__name__}: {error})") from error


def _unusable(source, what):
    got = f"{source}, which is {what}"
    return ArtifactError("part", "a whole, unaltered part", got, "fetch it again.")
