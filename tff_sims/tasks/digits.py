"""Handwritten digits: 1,797 pictures of 8x8, shipped with scikit-learn (UCI, Alpaydin & Kaynak)."""

import functools

import numpy as np
from sklearn.datasets import load_digits

from models import mlp
from tff_sims.tasks.base import Task, dirichlet_split

_CLIENTS = 60
_TEST = 360


def digits(seed=0, alpha=0.5):
    """Ten-class digits over 60 clients, Dirichlet non-IID; 360 pictures are held out.

    Args:
        seed: Seed of the split and of the initial weights.
        alpha: Dirichlet concentration.

    Returns:
        `Task`.
    """
    rng = np.random.default_rng(seed)
    pictures, labels = load_digits(return_X_y=True)
    pictures = (pictures / 16).astype(np.float32)
    order = rng.permutation(len(labels))
    pictures, labels = pictures[order], labels[order].astype(np.int32)
    test, train = slice(0, _TEST), slice(_TEST, None)
    split = dirichlet_split(labels[train], _CLIENTS, alpha, rng)
    return Task(
        name="digits",
        clients=[(pictures[train][part], labels[train][part]) for part in split],
        test=(pictures[test], labels[test]),
        build_model=functools.partial(mlp, seed=seed),
        batch_size=16,
        epochs=2,
        learning_rate=0.1,
    )
