"""Speakers: a voice, an accent, a manner of speaking and a room, drawn from a seed."""

import dataclasses

import numpy as np

from tff_sims.speech.rooms import Room
from tff_sims.speech.synthesis import Voice

ACCENTS = (
    "gmw/en", "gmw/en-US", "gmw/en-GB-scotland", "gmw/en-GB-x-rp", "gmw/en-GB-x-gbclan",
    "gmw/en-GB-x-gbcwmd", "gmw/en-029", "gmw/en-US-nyc",
)  # fmt: skip
"""The Englishes of eSpeak NG: British, American, Scottish, received pronunciation, Lancastrian,
West Midlands, Caribbean, New York."""

# Variants that are whispered, robotic or effects are left out: people would not be understood so.
TRAIN_VARIANTS = (
    "m1", "m2", "m4", "m5", "m7", "m8", "f1", "f3", "f4", "Alex", "Andrea", "Annie", "Denis",
    "Diogo", "Gene", "Henrique", "Jacky", "Lee", "Marco", "Michael", "Mike", "Reed", "adam",
    "anika", "announcer", "aunty", "belinda", "boris", "david", "ed", "grandpa", "iven", "linda",
    "max", "michel", "paul", "quincy", "rob", "sandro", "shelby", "steph", "travis", "zac",
)  # fmt: skip
"""Voices of training speakers."""
TEST_VARIANTS = (
    "m3", "m6", "f2", "f5", "Alicia", "Andy", "Hugo", "Mario", "Nguyen", "RicishayMax", "antonio",
    "benjamin", "edward", "grandma", "iven3", "marcelo", "miguel", "pedro", "robert", "steph2",
    "victor",
)  # fmt: skip
"""Voices of test speakers, none of which trains."""


@dataclasses.dataclass(frozen=True)
class Speaker:
    """One speaker.

    Attributes:
        voice: `Voice` that speaks, at the speaker's usual speed and pitch.
        room: `Room` in which the speaker is recorded.
    """

    voice: Voice
    room: Room

    @classmethod
    def draw(cls, variants, domain, rng):
        """Draws a speaker.

        Args:
            variants: Variants to choose from.
            domain: Domain of the room, of `rooms.DOMAINS`.
            rng: numpy Generator.
        """
        voice = Voice(
            accent=ACCENTS[rng.integers(len(ACCENTS))],
            variant=variants[rng.integers(len(variants))],
            speed=int(rng.integers(150, 240)),
            pitch=int(rng.integers(25, 76)),
            pitch_range=int(rng.integers(20, 81)),
        )
        return cls(voice, Room.draw(domain, rng))

    def vary(self, rng):
        """The voice in one utterance: speed within 8 %, pitch within 5 of the speaker's own."""
        speed = round(self.voice.speed * rng.uniform(0.92, 1.08))
        pitch = self.voice.pitch + int(rng.integers(-5, 6))
        return dataclasses.replace(self.voice, speed=speed, pitch=int(np.clip(pitch, 0, 99)))
