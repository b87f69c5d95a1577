"""Runs the benchmarks, prints their tables and writes them as JSON.

python -m benchmarks --out=runs/bench
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import codec, training_step  # noqa: E402 - after TensorFlow's log level is set

BENCHMARKS = {"codec": codec.run, "training_step": training_step.run}


def main():
    """Runs what was asked for, or everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/bench", help="folder for the JSON files")
    parser.add_argument("--only", choices=BENCHMARKS, help="one benchmark instead of all")
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, run in BENCHMARKS.items():
        if arguments.only in (None, name):
            print(f"\n== {name}: {run.__doc__.splitlines()[0]}", flush=True)
            (out / f"{name}.json").write_text(json.dumps(run(), indent=2) + "\n", encoding="utf-8")
    print(f"\nJSON in {out}")


if __name__ == "__main__":
    main()
