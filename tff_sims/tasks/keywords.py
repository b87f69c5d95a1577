"""One spoken keyword, classified by a small convolutional network; a speaker is a client."""

import functools

import numpy as np

import models
from omc.errors import InputError
from tff_sims.speech import corpus, text, utterances
from tff_sims.speech import splits as speakers
from tff_sims.speech.features import MEL_BANDS
from tff_sims.speech.rooms import DOMAINS
from tff_sims.tasks.base import Classification, dirichlet_split

SPLITS = (*speakers.SPLITS, "dirichlet")

_FRAMES = 80  # 0.8 seconds; what is longer is cut.


def keywords(seed=0, split=None, alpha=0.5, clients=None, domain=None):
    """20 keywords, by 100 speakers; tested on 1,000 words of 40 others.

    The corpus is the same for every seed.

    Args:
        seed: Seed of the split and of the initial weights.
        split: "speaker" (default: a speaker is a client), "iid" (clients of the same size, of all
            speakers' words) or "dirichlet" (clients with words of their own, of all speakers).
        alpha: Dirichlet concentration of that last split.
        clients: Number of clients; 100 by default, and at most.
        domain: "quiet" (default) or "noisy".

    Returns:
        `Classification`.

    Raises:
        InputError: Unknown `split` or `domain`, or more clients than speakers.
    """
    specification = utterances.Specification(
        kind="keywords", domain=domain or DOMAINS[0], test_utterances=25
    )
    made = corpus.load(specification)
    labels = np.array([text.KEYWORDS.index(word) for word in made.transcripts], np.int32)
    clips = np.zeros([len(labels), _FRAMES, MEL_BANDS], np.float32)
    for clip, utterance in zip(clips, made.features):
        clip[: len(utterance)] = utterance[:_FRAMES]

    if split == "dirichlet":
        # Sizes as by speaker, and so the same most clients.
        speakers.split(made, "iid", clients, seed)
        train = np.flatnonzero(~made.test)
        rng, clients = np.random.default_rng(seed), clients or specification.speakers
        parts = [train[p] for p in dirichlet_split(labels[train], clients, alpha, rng)]
    elif split is None or split in speakers.SPLITS:
        parts = speakers.split(made, split or SPLITS[0], clients, seed)
    else:
        raise InputError("split", f"one of {', '.join(SPLITS)}", split)
    return Classification(
        name="keywords",
        num_clients=len(parts),
        examples=lambda client: (clips[parts[client]], labels[parts[client]]),
        test=(clips[made.test], labels[made.test]),
        build=functools.partial(
            models.keyword_cnn, len(text.KEYWORDS), features=MEL_BANDS, frames=_FRAMES, seed=seed
        ),
        batch_size=8,
        epochs=1,
        learning_rate=0.1,
        largest_client=int(np.argmax([len(part) for part in parts])),
    )


keywords.splits, keywords.domains = SPLITS, DOMAINS
