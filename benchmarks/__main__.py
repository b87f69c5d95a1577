"""Runs the benchmarks, prints their tables and writes one JSON file each.

python -m benchmarks --out=runs/bench                   # everything
python -m benchmarks --only=codec --quick               # one of them, small and rough
python -m benchmarks.tables runs/bench docs/benchmarks.md   # the tables and pictures of the docs
"""

import argparse
import importlib
import pathlib
import time

from benchmarks import harness

# Each a module of this package with run(quick), which returns harness.Table objects.
BENCHMARKS = (
    "codec",
    "coding",
    "nested",
    "allocation",
    "fedmpq",
    "progressive",
    "uplinks",
    "peers",
    "training_step",
    "slots",
    "layers",
    "process",
    "links",
    "rounds",
    "artifact",
    "zoo",
    "conformer",
)


def main(arguments=None):
    """Runs what was asked for, or everything.

    Args:
        arguments: List of str; None for those of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/bench", help="folder for the JSON files")
    parser.add_argument("--only", choices=BENCHMARKS, help="one benchmark instead of all")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: 3 minutes")
    arguments = parser.parse_args(arguments)
    out = pathlib.Path(arguments.out)
    for name in BENCHMARKS:
        if arguments.only not in (None, name):
            continue
        module = importlib.import_module(f"benchmarks.{name}")
        start = time.perf_counter()
        print(f"\n== {name}: {module.__doc__.splitlines()[0]}", flush=True)
        tables = _as_tables(name, module, module.run(quick=arguments.quick))
        for table in tables:
            table.show()
        path = out / f"{name}.json"
        harness.write(path, name, arguments.quick, tables)
        print(f"\n{path}, after {time.perf_counter() - start:.0f} s", flush=True)


def _as_tables(name, module, result):
    """A benchmark's tables; plain rows, a list of dicts, become one table of all their keys."""
    if all(isinstance(part, harness.Table) for part in result):
        return result
    rows = list(result)
    keys = {key: None for row in rows for key in row}
    columns = [(key, key.replace("_", " "), _spec(row.get(key) for row in rows)) for key in keys]
    return [harness.Table(name, module.__doc__.splitlines()[0], columns, rows)]


def _spec(values):
    values = list(values)
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return ",d" if all(isinstance(value, int) for value in values) else ".3f"
    return ""


if __name__ == "__main__":
    main()
