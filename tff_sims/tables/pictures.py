"""Pictures of a table: error over rounds and over bytes, difference over the bits of a weight."""

import statistics

from omc.measurement import plots


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
        names.append(f"{table.name}-rounds.png")
        plots.error_curves(panels, out / names[-1], label)
    points = {name: _points(part, told) for name, part in table.bits.items()}
    points = {name: part for name, part in points.items() if part}
    if points:
        names.append(f"{table.name}-bits.png")
        plots.difference_over_bits(points, out / names[-1], f"{table.metric} points above FP32")
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


def _points(part, told):
    """List of (bits, mean, lowest, highest) of the difference to the most bits, seed by seed."""
    errors = {
        bits: {seed: job["summary"]["error"] for seed, job in told["runs"].get(run, {}).items()}
        for bits, run in part
    }
    most, points = errors[max(errors)], []
    for bits, of_seeds in errors.items():
        above = [error - most[seed] for seed, error in of_seeds.items() if seed in most]
        if above:
            points.append((bits, statistics.fmean(above), min(above), max(above)))
    return sorted(points)
