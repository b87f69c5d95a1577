"""Reads wav files as recorders and cut-off downloads leave them: right, or a reason why not.

Read are PCM of 8 to 32 bits and float of 32 or 64, RIFF and big-endian RIFX, with or without
WAVE_FORMAT_EXTENSIBLE. A size of the sound that was never written (0 in a header that ends there,
or all ones) means "to the end of the file"; chunks of odd length may be padded or not.
"""

import struct
from typing import NamedTuple

import numpy as np

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OPEN = 0xFFFFFFFF  # A size that was to be written later, or does not fit.
_CHUNKS = (b"data", b"fmt ", b"LIST", b"fact", b"bext", b"cue ", b"smpl", b"PEAK", b"JUNK", b"id3 ")


class _Layout(NamedTuple):
    """A format chunk; `width` is bytes of a sample, `block` those of one sample of all channels."""

    rate: int
    channels: int
    kind: int
    width: int

    @property
    def block(self):
        return self.width * self.channels


def read(path):
    """Samples of a wav file.

    Args:
        path: `pathlib.Path`.

    Returns:
        (rate, samples): samples a second as the file says, int, and float64 array [samples,
        channels]; integers are scaled to -1 to 1, floats are as they are.

    Raises:
        ValueError: It is no such file, or a part of one; the message says what is wrong.
        OSError: It cannot be read.
    """
    if not path.is_file():  # A pipe would never end.
        raise ValueError("no file")
    data = path.read_bytes()
    if data[:4] not in (b"RIFF", b"RIFX") or data[8:12] != b"WAVE":
        raise ValueError("no RIFF header of a wav file")
    order = "<" if data[:4] == b"RIFF" else ">"
    layout = None
    for name, begin, size in _chunks(data, order):
        if name == b"fmt ":
            layout = _layout(data[begin : begin + size], order)
        elif name == b"data":
            if layout is None:
                raise ValueError("its samples come before their format")
            ends = 8 + struct.unpack(order + "I", data[4:8])[0]  # As the file's header says.
            if size == _OPEN or (size == 0 and (ends - 8 == _OPEN or ends <= begin)):
                size = len(data) - begin
                size -= size % layout.block  # The last block was not finished.
            return layout.rate, _samples(data, begin, size, layout, order)
    raise ValueError("no data chunk")


def _chunks(data, order):
    """(name, where its content begins, the size that it names) of each chunk."""
    at = 12
    while at + 8 <= len(data):
        name, (size,) = data[at : at + 4], struct.unpack(order + "I", data[at + 4 : at + 8])
        yield name, at + 8, size
        at += 8 + size
        if size % 2 and data[at : at + 4] not in _CHUNKS:  # Some writers forget to pad.
            at += 1


def _layout(content, order):
    if len(content) < 16:
        raise ValueError("a format chunk that is cut off")
    kind, channels, rate, _, block, bits = struct.unpack(order + "HHIIHH", content[:16])
    if kind == _EXTENSIBLE and len(content) >= 26:
        (kind,) = struct.unpack(order + "H", content[24:26])
    if not channels:
        raise ValueError("0 channels")
    width = block // channels
    known = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}
    if kind not in known:
        raise ValueError(f"format {kind}, which is neither PCM ({_PCM}) nor float ({_FLOAT})")
    if width not in known[kind] or width * channels != block or not 0 < bits <= 8 * width:
        raise ValueError(f"samples of {bits} bits in blocks of {block} bytes, {channels} channels")
    return _Layout(rate, channels, kind, width)


def _samples(data, begin, size, layout, order):
    width = layout.width
    if begin + size > len(data):
        raise ValueError(f"cut off: {len(data) - begin} of {size} bytes of sound are there")
    if size % layout.block:
        raise ValueError(f"{size} bytes of sound in blocks of {layout.block}")
    sound = data[begin : begin + size]
    if layout.kind == _FLOAT:
        samples = np.frombuffer(sound, f"{order}f{width}").astype(np.float64)
    elif width == 1:
        samples = np.frombuffer(sound, np.uint8) / 128.0 - 1.0
    else:
        octets = np.frombuffer(sound, np.uint8).reshape(-1, width)
        wide = np.zeros([len(octets), 4], np.uint8)  # Left-justified in 32 bits.
        wide[:, 4 - width :] = octets if order == "<" else octets[:, ::-1]
        samples = wide.view("<i4")[:, 0] / 2.0**31
    return samples.reshape(-1, layout.channels)
