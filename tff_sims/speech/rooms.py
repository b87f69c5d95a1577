"""Rooms and microphones: reverberation, noise and frequency response, drawn from a seed.

All of it is ours: statistical models that need no recordings.
"""

import dataclasses

import numpy as np
from scipy import fft, signal

DOMAINS = ("quiet", "noisy")
"""Names of the domains: close microphones in quiet rooms, far ones in noisy rooms."""

# Lowest and highest of what a room of the domain is drawn from, uniformly.
_RANGES = {
    "quiet": dict(decay=(0.1, 0.3), direct=(6.0, 15.0), noise=(10.0, 25.0)),
    "noisy": dict(decay=(0.3, 0.7), direct=(0.0, 6.0), noise=(2.0, 12.0)),
}


@dataclasses.dataclass(frozen=True)
class Room:
    """One speaker's room and microphone.

    Attributes:
        decay: Seconds until the reverberation is 60 dB down (RT60).
        direct: Energy of direct sound over reverberation, dB.
        noise: Energy of speech over noise, dB.
        colour: Noise power falls with frequency to this power: 0 white, 1 pink, 2 brown.
        tilt: Slope of the microphone, dB an octave around 1 kHz.
        low, high: Edges of the microphone's band, Hz.
        seed: Seed of the room's impulse response.
    """

    decay: float
    direct: float
    noise: float
    colour: float
    tilt: float
    low: float
    high: float
    seed: int

    @classmethod
    def draw(cls, domain, rng):
        """Draws a room.

        Args:
            domain: One of `DOMAINS`.
            rng: numpy Generator.
        """
        ranges = _RANGES[domain]
        return cls(
            decay=rng.uniform(*ranges["decay"]),
            direct=rng.uniform(*ranges["direct"]),
            noise=rng.uniform(*ranges["noise"]),
            colour=rng.uniform(0.0, 2.0),
            tilt=rng.uniform(-3.0, 3.0),
            low=rng.uniform(50.0, 300.0),
            high=rng.uniform(3600.0, 7600.0),
            seed=int(rng.integers(2**31)),
        )


def record(speech, rate, room, rng):
    """Speech as the room's microphone hears it: mic(speech * response + noise).

    Args:
        speech: float array [samples].
        rate: Samples a second.
        room: `Room`.
        rng: numpy Generator of the noise.

    Returns:
        float32 array of the same shape.
    """
    heard = signal.fftconvolve(speech, _response(room, rate))[: len(speech)]
    noise = _shaped(rng.standard_normal(len(heard)), rate, lambda f: f ** (-room.colour / 2))
    wanted = np.mean(heard**2) / 10 ** (room.noise / 10)
    heard = heard + noise * np.sqrt(wanted / max(np.mean(noise**2), 1e-20))
    return _shaped(heard, rate, lambda f: _microphone(f, room)).astype(np.float32)


def _response(room, rate):
    """Impulse response: a direct pulse, then white noise that decays exponentially (Polack)."""
    time = np.arange(int(room.decay * rate)) / rate
    tail = np.random.default_rng(room.seed).standard_normal(len(time))
    tail *= 10 ** (-3 * time / room.decay)  # -60 dB at the end
    tail *= np.sqrt(10 ** (-room.direct / 10) / np.sum(tail**2))
    return np.concatenate([[1.0], tail])


def _microphone(frequency, room):
    tilt = 10 ** (room.tilt * np.log2(frequency / 1000.0) / 20)
    band = 1 / np.sqrt((1 + (room.low / frequency) ** 4) * (1 + (frequency / room.high) ** 8))
    return tilt * band


def _shaped(samples, rate, gain):
    size = fft.next_fast_len(len(samples), real=True)
    frequency = fft.rfftfreq(size, 1 / rate)
    # No lower than that, where a power law would run away.
    spectrum = fft.rfft(samples, size) * gain(np.maximum(frequency, 40.0))
    return fft.irfft(spectrum, size)[: len(samples)]
