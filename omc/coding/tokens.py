"""Symbols <-> tokens, which are modelled, and raw bits, which are nearly uniform.

Two ways; v is a symbol, a 32-bit integer, and arithmetic is modulo 2^32:

    shifted:  token = (v - low) >> k,    raw = the k lowest bits of v - low
    hybrid:   z = 2v (v >= 0) or -2v - 1 (v < 0);  z < 16: token = z, no raw bits;
              n = floor(log2 z): token = 16 + 4 (n - 4) + (z >> (n - 2)) mod 4,
              raw = the n - 2 lowest bits of z       (as JPEG XL, ISO/IEC 18181-1)

Shifted tokens suit codes, the lowest bits of whose mantissa are noise. Hybrid ones suit
differences, mostly near 0 and now and then far off. Raw bits follow one another from the lowest bit
of the first byte on; unused bits of the last byte are 0.
"""

import numpy as np

HYBRID_ALPHABET = 128
_DIRECT = 16  # Hybrid tokens that are values themselves.


def shifted(offsets, shift):
    """(tokens, raw values, bits of each raw value) of v - low.

    Args:
        offsets: uint32 [n], v - low.
        shift: k, 0 .. 32.
    """
    raw = offsets & np.uint32((1 << shift) - 1)
    tokens = (offsets.astype(np.uint64) >> np.uint64(shift)).astype(np.int64)
    return tokens, raw, shift


def hybrid(symbols):
    """(tokens, raw values, bits of each raw value, uint8 [n]) of symbols, int32 [n]."""
    z = _zigzag(symbols)
    n = _exponents(z)
    large = z >= _DIRECT
    high = z >> np.where(large, n - 2, 0).astype(np.uint32)
    tokens = np.where(large, _DIRECT + 4 * (n.astype(np.int64) - 4) + (high & 3), z)
    widths = np.where(large, n - 2, 0).astype(np.uint8)
    return tokens.astype(np.int64), z & low_bits(widths), widths


def hybrid_widths(tokens):
    """Raw bits (uint8 [n]) that follow each hybrid token."""
    return np.where(tokens >= _DIRECT, (tokens - _DIRECT) // 4 + 2, 0).astype(np.uint8)


def from_hybrid(tokens, raw):
    """Symbols (int32 [n]) of hybrid tokens and raw values; the inverse of `hybrid`."""
    widths = hybrid_widths(tokens).astype(np.uint32)
    large = tokens >= _DIRECT
    high = np.where(large, 4 + (tokens - _DIRECT) % 4, tokens).astype(np.uint32)
    z = (high << widths) | raw
    return ((z >> np.uint32(1)) ^ -(z & np.uint32(1)).astype(np.int32).view(np.uint32)).view(
        np.int32
    )


def pack_bits(values, widths):
    """Raw bits as bytes (uint8).

    Args:
        values: uint32 [n], each below 2^width.
        widths: Bits of each, an int or an array [n].
    """
    if isinstance(widths, int):
        bits = (values[:, np.newaxis] >> np.arange(widths, dtype=np.uint32)) & np.uint32(1)
        return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")
    ends = np.cumsum(widths, dtype=np.int64)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for bit in range(int(widths.max(initial=0))):
        has = widths > bit
        place = ends[has] - widths[has] + bit
        bits[place] = (values[has] >> np.uint32(bit)) & np.uint32(1)
    return np.packbits(bits, bitorder="little")


def unpack_bits(data, widths, count):
    """Raw values (uint32 [count]) of bytes; the inverse of `pack_bits`.

    Raises:
        ValueError: Bytes are missing or left over, or unused bits are not 0.
    """
    total = widths * count if isinstance(widths, int) else int(widths.sum(dtype=np.int64))
    if len(data) != -(-total // 8):
        raise ValueError("raw bits of another length")
    if total % 8 and data[-1] >> (total % 8):
        raise ValueError("unused bits that are not 0")
    bits = np.unpackbits(data, count=total, bitorder="little")
    values = np.zeros(count, np.uint32)
    if isinstance(widths, int):
        rows = bits.reshape(count, widths)
        for bit in range(widths):
            values |= rows[:, bit].astype(np.uint32) << np.uint32(bit)
        return values
    ends = np.cumsum(widths, dtype=np.int64)
    for bit in range(int(widths.max(initial=0))):
        has = widths > bit
        place = ends[has] - widths[has] + bit
        values[has] |= bits[place].astype(np.uint32) << np.uint32(bit)
    return values


def low_bits(widths):
    """Masks, uint32, of so many lowest bits, 0 .. 31."""
    return (np.uint32(1) << widths.astype(np.uint32)) - np.uint32(1)


def _zigzag(symbols):
    doubled = symbols.view(np.uint32) << np.uint32(1)
    return doubled ^ (symbols >> 31).view(np.uint32)


def _exponents(z):
    """floor(log2 z), uint32; 0 for 0."""
    result = np.zeros(z.shape, np.uint32)
    for step in (16, 8, 4, 2, 1):
        large = (z >> result) >= np.uint32(1) << np.uint32(step)
        result += np.uint32(step) * large
    return result
