"""What a real run measured: bytes a client and round, at each width, and its accuracy."""

import dataclasses
import json
import math
import pathlib

from omc.errors import InputError
from tff_sims.results import read_rows
from tff_sims.settings import Settings

ONE_WIDTH = ""
"""Key of a run whose clients all hold the model alike."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A finished run of `tff_sims.simulate`.

    Attributes:
        folder: pathlib.Path.
        label: Short name.
        settings: `Settings`.
        summary: Its summary.json, a dict.
        rows: List of `tff_sims.results.Round`.
        down_bytes, up_bytes: Serialized bytes a client and round, means over the run; dicts from
            width (str), or from `ONE_WIDTH`.
    """

    folder: pathlib.Path
    label: str
    settings: Settings
    summary: dict
    rows: list
    down_bytes: dict
    up_bytes: dict

    @property
    def widths(self):
        """Widths (str) of the run's clients, a tuple; (`ONE_WIDTH`,) where they are alike."""
        return tuple(self.down_bytes)


def read(folder):
    """Reads a run's folder.

    Args:
        folder: Path, with summary.json and rounds.csv.

    Returns:
        `Work`.

    Raises:
        InputError: There is no finished run of `tff_sims.simulate`, its files are damaged, or its
            clients had budgets.
    """
    folder = pathlib.Path(folder)
    summary, rows = _summary(folder), _rows(folder)
    try:
        names = Settings.__dataclass_fields__
        settings = Settings(**{name: summary[name] for name in names if name in summary})
        if settings.budgets is not None:
            tip = "a client's widths change from round to round there."
            raise InputError("runs", "runs without --budgets", settings.budgets, tip)
        down, up = _bytes(summary, "downlink"), _bytes(summary, "uplink")
        down = {width: number for width, number in down.items() if None not in (number, up[width])}
        if not down:
            raise ValueError("no bytes")
        return Work(
            folder=folder,
            label=_label(settings),
            settings=settings,
            summary=summary,
            rows=rows,
            down_bytes=down,
            up_bytes={width: up[width] for width in down},
        )
    except InputError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        got = f"{folder / 'summary.json'} ({type(error).__name__}: {error})"
        raise InputError("runs", "folders of finished runs of tff_sims.simulate", got) from error


def labelled(works):
    """The same runs, each with a label of its own.

    Args:
        works: List of `Work`.
    """
    labels = [work.label for work in works]
    return [
        work
        if labels.count(work.label) == 1
        else dataclasses.replace(work, label=f"{work.label} ({work.folder})")
        for work in works
    ]


def _summary(folder):
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text("utf-8"))
    except OSError as error:
        got, tip = f"{path} ({error.strerror})", "python -m tff_sims.simulate makes them."
        raise InputError("runs", "folders of finished runs", got, tip) from error
    except ValueError as error:
        raise InputError("runs", "summary.json of a run", f"{path} ({error})") from error
    if not isinstance(summary, dict):
        raise InputError("runs", "summary.json of a run", f"{path}, which is no object")
    return summary


def _rows(folder):
    path = folder / "rounds.csv"
    try:
        rows = read_rows(folder)
    except OSError as error:
        raise InputError("runs", "rounds.csv of a run", f"{path} ({error.strerror})") from error
    except (LookupError, TypeError, ValueError) as error:
        got = f"{path} ({type(error).__name__}: {error})"
        raise InputError("runs", "rounds.csv of a run", got) from error
    if not any(row.evaluated for row in rows):
        raise InputError("runs", "rounds.csv with an evaluated round", str(path))
    return rows


def _bytes(summary, way):
    """Bytes a client and round, one way, by width."""
    found = summary.get(f"{way}_bytes_by_width")
    if not found:
        found = {ONE_WIDTH: summary[f"{way}_bytes_per_client_round"]}
    for number in found.values():
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{way} bytes {number!r}")
    return {str(width): number for width, number in found.items()}


def _label(settings):
    if settings.method == "fp32":
        return "FP32"
    parts = [f"OMC {settings.format}", f"{settings.fraction:g}"]
    if settings.downlink != "codes":
        parts.append(f"{settings.downlink} down")
    if settings.uplink != "weights":
        parts.append(f"{settings.uplink} up")
    if settings.widths is not None:
        parts.append(f"at {settings.widths}")
    return ", ".join(parts)
