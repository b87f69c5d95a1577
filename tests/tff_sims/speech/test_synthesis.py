"""The same utterance is the same samples, in any order and process."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from omc.errors import InputError
from tff_sims.speech.speakers import ACCENTS, TEST_VARIANTS, TRAIN_VARIANTS
from tff_sims.speech.synthesis import RATE, Voice, synthesize

FAST = Voice("gmw/en", "f5", speed=300, pitch=70)


def test_samples_do_not_depend_on_what_was_said_before():
    voices = [Voice("gmw/en-US", variant) for variant in ("m3", "f2", "Annie")]
    before = [synthesize("seven four one", voice, seed=3) for voice in voices]
    synthesize("turn the blue light on", FAST)
    for voice, expected in zip(voices, before):
        np.testing.assert_array_equal(synthesize("seven four one", voice, seed=3), expected)


def test_samples_are_the_same_in_another_process():
    program = (
        "import hashlib; from tff_sims.speech.synthesis import Voice, synthesize;"
        "voice = Voice('gmw/en', 'f5', speed=300, pitch=70);"
        "print(hashlib.sha256(synthesize('open the door', voice, 9).tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    here = hashlib.sha256(synthesize("open the door", FAST, 9).tobytes()).hexdigest()
    assert there.stdout.decode().strip() == here


def test_speed_and_seed_are_heard():
    slow, fast = (synthesize("seven", Voice(speed=speed)) for speed in (120, 300))
    assert len(slow) > 1.5 * len(fast)
    breathy = Voice("gmw/en-US", "f5")
    assert not np.array_equal(synthesize("six", breathy, 1), synthesize("six", breathy, 2))


def test_every_voice_speaks_and_no_test_voice_trains():
    assert not set(TRAIN_VARIANTS) & set(TEST_VARIANTS)
    for variant in TRAIN_VARIANTS + TEST_VARIANTS:
        samples = synthesize("stop", Voice(ACCENTS[0], variant))
        assert 0.1 < len(samples) / RATE < 1.5 and np.abs(samples).max() > 3000, variant
    sounds = [synthesize("four open doors, one bath", Voice(accent)) for accent in ACCENTS]
    assert len({sound.tobytes() for sound in sounds}) == len(ACCENTS)


def test_an_unknown_voice_is_refused():
    with pytest.raises(InputError, match="voice.*gmw/en-XX"):
        synthesize("stop", Voice("gmw/en-XX", "m1"))
