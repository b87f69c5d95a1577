"""Wav files as recorders leave them: the right samples, or a reason."""

import os
import struct
import wave

import numpy as np
import pytest
from scipy.io import wavfile

from tff_sims.speech import wavs

SAMPLES = np.random.default_rng(0).uniform(-0.9, 0.9, [101, 2])


def chunk(name, content, pad=True):
    size = struct.pack("<I", len(content))
    return name + size + content + b"\0" * (pad and len(content) % 2)


def layout(kind=1, channels=1, rate=8000, bits=16, block=None):
    block = channels * bits // 8 if block is None else block
    return chunk(b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits))


def riff(*chunks, size=None):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


SOUND = (SAMPLES[:, 0] * 2**15).astype("<i2")
DATA = chunk(b"data", SOUND.tobytes())


def read(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    return wavs.read(path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_as_scipy_reads_them(tmp_path, dtype):
    dtype = np.dtype(dtype)
    levels = 2.0 ** (8 * dtype.itemsize - 1)
    if dtype.kind == "f":
        written = SAMPLES.astype(dtype)
    else:
        written = (SAMPLES * levels + levels * (dtype.kind == "u")).astype(dtype)
    path = tmp_path / "a.wav"
    wavfile.write(path, 44100, written)
    rate, samples = wavs.read(path)
    expected = wavfile.read(path)[1].astype(np.float64)
    if dtype.kind != "f":
        expected = expected / levels - (dtype.kind == "u")
    assert rate == 44100
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("extensible", [False, True])
def test_24_bits(tmp_path, extensible):
    numbers = np.array([0, 1, -1, 2**23 - 1, -(2**23), 123456], "<i4")
    content = b"".join(number.tobytes()[:3] for number in numbers)
    if extensible:
        head = struct.pack("<HHIIHH", 0xFFFE, 1, 8000, 24000, 3, 24)
        guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
        head = chunk(b"fmt ", head + struct.pack("<HHI", 22, 24, 4) + guid)
        found = read(tmp_path, riff(head, chunk(b"data", content)))
    else:
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setparams((1, 3, 8000, 0, "NONE", ""))
            file.writeframes(content)
        found = wavs.read(tmp_path / "a.wav")
    np.testing.assert_array_equal(found[1][:, 0], numbers / 2.0**23)


def test_big_endian(tmp_path):
    head = b"fmt " + struct.pack(">IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    sound = SOUND.astype(">i2").tobytes()
    content = b"RIFX" + struct.pack(">I", 0) + b"WAVE" + head + b"data"
    rate, samples = read(tmp_path, content + struct.pack(">I", len(sound)) + sound)
    assert rate == 8000
    np.testing.assert_array_equal(samples[:, 0], SOUND / 2.0**15)


NEVER_FINISHED = {
    "size of the file 0": riff(layout(), DATA, size=0),
    "all sizes 0": riff(layout(), b"data\0\0\0\0", SOUND.tobytes(), size=0),
    "sizes of a file without sound": riff(layout(), b"data\0\0\0\0", SOUND.tobytes(), size=36),
    "all sizes open": riff(layout(), b"data\xff\xff\xff\xff", SOUND.tobytes(), size=2**32 - 1),
    "half a sample": riff(layout(), b"data\0\0\0\0", SOUND.tobytes() + b"\1", size=0),
    "odd chunk, padded": riff(layout(), chunk(b"LIST", b"odd"), DATA),
    "odd chunk, not padded": riff(layout(), chunk(b"LIST", b"odd", pad=False), DATA),
    "chunk after the sound": riff(layout(), DATA, chunk(b"LIST", b"even")),
    "chunk without content": riff(layout(), chunk(b"JUNK", b""), DATA),
}


@pytest.mark.parametrize("name", NEVER_FINISHED)
def test_odd_ones_are_read(tmp_path, name):
    rate, samples = read(tmp_path, NEVER_FINISHED[name])
    assert rate == 8000
    np.testing.assert_array_equal(samples[:, 0], SOUND / 2.0**15)


REFUSED = {
    "no RIFF": (b"OggS" + bytes(40), "RIFF"),
    "empty": (b"", "RIFF"),
    "header alone": (riff(), "no data"),
    "no data chunk": (riff(layout()), "no data"),
    "no format": (riff(DATA), "format"),
    "format cut off": (riff(chunk(b"fmt ", b"\1\0"), DATA), "cut off"),
    "0 channels": (riff(layout(channels=0, block=2), DATA), "0 channels"),
    "blocks of 0": (riff(layout(block=0), DATA), "blocks of 0"),
    "bits that do not fit": (riff(layout(bits=40, block=5), DATA), "40 bits"),
    "0 bits": (riff(layout(bits=0, block=2), DATA), "0 bits"),
    "law": (riff(layout(kind=7, bits=8), DATA), "format 7"),
    "cut off": (riff(layout(), DATA)[:-50], "cut off"),
    "half a block": (riff(layout(channels=2), chunk(b"data", b"123456")), "6 bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sound_is_refused(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_every_beginning_of_a_file_is_read_or_refused(tmp_path):
    whole = riff(layout(), chunk(b"LIST", b"odd", pad=False), DATA)
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            read(tmp_path, whole[:length])


def test_a_file_without_sound_has_no_samples(tmp_path):
    content = riff(layout(), chunk(b"data", b""), chunk(b"LIST", b"even"))
    assert read(tmp_path, content)[1].shape == (0, 1)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="no file"):
        wavs.read(tmp_path / "a.wav")
