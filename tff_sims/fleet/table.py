"""The description of a fleet: a CSV, one row a class of devices or one row a device.

Every cell but the name is a number or a distribution: `9`, `uniform 2 20` (lowest, highest) or
`lognormal 9 0.5` (median, standard deviation of the natural logarithm).
"""

import array
import csv
import dataclasses
import math
import pathlib

import numpy as np
from scipy.special import ndtri

from omc.errors import InputError

_KINDS = {"uniform": 1, "lognormal": 2}  # 0 is a number.
_MOST_ROWS = 10_000_000
_TINY = 1e-12  # Quantiles are drawn from [0, 1); the normal distribution's at 0 is infinite.


@dataclasses.dataclass(frozen=True)
class Column:
    """What a column may hold.

    Attributes:
        name: Name in the CSV's first line.
        least, most: Range of the values that devices have; a lognormal's tails are cut to it.
        expected: The range in words.
        default: Value where the file has no such column; None where it has to.
    """

    name: str
    least: float
    most: float
    expected: str
    default: object = None


_ABOVE, _SHARE = "a number above 0", "a share from 0 to 1"
COLUMNS = (
    Column("down_mbps", 1e-6, 1e6, _ABOVE),  # Megabits (10^6) of payload a second.
    Column("up_mbps", 1e-6, 1e6, _ABOVE),
    Column("latency_s", 0.0, 3600.0, "seconds from 0 to 3600"),  # There and back.
    Column("loss", 0.0, 0.99, "a share from 0 to 0.99", 0.0),  # Of packets; they are sent again.
    Column("speed", 1e-6, 1e6, _ABOVE, 1.0),  # 1: as fast as the machine that was measured.
    Column("availability", 1e-6, 1.0, "a share above 0, at most 1", 1.0),
    Column("night_availability", 1e-6, 1.0, "a share above 0, at most 1", math.nan),
    Column("zone_h", 0.0, 24.0, "hours from 0 to 24", 0.0),
    Column("failure", 0.0, 1.0, _SHARE, 0.0),  # Probability of never answering in a round.
    Column("bits", 0.0, 32.0, "a whole number from 1 to 32", 0.0),  # 0: not said.
)
_BY_NAME = {column.name: column for column in COLUMNS}


class Table:
    """Rows of cells, parsed: an array of kinds and two of parameters for each column.

    Attributes:
        names: List of str, a name a row.
        shares: float array [rows], sum 1; None where each row is one device.
    """

    def __init__(self, names, shares, cells):
        """Takes parsed rows; `read` makes them.

        Args:
            names, shares: As the attributes.
            cells: Dict of column -> (kinds, first parameters, second parameters), arrays [rows].
        """
        self.names = names
        self.shares = shares
        self._cells = cells

    def __len__(self):
        return len(self.names)

    @property
    def columns(self):
        """Names of the columns that the file has."""
        return set(self._cells)

    def values(self, name, rows, quantiles):
        """Values of a column for devices.

        Args:
            name: Column.
            rows: int array [devices], the row of each.
            quantiles: Function of no arguments that gives the devices' quantiles, float array
                [devices] in [0, 1); called where a row has a distribution.

        Returns:
            float64 array [devices].
        """
        column = _BY_NAME[name]
        if name not in self._cells:
            return np.full(len(rows), column.default)
        kinds, first, second = self._cells[name]
        if not kinds.any():
            return first[rows]
        kinds, first, second, at = kinds[rows], first[rows], second[rows], quantiles()
        spread = np.exp(second * (kinds == 2) * ndtri(np.clip(at, _TINY, 1 - _TINY)))
        values = np.where(kinds == 1, first + (second - first) * at, first * spread)
        return np.clip(values, column.least, column.most)


