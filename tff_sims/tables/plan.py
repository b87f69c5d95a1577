"""What a table consists of: runs, and the sections of rows in which they are shown.

A paper's file (`tff_sims.tables.omc`) returns a `Table`; everything else works on that.
"""

import dataclasses
from typing import Optional

SIMULATE = "tff_sims.simulate"
EVALUATE = "tff_sims.evaluate"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a program, repeated with every seed.

    Attributes:
        name: Name, unique in the table, and folder below the table's.
        flags: Dict of the program's flags -> plain values; --seed, --init and --out come in by
            themselves.
        start: Name of the run whose final weights, of the same seed, this one starts from.
        program: Module of the program; it writes summary.json into its --out when it is through.
        memory_seed: The only seed with which a client's memory is measured; None for all. It is
            the same for every seed, and the measurement costs as much as many rounds.
        averaged: Share of the rounds, counted from the end, over whose evaluations the run's error
            is the mean; 0 for the last evaluation alone.
    """

    name: str
    flags: dict
    start: Optional[str] = None
    program: str = SIMULATE
    memory_seed: Optional[int] = None
    averaged: float = 0.0

    @property
    def rounds(self):
        """Rounds of training, by which its time is estimated; 0 for an evaluation."""
        return self.flags.get("rounds", 0)

    def arguments(self, seed, folder):
        """Command-line arguments of one seed's run, a list of str.

        Args:
            seed: int.
            folder: Function from a run's name and a seed to its folder.
        """
        flags = {**self.flags, "seed": seed}
        if self.memory_seed not in (None, seed):
            flags["client_memory"] = False
        if self.start:
            flags["init"] = folder(self.start, seed)
        flags["out"] = folder(self.name, seed)
        return ["-m", self.program, *(f"--{key}={_text(value)}" for key, value in flags.items())]


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a section.

    Attributes:
        label: What it says in front.
        run: Name of the run that it shows.
    """

    label: str
    run: str


@dataclasses.dataclass(frozen=True)
class Section:
    """Rows that are compared with one another.

    Attributes:
        name: Name on the command line and in the page's markers.
        title: One line above it.
        rows: Tuple of `Row`.
        baseline: Label of the row against which the others are set, seed by seed.
    """

    name: str
    title: str
    rows: tuple
    baseline: str


@dataclasses.dataclass(frozen=True)
class Target:
    """What a row has to reach.

    Attributes:
        section: Name of a section.
        label: Label of one of its rows.
        key: "error" (points above the baseline, or percent of it), or the key of a ratio.
        limit: Largest allowed; for "error" a pair (points, percent), of which one suffices.
    """

    section: str
    label: str
    key: str
    limit: object


@dataclasses.dataclass(frozen=True)
class Effect:
    """What taking one of a method's parts away does.

    Attributes:
        part: The part, in words.
        without: Name of the run that lacks it.
        with_it: Name of the run that has it.
    """

    part: str
    without: str
    with_it: str


@dataclasses.dataclass(frozen=True)
class Table:
    """One paper's table.

    Attributes:
        name: Name on the command line.
        title: One line above all.
        metric: Heading of the error: "WER" or "error"; both in percent, less is better.
        runs: Dict of name -> `Run`; a run stands behind the one it starts from.
        sections: Tuple of `Section`.
        seeds: Tuple of ints.
        targets: Tuple of `Target`.
        effects: Tuple of `Effect`.
        quick: Whether it is the short form, whose figures are too rough to judge by.
        minutes: Minutes after which no further run begins; None for no end.
        curves: Dict of a picture's title -> tuple of `Row` whose error it draws over the rounds.
        bits: Dict of a curve's name -> tuple of (bits, run name): error over bits.
    """

    name: str
    title: str
    metric: str
    runs: dict
    sections: tuple
    seeds: tuple
    targets: tuple = ()
    effects: tuple = ()
    quick: bool = False
    minutes: Optional[float] = None
    curves: dict = dataclasses.field(default_factory=dict)
    bits: dict = dataclasses.field(default_factory=dict)

    def jobs(self, section=None):
        """What has to be run, in order: list of (`Run`, seed).

        All rows with the first seed come first, so that a table is soon complete, if rough, and so
        that a machine that is busy for a while slows all rows alike.

        Args:
            section: Name of the only section wanted, or None for all of them.
        """
        wanted = set()
        for part in self.sections:
            if section in (None, part.name):
                wanted |= {row.run for row in part.rows}
        for name in reversed(list(self.runs)):
            if name in wanted and self.runs[name].start:
                wanted.add(self.runs[name].start)
        runs = [run for name, run in self.runs.items() if name in wanted]
        return [(run, seed) for seed in self.seeds for run in runs]
