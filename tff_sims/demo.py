"""The main demonstration: digits with FP32 FedAvg, with OMC and with coded links, side by side.

Runs `tff_sims.simulate` for each over three seeds, into OUT/fp32, OUT/omc and OUT/coded, prints one
table and draws OUT/accuracy.png. Interrupted, it goes on where it was. Coded links are left out,
with a line, where OMC's native ops are not in TFF's worker.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COMMON = ("--task=digits", "--rounds=60", "--repeats=3")
METHODS = {
    "fp32": ("--method=fp32",),
    "omc": ("--method=omc", "--format=S1E3M7", "--fraction=0.9"),
    "coded": (
        "--method=omc",
        "--format=INT8",
        "--fraction=1",
        "--downlink=changes",
        "--downlink_bits=4",
        "--uplink=dithered",
        "--target_error=0.2",
    ),
}
_OPTIONAL = "coded"

_ROWS = (
    ("held-out accuracy", "accuracy", "{:.2%}"),
    ("  its standard deviation, 3 seeds", "accuracy_std", "{:.2%}"),
    ("parameter bytes on the client", "parameter_bytes", "{:,}"),
    ("peak memory of the client, bytes", "peak_memory_bytes", "{:,}"),
    ("bytes down a client and round", "downlink_bytes_per_client_round", "{:,}"),
    ("bytes up a client and round", "uplink_bytes_per_client_round", "{:,}"),
    ("rounds per minute", "rounds_per_minute", "{:.0f}"),
)


def table(summaries):
    """The side-by-side table, as text; shares are those of the first.

    Args:
        summaries: List of summaries, dicts.
    """
    first = summaries[0]
    heads = [f"{label(summary):>18}" for summary in summaries]
    lines = [f"{'':34}" + heads[0] + "".join(f"{head:>18}{'×':>8}" for head in heads[1:])]
    for title, key, form in _ROWS:
        cells = [f"{form.format(first[key]):>18}"]
        for summary in summaries[1:]:
            ratio = "" if key == "accuracy_std" else f"{summary[key] / first[key]:.3f}"
            cells.append(f"{form.format(summary[key]):>18}{ratio:>8}")
        lines.append((f"{title:34}" + "".join(cells)).rstrip())
    return "\n".join(lines)


def label(summary):
    """A method's name above its column."""
    if summary["method"] == "fp32":
        return "FP32 FedAvg"
    if summary["uplink"] != "weights":
        return f"{summary['format']}, coded links"
    return f"OMC {summary['format']}, {summary['fraction']:g}"


def main():
    """Runs all methods, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/demo", help="folder for the results")
    parser.add_argument("--restart", action="store_true", help="remove earlier results first")
    chosen = parser.parse_args()
    out = pathlib.Path(chosen.out)
    for method, arguments in METHODS.items():
        flags = [
            *COMMON,
            *arguments,
            f"--out={out / method}",
            *(["--restart"] if chosen.restart else []),
        ]
        print("python -m tff_sims.simulate", *flags, flush=True)
        status = subprocess.call([sys.executable, "-m", "tff_sims.simulate", *flags])
        if status and method != _OPTIONAL:
            sys.exit(status)
    _report(out)


def _report(out):
    from omc.measurement.plots import accuracy_curves
    from tff_sims.results import curves, read_rows

    done = [method for method in METHODS if (out / method / "summary.json").exists()]
    summaries = [json.loads((out / m / "summary.json").read_text("utf-8")) for m in done]
    runs = {label(s): curves(read_rows(out / m)) for s, m in zip(summaries, done)}
    accuracy_curves(runs, out / "accuracy.png")
    text = table(summaries)
    (out / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\npicture: {out / 'accuracy.png'}")


if __name__ == "__main__":
    main()
