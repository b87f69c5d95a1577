"""What a simulation needs to know of a task, and what classification tasks share."""

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


class Task(abc.ABC):
    """Data split over clients, a model and a metric.

    Clients are the integers from 0 to `num_clients` - 1. Their data is made when it is asked for,
    so that a large population costs no memory, and depends on the task's seed and the client alone.

    Attributes:
        name: Name on the command line.
        num_clients: Size of the population.
        learning_rate: Default rate of the clients' optimizer.
        largest_client: A client with most data; the one whose memory is measured.
    """

    name: str
    num_clients: int
    learning_rate: float
    largest_client: int = 0

    @abc.abstractmethod
    def client_dataset(self, client):
        """Batches of one client for one round, a tf.data.Dataset in fixed order.

        Args:
            client: int below `num_clients`.
        """

    @abc.abstractmethod
    def build_model(self):
        """Builds the plain Keras model anew, with the same initial weights every time."""

    @abc.abstractmethod
    def model_fn(self):
        """Builds the TFF model anew, a `tff.learning.models.VariableModel`."""

    @abc.abstractmethod
    def evaluate(self, model):
        """Measures a Keras model on held-out data of no client.

        Returns:
            Dict of floats; always with "accuracy", of which more is better.
        """

    def client_optimizer(self, rate):
        """The clients' optimizer, a `tff.learning.optimizers.Optimizer`; plain SGD by default.

        Args:
            rate: Learning rate, float above 0.
        """
        return tff.learning.optimizers.build_sgdm(rate)

    def server_optimizer(self):
        """The server's optimizer; SGD with rate 1 by default, that is, the mean of the clients."""
        return tff.learning.optimizers.build_sgdm(1.0)


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """A task with one label an example, in memory or made by a function of the client.

    Attributes:
        name, num_clients, learning_rate, largest_client: As in `Task`.
        examples: Function from a client to its (features, labels), numpy arrays.
        test: Held-out (features, labels), of no client.
        build: No-arg function that builds the Keras model anew, ending in logits.
        batch_size: Examples in a step of a client.
        epochs: Passes of a client over its data in a round.
    """

    name: str
    num_clients: int
    examples: Callable
    test: tuple
    build: Callable
    batch_size: int
    epochs: int
    learning_rate: float
    largest_client: int = 0

    def client_dataset(self, client):
        """As in `Task`."""
        data = tf.data.Dataset.from_tensor_slices(self.examples(client))
        return data.repeat(self.epochs).batch(self.batch_size)

    def training_data(self, clients=None):
        """Several clients' (features, labels) as one, for training without a federation.

        Args:
            clients: Sequence of clients; None for all.
        """
        chosen = range(self.num_clients) if clients is None else clients
        return tuple(np.concatenate(arrays) for arrays in zip(*map(self.examples, chosen)))

    def build_model(self):
        """As in `Task`."""
        return self.build()

    def model_fn(self):
        """As in `Task`."""
        return tff.learning.models.from_keras_model(
            self.build_model(),
            input_spec=self.client_dataset(0).element_spec,
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.SparseCategoricalAccuracy("accuracy")],
        )

    def evaluate(self, model):
        """Share of held-out examples that the model classifies right, as "accuracy"."""
        features, labels = self.test
        guesses = np.argmax(model.predict_on_batch(features), axis=1)
        return {"accuracy": float(np.mean(guesses == labels))}


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


def dirichlet_draw(labels, count, alpha, rng):
    """Draws one client's examples by the client's own mix of classes, p ~ Dirichlet(alpha).

    For populations that a split cannot serve: clients do not depend on one another, and share
    examples.

    Args:
        labels: int array [n].
        count: Examples of the client.
        alpha: Concentration, above 0.
        rng: numpy Generator, of this client.

    Returns:
        int array [count], indices into `labels`; repeated only where a class has too few.
    """
    classes = np.unique(labels)
    wanted = rng.multinomial(count, rng.dirichlet(np.full(len(classes), alpha)))
    drawn = []
    for label, number in zip(classes, wanted):
        members = np.flatnonzero(labels == label)
        drawn.append(rng.choice(members, number, replace=number > len(members)))
    return rng.permutation(np.concatenate(drawn))
