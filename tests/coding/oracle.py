"""The coded stream read by the letter of docs/coding.md, a token at a time.

Shares no code with omc. In Python's own integers and Fractions; slow. Checksums are compared last.
"""

import fractions
import itertools
import math
import zlib

TOTAL = 1 << 14


def decode(data, contexts=None, start=0):
    """(shape, list of symbols, attachment) of a stream that is whole."""
    assert data[0] == 0xC1
    form, at = data[5], 6
    kind, lanes = form & 3, 2 ** (form >> 2 & 15)

    def byte():
        nonlocal at
        at += 1
        return data[at - 1]

    def varint():
        octets = [byte()]
        while octets[-1] >= 128:
            octets.append(byte())
        return sum((octet % 128) * 128**place for place, octet in enumerate(octets))

    shape = tuple(varint() for _ in range(varint()))
    length = varint()
    attachment = data[at : at + length]
    at += length
    low = shift = 0
    if kind != 2:
        z = varint()
        low = z // 2 if z % 2 == 0 else -(z + 1) // 2
        shift = byte()
    count, tokens = math.prod(shape), []
    if kind:
        alphabet, words = byte() + 1, varint()
        states = [int.from_bytes(data[at + 4 * i :][:4], "little") for i in range(lanes)]
        at += 4 * lanes
        stack = [int.from_bytes(data[at + 2 * i :][:2], "little") for i in range(words)]
        at += 2 * words
        tokens = _tokens(states, stack, count, alphabet, contexts if form & 64 else None)
    raw = itertools.chain.from_iterable(
        (octet >> bit & 1 for bit in range(8)) for octet in data[at:]
    )

    def bits(width):
        return sum(next(raw) << place for place in range(width))

    symbols = []
    for index in range(count):
        if kind == 2:
            token = tokens[index]
            z = token
            if token >= 16:
                width = (token - 16) // 4 + 2
                z = (4 + token % 4) * 2**width + bits(width)
            symbols.append(z // 2 if z % 2 == 0 else -(z + 1) // 2)
        else:
            value = low + ((tokens[index] << shift) if kind else 0) + bits(shift)
            symbols.append((value + 2**31) % 2**32 - 2**31)
    assert not any(raw)
    seen = data[:1] + data[5:] + (bytes(contexts) if form & 64 else b"")
    assert zlib.crc32(seen, start) == int.from_bytes(data[1:5], "little")
    return shape, symbols, attachment


def _tokens(states, words, count, alphabet, contexts):
    contexts = [0] * count if contexts is None else list(contexts)
    number = max(contexts, default=0) + 1
    root, counts = [0] * alphabet, [[0] * alphabet for _ in range(number)]
    since, tables = [0] * number, [_table([1] * alphabet)] * number
    words, lanes, tokens, begin = iter(words), len(states), [], 0
    while begin < count:
        length = max(16, min(begin // 8, 4096))
        end = min(begin + math.ceil(length / lanes) * lanes, count)
        for place in range(begin, end):
            x = states[place % lanes]
            slot, start, token = x % TOTAL, 0, 0
            while slot >= start + tables[contexts[place]][token]:
                start += tables[contexts[place]][token]
                token += 1
            frequency = tables[contexts[place]][token]
            x = frequency * (x // TOTAL) + slot - start
            states[place % lanes] = x * 65536 + next(words) if x < 65536 else x
            tokens.append(token)
        block = range(begin, end)
        for place in block:
            root[tokens[place]] += 1
            counts[contexts[place]][tokens[place]] += 1
            since[contexts[place]] += 1
        if sum(root) > 2**16:
            root = [math.ceil(n / 2) for n in root]
        for context in sorted({contexts[place] for place in block}):
            total = sum(counts[context])
            if since[context] < min(max(total // 10, 16), 4096):
                continue
            since[context] = 0
            if number == 1:
                tables[context] = _table([n + 1 for n in root])
                continue
            if total > 2**16:
                counts[context] = [math.ceil(n / 2) for n in counts[context]]
            whole = sum(root) + alphabet
            prior = [256 * (n + 1) // whole for n in root]
            shares = [16 * n + p + 1 for n, p in zip(counts[context], prior)]
            tables[context] = _table(shares)
        begin = end
    assert next(words, None) is None and set(states) <= {65536}
    return tokens


def _table(shares):
    if len(shares) == 1:
        return [TOTAL]
    excess = [max(fractions.Fraction(TOTAL * s, sum(shares)) - 1, 0) for s in shares]
    spare, upto = TOTAL - len(shares), [0]
    for part in itertools.accumulate(excess):
        upto.append(math.floor(spare * part / sum(excess)))
    return [1 + after - before for before, after in zip(upto, upto[1:])]
