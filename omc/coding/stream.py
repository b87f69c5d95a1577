"""The coded stream, version 1: symbols of any shape <-> bytes, in numpy. The specification.

    0xC1 | crc32, 4 bytes LE | form | rank, extents | attachment | low, k | alphabet - 1, words |
    states, 4 bytes LE a lane | words, 2 bytes LE each | raw bits

`form` holds the kind (bits 0, 1: plain, shifted, hybrid), log2 of the lanes (bits 2 to 5) and
whether there are contexts (bit 6). Rank, extents, the attachment's length, and the count of words
are varints (7 bits a byte, lowest first, as short as can be); `low` is one after zigzag. k (one
byte) and `low` are absent in hybrid streams; alphabet (one byte), words and states in plain ones,
where all bits of v - low are raw. The checksum covers every other byte, then the contexts, and
begins with a number that both ends agree on.

docs/coding.md says why; omc/kernels/coder.cc is the fast form, to the last byte.
"""

import dataclasses
import math
import zlib

import numpy as np

from omc.coding import lanes as rans
from omc.coding import tables
from omc.coding import tokens as binary
from omc.errors import CodingError

VERSION = 1
"""Version of the stream that is written; newer ones are refused."""

LONGEST_ATTACHMENT = 255
LARGEST_RANK = 8
_PLAIN, _SHIFTED, _HYBRID = range(3)
_ALPHABET = 256
_LOG2_MOST_LANES = 8
_LOG2_SAMPLE = 16  # Plans are made on so many symbols.
_BYTES_A_LANE = 1024  # A lane costs three bytes, so that this is 0.3 %.
_LOG2_MOST_STEPS = 16  # A lane's symbols, where all lanes are in use.
_HEAD = 6


def encode(symbols, contexts=None, attachment=b"", start=0):
    """Coded bytes of symbols.

    Args:
        symbols: int32 array.
        contexts: uint8 array of the same size, or None.
        attachment: Up to 255 bytes that go along as they are.
        start: Number below 2^32 that the decoder has to know, for example a checksum of what it
            is to have.
    """
    shape, symbols = symbols.shape, symbols.reshape(-1)
    contexts = None if contexts is None or not symbols.size else contexts.reshape(-1)
    head = _varint(len(shape)) + b"".join(map(_varint, shape))
    head += _varint(len(attachment)) + attachment
    low = int(symbols.min(initial=2**31 - 1)) if symbols.size else 0
    offsets = symbols.view(np.uint32) - np.uint32(low & 0xFFFFFFFF)
    width = int(offsets.max(initial=0)).bit_length()
    low_bytes = _varint(2 * low if low >= 0 else -2 * low - 1)
    plain = low_bytes + bytes([width])
    plain += binary.pack_bits(offsets, width).tobytes()
    form, body = _PLAIN, plain
    coded = _coded(symbols, offsets, contexts, low_bytes) if symbols.size else None
    if coded and len(coded[1]) < len(plain):
        form, body = coded
    head = bytes([form | (0 if contexts is None else 64)]) + head
    return _sealed(head + body, contexts, start)


def _coded(symbols, offsets, contexts, low_bytes):
    """(form without the flag of contexts, body) of symbols that are modelled."""
    kind, shift, alphabet, log2_lanes = _plan(symbols, offsets)
    if kind == _SHIFTED:
        tokens, raw, widths = binary.shifted(offsets, shift)
        head = low_bytes + bytes([shift])
    else:
        tokens, raw, widths = binary.hybrid(symbols)
        head = b""
    states, words = rans.encode(tokens, alphabet, contexts, 1 << log2_lanes)
    head += bytes([alphabet - 1]) + _varint(len(words))
    body = head + states.tobytes() + words.tobytes() + binary.pack_bits(raw, widths).tobytes()
    return kind | log2_lanes << 2, body


