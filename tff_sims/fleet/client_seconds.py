"""How long a client's work in one round takes on this machine, by doing it.

The same work as in the simulation (`omc.learning.client_works.ClientTrainer`), on the same data,
but in this process: with native ops and all of its cores, without TFF's worker and the server.
"""

import time

import tensorflow as tf

from omc.learning.client_works import ClientTrainer
from omc.learning.downlinks import Codes
from omc.learning.local_optimizer import LocalOptimizer
from omc.learning.models import ModelPlan
from tff_sims.fleet.work import ONE_WIDTH

CLIENTS = 8
"""Clients that are measured: the first of the task's."""
_TIMES = 3  # The shortest counts: the others were disturbed.


def measure(work, clients=CLIENTS):
    """Seconds of one round's training, for several clients, at each of the run's widths.

    Args:
        work: `Work`.
        clients: How many.

    Returns:
        Dict of width (as `Work.widths`) -> list of seconds, one a client.

    Raises:
        OmcError: The run's task cannot be made here, such as of recordings that are gone.
    """
    return {
        width: [seconds(client, number) for number in range(min(clients, client.task.num_clients))]
        for width, client in at_widths(work)
    }


def at_widths(work):
    """Yields (width, `Client`) for each of the run's widths.

    Args:
        work: `Work`.
    """
    settings, seed = work.settings, work.settings.seed
    task = settings.make_task(seed)
    plan = ModelPlan.of(task.model_fn, settings.policy(seed), settings.client_widths)
    values = [variable.read_value() for variable in plan.variables(task.build_model())]
    candidates = Codes().offer(plan, values, ())[0].sent
    rate = settings.learning_rate or task.learning_rate
    optimizer = LocalOptimizer(task.client_optimizer(rate))
    for width in work.widths:
        place = 0 if width == ONE_WIDTH else plan.widths.bits.index(int(width))
        yield (
            width,
            Client(plan, candidates, place, optimizer, settings.make_uplink(), task),
        )


class Client:
    """One client's model at one width, and what it downloads.

    Attributes:
        task: The `Task`.
    """

    def __init__(self, plan, candidates, place, optimizer, uplink, task):
        """Builds it on the payload of client 0.

        Args:
            plan: `ModelPlan`.
            candidates: For each variable a list of what a client may get of it: a buffer of each
                width, raw float32 last where clients quantize a part.
            place: Place of the client's width among the plan's.
            optimizer: `LocalOptimizer`.
            uplink: `omc.learning.uplinks.Uplink`.
            task: The `Task`.
        """
        self.task = task
        self._plan, self._candidates, self._place = plan, candidates, place
        self._trainer = ClientTrainer(plan, self.payload(0), optimizer, uplink)
        # Traced once, as in TFF's worker: the length of a buffer tells what it holds.
        signature = [
            tf.TensorSpec([None], own[0].dtype)
            if len(own) > 1
            else tf.TensorSpec.from_tensor(own[0])
            for own in candidates
        ]
        dataset = tf.data.DatasetSpec(task.client_dataset(0).element_spec)
        number = tf.TensorSpec([], tf.int32)
        self._train = tf.function(
            lambda *arguments: tf.nest.flatten(self._trainer.train(*arguments)[0]),
            input_signature=(signature, dataset, number, number),
            autograph=False,
        )

    def payload(self, client):
        """The tensors that a client downloads in round 0.

        Args:
            client: int.
        """
        mask = self._plan.mask(0, client)
        return [
            own[self._place if quantized else -1] if len(own) > 1 else own[0]
            for own, quantized in zip(self._candidates, mask)
        ]

    def train(self, received, client, dataset):
        """One round; returns what the client sends back, a list of tensors.

        Args:
            received: As of `payload`.
            client: int.
            dataset: Its data.
        """
        sent = self._train(received, dataset, tf.constant(0), tf.constant(client))
        # The last says which round it is for, which TFF's own averaging leaves out.
        return sent[:-1] if self._plan.policy.format.is_fp32 else sent


def seconds(client, number):
    """Seconds of one client's training; the shortest of a few times.

    Args:
        client: `Client`.
        number: Which client's data, int.
    """
    received, dataset = client.payload(number), client.task.client_dataset(number)
    times = []
    for _ in range(_TIMES + 1):  # The very first traces, and is never the shortest.
        start = time.perf_counter()
        for tensor in client.train(received, number, dataset):
            tensor.numpy()
        times.append(time.perf_counter() - start)
    return min(times)
