"""Training utterances over clients."""

import numpy as np

from omc.errors import InputError

SPLITS = ("speaker", "iid")
"""By speaker: a client is one. Or iid: clients of like size, of everybody's utterances."""


def split(corpus, how, clients, seed):
    """Shares out a corpus's training utterances.

    Args:
        corpus: `corpus.Corpus`.
        how: One of `SPLITS`.
        clients: Number of clients, at most as many as training speakers; None for as many.
        seed: Seed of an iid split.

    Returns:
        List of int arrays, indices of utterances, one a client; no utterance twice. By speaker,
        clients are the first speakers.

    Raises:
        InputError: Unknown `how`, or a number of clients that is not possible.
    """
    if how not in SPLITS:
        raise InputError("split", f"one of {', '.join(SPLITS)}", how)
    train = np.flatnonzero(~corpus.test)
    speakers = np.unique(corpus.speakers[train])
    clients = len(speakers) if clients is None else clients
    if not 1 <= clients <= len(speakers):
        raise InputError("clients", f"1 to {len(speakers)}, the training speakers", clients)
    if how == "iid":
        drawn = np.random.default_rng(seed).permutation(train)
        return [np.sort(part) for part in np.array_split(drawn, clients)]
    return [train[corpus.speakers[train] == speaker] for speaker in speakers[:clients]]
