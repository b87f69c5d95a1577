"""In which round a run reaches an accuracy, and the bytes up to there."""

import statistics


def rounds_to(rows, target, lasting):
    """First round whose held-out accuracy is the target's, and stays so.

    Args:
        rows: List of `tff_sims.results.Round`, of one seed, in order.
        target: Accuracy.
        lasting: Evaluations after it that have to be as good, too.

    Returns:
        Round number; None where no evaluation is, with so many after it.
    """
    evaluated = [row for row in rows if row.evaluated]
    for place in range(len(evaluated) - lasting):
        if all(row.accuracy >= target for row in evaluated[place : place + lasting + 1]):
            return evaluated[place].round
    return None


def by_seed(rows, target, lasting):
    """`rounds_to` of every seed, dict of seed -> round or None."""
    seeds = dict.fromkeys(row.seed for row in rows)
    return {
        seed: rounds_to([row for row in rows if row.seed == seed], target, lasting)
        for seed in seeds
    }


def default_target(rows):
    """A run's last accuracy, mean over the seeds, less half a point."""
    last = {row.seed: row.accuracy for row in rows if row.evaluated}
    return statistics.fmean(last.values()) - 0.005


def client_bytes(rows, reached):
    """Bytes, down and up, through a client drawn in every round until the target; mean over seeds.

    Args:
        rows: List of `Round`.
        reached: As of `by_seed`.

    Returns:
        Mean over the seeds that reach it, float; None where none does.
    """
    totals = [
        sum(r.downlink_bytes + r.uplink_bytes for r in rows if r.seed == seed and r.round <= end)
        for seed, end in reached.items()
        if end is not None
    ]
    return statistics.fmean(totals) if totals else None
