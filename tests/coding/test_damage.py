"""Damaged and forged streams: a typed error or the exact result, in little memory and time."""

import contextlib
import resource
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf

from omc import coding, kernels
from omc.codecs import Codec
from omc.errors import CodingError
from omc.formats import Format

LIMIT = 1 << 20


def resealed(data, contexts=b"", start=0):
    """The stream with a checksum that fits, as a forger would make it."""
    data = bytes(data)
    if len(data) < 6:
        return data
    crc = zlib.crc32(contexts, zlib.crc32(data[5:], zlib.crc32(data[:1], start)))
    return data[:1] + crc.to_bytes(4, "little") + data[5:]


def damaged(data, rng):
    """One of: bits flipped, cut off, extended, a run overwritten, numbers of the head forged."""
    data, kind = bytearray(data), rng.integers(5)
    if kind == 0:
        for place in rng.integers(0, 8 * len(data), rng.integers(1, 9)):
            data[place // 8] ^= 1 << (place % 8)
    elif kind == 1:
        del data[rng.integers(0, len(data)) :]
    elif kind == 2:
        data += rng.bytes(rng.integers(1, 40))
    elif kind == 3:
        begin, length = rng.integers(0, len(data)), rng.integers(1, 20)
        data[begin : begin + length] = rng.bytes(length)
    else:
        for _ in range(rng.integers(1, 4)):  # The head ends before the 30th byte.
            data[rng.integers(5, min(30, len(data)))] = rng.choice([0, 1, 127, 128, 255, 64, 8])
    return bytes(data)


def streams():
    """(data, symbols, contexts or None) of each kind of stream, on one and on several lanes."""
    rng = np.random.default_rng(0)
    for symbols in (
        rng.integers(0, 2**16, 60),
        np.rint(rng.standard_normal((40, 20)) * 9),
        np.rint(rng.standard_normal(9000) * 400),
        np.rint(rng.standard_t(1, 700) * 3),
        np.zeros(5000),
    ):
        symbols = symbols.astype(np.int32)
        contexts = rng.integers(0, 3, symbols.shape).astype(np.uint8)
        for given in (None, contexts):
            yield coding.encode(symbols, given), symbols, given


def outcome(data, contexts):
    """Symbols, or None for a CodingError; any other error is the test's failure."""
    try:
        symbols = coding.decode(data, contexts, limit=LIMIT)
    except CodingError:
        return None
    assert symbols.dtype == np.int32 and symbols.size <= LIMIT
    return symbols


def same(one, other):
    return (one is None) == (other is None) and (one is None or np.array_equal(one, other))


@pytest.mark.parametrize("path", ["native", "pure"])
def test_ten_thousand_damaged_streams(path):
    rng, cases = np.random.default_rng(1), list(streams())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    for number in range(10_000):
        data, symbols, contexts = cases[number % len(cases)]
        bad = damaged(data, rng)
        if path == "pure":
            with kernels.pure():
                found = outcome(bad, contexts)
        else:
            found = outcome(bad, contexts)
        assert found is None or (bad == data and np.array_equal(found, symbols))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    assert time.monotonic() - start < 120


def test_ten_thousand_forged_streams_end_alike_on_both_paths():
    """With a checksum that fits: refused, or symbols within the limit; the same natively or not."""
    rng, cases, accepted = np.random.default_rng(2), list(streams()), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(10_000):
        data, _, contexts = cases[number % len(cases)]
        forged = resealed(damaged(data, rng), b"" if contexts is None else contexts.tobytes())
        found = outcome(forged, contexts)
        if number % 4 == 0:
            with kernels.pure():
                assert same(found, outcome(forged, contexts))
        accepted += found is not None
    assert 0 < accepted < 5_000
    # The limit allows 4 MiB of symbols, and the tokens and states that they are made of.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10


def test_damaged_and_forged_buffers():
    rng = np.random.default_rng(3)
    codec = Codec(Format.parse("S1E3M7"), (50, 20))
    other = codec.encode(tf.random.stateless_normal((50, 20), [1, 2])).numpy()
    buffer = codec.encode(tf.random.stateless_normal((50, 20), [3, 4])).numpy()
    for given in (None, other):
        data = coding.encode_buffer(buffer, codec, given)
        start = 0 if given is None else zlib.crc32(other.tobytes())
        for number in range(1000):
            bad = damaged(data, rng)
            if number % 2 and given is None:
                bad = resealed(bad, start=start)
            results = []
            for path in (kernels.pure, contextlib.nullcontext):
                with path():
                    try:
                        results.append(coding.decode_buffer(bad, codec, given))
                    except CodingError:
                        results.append(None)
            assert same(*results)
            whole = bad == data and np.array_equal(results[0], buffer)
            assert results[0] is None or whole or (number % 2 and given is None)


@pytest.mark.parametrize("path", ["native", "pure"])
def test_huge_sizes_are_refused_at_once(path):
    """Extents that say 2^32 symbols or more, whichever way they are written."""
    data = coding.encode(np.zeros((3, 5), np.int32))
    most = b"\xff\xff\xff\xff\x0f"
    start = time.monotonic()
    for rank, extents in ((1, most), (2, most * 2), (8, most * 8), (2, most + b"\0"), (200, most)):
        forged = resealed(data[:6] + bytes([rank]) + extents + data[9:])
        with kernels.pure() if path == "pure" else contextlib.nullcontext():
            found = outcome(forged, None)
        assert found is None or not found.size
    assert time.monotonic() - start < 5


def test_decoding_takes_few_steps_whatever_the_bytes_say():
    """Without native ops a step is slow, and a symbol that is certain takes no bytes."""
    rare = np.zeros(1 << 20, np.int32)
    rare[5] = 1
    data = bytearray(coding.encode(rare))
    start = time.monotonic()
    with kernels.pure():
        np.testing.assert_array_equal(coding.decode(bytes(data)), rare)
    assert time.monotonic() - start < 20
    data[5] &= 0b11  # One lane.
    for path in (kernels.pure, contextlib.nullcontext):
        with path(), pytest.raises(CodingError, match="too few lanes"):
            coding.decode(resealed(data))


def test_every_cut_is_noticed():
    data = coding.encode(np.arange(300) % 7)
    for length in range(len(data)):
        assert outcome(data[:length], None) is None
        assert outcome(resealed(data[:length]), None) is None
