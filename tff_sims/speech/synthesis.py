"""Text to speech with eSpeak NG: the package espeakng-loader ships its library and voices."""

import _ctypes
import ctypes
import dataclasses

import espeakng_loader
import numpy as np

from omc.errors import InputError, OmcError

RATE = 22050
"""Samples a second of what eSpeak NG makes."""

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS
_CHARS_UTF8 = 1  # espeakCHARS_UTF8
_BY_CHARACTER = 1  # POS_CHARACTER
_SPEED, _PITCH, _PITCH_RANGE = 1, 3, 4  # espeakRATE, espeakPITCH, espeakRANGE
_ON_SAMPLES = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclasses.dataclass(frozen=True)
class Voice:
    """How eSpeak NG speaks.

    Attributes:
        accent: Language file, such as "gmw/en-US".
        variant: File of `voices/!v`, such as "f2": formants, breath, and the like.
        speed: Words a minute, 80 to 450.
        pitch: 0 to 99; 50 is the variant's own.
        pitch_range: 0 (monotone) to 99.
    """

    accent: str = "gmw/en-US"
    variant: str = "m1"
    speed: int = 175
    pitch: int = 50
    pitch_range: int = 50


def synthesize(text, voice=Voice(), seed=0):
    """Speaks a text.

    The library keeps state from one utterance to the next (phases, filters, C's `rand`) and has no
    call that clears it. So it is loaded anew for every utterance (3 to 6 ms in all), and the same
    arguments give the same samples in whatever order and process.

    Args:
        text: What to say.
        voice: `Voice`.
        seed: Seed of the library's noise, int from 0.

    Returns:
        int16 array [samples] at `RATE`.

    Raises:
        InputError: The library does not know the voice.
        OmcError: The library does not start, or makes no sound.
    """
    chunks = []

    def on_samples(samples, count, _events):
        if count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _ON_SAMPLES(on_samples)  # Kept in a name: the library holds a bare pointer to it.
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        _speak(library, callback, text.encode("utf-8"), voice, seed)
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
    if not chunks:
        raise OmcError("text", "something that can be spoken", text)
    return np.concatenate(chunks)


def _speak(library, callback, text, voice, seed):
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
        ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
    if rate != RATE:
        raise OmcError("espeakng-loader", f"a library that speaks at {RATE} Hz", rate)
    library.espeak_SetSynthCallback(callback)
    # Two generators: eSpeak NG's own, and C's for the breath of some voices.
    library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
    ctypes.CDLL(None).srand(ctypes.c_uint(seed))
    name = f"{voice.accent}+{voice.variant}"
    if library.espeak_SetVoiceByName(name.encode()):
        raise InputError("voice", "an accent and a variant of eSpeak NG", name)
    for parameter, value in (
        (_SPEED, voice.speed),
        (_PITCH, voice.pitch),
        (_PITCH_RANGE, voice.pitch_range),
    ):
        library.espeak_SetParameter(parameter, int(value), 0)
    library.espeak_Synth(text, len(text) + 1, 0, _BY_CHARACTER, 0, _CHARS_UTF8, None, None)
    library.espeak_Synchronize()
