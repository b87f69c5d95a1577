"""Handwritten digits: 1,797 pictures of 8x8, shipped with scikit-learn (UCI, Alpaydin & Kaynak)."""

import functools

import numpy as np
from sklearn.datasets import load_digits

from models import mlp
from omc.errors import InputError
from tff_sims.tasks.base import Classification, dirichlet_draw, dirichlet_split

SPLITS = ("dirichlet", "iid")
DOMAINS = ()

_CLIENTS = 60
_TEST = 360


def digits(seed=0, split=None, alpha=0.5, clients=None, domain=None):
    """Ten-class digits over 60 clients, Dirichlet non-IID; 360 pictures are held out.

    Up to 60 clients share out the other 1,437 pictures, every picture once. Beyond that, each
    client draws 24 of them (what 60 clients have on average) by its own mix of classes.

    Args:
        seed: Seed of the split and of the initial weights.
        split: "dirichlet" (default) or "iid".
        alpha: Dirichlet concentration.
        clients: Number of clients; 60 by default.
        domain: None; digits has one domain.

    Returns:
        `Task`.

    Raises:
        InputError: Unknown `split` or `domain`.
    """
    split = split or SPLITS[0]
    if split not in SPLITS:
        raise InputError("split", f"one of {', '.join(SPLITS)}", split)
    if domain is not None:
        raise InputError("domain", "none, for digits has one domain", domain)
    clients = clients or _CLIENTS
    rng = np.random.default_rng(seed)
    pictures, labels = load_digits(return_X_y=True)
    pictures = (pictures / 16).astype(np.float32)
    order = rng.permutation(len(labels))
    pictures, labels = pictures[order], labels[order].astype(np.int32)
    test, (pictures, labels) = (
        (pictures[:_TEST], labels[:_TEST]),
        (pictures[_TEST:], labels[_TEST:]),
    )
    largest = 0

    if clients <= _CLIENTS:
        if split == "iid":
            parts = np.array_split(rng.permutation(len(labels)), clients)
        else:
            parts = dirichlet_split(labels, clients, alpha, rng)
        largest = int(np.argmax([len(part) for part in parts]))

    def examples(client):
        if clients <= _CLIENTS:
            part = parts[client]
        else:
            own, count = np.random.default_rng([seed, 2, client]), len(labels) // _CLIENTS + 1
            if split == "iid":
                part = own.choice(len(labels), count, replace=False)
            else:
                part = dirichlet_draw(labels, count, alpha, own)
        return pictures[part], labels[part]

    return Classification(
        name="digits",
        num_clients=clients,
        examples=examples,
        test=test,
        build=functools.partial(mlp, seed=seed),
        batch_size=16,
        epochs=2,
        learning_rate=0.1,
        largest_client=largest,
    )


digits.splits, digits.domains = SPLITS, DOMAINS
