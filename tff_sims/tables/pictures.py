"""Pictures of a table: error over rounds and bytes, over bits; accuracy over bytes delivered."""

import statistics

from omc.measurement import plots
from tff_sims.tables import deliveries
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
            plots.difference_over_bits(points, out / names[-1], label, kind == "bits")
    delivered = {}
    for part in table.sections:
        if isinstance(part, deliveries.DeliverySection):
            delivered[part.title] = deliveries.lines(part, _found(told))
    delivered = {title: lines for title, lines in delivered.items() if lines}
    if delivered:
        names.append(f"{table.files}-bytes.png")
        _accuracy_over_bytes(delivered, out / names[-1])
    return names


def _accuracy_over_bytes(panels, path):
    """Draws accuracy over the bytes that have arrived, a picture for each section."""
    figure, grid = plots.plt.subplots(
        1, len(panels), figsize=(6.5 * len(panels), 4.2), squeeze=False
    )
    for axes, (title, lines) in zip(grid.flat, panels.items()):
        for name, points in lines.items():
            kilobytes, accuracies = zip(*points)
            axes.plot(kilobytes, accuracies, marker="o", label=name)
        axes.set_xscale("log")
        reached = [kilobytes for points in lines.values() for kilobytes, _ in points]
        ticks = [n * 10**power for power in range(-1, 7) for n in (1, 2, 5)]
        ticks = [tick for tick in ticks if min(reached) / 2 < tick < 2 * max(reached)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("kilobytes that have arrived")
        axes.set_ylabel("accuracy %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plots.plt.close(figure)


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
    found, points = _found(told), []
    for bits, reading in curve.points:
        terms = [(1 / unit, reading)]
        if curve.baseline:
            terms.append((-1 / unit, curve.baseline))
        figures = summed(found, terms)
        if figures:
            points.append((bits, statistics.fmean(figures), min(figures), max(figures)))
    return sorted(points)


def _found(told):
    """Summaries by run and seed, as `figures.summaries` has them."""
    return {
        run: {seed: job["summary"] for seed, job in of_seeds.items()}
        for run, of_seeds in told["runs"].items()
    }
