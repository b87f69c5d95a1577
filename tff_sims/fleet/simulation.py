"""A fleet meets runs: everything that is told of them, as one dict."""

import numpy as np

from tff_sims.fleet import accuracy, costs, delivery, rounds

_SHARES = (50, 95)
_CURVE = np.linspace(0, 100, 401)
_MOST_ROUNDS = 4  # Times the wanted ones: rounds without any answer do not bring a run on.


def compare(devices, works, client_seconds, offers, protocol, *, target, lasting, number, seed):
    """Simulates and summarizes.

    Args:
        devices: `Devices`.
        works: List of `Work`, with labels of their own; ratios are to the first.
        client_seconds: Dict of label -> as of `client_seconds.measure`.
        offers: List of `Offer`; ratios are to the first.
        protocol: `Protocol`.
        target: Held-out accuracy to reach.
        lasting: Evaluations after it that have to be as good.
        number: Rounds from which a round's figures are, at least.
        seed: int from 0.

    Returns:
        (told, curves): figures as JSON has them, seconds and bytes; and the pictures' curves, dict
        of "first_model" and "rounds" -> dict of label -> seconds at 0, 0.25, ..., 100 %.

    Raises:
        InputError: As of `costs.of_devices` and `rounds.simulate`.
    """
    first, curves = [], {"first_model": {}, "rounds": {}}
    for offer in offers:
        download = delivery.download_seconds(devices, offer)
        times = download + offer.seconds / devices.speed
        first.append(
            {
                "label": offer.label,
                "bytes": offer.nbytes,
                "apply_seconds": offer.seconds,
                "download_median": float(np.median(download)),
                **_spread(times, devices),
            }
        )
        curves["first_model"][offer.label] = np.percentile(times, _CURVE)
    reached = {work.label: accuracy.by_seed(work.rows, target, lasting) for work in works}
    each = {
        work.label: costs.of_devices(devices, work, client_seconds[work.label], seed)
        for work in works
    }
    needed = [end for ends in reached.values() for end in ends.values() if end is not None]
    total = max([number, *needed])
    found = rounds.simulate(devices, each, protocol, total, seed)
    if any(_answered(one) < max(needed, default=0) for one in found.values()):
        found = rounds.simulate(devices, each, protocol, _MOST_ROUNDS * total, seed)
    methods = {}
    for work in works:
        one = found[work.label]
        curves["rounds"][work.label] = np.percentile(one.seconds, _CURVE)
        methods[work.label] = {
            "device_round": _spread(each[work.label].seconds, devices),
            "round": _rounds(one, protocol),
            "to_target": _to_target(work, one, reached[work.label]),
        }
    return {"first_model": first, "methods": methods}, curves


def describe(devices):
    """The fleet's classes: how many devices, and the medians of what they are like."""
    told = {}
    for place, name in enumerate(devices.classes):
        own = devices.of == place
        told[name] = {"devices": int(own.sum())}
        for column in ("down_mbps", "up_mbps", "latency_s", "loss", "speed", "failure"):
            median = float(np.median(getattr(devices, column)[own])) if own.any() else None
            told[name][column] = median
    return told


def _spread(values, devices):
    """Median and 95th percentile over all devices, and over those of each class."""

    def of(some):
        median, most = np.percentile(some, _SHARES)
        return {"median": float(median), "p95": float(most)}

    by_class = {}
    for place, name in enumerate(devices.classes):
        own = values[devices.of == place]
        if len(own):
            by_class[name] = of(own)
    return {**of(values), "by_class": by_class}


def _rounds(one, protocol):
    median, most = np.percentile(one.seconds, _SHARES)
    asked = max(1, int(one.asked.sum()))
    return {
        "median": float(median),
        "p95": float(most),
        "rounds": len(one.seconds),
        "asked": float(one.asked.mean()),
        "answers": float(one.answers.mean()),
        "late_share": float(one.late.sum() / asked),
        "failed_share": float(one.failed.sum() / asked),
        "short_rounds": int((one.answers < protocol.answers).sum()),
        "down_bytes": float(one.down_bytes.mean()),
        "up_bytes": float(one.up_bytes.mean()),
    }


def _to_target(work, one, reached):
    """Means over the seeds that reach it; None where none does, or the rounds do not suffice."""
    ends = [end for end in reached.values() if end is not None]

    def mean(values):
        values = list(values)
        return float(np.mean(values)) if values and None not in values else None

    return {
        "round_by_seed": {str(seed): end for seed, end in reached.items()},
        "seeds": len(reached),
        "seeds_that_reach_it": len(ends),
        "rounds": mean(ends),
        "seconds": mean(map(one.time_to, ends)),
        "fleet_bytes": mean(map(one.bytes_to, ends)),
        "client_bytes": accuracy.client_bytes(work.rows, reached),
    }


def _answered(one):
    return int((one.answers > 0).sum())
