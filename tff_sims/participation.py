"""Who takes part in a round: clients drawn, clients that fail, clients that are cut off."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cohort:
    """The clients of one round.

    Attributes:
        clients: int array [n], distinct.
        failed: bool array [n]: downloaded, then never heard of again.
        share: float array [n], in (0, 1]: part of its batches that a client gets done; below 1
            for stragglers.
    """

    clients: np.ndarray
    failed: np.ndarray
    share: np.ndarray

    @property
    def answered(self):
        """Number of clients that send something back."""
        return int(np.sum(~self.failed))

    @property
    def stragglers(self):
        """Number of clients that send back what they had when they were cut off."""
        return int(np.sum(~self.failed & (self.share < 1)))

    def datasets(self, task):
        """What each client trains on; nothing for those that fail.

        An empty dataset is how a TFF process hears of a failure: the client downloads, has weight
        0 in the mean and counts no bytes up (`omc.learning`).

        Args:
            task: `Task`.
        """
        datasets = []
        for client, failed, share in zip(self.clients, self.failed, self.share):
            dataset = task.client_dataset(int(client))
            if failed:
                dataset = dataset.take(0)
            elif share < 1:
                dataset = dataset.take(max(1, math.floor(share * _batches(dataset))))
            datasets.append(dataset)
        return datasets


def draw_cohort(num_clients, settings, seed, round_number):
    """Draws a round's clients, and what becomes of them, from (seed, round) alone.

    Nothing depends on earlier rounds, so that a run which was interrupted draws the same. Failures
    are independent with probability `dropout`. Stragglers, with probability `stragglers`, get a
    share of their batches done that is uniform in (0, 1), at least one batch, as in FedProx's
    experiments (arXiv 1812.06127, section 5.2), and send what they have.

    With aggregator "private" each client is drawn by itself, with probability clients_per_round /
    num_clients (Poisson sampling), as the accountant of differential privacy presumes; where that
    draws nobody, one client stands for the round and fails.

    Args:
        num_clients: Size of the population.
        settings: `Settings`: clients_per_round, aggregator, dropout, stragglers.
        seed: Seed of the run.
        round_number: From 1.

    Returns:
        `Cohort`.
    """
    draw = np.random.default_rng([seed, 1, round_number])
    count, nobody = settings.clients_per_round, False
    if settings.aggregator == "private":
        drawn = int(draw.binomial(num_clients, count / num_clients))
        count, nobody = max(drawn, 1), not drawn
    clients = draw.choice(num_clients, count, replace=False)
    failed = (draw.random(count) < settings.dropout) | nobody
    straggles = draw.random(count) < settings.stragglers
    share = np.where(straggles, draw.random(count), 1.0)
    return Cohort(clients, failed, share)


def _batches(dataset):
    known = int(dataset.cardinality())
    return known if known >= 0 else sum(1 for _ in dataset)
