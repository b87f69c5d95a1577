"""Pictures of a table: error over rounds and bytes; error and bytes over the bits of a weight."""

import statistics

from omc.measurement import plots
from tff_sims.tables.readings import summed


def draw(table, told, rows, out):
    """Draws what the table asks for.

    Args:
        table: `plan.Table`.
        told: The table's result, as `report.result` returns it.
        rows: Its rounds, as `report.rounds` returns them.
        out: pathlib.Path of the folder to write into.

    Returns:
        List of the files' names.
    """
    names, label = [], f"{table.metric} %"
    panels = {title: _curves(part, rows) for title, part in table.curves.items()}
    panels = {title: curves for title, curves in panels.items() if curves}
    if panels:
        names.append(f"{table.files}-rounds.png")
        plots.error_curves(panels, out / names[-1], label)
    over_bits = {
        "bits": (table.bits, 1.0, f"{table.metric} points above FP32"),
        "bytes": (table.sizes, 1e3, "kilobytes"),
    }
    for kind, (curves, unit, label) in over_bits.items():
        points = {name: _points(curve, told, unit) for name, curve in curves.items()}
        points = {name: part for name, part in points.items() if part}
        if points:
            names.append(f"{table.files}-{kind}.png")
            plots.difference_over_bits(points, out / names[-1], label)
    return names


def _curves(part, rows):
    """Row label -> list of curves, one a seed, each a list of (round, error, megabytes)."""
    curves = {}
    for line in part:
        of_seeds = {}
        for row in rows:
            if row["run"] == line.run and row["error"] is not None:
                point = row["round"], row["error"], row["megabytes"]
                of_seeds.setdefault(row["seed"], []).append(point)
        if of_seeds:
            curves[line.label] = list(of_seeds.values())
    return curves


def _points(curve, told, unit):
    """List of (bits, mean, lowest, highest) of a `plan.Curve` over the seeds."""
    found = {
        run: {seed: job["summary"] for seed, job in of_seeds.items()}
        for run, of_seeds in told["runs"].items()
    }
    points = []
    for bits, reading in curve.points:
        terms = [(1 / unit, reading)]
        if curve.baseline:
            terms.append((-1 / unit, curve.baseline))
        figures = summed(found, terms)
        if figures:
            points.append((bits, statistics.fmean(figures), min(figures), max(figures)))
    return sorted(points)
