"""What a simulation needs to know of a task."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification task over federated clients.

    Attributes:
        name: Name on the command line.
        clients: List of (features, labels) numpy pairs, one a client.
        test: Held-out (features, labels), of no client.
        build_model: No-arg function that builds the plain Keras model anew.
        batch_size: Examples in a step of a client.
        epochs: Passes of a client over its data in a round.
        learning_rate: Default rate of the clients' SGD.
    """

    name: str
    clients: list
    test: tuple
    build_model: Callable
    batch_size: int
    epochs: int
    learning_rate: float

    def client_dataset(self, client):
        """Batches of one client for one round, a tf.data.Dataset in fixed order."""
        data = tf.data.Dataset.from_tensor_slices(self.clients[client])
        return data.repeat(self.epochs).batch(self.batch_size)

    def model_fn(self):
        """The TFF model, built anew."""
        spec = self.client_dataset(0).element_spec
        return tff.learning.models.from_keras_model(
            self.build_model(),
            input_spec=spec,
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.SparseCategoricalAccuracy("accuracy")],
        )

    def accuracy(self, model):
        """Share of held-out examples that a Keras model classifies right."""
        features, labels = self.test
        return float(np.mean(np.argmax(model.predict_on_batch(features), axis=1) == labels))


def dirichlet_split(labels, num_clients, alpha, rng, least=2):
    """Splits examples over clients, non-IID: each class by its own Dirichlet(alpha) draw.

    Small alpha: a client sees few classes, and clients differ in size. Clients below `least`
    examples take some from the largest.

    Args:
        labels: int array [n].
        num_clients: Number of clients.
        alpha: Concentration, above 0.
        rng: numpy Generator.
        least: Fewest examples of a client.

    Returns:
        List of index arrays, one a client; together every example once.
    """
    parts = [[] for _ in range(num_clients)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(num_clients, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, chunk in zip(parts, np.split(members, cuts)):
            part.extend(chunk.tolist())
    for part in parts:
        while len(part) < least:
            part.append(max(parts, key=len).pop())
    return [rng.permutation(part) for part in parts]
