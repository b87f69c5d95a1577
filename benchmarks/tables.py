"""Writes the tables and the picture of a page from the JSON of a run.

python -m benchmarks.tables runs/bench docs/benchmarks.md

Between `<!-- begin NAME -->` and `<!-- end NAME -->` come the tables of NAME.json. The JSON and
the picture go into the folder `bench` beside the page, so that every figure has its source there.
"""

import argparse
import json
import pathlib
import re

from benchmarks import harness

_MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def main(arguments=None):
    """Copies the JSON, draws the picture and fills the page.

    Args:
        arguments: List of str; None for those of the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=pathlib.Path, help="folder with the JSON files")
    parser.add_argument("page", type=pathlib.Path, help="page to fill in")
    arguments = parser.parse_args(arguments)
    folder = arguments.page.parent / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.run.glob("*.json")):
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    results = load(folder)
    if "training_step" in results:
        from benchmarks import pictures  # matplotlib only where a picture is wanted

        pictures.training_step(results["training_step"], folder / "training_step.png")
    page = arguments.page.read_text(encoding="utf-8")
    arguments.page.write_text(filled(page, results), encoding="utf-8")


def load(folder):
    """Dict of benchmark -> its JSON, of all files of a folder."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return {result["benchmark"]: result for result in results}


def filled(page, results):
    """A page with the tables of `results` between its markers; others stay as they are.

    Args:
        page: Text of the page.
        results: What `load` returned.
    """

    def replaced(match):
        name = match[2]
        return match[1] + markdown(results[name]) + match[3] if name in results else match[0]

    return _MARKED.sub(replaced, page)


def markdown(result):
    """All tables of one benchmark, and what it ran on, as Markdown."""
    tables = [harness.Table(**fields) for fields in result["tables"]]
    parts = [table.markdown() for table in tables if table.rows]
    parts.append(_source(result))
    return "\n" + "\n\n".join(parts) + "\n\n"


def _source(result):
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    rough = " A quick run: small sizes, few repeats, rough figures." if result["quick"] else ""
    native = "with" if result["native_ops"] else "without"
    peaks = f", peaks {result['peaks']}" if "peaks" in result else ""
    return (
        f"[{result['benchmark']}.json](bench/{result['benchmark']}.json): `{result['command']}`, "
        f"{result['processor']}, {result['cores']} cores, {native} native ops{peaks}; "
        f"{versions}.{rough}"
    )


if __name__ == "__main__":
    main()
