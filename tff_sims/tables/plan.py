"""What a table consists of: runs, and the sections of rows in which they are shown.

A paper's file (`tff_sims.tables.omc`) returns a `Table`; everything else works on that.
"""

import dataclasses
from typing import Optional

SIMULATE = "tff_sims.simulate"
EVALUATE = "tff_sims.evaluate"
CENTRAL = "tff_sims.central"
DELIVER = "tff_sims.deliver"


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
        weight: Time of one of its rounds, in rounds of the program's quickest run.
        places: Dict of flags that name folders of this machine -> their values; they decide no
            result by themselves, and are told to nobody.
        seeds: Tuple of the only seeds of its table that it is run with; None for all.
    """

    name: str
    flags: dict
    start: Optional[str] = None
    program: str = SIMULATE
    memory_seed: Optional[int] = None
    averaged: float = 0.0
    weight: float = 1.0
    places: dict = dataclasses.field(default_factory=dict)
    seeds: Optional[tuple] = None

    @property
    def rounds(self):
        """Rounds or epochs of training; 0 for an evaluation."""
        return self.flags.get("rounds", self.flags.get("epochs", 0))

    @property
    def effort(self):
        """What its time is estimated by."""
        return max(self.rounds, 1) * self.weight

    def arguments(self, seed, folder, told=False):
        """Command-line arguments of one seed's run, a list of str.

        Args:
            seed: int.
            folder: Function from a run's name and a seed to its folder.
            told: Whether they are for others to read: a place is then its flag in capitals.
        """
        places = {key: key.upper() if told else value for key, value in self.places.items()}
        flags = {**self.flags, **places, "seed": seed}
        if self.memory_seed not in (None, seed):
            flags["client_memory"] = False
        if self.start:
            flags["init"] = folder(self.start, seed)
        flags["out"] = folder(self.name, seed)
        return ["-m", self.program, *(f"--{key}={_text(value)}" for key, value in flags.items())]


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclasses.dataclass(frozen=True)
class Reading:
    """One figure of a finished run.

    Attributes:
        run: Name of the run.
        key: Key of its summary, as `figures.summaries` returns it.
        width: Key within that, where it holds a figure for each width, or chain of stages (a str).
    """

    run: str
    key: str = "error"
    width: object = None

    @property
    def text(self):
        """What it is of, in words."""
        shifted = ", read by shift" if self.key.startswith("shift") else ""
        return self.run + shifted + (f" at {self.width} bits" if self.width else "")


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

    @property
    def shown(self):
        """List of (label, names of the runs that it shows)."""
        return [(row.label, [row.run]) for row in self.rows]


@dataclasses.dataclass(frozen=True)
class WidthRow:
    """One line of a `WidthSection`: its errors may be those of one run, or of one run a width.

    Attributes:
        label: What it says in front.
        errors: Dict of a width -> `Reading` of an error in percent.
        untrained: Tuple of the widths that nobody trained.
    """

    label: str
    errors: dict
    untrained: tuple = ()

    @property
    def runs(self):
        """Names of its runs, each once; together they cost what the row costs."""
        return list(dict.fromkeys(reading.run for reading in self.errors.values()))


@dataclasses.dataclass(frozen=True)
class WidthSection:
    """Rows with a figure for each width, beside one another.

    Attributes:
        name, title: As in `Section`.
        rows: Tuple of `WidthRow`.
        baseline: Label of the row with whose time the others' is compared.
        against: Label of the row whose error is subtracted, width by width and seed by seed.
        costs: Whether to show what a row costs: time, bytes, memory.
        heading: Of a width's column, with {} for the width.
    """

    name: str
    title: str
    rows: tuple
    baseline: str
    against: str
    costs: bool = True
    heading: str = "w{} %"

    @property
    def widths(self):
        """Widths of all rows, the highest first."""
        return sorted({width for row in self.rows for width in row.errors}, reverse=True)

    @property
    def shown(self):
        """As of `Section`."""
        return [(row.label, row.runs) for row in self.rows]

    def row(self, label):
        """The row of a label."""
        (found,) = (row for row in self.rows if row.label == label)
        return found


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
class Claim:
    """What a sum of readings, seed by seed, has to stay below: a difference, say.

    Attributes:
        what: The sum in words.
        terms: Tuple of (factor, `Reading`).
        limit: Largest allowed mean over the seeds.
        unit: Of the sum: "points", or "%".
    """

    what: str
    terms: tuple
    limit: float
    unit: str = "points"


@dataclasses.dataclass(frozen=True)
class Effect:
    """What taking one of a method's parts away does.

    Attributes:
        part: The part, in words.
        without: `Reading` of a run that lacks it.
        with_it: `Reading` of one that has it.
    """

    part: str
    without: Reading
    with_it: Reading


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line over the bits of a weight.

    Attributes:
        points: Tuple of (bits, `Reading`).
        baseline: `Reading` that is subtracted from each, seed by seed; None for nothing.
    """

    points: tuple
    baseline: Optional[Reading] = None


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a task offers to a table.

    Attributes:
        full, quick: How much is run for the table and for its short form, of a class of its own.
    """

    full: object
    quick: object


@dataclasses.dataclass(frozen=True)
class Table:
    """One paper's table.

    Attributes:
        name: Name on the command line.
        title: One line above all.
        legend: How to read it, one line below the title.
        metric: Heading of the error: "WER" or "error"; both in percent, less is better.
        runs: Dict of name -> `Run`; a run stands behind the one it starts from.
        sections: Tuple of `Section`, `WidthSection` and `deliveries.DeliverySection`.
        seeds: Tuple of ints.
        page: Name of its page and files; None for its name.
        targets: Tuple of `Target` and `Claim`.
        effects: Tuple of `Effect`.
        quick: Whether it is the short form, whose figures are too rough to judge by.
        minutes: Minutes after which no further run begins; None for no end.
        curves: Dict of a picture's title -> tuple of `Row` whose error it draws over the rounds.
        bits: Dict of name -> `Curve` of an error.
        sizes: Dict of name -> `Curve` of bytes.
    """

    name: str
    title: str
    legend: str
    metric: str
    runs: dict
    sections: tuple
    seeds: tuple
    page: Optional[str] = None
    targets: tuple = ()
    effects: tuple = ()
    quick: bool = False
    minutes: Optional[float] = None
    curves: dict = dataclasses.field(default_factory=dict)
    bits: dict = dataclasses.field(default_factory=dict)
    sizes: dict = dataclasses.field(default_factory=dict)

    @property
    def files(self):
        """Name of its page and files."""
        return self.page or self.name

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
                wanted |= {name for _, names in part.shown for name in names}
        for name in reversed(list(self.runs)):
            if name in wanted and self.runs[name].start:
                wanted.add(self.runs[name].start)
        runs = [run for name, run in self.runs.items() if name in wanted]
        return [
            (run, seed) for seed in self.seeds for run in runs if seed in (run.seeds or self.seeds)
        ]
