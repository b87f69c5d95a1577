"""Sections whose rows have a figure for each width: accuracy, and what it costs to have all."""

from tff_sims.tables.grid import Grid
from tff_sims.tables.plan import Reading
from tff_sims.tables.readings import mean, paired, std, values, with_spread

_MARK = "*"
_COSTS = {  # Key of a run's summary -> (heading, unit).
    "cpu_seconds_per_step": ("s a step", 1.0),
    "parameter_bytes": ("stored kB", 1e3),
    "peak_memory_bytes": ("peak MB", 1e6),
}


def grids(section, found):
    """A section as `Grid`s: the rows, and what they differ by from one of them.

    Args:
        section: `plan.WidthSection`.
        found: What `figures.summaries` returned.

    Returns:
        List of two `Grid`s, the second named NAME_differences.
    """
    return [_accuracies(section, found), _differences(section, found)]


def _accuracies(section, found):
    rows = [_row(row, found) for row in section.rows]
    (base,) = (row for row in rows if row["label"] == section.baseline)
    for row in rows:
        for key in _COSTS:
            known = row[key] is not None and base[key]
            row[f"{key}_ratio"] = row[key] / base[key] if known else None
    columns = [("label", "", "")]
    columns += [(f"w{width}", _heading(section, width), "s") for width in section.widths]
    for key, (heading, unit) in _COSTS.items() if section.costs else ():
        for row in rows:
            row[f"{key}_shown"] = row[key] and row[key] / unit
        columns += [(f"{key}_shown", heading, ".3f" if unit == 1.0 else ".1f")]
        columns += [(f"{key}_ratio", "×", ".2f")]
    columns.append(("seeds", "seeds", "d"))
    notes = []
    if any(row.untrained for row in section.rows):
        notes.append(f"{_MARK} a width that nobody trained.")
    return Grid(section.name, section.title, _filled(columns, rows), rows, notes)


def _row(row, found):
    figures = {"label": row.label, "runs": row.runs}
    for width, reading in row.errors.items():
        errors = list(values(found, reading).values())
        accuracy = None if mean(errors) is None else 100 - mean(errors)
        figures[f"accuracy_{width}"], figures[f"accuracy_{width}_std"] = accuracy, std(errors)
        text = with_spread(accuracy, std(errors), ".2f")
        figures[f"w{width}"] = text and text + _MARK * (width in row.untrained)
    for key in _COSTS:
        means = [mean(list(values(found, Reading(run, key)).values())) for run in row.runs]
        figures[key] = None if None in means else _total(key, means)
    figures["seeds"] = min(len(found[run]) for run in row.runs)
    return figures


def _total(key, numbers):
    """A row's cost from its runs': they are trained one after the other, and all kept."""
    return max(numbers) if key.startswith("peak") else sum(numbers)


def _differences(section, found):
    against, rows = section.row(section.against), []
    for row in section.rows:
        shared = [width for width in row.errors if width in against.errors]
        if row is against or not shared:
            continue
        told, seeds = {"label": row.label}, 0
        for width in shared:
            gained = paired(found, against.errors[width], row.errors[width])
            told[f"difference_{width}"] = mean(gained)
            text = with_spread(mean(gained), std(gained), "+.2f")
            told[f"w{width}"] = text and text + _MARK * (width in row.untrained)
            seeds = max(seeds, len(gained))
        rows.append({**told, "seeds": seeds})
    columns = [("label", "", "")]
    widths = sorted(against.errors, reverse=True)
    columns += [(f"w{width}", _heading(section, width), "s") for width in widths]
    columns.append(("seeds", "seeds", "d"))
    title = f"Points of accuracy above {section.against}, width by width and seed by seed"
    return Grid(f"{section.name}_differences", title, _filled(columns, rows), rows)


def _heading(section, width):
    return "FP32 %" if width == 32 else section.heading.format(width)


def _filled(columns, rows):
    """Columns without those in which no row has anything."""
    return [column for column in columns if any(row.get(column[0]) is not None for row in rows)]
