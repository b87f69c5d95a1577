"""The picture of the training step: peak memory and speed over tokens a step."""

import collections

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

_COLOURS = {"FP32": "#6b7280", "S1E3M7": "#1f6feb", "INT8": "#d97706", "INT4": "#059669"}
_DASHES = {("keras", "loop"): ":", ("pure", "fit"): "--"}


def training_step(result, path):
    """Draws the stack that was measured at most batch sizes.

    Args:
        result: JSON of the benchmark training_step.
        path: File to write, .png or .svg.
    """
    tables = {table["name"]: table["rows"] for table in result["tables"]}
    stack = collections.Counter(row["layers"] for row in tables["peak"]).most_common(1)[0][0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    for axes, name, key, label in (
        (left, "peak", "peak_mb", "allocator peak of a step, MB"),
        (right, "speed", "speed_fit", "steps a second, multiple of FP32 fit"),
    ):
        curves = collections.defaultdict(list)
        for row in tables[name]:
            if row["layers"] == stack and row.get(key) is not None:
                curves[row["format"], row["path"], row["loop"]].append((row["batch"], row[key]))
        for (fmt, way, loop), points in curves.items():
            dashes = _DASHES.get((way, loop), "-")
            label_of_curve = f"{fmt} {way}" if fmt != "FP32" else f"FP32 {loop}"
            colour = _COLOURS.get(fmt)
            axes.plot(*zip(*points), dashes, marker="o", color=colour, label=label_of_curve)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({x for points in curves.values() for x, _ in points}))
        axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens a step")
        axes.set_ylabel(label)
        axes.grid(True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8)
    layers, units = stack.split(" x ")
    figure.suptitle(f"{layers} x Dense({units}), {result['processor']}, {result['cores']} cores")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
