"""Log-mel features: 25 ms windows every 10 ms, normalized within the utterance."""

import functools

import numpy as np
from scipy import fft, signal

RATE = 16000
"""Samples a second that features are made from."""
LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000
"""Samples a second of what is resampled; recorders have 8,000 to 192,000."""
MEL_BANDS = 40
"""Mel bands of a frame, between 20 Hz and 7.6 kHz."""

HOP_SECONDS = 0.01
"""Seconds from one frame to the next."""

_WINDOW, _HOP, _FFT = 400, 160, 512
_LOWEST, _HIGHEST = 20.0, 7600.0
_FLOOR = 1e-10


def resample(samples, rate):
    """Samples at `RATE`, by a polyphase filter.

    Args:
        samples: float array [samples].
        rate: Their samples a second, int from `LOWEST_RATE` to `HIGHEST_RATE`.

    Returns:
        float array; the same one if the rate is `RATE`.
    """
    if rate == RATE:
        return samples
    common = np.gcd(RATE, rate)
    up, down = RATE // common, rate // common
    return signal.resample_poly(samples, up, down, window=_low_pass(max(up, down)))


@functools.cache
def _low_pass(factor):
    # What resample_poly would design, in a time that would be longer than the filtering.
    return signal.firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0))


def log_mel(samples):
    """Log-mel spectrogram, mean 0 and variance 1 over the utterance's frames in every band.

    x[t, m] = log(sum_f M[m, f] |STFT(samples)[t, f]|^2 + 1e-10), with a Hann window; then
    (x - mean_t x) / (std_t x + 0.1). Taking out the mean takes out the microphone's response.

    Args:
        samples: float array [samples] at `RATE`.

    Returns:
        float32 array [frames, MEL_BANDS], frames = 1 + (samples - 400) // 160; shorter input is
        padded with zeros to one window.
    """
    samples = np.asarray(samples, np.float64)
    samples = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    spectrum = fft.rfft(frames * np.hanning(_WINDOW), _FFT)
    energy = (spectrum.real**2 + spectrum.imag**2) @ mel_matrix().T
    logs = np.log(energy + _FLOOR)
    logs = (logs - logs.mean(axis=0)) / (logs.std(axis=0) + 0.1)
    return logs.astype(np.float32)


@functools.cache
def mel_matrix():
    """Triangular filters, evenly spaced on the mel scale 2595 log10(1 + f / 700) (HTK).

    Returns:
        float64 array [MEL_BANDS, 257]; every triangle's peak is 1.
    """
    edges = np.linspace(_mel(_LOWEST), _mel(_HIGHEST), MEL_BANDS + 2)
    bins = _mel(fft.rfftfreq(_FFT, 1 / RATE))
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.maximum(0.0, np.minimum(rising, falling))


def _mel(frequency):
    return 2595.0 * np.log10(1.0 + frequency / 700.0)
