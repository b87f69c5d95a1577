"""What is told of a fleet: tables for the screen, fleet.json, fleet.csv and two pictures."""

import csv
import io
import json

from omc.measurement import plots
from tff_sims.results import write_whole, writing

_CURVES = {
    "first_model": "seconds to a first usable model",
    "rounds": "seconds of a round",
}


def text(told):
    """The tables, as text.

    Args:
        told: The result, a dict as in fleet.json.
    """
    return "\n\n".join([_fleet(told), _first_model(told), _methods(told)])


def write(told, curves, out):
    """Writes fleet.json, fleet.csv, fleet.txt and the pictures.

    Args:
        told: The result.
        curves: Second result of `simulation.compare`.
        out: pathlib.Path of the folder.

    Returns:
        List of the files' names.

    Raises:
        InputError: The disk does not take them.
    """
    names = ["fleet.txt", "fleet.csv", "fleet.json"]
    with writing("the results"):
        for kind, label in _CURVES.items():
            names.append(f"{kind}.png")
            _picture(curves[kind], out / names[-1], label)
        write_whole(out / "fleet.txt", (text(told) + "\n").encode())
        write_whole(out / "fleet.csv", _flat(told).encode())
        write_whole(out / "fleet.json", (json.dumps(told, indent=2) + "\n").encode())
    return names


def _fleet(told):
    lines = [
        f"{'class':16}{'devices':>10}{'down Mbit/s':>13}{'up Mbit/s':>12}{'latency s':>11}"
        f"{'speed':>8}"
    ]
    classes = told["fleet"]["classes"]
    for name, of in list(classes.items())[:12]:
        if of["devices"]:
            lines.append(
                f"{name[:15]:16}{of['devices']:>10,}{of['down_mbps']:>13.3g}{of['up_mbps']:>12.3g}"
                f"{of['latency_s']:>11.2g}{of['speed']:>8.2g}"
            )
    if len(classes) > 12:
        lines.append(f"... and {len(classes) - 12:,} classes more")
    return "\n".join([*lines, "(medians)"])


def _first_model(told):
    offers = told["first_model"]
    width = max([len("until a model works"), *(len(offer["label"]) for offer in offers)]) + 2
    lines = [
        f"{'until a model works':{width}}{'bytes':>14}{'download':>12}{'median':>12}{'95 %':>12}"
        f"{'ratio':>8}"
    ]
    for offer in offers:
        ratio = f"{_ratio(offer['median'], offers[0]['median'])}"
        lines.append(
            f"{offer['label']:{width}}{offer['bytes']:>14,}"
            f"{duration(offer['download_median']):>12}{duration(offer['median']):>12}"
            f"{duration(offer['p95']):>12}{ratio:>8}"
        )
    lines.append("(download: its median; median and 95 %: download and putting it to use)")
    return "\n".join(lines)


_ROWS = (
    ("a device's part of a round, median", ("device_round", "median"), "time"),
    ("  95 % of devices are done in", ("device_round", "p95"), "time"),
    ("a round, median", ("round", "median"), "time"),
    ("  95 % of rounds end in", ("round", "p95"), "time"),
    ("bytes down, all devices of a round", ("round", "down_bytes"), "bytes"),
    ("bytes up, all answers of a round", ("round", "up_bytes"), "bytes"),
    ("answers a round", ("round", "answers"), "number"),
    ("asked, but too late", ("round", "late_share"), "share"),
    ("asked, but failed", ("round", "failed_share"), "share"),
    ("rounds with too few answers", ("round", "short_rounds"), "number"),
    ("rounds to the target", ("to_target", "rounds"), "number"),
    ("time to the target", ("to_target", "seconds"), "time"),
    ("bytes to the target, a client", ("to_target", "client_bytes"), "bytes"),
    ("bytes to the target, all devices", ("to_target", "fleet_bytes"), "bytes"),
)


def _methods(told):
    methods = told["methods"]
    labels = list(methods)
    widths = [max(14, len(label) + 2) for label in labels]
    head = "".join(f"{label:>{width}}" for label, width in zip(labels, widths))
    lines = [f"{'':36}{head}{'  ratio' if len(labels) > 1 else ''}"]
    for title, (part, key), kind in _ROWS:
        values = [methods[label][part][key] for label in labels]
        cells = "".join(f"{_cell(v, kind):>{width}}" for v, width in zip(values, widths))
        ratios = ""
        if kind in ("time", "bytes"):
            ratios = "  " + " ".join(_ratio(value, values[0]) for value in values[1:])
        lines.append(f"{title:36}{cells}{ratios}")
    target = told["target"]
    lines.append(
        f"(target: held-out accuracy {target['accuracy']:.4f}, kept for {target['lasting']} more "
        "evaluations; ratio: to the first)"
    )
    for label, method in methods.items():
        reach = method["to_target"]
        if reach["seeds_that_reach_it"] < reach["seeds"]:
            lines.append(
                f"{label}: {reach['seeds_that_reach_it']} of {reach['seeds']} seeds reach the "
                "target"
            )
        short, total = method["round"]["short_rounds"], method["round"]["rounds"]
        if short:
            lines.append(
                f"{label}: {short} of {total} rounds end with too few answers, which the "
                "accuracies of its run do not account for"
            )
    return "\n".join(lines)


def _cell(value, kind):
    if value is None:
        return "never"
    if kind == "time":
        return duration(value)
    if kind == "share":
        return f"{value:.1%}"
    if kind == "bytes":
        return f"{value / 1e6:,.4g} MB" if value < 1e10 else f"{value / 1e9:,.4g} GB"
    return f"{value:,.4g}"


def _ratio(value, first):
    return "-" if None in (value, first) or not first else f"{value / first:.3f}"


def duration(seconds):
    """Seconds as text: 0.123 s, 45.6 s, 12:34 min or 1:02:03 h."""
    if seconds < 99.95:
        return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def _flat(told):
    """All figures as CSV: table, row, class ("" for all), figure, value."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["table", "row", "class", "figure", "value"])

    def spread(table, row, figures):
        for key in ("median", "p95"):
            writer.writerow([table, row, "", key, figures[key]])
        for name, own in figures["by_class"].items():
            for key, value in own.items():
                writer.writerow([table, row, name, key, value])

    for offer in told["first_model"]:
        for key in ("bytes", "apply_seconds", "download_median"):
            writer.writerow(["first_model", offer["label"], "", key, offer[key]])
        spread("first_model", offer["label"], offer)
    for label, method in told["methods"].items():
        spread("device_round", label, method["device_round"])
        for table in ("round", "to_target"):
            for key, value in method[table].items():
                if not isinstance(value, dict):
                    writer.writerow([table, label, "", key, value])
    return buffer.getvalue()


def _picture(curves, path, label):
    """Draws the share of devices, or rounds, against seconds on a logarithmic axis."""
    figure, axes = plots.plt.subplots(figsize=(7.5, 4.2))
    for index, (name, seconds) in enumerate(curves.items()):
        shares = [100 * place / (len(seconds) - 1) for place in range(len(seconds))]
        axes.plot(seconds, shares, color=f"C{index}", label=name, linewidth=1.6)
    if curves:
        axes.legend(fontsize=8, loc="lower right")
    axes.set_xscale("log")
    for axis_format in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_format(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "125" else "")
    axes.set_xlabel(label)
    axes.set_ylabel("percent")
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plots.plt.close(figure)
