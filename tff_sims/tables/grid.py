"""Rows of figures as text for a terminal and as Markdown for a page."""

import dataclasses


@dataclasses.dataclass
class Grid:
    """Measured rows, and how to show them.

    Attributes:
        name: Short name; a page's markers refer to it.
        title: What it shows, one line.
        columns: List of (key of a row, heading, format spec). An empty spec is text, aligned left;
            a missing value shows as "-".
        rows: List of dicts of plain values.
        notes: Lines below it.
    """

    name: str
    title: str
    columns: list
    rows: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def as_dict(self):
        """The fields as plain lists and dicts, for JSON."""
        return dataclasses.asdict(self)

    def show(self):
        """Prints it, after an empty line."""
        print(f"\n{self.text()}", flush=True)

    def text(self):
        """The rows under their headings, aligned, then the notes."""
        lines = [[heading for _, heading, _ in self.columns], *map(self.cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        shown = [
            "  ".join(
                cell.ljust(width) if spec == "" else cell.rjust(width)
                for cell, width, (_, _, spec) in zip(line, widths, self.columns)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *shown, *(f"  {note}" for note in self.notes)])

    def markdown(self):
        """The same as a Markdown table under a bold title."""
        lines = [[heading for _, heading, _ in self.columns]]
        lines.append(["---" if spec == "" else "--:" for _, _, spec in self.columns])
        lines += map(self.cells, self.rows)
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"**{self.title}**", table, *self.notes])

    def cells(self, row):
        """One row as a list of str."""
        return [formatted(row.get(key), spec) for key, _, spec in self.columns]


def formatted(value, spec):
    """A value as text: "-" for None, yes or no for a truth value."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, spec)
