"""Which aggregator a simulation's flags ask for, and what privacy it gives."""

import math

from omc.errors import InputError, InputTypeError
from omc.learning import aggregators

NAMES = (*aggregators.NAMED, "private", "secure")
_CLIPPED = ("mean", "private")


def make_aggregator(settings, seed):
    """The `omc.learning.aggregators.Aggregator` of one run.

    Args:
        settings: `Settings`: aggregator, trimmed_share, clipping, zeroing, noise_multiplier,
            clients_per_round.
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
        if not isinstance(clipping, float) or settings.noise_multiplier is None:
            missing = "clipping" if not isinstance(clipping, float) else "noise_multiplier"
            expected = "a number with --aggregator=private"
            raise InputError(missing, expected, getattr(settings, missing))
        numbers = clipping, settings.noise_multiplier, settings.clients_per_round
        try:
            return aggregators.PrivateMean(*numbers, seed=seed)
        except InputError as error:
            flag = "clipping" if error.argument == "clip" else error.argument
            raise InputError(flag, error.expected, error.got, error.tip) from None
    if name == "secure":
        return aggregators.SecureMean(clients=settings.clients_per_round)
    return aggregators.NAMED[name]()


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
    delta = population**-1.1
    epsilon = make_aggregator(settings, settings.seed).epsilon(rounds, population, delta)
    return {
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "delta": delta,
        "noise_multiplier": settings.noise_multiplier,
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
