"""The spoken corpus: sentences or keywords, said by speakers in their rooms, as features."""

import dataclasses

import numpy as np

from tff_sims.speech import cache, production


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Utterances in the order of their speakers.

    Attributes:
        features: List of float32 arrays [frames, bands], one an utterance.
        transcripts: List of str.
        speakers: int array, each utterance's speaker.
        test: bool array, whether the speaker is a test speaker.
    """

    features: list
    transcripts: list
    speakers: np.ndarray
    test: np.ndarray


def load(specification, progress=None):
    """The corpus, from the cache or made now (about 5 ms an utterance and core).

    Args:
        specification: `utterances.Specification`.
        progress: Called with (speakers done, speakers in all) while it is made; by default a line
            on stderr.

    Returns:
        `Corpus`.
    """
    stored = cache.arrays(
        specification.key, lambda: production.make(specification, progress or production.report)
    )
    frames = stored["frames"].astype(np.float32)
    speakers = np.repeat(np.arange(len(specification.sizes)), specification.sizes)
    return Corpus(
        features=np.split(frames, np.cumsum(stored["lengths"])[:-1]),
        transcripts=stored["transcripts"].tolist(),
        speakers=speakers,
        test=speakers >= specification.speakers,
    )
