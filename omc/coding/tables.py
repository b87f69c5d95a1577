"""Adaptive frequency tables: what coder and decoder both know of the tokens to come.

Integers throughout, so that every machine gets the same tables. Nothing of a table is sent: both
ends count the tokens of a block when it is done, and make the tables of the next from all counts,

    share(s) = root(s) + 1                                   (one context)
    share(s | c) = 16 n(s | c) + 256 share(s) // sum(share) + 1      (several)

so that a context that was seen little speaks as all of them together (a Dirichlet prior of 16
tokens). This module is the specification; omc/kernels/coder.cc has the fast form of it.
"""

import numpy as np

PRECISION = 14
"""Frequencies of a table add up to 2^PRECISION."""

TOTAL = 1 << PRECISION
_FIRST = 16  # Tokens of the first block; later ones have an eighth of what came before, up to
_LONGEST = 4096
_HALVE_AT = 1 << 16  # Counts above this are halved, so that tables follow what changes.


def blocks(count, lanes):
    """Yields (begin, end) of the blocks between which tables change.

    Args:
        count: Number of tokens.
        lanes: Lanes of the coder, of which every block but the last takes a multiple.
    """
    begin = 0
    while begin < count:
        length = max(_FIRST, min(begin // 8, _LONGEST))
        end = min(begin + -(-length // lanes) * lanes, count)
        yield begin, end
        begin = end


def frequencies(shares):
    """Frequencies in proportion to shares, each at least 1, that add up to 2^PRECISION.

        f(s) = 1 + F(s) - F(s - 1),    F(s) = (T - n) * sum_{r <= s} x(r) // sum(x),
        x(s) = max(0, T * share(s) - sum(share)),    T = 2^PRECISION

    Args:
        shares: int64 [n], at least 1 each, n up to 256.

    Returns:
        int64 [n].
    """
    # What is due beyond the one that each gets; sums stay below 2^51.
    excess = np.maximum(TOTAL * shares - shares.sum(), 0)
    if len(shares) == 1:
        return np.array([TOTAL], np.int64)
    upto = np.cumsum(excess)
    upto = (TOTAL - len(shares)) * upto // upto[-1]
    return 1 + np.diff(upto, prepend=0)


class Tables:
    """The tables of all contexts, as they grow with the tokens.

    Args:
        alphabet: Number of different tokens, 1 .. 256.
        contexts: Number of contexts, 1 .. 256.

    Attributes:
        frequency: int64 [contexts, alphabet].
        start: int64 [contexts, alphabet], sum of the frequencies before each.
    """

    def __init__(self, alphabet, contexts):
        self._root = np.zeros(alphabet, np.int64)
        self._counts = np.zeros((contexts, alphabet), np.int64)
        self._since = np.zeros(contexts, np.int64)
        first = frequencies(np.ones(alphabet, np.int64))
        self.frequency = np.tile(first, (contexts, 1))
        self.start = np.cumsum(self.frequency, axis=1) - self.frequency
        self._slots = [None] * contexts

    def slots(self, context):
        """Token of each of the 2^PRECISION slots of a context's table, uint8."""
        if self._slots[context] is None:
            frequency = self.frequency[context]
            self._slots[context] = np.repeat(np.arange(len(frequency), dtype=np.uint8), frequency)
        return self._slots[context]

    def update(self, tokens, contexts):
        """Counts a block that both ends know now, and renews the tables that it moves.

        Args:
            tokens: Array [n] of the block's tokens.
            contexts: Array [n] of their contexts; None where there is but one.
        """
        shape = self._counts.shape
        places = tokens if contexts is None else contexts.astype(np.int64) * shape[1] + tokens
        seen = np.bincount(places, minlength=self._counts.size).reshape(shape)
        self._root += seen.sum(axis=0)
        self._counts += seen
        self._since += seen.sum(axis=1)
        if self._root.sum() > _HALVE_AT:
            self._root = (self._root + 1) // 2
        for context in np.flatnonzero(seen.any(axis=1)):
            total = self._counts[context].sum()
            if self._since[context] >= min(max(total // 10, _FIRST), _LONGEST):
                self._renew(context, total)

    def _renew(self, context, total):
        root = self._root + 1
        if len(self._counts) == 1:
            shares = root
        else:
            if total > _HALVE_AT:
                self._counts[context] = (self._counts[context] + 1) // 2
            shares = 16 * self._counts[context] + 256 * root // root.sum() + 1
        self.frequency[context] = frequencies(shares)
        self.start[context] = np.cumsum(self.frequency[context]) - self.frequency[context]
        self._since[context] = 0
        self._slots[context] = None


def log2(values):
    """floor(4096 log2(v)) / 4096 in units of 1/4096, by squaring: the same on every machine.

    Args:
        values: int64 array, 1 .. 2^31 - 1.

    Returns:
        int64 array.
    """
    mantissa = values.astype(np.uint64)
    result = np.zeros(values.shape, np.int64)
    for step in (16, 8, 4, 2, 1):
        large = mantissa >= np.uint64(1 << step)
        mantissa = np.where(large, mantissa >> np.uint64(step), mantissa)
        result += step * large
    mantissa = values.astype(np.uint64) << (31 - result).astype(np.uint64)
    for _ in range(12):
        mantissa = mantissa * mantissa >> np.uint64(31)
        large = mantissa >> np.uint64(32)
        mantissa >>= large
        result = 2 * result + large.astype(np.int64)
    return result


def entropy_bits(counts):
    """Bits (int) that tokens of these counts take under a table of their own."""
    counts = counts[counts > 0].astype(np.int64)
    if not len(counts):
        return 0
    return int((counts * (log2(counts.sum()[np.newaxis]) - log2(counts))).sum()) >> 12
