"""A user's own recordings, recognised by a Conformer with CTC; see docs/own_data.md."""

import contextlib

from omc.errors import InputError
from tff_sims.speech import own_data, text
from tff_sims.speech.splits import SPLITS
from tff_sims.tasks.recognition import recognition


def recordings(seed=0, split=None, alpha=0.5, clients=None, domain=None):
    """Recordings of a folder; its last speakers in alphabetical order are held out.

    Args:
        seed: Seed of an iid split and of the initial weights.
        split: "speaker" (default) or "iid".
        alpha: Not used: clients are as unlike as the speakers are.
        clients: Number of clients; the training speakers by default, and at most.
        domain: The folder: SPEAKER/NAME.wav, each with NAME.txt.

    Returns:
        `recognition.Recognition`. Its vocabulary is that of the task `speech` if the recordings
        keep to that, so that they can start from a model of it; otherwise their own words.

    Raises:
        InputError: No folder, or as `own_data.from_folder` (which then names `domain`) and
            `splits.split`.
    """
    del alpha
    if not domain:
        raise InputError("domain", "a folder of recordings", domain)
    with _named_domain():
        made = own_data.from_folder(domain)
    words = own_data.vocabulary(made)
    if set(words) <= set(text.VOCABULARY):
        words = text.VOCABULARY
    return recognition("recordings", made, words, split, clients, seed)


def _digest(domain):
    with _named_domain():
        return own_data.digest(domain)


@contextlib.contextmanager
def _named_domain():
    """The user knows the folder by the name of our argument."""
    try:
        yield
    except InputError as error:
        raise InputError("domain", error.expected, error.got, error.tip) from error


recordings.splits, recordings.domains = SPLITS, None
recordings.digest = _digest
