"""Where a simulation computes (`runtime`) and what it computes (`build_process`)."""

from omc.learning import (
    build_controlled_fed_avg,
    build_fp32_fed_avg,
    build_weighted_fed_avg,
    local_runtime,
    remote_runtime,
)
from tff_sims.aggregation import make_aggregator
from tff_sims.rogues import RogueClients


def runtime(workers=()):
    """Context manager in which TFF's computations run.

    Args:
        workers: Addresses, "host:port", of workers that were started; none for one local worker.
    """
    return remote_runtime(workers) if workers else local_runtime()


def build_process(settings, seed, task, workers=()):
    """The learning process of one run, for the runtime that surrounds the call.

    On one machine a round is one composed computation. To other machines a controller sends what
    clients get, and nothing else; results are the same to the bit.

    Args:
        settings: `Settings`.
        seed: Seed of the run.
        task: `Task`.
        workers: As of `runtime`.

    Returns:
        A process with the methods of `tff.learning.templates.LearningProcess`, whose state is a
        `LearningAlgorithmState`.
    """
    rate = settings.learning_rate or task.learning_rate
    optimizers = task.client_optimizer(rate), task.server_optimizer()
    if settings.method == "fp32":
        compressed = settings.aggregator == "compression"
        return build_fp32_fed_avg(task.model_fn, *optimizers, compressed)
    build = build_controlled_fed_avg if workers else build_weighted_fed_avg
    return build(
        task.model_fn,
        settings.policy(seed),
        *optimizers,
        uplink=settings.make_uplink(),
        downlink=settings.make_downlink(),
        widths=settings.make_widths(task),
        aggregator=make_aggregator(settings, seed),
        client_work=RogueClients(settings.rogues, seed) if settings.rogues else None,
    )
