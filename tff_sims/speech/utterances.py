"""What decides a corpus, and each of its utterances, made by its numbers alone."""

import dataclasses
import hashlib
import json

import numpy as np

from omc.errors import InputError
from tff_sims.speech import features, synthesis, text
from tff_sims.speech.rooms import DOMAINS, record
from tff_sims.speech.speakers import TEST_VARIANTS, TRAIN_VARIANTS, Speaker

KINDS = ("sentences", "keywords")
"""What is said: sentences of the grammar, or single keywords."""

_MOST = 100_000  # Of speakers, and of utterances of one.
_VERSION = 1  # Raise when the same specification comes to give other features.


@dataclasses.dataclass(frozen=True)
class Specification:
    """Everything that decides a corpus.

    Attributes:
        kind: One of `KINDS`.
        domain: One of `rooms.DOMAINS`. Both domains have the same speakers, saying the same; only
            rooms and noise differ.
        speakers: Training speakers; numbered from 0.
        utterances: Utterances of a training speaker.
        test_speakers: Test speakers, with voices of their own; numbered on after the training ones.
        test_utterances: Utterances of a test speaker.
        seed: Seed of it all.

    Raises:
        InputError: Unknown kind or domain, or a number or seed out of range.
    """

    kind: str = "sentences"
    domain: str = "quiet"
    speakers: int = 100
    utterances: int = 32
    test_speakers: int = 40
    test_utterances: int = 16
    seed: int = 0

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("domain", DOMAINS)):
            if getattr(self, name) not in allowed:
                raise InputError(name, f"one of {', '.join(allowed)}", getattr(self, name))
        for name in ("speakers", "utterances", "test_speakers", "test_utterances"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise InputError(name, f"1 to {_MOST}", getattr(self, name))
        if not 0 <= self.seed < 2**31:
            raise InputError("seed", "0 to 2147483647", self.seed)

    @property
    def sizes(self):
        """Utterances of each speaker, list of ints."""
        train, test = [self.utterances] * self.speakers, [self.test_utterances] * self.test_speakers
        return train + test

    @property
    def key(self):
        """Name in the cache: what is in it, and a hash of this and of what made it."""
        decided = json.dumps([_VERSION, features.MEL_BANDS, dataclasses.asdict(self)])
        return f"{self.kind}-{self.domain}-{hashlib.sha256(decided.encode()).hexdigest()[:12]}"


def utterance(specification, speaker, number):
    """Makes one utterance, by its numbers alone.

    Args:
        specification: `Specification`.
        speaker: Number of the speaker, training ones first.
        number: Number of the utterance, from 0.

    Returns:
        (transcript, float32 array [samples] at `features.RATE`).
    """
    seed, test = specification.seed, speaker >= specification.speakers
    # A test speaker stays the same when there are more training speakers.
    person = [seed, int(test), speaker - specification.speakers * test]
    variants = TEST_VARIANTS if test else TRAIN_VARIANTS
    who = Speaker.draw(variants, specification.domain, np.random.default_rng(person))
    rng = np.random.default_rng([*person, 1 + number])
    if specification.kind == "keywords":
        transcript = text.KEYWORDS[rng.integers(len(text.KEYWORDS))]
    else:
        transcript = text.sentence(rng)
    dry = synthesis.synthesize(transcript, who.vary(rng), seed=int(rng.integers(2**31)))
    dry = features.resample(dry / 32768.0, synthesis.RATE)
    # Nobody starts to speak exactly when the recording starts.
    before, after = rng.integers(0, features.RATE // 16, 2)
    dry = np.pad(dry, (before, after))
    return transcript, record(dry, features.RATE, who.room, rng)
