"""Where a simulation computes (`runtime`) and what it computes (`build_process`)."""

from omc.learning import build_fp32_fed_avg, build_weighted_fed_avg, local_runtime


def runtime(settings):
    """Context manager in which TFF's computations run.

    Args:
        settings: `Settings`.
    """
    del settings  # There is one runtime so far.
    return local_runtime()


def build_process(settings, seed, task):
    """The learning process of one run.

    Args:
        settings: `Settings`.
        seed: Seed of the run.
        task: `Task`.

    Returns:
        `tff.learning.templates.LearningProcess` whose state is a `LearningAlgorithmState`.
    """
    rate = settings.learning_rate or task.learning_rate
    optimizers = task.client_optimizer(rate), task.server_optimizer()
    if settings.method == "fp32":
        return build_fp32_fed_avg(task.model_fn, *optimizers)
    return build_weighted_fed_avg(
        task.model_fn, settings.policy(seed), *optimizers, uplink=settings.uplink
    )
