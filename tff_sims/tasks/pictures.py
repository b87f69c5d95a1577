"""A user's own pictures, classified by a ResNet8; see docs/own_pictures.md."""

import dataclasses
import functools

import numpy as np

import models
from omc.errors import InputError
from tff_sims import own_pictures
from tff_sims.tasks.base import Classification, dirichlet_split

SPLITS = ("dirichlet", "iid")

_CLIENTS = 10
_LEAST = 2  # Pictures of a client.
_TEST_BATCH = 500


@dataclasses.dataclass(frozen=True)
class PictureClassification(Classification):
    """Classification of pictures, uint8 in memory and float32 by the batch.

    Attributes:
        name, num_clients, examples, test, batch_size, epochs, learning_rate, largest_client: As in
            `Classification`; pictures are uint8, of which `own_pictures.normalize` makes what the
            model takes.
        build: As there; also takes `norm`, so that build(norm="batch") is the model for central
            training.
        classes: Tuple of the classes' names.
    """

    classes: tuple = ()

    def client_dataset(self, client):
        """As in `Task`."""
        data = super().client_dataset(client)
        return data.map(lambda pictures, labels: (own_pictures.normalize(pictures), labels))

    def evaluate(self, model):
        """Share of held-out pictures that the model classifies right, as "accuracy"."""
        pictures, labels = self.test
        right = 0
        for start in range(0, len(labels), _TEST_BATCH):
            batch = slice(start, start + _TEST_BATCH)
            logits = model.predict_on_batch(own_pictures.normalize(pictures[batch]))
            right += int(np.sum(np.argmax(logits, axis=1) == labels[batch]))
        return {"accuracy": right / len(labels)}


def pictures(seed=0, split=None, alpha=0.5, clients=None, domain=None):
    """Pictures in class folders, split over 10 clients; see `own_pictures.load` for what is read.

    Args:
        seed: Seed of the split and of the initial weights.
        split: "dirichlet" (default; each class by a draw of its own) or "iid".
        alpha: Dirichlet concentration.
        clients: Number of clients; 10 by default, or one for two pictures where that is fewer.
        domain: The folder or zip.

    Returns:
        `PictureClassification`, with ResNet8 and GroupNorm: a BatchNorm's statistics would be those
        of one client's classes.

    Raises:
        InputError: Unknown `split`, more clients than half the training pictures, or as
            `own_pictures.load`.
    """
    split = split or SPLITS[0]
    if split not in SPLITS:
        raise InputError("split", f"one of {', '.join(SPLITS)}", split)
    made = own_pictures.load(domain)
    images, labels = made.train
    most = len(labels) // _LEAST
    clients = clients or min(_CLIENTS, most)
    if clients > most:
        expected = f"at most {most}, one for {_LEAST} of the {len(labels)} training pictures"
        raise InputError("clients", expected, clients)
    rng = np.random.default_rng(seed)
    if split == "iid":
        parts = np.array_split(rng.permutation(len(labels)), clients)
    else:
        parts = dirichlet_split(labels, clients, alpha, rng, _LEAST)
    return PictureClassification(
        name="pictures",
        num_clients=clients,
        examples=lambda client: (images[parts[client]], labels[parts[client]]),
        test=made.test,
        build=functools.partial(
            models.resnet8, images.shape[1:], len(made.classes), norm="group", seed=seed
        ),
        batch_size=32,
        epochs=1,
        learning_rate=0.1,
        largest_client=int(np.argmax([len(part) for part in parts])),
        classes=made.classes,
    )


pictures.splits, pictures.domains = SPLITS, None
pictures.digest = own_pictures.digest