def read(path):
    """Reads a fleet's CSV.

    Columns: name, down_mbps, up_mbps, latency_s (both ways); optional loss, speed, availability,
    night_availability, zone_h, failure, bits (the width of a federation with widths). With a column
    share rows are classes, in proportion; without, each row is one device.

    Args:
        path: File.

    Returns:
        `Table`.

    Raises:
        InputError: It cannot be read, or a line says something else; the message has the line and
            the column.
    """
    try:
        with open(pathlib.Path(path), newline="", encoding="utf-8-sig") as file:
            return parse(file, str(path))
    except OSError as error:
        raise InputError("fleet", "a CSV file", f"{path} ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError("fleet", "a CSV file in UTF-8", f"{path} ({error})") from error


def parse(lines, source):
    """As `read`, from an iterable of lines.

    Args:
        lines: Iterable of str.
        source: What to call it in messages.
    """
    reader = csv.reader(lines, strict=True)
    header = [cell.strip() for cell in next(reader, [])]
    _check_header(header, source)
    names, shares = [], array.array("d")
    parsed = {name: tuple(map(array.array, "Bdd")) for name in header if name in _BY_NAME}
    for row in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            expected = f"{len(header)} cells, as in the first line"
            raise InputError("fleet", expected, f"{len(row)} in line {line} of {source}")
        if len(names) == _MOST_ROWS:
            raise InputError("fleet", f"at most {_MOST_ROWS:,} rows", f"more in {source}")
        for name, cell in zip(header, row):
            cell = cell.strip()
            if name == "name":
                if not cell:
                    raise _wrong("a name", cell, line, name, source)
                names.append(cell)
            elif name == "share":
                shares.append(_share(cell, line, source))
            else:
                for column, value in zip(parsed[name], _cell(cell, _BY_NAME[name], line, source)):
                    column.append(value)
    if not names:
        raise InputError("fleet", "a row or more below the first line", f"none in {source}")
    cells = {name: tuple(map(np.array, columns)) for name, columns in parsed.items()}
    if "share" not in header:
        return Table(names, None, cells)
    shares = np.array(shares)
    shares /= max(shares.max(initial=0.0), np.finfo(float).tiny)  # Else large ones have no sum.
    if not shares.sum():
        raise InputError("fleet", "a share above 0", f"none in column share of {source}")
    return Table(names, shares / shares.sum(), cells)


def _check_header(header, source):
    known = ("name", "share", *_BY_NAME)
    where = f"in line 1 of {source}"
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError("fleet", "each column once", f"{twice!r} twice {where}")
    for name in header:
        if name not in known:
            raise InputError("fleet", f"columns among {', '.join(known)}", f"{name!r} {where}")
    for column in ("name", *(c.name for c in COLUMNS if c.default is None)):
        if column not in header:
            raise InputError("fleet", f"a column {column!r}", f"none {where}")


def _wrong(expected, cell, line, column, source):
    return InputError("fleet", expected, f"{cell!r} in line {line}, column {column!r} of {source}")


def _share(cell, line, source):
    share = _number(cell)
    if share is None or not 0 <= share < math.inf:
        raise _wrong("a number from 0", cell, line, "share", source)
    return share


def _cell(cell, column, line, source):
    """(kind, first parameter, second parameter) of a cell."""
    number = _number(cell)
    if number is not None:
        whole = column.name != "bits" or (number == int(number) and number >= 1)
        if not (column.least <= number <= column.most and whole):
            raise _wrong(column.expected, cell, line, column.name, source)
        return 0, number, 0.0
    words = cell.split()
    numbers = [_number(word) for word in words[1:]]
    if words[:1] and words[0] in _KINDS and len(numbers) == 2 and None not in numbers:
        first, second = numbers
        inside = column.least <= first <= column.most
        if words[0] == "uniform":
            right = inside and first <= second <= column.most
        else:
            right = inside and first > 0 and 0 <= second <= 10
        if right and column.name != "bits":
            return _KINDS[words[0]], first, second
    expected = (
        f"{column.expected}, or `uniform lowest highest`, or `lognormal median sigma` of such"
    )
    if column.name == "bits":
        expected = column.expected
    raise _wrong(expected, cell, line, column.name, source)


def _number(text):
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
