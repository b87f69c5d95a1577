"""Sentences of spoken words, recognised by a Conformer with CTC; a speaker is a client."""

from tff_sims.speech import corpus, text, utterances
from tff_sims.speech.rooms import DOMAINS
from tff_sims.speech.splits import SPLITS
from tff_sims.tasks.recognition import recognition


def speech(seed=0, split=None, alpha=0.5, clients=None, domain=None):
    """Sentences of 32 words, by 100 speakers; tested on 640 sentences of 40 others.

    The corpus is the same for every seed.

    Args:
        seed: Seed of the split and of the initial weights.
        split: "speaker" (default: a speaker is a client) or "iid" (clients of the same size, of all
            speakers' utterances).
        alpha: Not used: clients are as unlike as the speakers are.
        clients: Number of clients; 100 by default, and at most.
        domain: "quiet" (default) or "noisy".

    Returns:
        `Recognition`.

    Raises:
        InputError: Unknown `split` or `domain`, or more clients than speakers.
    """
    del alpha
    made = corpus.load(utterances.Specification(kind="sentences", domain=domain or DOMAINS[0]))
    return recognition("speech", made, text.VOCABULARY, split, clients, seed)


speech.splits, speech.domains = SPLITS, DOMAINS
