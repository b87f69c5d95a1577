"""Range asymmetric numeral systems (rANS) on interleaved lanes: tokens <-> 16-bit words.

A lane's state x, 2^16 <= x < 2^32, is a number into which tokens are pushed (Duda, arXiv
1311.2540). With the token's frequency f and start b out of T = 2^14,

    push:  if x >= f * 2^18: send x mod 2^16, x <- x // 2^16;    x <- x // f * T + x mod f + b
    pop:   the token of slot x mod T;    x <- f * (x // T) + x mod T - b;
           if x < 2^16: x <- x * 2^16 + word

Token i is on lane i mod lanes. Coding runs backwards, so that decoding runs forwards; a lane starts
at 2^16, where decoding has to end, which finds most damage that a checksum would miss.

Lanes are what numpy works on at a time, and what a processor overlaps. This module is the
specification; omc/kernels/coder.cc has the fast form of it.
"""

import numpy as np

from omc.coding.tables import PRECISION, TOTAL, Tables, blocks

LOWEST = 1 << 16
"""Where a lane's state begins and ends."""


def encode(tokens, alphabet, contexts, lanes):
    """Codes tokens.

    Args:
        tokens: Array [n] of ints below `alphabet`.
        alphabet: Number of different tokens, 1 .. 256.
        contexts: uint8 [n], or None.
        lanes: Number of lanes.

    Returns:
        (states, uint32 [lanes], words, uint16 [m]).
    """
    frequency, start = _pushed(tokens, alphabet, contexts, lanes)
    state, words = np.full(lanes, LOWEST, np.int64), []
    for begin in reversed(range(0, len(tokens), lanes)):
        f, b = frequency[begin : begin + lanes], start[begin : begin + lanes]
        x = state[: len(f)]
        full = x >= f << (32 - PRECISION)
        words.append((x[full] & 0xFFFF).astype("<u2"))
        x = np.where(full, x >> 16, x)
        state[: len(f)] = (x // f << PRECISION) + x % f + b
    return state.astype("<u4"), np.concatenate([np.empty(0, "<u2"), *reversed(words)])


def decode(states, words, count, alphabet, contexts, lanes):
    """Tokens (uint8 [count]) of states and words; the inverse of `encode`.

    Raises:
        ValueError: They are no tokens' states and words.
    """
    if (states < LOWEST).any():
        raise ValueError("a state below its range")
    tables, tokens = Tables(alphabet, _number(contexts)), np.empty(count, np.uint8)
    state, used = states.astype(np.int64), 0
    for begin, end in blocks(count, lanes):
        block = None if contexts is None else contexts[begin:end].astype(np.int64)
        if block is None:
            slots = tables.slots(0)
        else:
            present, rank = np.unique(block, return_inverse=True)
            slots = np.stack([tables.slots(context) for context in present])
        for first in range(begin, end, lanes):
            last = min(first + lanes, end)
            x = state[: last - first]
            slot = x & (TOTAL - 1)
            if block is None:
                token = slots[slot]
                f, b = tables.frequency[0, token], tables.start[0, token]
            else:
                context = block[first - begin : last - begin]
                token = slots[rank[first - begin : last - begin], slot]
                f, b = tables.frequency[context, token], tables.start[context, token]
            tokens[first:last] = token
            x = f * (x >> PRECISION) + slot - b
            short = x < LOWEST
            more = int(np.count_nonzero(short))
            if more:
                if used + more > len(words):
                    raise ValueError("words end too early")
                x[short] = (x[short] << 16) | words[used : used + more]
                used += more
            state[: last - first] = x
        tables.update(tokens[begin:end], block)
    if used != len(words) or (state != LOWEST).any():
        raise ValueError("words and tokens do not end together")
    return tokens


def _pushed(tokens, alphabet, contexts, lanes):
    """(frequency, start) that each token has when it is its turn, int64 [n]."""
    tables = Tables(alphabet, _number(contexts))
    frequency = np.empty(len(tokens), np.int64)
    start = np.empty(len(tokens), np.int64)
    for begin, end in blocks(len(tokens), lanes):
        block = tokens[begin:end]
        context = 0 if contexts is None else contexts[begin:end]
        frequency[begin:end] = tables.frequency[context, block]
        start[begin:end] = tables.start[context, block]
        tables.update(block, None if contexts is None else context)
    return frequency, start


def _number(contexts):
    return 1 if contexts is None else int(contexts.max(initial=0)) + 1
