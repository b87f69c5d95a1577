"""Features against a slow transcription of their definition."""

import numpy as np
import pytest

from tff_sims.speech.features import MEL_BANDS, RATE, log_mel, resample


def by_definition(samples):
    """Frame by frame, bin by bin, with a discrete Fourier transform written out."""
    hann = [0.5 - 0.5 * np.cos(2 * np.pi * n / 399) for n in range(400)]
    mel = [2595 * np.log10(1 + f / 700) for f in (20.0, 7600.0)]
    edges = 700 * (10 ** (np.linspace(mel[0], mel[1], MEL_BANDS + 2) / 2595) - 1)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
    rows = []
    for start in range(0, len(samples) - 399, 160):
        power = np.abs(waves @ (samples[start : start + 400] * hann)) ** 2
        row = []
        for band in range(MEL_BANDS):
            low, middle, high = (2595 * np.log10(1 + e / 700) for e in edges[band : band + 3])
            energy = 0.0
            for index, value in enumerate(power):
                at = 2595 * np.log10(1 + index * RATE / 512 / 700)
                if low < at <= middle:
                    energy += value * (at - low) / (middle - low)
                elif middle < at < high:
                    energy += value * (high - at) / (high - middle)
            row.append(np.log(energy + 1e-10))
        rows.append(row)
    rows = np.array(rows)
    return (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 0.1)


def test_log_mel_is_its_definition():
    samples = np.random.default_rng(0).standard_normal(2000) * np.linspace(0.01, 1, 2000)
    found = log_mel(samples)
    assert found.shape == (11, MEL_BANDS) and found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(samples), atol=2e-4)


def test_features_do_not_depend_on_loudness_and_are_normalized():
    samples = np.random.default_rng(1).standard_normal(RATE // 2)
    found = log_mel(samples)
    np.testing.assert_allclose(log_mel(50 * samples), found, atol=1e-3)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone(rate):
    time = np.arange(rate) / rate
    found = resample(np.sin(2 * np.pi * 440 * time), rate)
    assert len(found) == RATE
    expected = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(found[500:-500], expected[500:-500], atol=0.01)


def test_short_input_gives_one_frame():
    assert log_mel(np.ones(3)).shape == (1, MEL_BANDS)
