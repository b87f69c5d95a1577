"""Single figures of finished runs, seed by seed, and how means of them are told."""

import statistics

from tff_sims.tables.plan import Reading


def value(found, reading, seed):
    """One figure, or None where it is not there.

    Args:
        found: What `figures.summaries` returned.
        reading: `Reading`.
        seed: int.
    """
    figure = found[reading.run].get(seed, {}).get(reading.key)
    if reading.width is not None and figure is not None:
        figure = figure.get(str(reading.width))
    return figure


def values(found, reading):
    """Dict of seed -> figure, of those that are there."""
    read = {seed: value(found, reading, seed) for seed in sorted(found[reading.run])}
    return {seed: figure for seed, figure in read.items() if figure is not None}


def summed(found, terms):
    """Weighted sums, seed by seed.

    Args:
        found: What `figures.summaries` returned.
        terms: Sequence of (factor, `Reading`).

    Returns:
        List of floats, one a seed that has all of them, in order of the seeds.
    """
    parts = [(factor, values(found, reading)) for factor, reading in terms]
    seeds = set.intersection(*(set(read) for _, read in parts))
    return [sum(factor * read[seed] for factor, read in parts) for seed in sorted(seeds)]


def paired(found, reading, baseline):
    """A reading minus another of the same seed.

    Args:
        found: What `figures.summaries` returned.
        reading, baseline: `Reading`s, or names of runs for their errors.

    Returns:
        As `summed`.
    """
    return summed(found, [(1, _reading(reading)), (-1, _reading(baseline))])


def _reading(of):
    return of if isinstance(of, Reading) else Reading(of)


def mean(numbers):
    """Mean, or None of nothing."""
    return statistics.fmean(numbers) if numbers else None


def std(numbers):
    """Sample standard deviation, or None of fewer than two."""
    return statistics.stdev(numbers) if len(numbers) > 1 else None


def with_spread(middle, spread, spec):
    """Text such as 2.31 ± 0.40; None of None.

    Args:
        middle, spread: As `mean` and `std` give them.
        spec: Format spec of the mean.
    """
    if middle is None:
        return None
    return f"{plain(middle, 2):{spec}}" + (f" ± {spread:.2f}" if spread is not None else "")


def plain(number, digits):
    """Rounded, and never -0; None stays."""
    return None if number is None else round(number, digits) + 0.0
