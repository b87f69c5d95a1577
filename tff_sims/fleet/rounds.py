"""Rounds of a federation on a fleet: who is asked, who answers in time, when a round ends."""

import dataclasses
import math

import numpy as np

from omc.errors import InputError

IDLE_SECONDS = 60.0
"""Time of a round in which no device is free, where there is no deadline; ours."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the server does.

    Attributes:
        answers: Answers at which a round ends, at least 1.
        over_selection: Devices asked beyond that, as a share of it, from 0.
        deadline: Seconds after which a round ends anyway; None for never.
    """

    answers: int
    over_selection: float = 0.0
    deadline: float = None

    @property
    def asked(self):
        """Devices asked, where so many are free."""
        return math.ceil(round(self.answers * (1 + self.over_selection), 9))


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a round costs each device under one method, arrays [devices].

    Attributes:
        seconds: From being asked to its answer's arrival.
        down_bytes, up_bytes: Payloads.
    """

    seconds: np.ndarray
    down_bytes: np.ndarray
    up_bytes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rounds:
    """What became of a method's rounds, arrays [rounds].

    Attributes:
        seconds: Length of the round.
        asked: Devices asked, each of which downloads.
        answers: Answers that count.
        late: Devices whose answer came, or would have come, after the end: work in vain.
        failed: Devices that never answer.
        down_bytes: Through all links: what everyone asked downloads.
        up_bytes: Through all links: what answers that count weigh.
    """

    seconds: np.ndarray
    asked: np.ndarray
    answers: np.ndarray
    late: np.ndarray
    failed: np.ndarray
    down_bytes: np.ndarray
    up_bytes: np.ndarray

    def time_to(self, number):
        """Seconds until so many rounds have had an answer; None where they do not."""
        done = np.flatnonzero(np.cumsum(self.answers > 0) >= number)
        return float(self.seconds[: done[0] + 1].sum()) if len(done) else None

    def bytes_to(self, number):
        """Bytes through all links until so many rounds have had an answer; None likewise."""
        done = np.flatnonzero(np.cumsum(self.answers > 0) >= number)
        if not len(done):
            return None
        return float((self.down_bytes + self.up_bytes)[: done[0] + 1].sum())


def simulate(devices, costs, protocol, rounds, seed):
    """Simulates the rounds of several methods with the same luck.

    In each round every device is free with its probability; of those that are, the server asks
    `protocol.asked` at random. Each fails with its probability, and answers else after its seconds.
    The round ends with the answer number `protocol.answers` (or as many as were asked, where fewer
    are free), or at the deadline.

    The draws of a round depend on (seed, round) alone, so methods meet the same devices, as far as
    it is day or night for them when their round begins; and who is asked first does not depend on
    how many are.

    Args:
        devices: `Devices`.
        costs: Dict of method -> `Costs`.
        protocol: `Protocol`.
        rounds: Number of rounds.
        seed: int from 0.

    Returns:
        Dict of method -> `Rounds`.

    Raises:
        InputError: No deadline, where devices may fail: a round might never end.
    """
    if protocol.deadline is None and devices.failure.any():
        tip = "or failure 0 in the fleet's description."
        raise InputError("deadline", "a number of seconds where devices may fail", "none", tip)
    clocks = dict.fromkeys(costs, 0.0)
    found = {method: [] for method in costs}
    for number in range(rounds):
        luck = np.random.default_rng([seed, 4, number]).random(len(devices), dtype=np.float32)
        fate = np.random.default_rng([seed, 5, number]).random(protocol.asked)
        chosen = {}
        for method, cost in costs.items():
            clock = clocks[method] if devices.has_nights else 0.0
            if clock not in chosen:
                chosen[clock] = _choose(devices, luck, clock, protocol.asked)
            asked = chosen[clock]
            failed = fate[: len(asked)] < devices.failure[asked]
            row = _round(asked, failed, cost, protocol)
            found[method].append(row)
            clocks[method] += row[0]
    return {
        method: Rounds(*map(np.array, zip(*rows))) if rows else _nothing()
        for method, rows in found.items()
    }


def _choose(devices, luck, clock, count):
    """The first `count` free devices in random order: luck / free is uniform among the free."""
    share = 2 * count / len(devices)
    while True:
        # Whoever has luck below `share` is looked at; nobody else has an order below `sure`.
        some = np.flatnonzero(luck < share) if share < 1 else np.arange(len(devices))
        order = luck[some] / devices.free_at(clock, some)
        sure = share / devices.most_available if share < 1 else 1.0
        chosen = some[order < min(sure, 1.0)]
        if len(chosen) >= count or sure >= 1:
            order = order[order < min(sure, 1.0)]
            return chosen[np.lexsort((chosen, order))[:count]]
        share *= 4


def _round(asked, failed, cost, protocol):
    """The figures of `Rounds` for one round, in its order."""
    survivors = asked[~failed]
    survivors = survivors[np.argsort(cost.seconds[survivors], kind="stable")]
    times = cost.seconds[survivors]
    wanted = min(protocol.answers, len(asked))
    deadline = math.inf if protocol.deadline is None else protocol.deadline
    end = times[wanted - 1] if 0 < wanted <= len(times) else math.inf
    end = min(end, deadline)
    if not math.isfinite(end):
        end = IDLE_SECONDS
    answers = min(int(np.searchsorted(times, end, side="right")), wanted)
    return (
        float(end),
        len(asked),
        answers,
        len(survivors) - answers,
        int(failed.sum()),
        float(cost.down_bytes[asked].sum()),
        float(cost.up_bytes[survivors[:answers]].sum()),
    )


def _nothing():
    return Rounds(*(np.zeros(0) for _ in dataclasses.fields(Rounds)))