def _plan(symbols, offsets):
    """(kind, shift, alphabet, log2 of the lanes): what a sample says takes the fewest bits."""
    most = int(offsets.max())
    shift = max(0, most.bit_length() - 8)
    kind, alphabet = _SHIFTED, (most >> shift) + 1
    stride = max(len(symbols) >> _LOG2_SAMPLE, 1)
    tokens, _, _ = binary.shifted(offsets[::stride], shift)
    bits = tables.entropy_bits(np.bincount(tokens))
    if shift:
        other, _, widths = binary.hybrid(symbols[::stride])
        other_bits = tables.entropy_bits(np.bincount(other))
        if other_bits + int(widths.sum(dtype=np.int64)) < bits + shift * len(tokens):
            ends = np.array([symbols.min(), symbols.max()])
            kind, alphabet, bits = _HYBRID, int(binary.hybrid(ends)[0].max()) + 1, other_bits
    wanted = _log2_lanes(bits * stride // (8 * _BYTES_A_LANE))
    return kind, shift, alphabet, max(wanted, _fewest_log2_lanes(len(symbols)))


def _fewest_log2_lanes(count):
    """log2 of the lanes that so many symbols have at least, so that decoding takes few steps."""
    return _log2_lanes(count >> _LOG2_MOST_STEPS)


def _log2_lanes(number):
    return min(max(number, 1).bit_length() - 1, _LOG2_MOST_LANES)


def _sealed(rest, contexts, start):
    head = bytes([0xC0 | VERSION])
    return head + _checksum(head, rest, contexts, start).to_bytes(4, "little") + rest


def _checksum(head, rest, contexts, start):
    crc = zlib.crc32(rest, zlib.crc32(head, start))
    return crc if contexts is None else zlib.crc32(contexts.tobytes(), crc)


@dataclasses.dataclass(frozen=True)
class Head:
    """What stands before the body of a stream.

    Attributes:
        kind: Plain, shifted or hybrid.
        lanes: Number of lanes.
        has_contexts: Whether symbols were coded given contexts.
        shape: Shape of the symbols.
        attachment: Bytes.
        body: Where the body begins.
    """

    kind: int
    lanes: int
    has_contexts: bool
    shape: tuple
    attachment: bytes
    body: int


def read_head(data):
    """`Head` of a stream, which need not be whole.

    Raises:
        CodingError: It is no stream, or of a newer version.
    """
    if len(data) < _HEAD or data[0] >> 4 != 0xC or not data[0] & 15:
        raise damaged("no coded stream")
    if data[0] & 15 > VERSION:
        expected = f"a stream of version {VERSION} or older"
        raise CodingError("data", expected, f"version {data[0] & 15}", "install a newer omc.")
    form, reader = data[_HEAD - 1], _Reader(data, _HEAD)
    kind, log2_lanes = form & 3, form >> 2 & 15
    if kind > _HYBRID or log2_lanes > _LOG2_MOST_LANES or form >> 7:
        raise damaged("of an unknown form")
    rank = reader.varint()
    if rank > LARGEST_RANK:
        raise damaged(f"of {rank} dimensions")
    shape = tuple(reader.varint() for _ in range(rank))
    length = reader.varint()
    if length > LONGEST_ATTACHMENT:
        raise damaged(f"with an attachment of {length} bytes")
    attachment = bytes(reader.take(length))
    if kind != _PLAIN and log2_lanes < _fewest_log2_lanes(math.prod(shape)):
        raise damaged("of too few lanes")
    return Head(kind, 1 << log2_lanes, bool(form & 64), shape, attachment, reader.place)


def opened(data, contexts=None, limit=None, shape=None):
    """Head of a stream that may be decoded, and the contexts to decode it given.

    Nothing is allocated, and no checksum compared.

    Args:
        data: bytes-like.
        contexts: As for `encode`.
        limit: Most symbols, or None.
        shape: The shape that is wanted, or None for any.

    Returns:
        (`Head`, uint8 array or None).

    Raises:
        CodingError: No stream, of a newer version, of too many symbols or another shape, or coded
            given contexts of another number.
    """
    head = read_head(data)
    count = math.prod(head.shape)
    if shape is not None and head.shape != tuple(shape):
        raise CodingError("data", f"symbols of shape {tuple(shape)}", f"{head.shape}")
    if limit is not None and count > limit:
        raise CodingError("data", f"at most {limit} symbols", f"{count}", "raise `limit`.")
    if not head.has_contexts or not count:
        if contexts is not None and count:
            raise CodingError("context", "no contexts, as when it was coded", "some")
        return head, None
    if contexts is None:
        tip = "give `decode` the same `context` as `encode`."
        raise CodingError("context", "the contexts that it was coded given", "none", tip)
    if contexts.size != count:
        raise CodingError("context", f"{count} contexts", f"{contexts.size}")
    return head, contexts.reshape(-1)


def decode(data, head, contexts=None, start=0):
    """Symbols of coded bytes; the inverse of `encode`.

    Args:
        data: bytes-like.
        head: Its `Head`, from `opened`.
        contexts: uint8 [n] from `opened`, or None.
        start: As for `encode`.

    Returns:
        int32 array.

    Raises:
        CodingError: The bytes are damaged, or were coded given something else.
    """
    found = _checksum(data[:1], data[_HEAD - 1 :], contexts, start)
    if found != int.from_bytes(data[1 : _HEAD - 1], "little"):
        raise damaged("altered, or coded given something else")
    try:
        symbols = _body(_Reader(data, head.body), head, math.prod(head.shape), contexts)
    except CodingError:
        raise
    except ValueError as error:
        raise damaged(str(error)) from error
    return symbols.reshape(head.shape)


def damaged(what):
    """The CodingError of a stream that is `what`."""
    got = f"one that is {what}" if what != "no coded stream" else "something else"
    return CodingError("data", "a whole, unaltered coded stream", got, "fetch it again.")


def _body(reader, head, count, contexts):
    low, shift, states, words = 0, 0, None, None
    if head.kind != _HYBRID:
        low, shift = reader.varint(), reader.byte()
        low = -(low + 1) // 2 if low & 1 else low // 2
        if shift > 32 or (shift > 31 and head.kind != _PLAIN):
            raise ValueError(f"shift of {shift} bits")
    tokens = np.zeros(count if head.kind != _PLAIN else 0, np.uint8)
    if head.kind != _PLAIN:
        alphabet, number = reader.byte() + 1, reader.varint()
        if head.kind == _HYBRID and alphabet > binary.HYBRID_ALPHABET:
            raise ValueError(f"alphabet of {alphabet}")
        states = np.frombuffer(reader.take(4 * head.lanes), "<u4")
        words = np.frombuffer(reader.take(2 * number), "<u2")
        tokens = rans.decode(states, words, count, alphabet, contexts, head.lanes)
    widths = binary.hybrid_widths(tokens) if head.kind == _HYBRID else shift
    raw = binary.unpack_bits(np.frombuffer(reader.rest(), np.uint8), widths, count)
    if head.kind == _HYBRID:
        return binary.from_hybrid(tokens, raw)
    if head.kind == _SHIFTED:
        raw |= tokens.astype(np.uint32) << np.uint32(shift)
    return (raw + np.uint32(low & 0xFFFFFFFF)).view(np.int32)


class _Reader:
    """Takes fields one after the other; CodingError where they end too early."""

    def __init__(self, data, place):
        self._data = data
        self.place = place

    def take(self, length):
        if length > len(self._data) - self.place:
            raise damaged("truncated")
        self.place += length
        return self._data[self.place - length : self.place]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = 0
        for shift in range(0, 35, 7):
            octet = self.byte()
            value |= (octet & 127) << shift
            if octet < 128:
                if value >> 32 or (shift and not octet):
                    break
                return value
        raise damaged("malformed: a number too long")

    def rest(self):
        return self.take(len(self._data) - self.place)


def _varint(value):
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)
