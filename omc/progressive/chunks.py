"""Chunks: a part on the wire, in pieces that each say what they are and check themselves.

    4   "OMCC"
    4   version, little-endian as all integers
    8   where its bytes stand in the part
    8   length of the whole part
    4   length of its bytes
    32  the part's SHA-256, with which the part ends
    8   SHA-256 of the head before and of the bytes, its first 8 bytes
    -   the bytes

So a receiver knows of every chunk at once whether it is whole, of which part, and where it belongs.
[ours]
"""

import dataclasses
import hashlib
import struct

from omc import checks
from omc.errors import ArtifactError, InputTypeError

VERSION = 1
"""Version of the chunks that are written; newer ones are refused."""

_FIELDS = struct.Struct("<4sIQQI32s")
_MAGIC = b"OMCC"
_CHECK_BYTES = 8

HEAD_BYTES = _FIELDS.size + _CHECK_BYTES
"""Bytes of a chunk beside those of the part."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What a chunk says.

    Attributes:
        part: SHA-256 (hex) of its part.
        offset: Where its bytes stand in the part.
        total: Length of the part.
        data: The bytes, a memoryview; empty where only the head was read.
        length: Their number.
        check: What they have to check to, 8 bytes.
    """

    part: str
    offset: int
    total: int
    data: memoryview
    length: int
    check: bytes


def written(part, offset, total, data):
    """(head, data) of a chunk, bytes each; the head alone is what a download's notes hold.

    Args:
        part: SHA-256 (hex) of the part.
        offset: Where the bytes stand.
        total: Length of the part.
        data: bytes or memoryview.
    """
    fields = _FIELDS.pack(_MAGIC, VERSION, offset, total, len(data), bytes.fromhex(part))
    return fields + _check(fields, data), data


def pieces(data, part, nbytes, start):
    """Yields a part's chunks; see `Part.chunks`.

    Args:
        data: memoryview of the whole part.
        part: Its SHA-256 (hex).
        nbytes: Most bytes of the part in a chunk.
        start: The first byte that is wanted.

    Raises:
        InputTypeError: `nbytes` or `start` is no whole number.
        InputError: Either is out of range.
    """
    for name, value, least, most in (
        ("nbytes", nbytes, 1, (1 << 32) - 1),
        ("start", start, 0, len(data)),
    ):
        checks.integer(name, value, f"a whole number of {least} to {most} bytes", least, most)
    return (
        b"".join(written(part, at, len(data), data[at : at + nbytes]))
        for at in range(start, len(data), nbytes)
    )


def read(chunk):
    """Reads and checks a chunk.

    Args:
        chunk: bytes, bytearray or memoryview.

    Returns:
        `Chunk`.

    Raises:
        InputTypeError: Something else.
        ArtifactError: It is no chunk, truncated, altered, or newer.
    """
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise InputTypeError("chunk", "bytes", type(chunk).__name__)
    view = memoryview(chunk).cast("B")
    found = head(view[:HEAD_BYTES])
    data = view[HEAD_BYTES:]
    if len(data) != found.length:
        raise _unusable(f"{len(data)} bytes of {found.length}")
    if _check(view[: _FIELDS.size], data) != found.check:
        raise _unusable("altered: its checksum is another")
    return dataclasses.replace(found, data=data)


def head(data):
    """Reads a chunk's head; what it checks is seen to by `is_sound`.

    Args:
        data: bytes-like [HEAD_BYTES].

    Returns:
        `Chunk` without data.

    Raises:
        ArtifactError: It is no head, or a newer one.
    """
    if len(data) < HEAD_BYTES or bytes(data[:4]) != _MAGIC:
        raise _unusable("truncated" if _MAGIC.startswith(bytes(data[:4])) else "no chunk")
    _, version, offset, total, length, part = _FIELDS.unpack_from(data)
    if version != VERSION:
        got, tip = f"one of version {version}", "install a newer omc."
        raise ArtifactError("chunk", f"a chunk of version {VERSION}", got, tip)
    if offset + length > total:
        raise _unusable("altered: it ends beyond its part")
    check = bytes(data[_FIELDS.size : HEAD_BYTES])
    return Chunk(part.hex(), offset, total, memoryview(b""), length, check)


def is_sound(head_bytes, data):
    """Whether bytes are those that a head was written for."""
    return _check(head_bytes[: _FIELDS.size], data) == head_bytes[_FIELDS.size :]


def _check(fields, data):
    digest = hashlib.sha256(fields)
    digest.update(data)
    return digest.digest()[:_CHECK_BYTES]


def _unusable(what):
    got = f"one that is {what}"
    return ArtifactError("chunk", "a whole, unaltered chunk", got, "ask for it again.")
