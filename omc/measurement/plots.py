"""Pictures of reports, drawn with matplotlib without a display."""

import logging

import matplotlib

matplotlib.use("Agg")
logging.getLogger("matplotlib").setLevel(logging.WARNING)  # No note on building a font cache.

from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

_DENSE, _STORED = "#b0b7c3", "#1f6feb"
_LARGE = 20


def memory_bars(report, path, most):
    """Draws a `MemoryReport`: dense and stored bytes of the largest variables.

    Args:
        report: `MemoryReport`.
        path: File to write.
        most: Variables to show.
    """
    rows = sorted(report.rows, key=lambda row: -row.dense_bytes)[:most][::-1]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.32 * len(rows)))
    places = range(len(rows))
    axes.barh(places, [r.dense_bytes / 1e3 for r in rows], color=_DENSE, label="dense float32")
    axes.barh(places, [r.stored_bytes / 1e3 for r in rows], 0.5, color=_STORED, label="stored")
    axes.set_yticks(places, [f"{row.name}  {row.format}" for row in rows], fontsize=8)
    axes.set_xlabel("kilobytes")
    axes.set_title(f"{report.stored_bytes:,} of {report.dense_bytes:,} bytes ({report.ratio:.3f})")
    axes.legend(loc="lower right")
    _finish(figure, [axes], path)


def accuracy_curves(runs, path):
    """Draws held-out accuracy over rounds, and over the bytes a client has sent and received.

    Args:
        runs: Dict of label -> list of curves (one a seed), each a list of (round, accuracy,
            megabytes up to that round).
        path: File to write.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for index, (label, curves) in enumerate(runs.items()):
        for number, curve in enumerate(curves):
            rounds, accuracy, megabytes = zip(*curve)
            style = dict(color=f"C{index}", alpha=0.9 if number == 0 else 0.45, linewidth=1.6)
            left.plot(rounds, accuracy, label=label if number == 0 else None, **style)
            right.plot(megabytes, accuracy, label=label if number == 0 else None, **style)
    left.set_xlabel("round")
    left.set_ylabel("held-out accuracy")
    right.set_xlabel("megabytes through one client (down + up)")
    left.legend(loc="lower right")
    _finish(figure, [left, right], path)


def error_curves(panels, path, label):
    """Draws errors over rounds and over a client's bytes: one line of pictures for each panel.

    Args:
        panels: Dict of title -> dict of label -> list of curves (one a seed), each a list of
            (round, error, megabytes up to that round). Drawn is the mean over the seeds.
        path: File to write.
        label: Name of the error.
    """
    figure, grid = plt.subplots(
        len(panels), 2, figsize=(10, 3.4 * len(panels)), sharey="row", squeeze=False
    )
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    for (title, runs), (left, right) in zip(panels.items(), grid):
        for name, curves in runs.items():
            color = f"C{names.index(name)}"  # The same in every panel.
            rounds = [point[0] for point in min(curves, key=len)]
            errors = [[point[1] for point in curve[: len(rounds)]] for curve in curves]
            megabytes = [[point[2] for point in curve[: len(rounds)]] for curve in curves]
            mean = [sum(column) / len(column) for column in zip(*errors)]
            across = [sum(column) / len(column) for column in zip(*megabytes)]
            for axes, x in ((left, rounds), (right, across)):
                axes.plot(x, mean, color=color, label=name, linewidth=1.6, marker=".")
        left.set_title(title, loc="left", fontsize=10)
        left.set_ylabel(label)
        left.set_xlabel("round")
        right.set_xlabel("megabytes through one client (down + up)")
        left.legend(fontsize=8)
    _finish(figure, list(grid.flat), path)


def difference_over_bits(series, path, label, magnify=False):
    """Draws differences against the bits of a stored weight, with the range over the seeds.

    Args:
        series: Dict of name -> list of (bits, mean difference, lowest, highest).
        path: File to write.
        label: Name of the difference.
        magnify: Whether differences around 1 are to show where others are above 20.
    """
    figure, axes = plt.subplots(figsize=(6.5, 4))
    axes.axhline(0, color="black", linewidth=0.8)
    largest = max(abs(mean) for points in series.values() for _, mean, *_ in points)
    if magnify and largest > _LARGE:
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:g}")
    ticks = sorted({point[0] for points in series.values() for point in points})
    gap = min((high - low for low, high in zip(ticks, ticks[1:])), default=1.0)
    aside_step = min(0.25, 0.5 * gap / len(series))  # All series of a tick stay nearer to it.
    for index, (name, points) in enumerate(series.items()):
        bits, mean, low, high = zip(*points)
        # A mean of equal values may lie a rounding error outside of them.
        below = [max(m - value, 0.0) for m, value in zip(mean, low)]
        above = [max(value - m, 0.0) for m, value in zip(mean, high)]
        aside = [value + aside_step * (index - (len(series) - 1) / 2) for value in bits]
        axes.errorbar(aside, mean, [below, above], marker="o", capsize=3, label=name)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("bits of a quantized weight")
    axes.set_ylabel(label)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
    _finish(figure, [axes], path)


def _finish(figure, all_axes, path):
    for axes in all_axes:
        axes.grid(True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
