"""Which aggregator a simulation's flags ask for, and what privacy it gives."""

import functools
import math

from omc.errors import InputError, InputTypeError
from omc.learning import aggregators

NAMES = (*aggregators.NAMED, "private", "secure")
FP32_NAMES = ("mean", "compression")
"""With method fp32: TFF's own mean, and its `compression_aggregator`."""

_CLIPPED = ("mean", "private")


def make_aggregator(settings, seed):
    """The `omc.learning.aggregators.Aggregator` of one run.

    Args:
        settings: `Settings`: aggregator, trimmed_share, clipping, zeroing, noise_multiplier,
            epsilon, clients_per_round, and with epsilon rounds and clients.
        seed: Seed of the run, an int.

    Raises:
        OmcError: A setting that the aggregator does not have, or outside of its range.
    """
    name, clipping = settings.aggregator, _bound("clipping", settings.clipping)
    zeroing = _bound("zeroing", settings.zeroing)
    _only_with(settings, "clipping", name in _CLIPPED, "mean or private")
    _only_with(settings, "zeroing", name == "mean", "mean")
    _only_with(settings, "trimmed_share", name == "trimmed_mean", "trimmed_mean")
    _only_with(settings, "noise_multiplier", name == "private", "private")
    _only_with(settings, "epsilon", name == "private", "private")
    if name == "mean":
        return aggregators.Mean(clipping=clipping, zeroing=zeroing)
    if name == "trimmed_mean":
        share = settings.trimmed_share
        try:
            given = {} if share is None else {"share": share}
            return aggregators.TrimmedMean(**given)
        except InputError as error:
            raise InputError("trimmed_share", error.expected, share, error.tip) from None
    if name == "private":
        return _private(settings, clipping, seed)
    if name == "secure":
        return aggregators.SecureMean(clients=settings.clients_per_round)
    return aggregators.NAMED[name]()


def _private(settings, clip, seed):
    noise, epsilon = settings.noise_multiplier, settings.epsilon
    if not isinstance(clip, float):
        expected = "a number with --aggregator=private"
        raise InputError("clipping", expected, settings.clipping)
    if (noise is None) is (epsilon is None):
        flag, expected = "epsilon", "none beside --noise_multiplier"
        if noise is None:
            flag, expected = "noise_multiplier", "a number with --aggregator=private"
        tip = "say either how much noise there is to be, or at which epsilon."
        raise InputError(flag, expected, getattr(settings, flag), tip)
    try:
        if epsilon is None:
            return aggregators.PrivateMean(clip, noise, settings.clients_per_round, seed=seed)
        population = settings.make_task(settings.seed).num_clients
        return _calibrated(
            clip, settings.clients_per_round, epsilon, settings.rounds, population, seed
        )
    except InputError as error:
        flag = {"clip": "clipping", "population": "clients"}.get(error.argument, error.argument)
        raise InputError(flag, error.expected, error.got, error.tip) from None


@functools.lru_cache
def _calibrated(clip, clients, epsilon, rounds, population, seed):
    return aggregators.PrivateMean.calibrated(
        clip,
        clients,
        epsilon=epsilon,
        delta=_delta(population),
        rounds=rounds,
        population=population,
        seed=seed,
    )


def _delta(population):
    return population**-1.1


def check(settings):
    """Refuses an aggregator that does not go with the uplink and widths of a simulation.

    Args:
        settings: `Settings`.

    Raises:
        OmcError: As `make_aggregator`, or as the aggregator's own check.
    """
    if settings.aggregator == "private":
        population = settings.make_task(settings.seed).num_clients
        if population < 2:
            raise InputError("clients", "at least 2 with --aggregator=private", population)
        privacy(settings, settings.rounds, population)
    aggregator = make_aggregator(settings, settings.seed)
    try:
        aggregator.check(settings.make_uplink(), settings.client_widths)
    except InputError as error:
        if error.argument != "clients":
            raise
        got, tip = settings.clients_per_round, error.tip
        raise InputError("clients_per_round", error.expected, got, tip) from None


def privacy(settings, rounds, population):
    """What `PrivateMean` gives after some rounds, a dict; None with other aggregators.

    Its epsilon is that of one run, and None where it is infinite.

    Args:
        settings: `Settings`.
        rounds: Rounds of one run, an int.
        population: Clients of the task, an int.
    """
    if settings.aggregator != "private":
        return None
    delta, aggregator = _delta(population), make_aggregator(settings, settings.seed)
    epsilon = aggregator.epsilon(rounds, population, delta)
    return {
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "delta": delta,
        "noise_multiplier": aggregator.noise_multiplier,
        "sampling_probability": settings.clients_per_round / population,
        "rounds": rounds,
    }


def _bound(flag, text):
    """The number or "adaptive" of a flag; None for none."""
    if text is None or text == "adaptive":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputTypeError(flag, "a number above 0, or adaptive", text) from None


def _only_with(settings, flag, allowed, names):
    if getattr(settings, flag) is not None and not allowed:
        expected = f"none without --aggregator={names}"
        raise InputError(flag, expected, getattr(settings, flag))
