"""The main demonstration: digits with FP32 FedAvg and with OMC, side by side.

Runs `tff_sims.simulate` for both methods over three seeds, into OUT/fp32 and OUT/omc, prints one
table and draws OUT/accuracy.png. Interrupted, it goes on where it was.
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
}

_ROWS = (
    ("held-out accuracy", "accuracy", "{:.2%}"),
    ("  its standard deviation, 3 seeds", "accuracy_std", "{:.2%}"),
    ("parameter bytes on the client", "parameter_bytes", "{:,}"),
    ("peak memory of the client, bytes", "peak_memory_bytes", "{:,}"),
    ("bytes down a client and round", "downlink_bytes_per_client_round", "{:,}"),
    ("bytes up a client and round", "uplink_bytes_per_client_round", "{:,}"),
    ("rounds per minute", "rounds_per_minute", "{:.0f}"),
)


def table(fp32, omc):
    """The side-by-side table of two summaries, as text.

    Args:
        fp32, omc: Summaries, dicts.
    """
    label = f"OMC {omc['format']}, {omc['fraction']:g}"
    lines = [f"{'':36}{'FP32 FedAvg':>16}{label:>18}{'OMC / FP32':>12}"]
    for title, key, form in _ROWS:
        ratio = "" if key == "accuracy_std" else f"{omc[key] / fp32[key]:.3f}"
        left, right = form.format(fp32[key]), form.format(omc[key])
        lines.append(f"{title:36}{left:>16}{right:>18}{ratio:>12}")
    return "\n".join(lines)


def main():
    """Runs both methods, prints the table."""
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
        if status:
            sys.exit(status)
    _report(out)


def _report(out):
    from omc.measurement.plots import accuracy_curves
    from tff_sims.results import curves, read_rows

    summaries = [json.loads((out / m / "summary.json").read_text("utf-8")) for m in METHODS]
    labels = ("FP32 FedAvg", f"OMC {summaries[1]['format']}, {summaries[1]['fraction']:g}")
    runs = {label: curves(read_rows(out / m)) for label, m in zip(labels, METHODS)}
    accuracy_curves(runs, out / "accuracy.png")
    text = table(*summaries)
    (out / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\npicture: {out / 'accuracy.png'}")


if __name__ == "__main__":
    main()
