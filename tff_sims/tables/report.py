"""What a table says: on the screen, as JSON, and as a page of the documentation.

The JSON holds every run's summary and the tables made of them, the CSV every round; the page and
the pictures come from these two files alone.
"""

import csv
import json
import math
import os
import re
import shlex

from tff_sims.machine import processor
from tff_sims.tables import figures
from tff_sims.tables.clock import clock_text
from tff_sims.tables.grid import Grid

_MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
_LOCAL = ("command", "init")  # Of a summary: they name folders of this machine.


def result(table, folder):
    """Everything there is to tell, as plain values.

    Args:
        table: `plan.Table`.
        folder: `Folder` of its runs.

    Returns:
        Dict: table, title, legend, metric, command, quick, seeds, finished and wanted (numbers of
        jobs), missing (their names), versions, machine, seconds (of all jobs), grids (tables for
        people) and runs (run name -> seed -> command, seconds, cores, summary).
    """
    found = figures.summaries(table, folder)
    grids = [grid for part in table.sections for grid in figures.section_grids(part, table, found)]
    if table.targets:
        grids.append(figures.target_grid(table, found))
    if table.effects:
        grids.append(figures.effect_grid(table, found))
    jobs = table.jobs()
    missing = [f"{run.name}, seed {seed}" for run, seed in jobs if seed not in found[run.name]]
    runs = {
        run.name: {
            str(seed): _job(run, seed, folder, summary) for seed, summary in found[run.name].items()
        }
        for run in table.runs.values()
    }
    return {
        "table": table.name,
        "title": table.title,
        "legend": table.legend,
        "metric": table.metric,
        "command": command(table),
        "quick": table.quick,
        "seeds": list(table.seeds),
        "wanted": len(jobs),
        "finished": len(jobs) - len(missing),
        "missing": missing,
        "seconds": round(sum(job["seconds"] for of in runs.values() for job in of.values()), 1),
        "versions": _versions(runs),
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "cores_a_run": _cores(runs),
        },
        "grids": [grid.as_dict() for grid in grids],
        "runs": runs,
    }


def command(table):
    """The command that makes a table."""
    run = next(iter(table.runs.values()))
    named = dict.fromkeys(place for run in table.runs.values() for place in run.places)
    places = [f"--{place}={place.upper()}" for place in named]
    flags = [f"--task={run.flags['task']}", *places, *(["--quick"] if table.quick else [])]
    return shlex.join(["python", "-m", "tff_sims.tables", table.name, *flags])


def _job(run, seed, folder, summary):
    record = folder.record(run.name, seed)
    relative = type(folder)("OUT").of  # No path of this machine in what is committed.
    return {
        "command": shlex.join(["python", *run.arguments(seed, relative, told=True)]),
        "seconds": round(record.seconds, 1) if record else 0.0,
        "cpu_seconds": round(record.cpu_seconds, 1) if record else 0.0,
        "cores": record.cores if record else None,
        "summary": {k: v for k, v in summary.items() if k not in (*_LOCAL, *run.places)},
    }


def _versions(runs):
    """Package -> version; several, where runs differ."""
    seen = {}
    for of_seeds in runs.values():
        for job in of_seeds.values():
            for package, version in job["summary"].get("versions", {}).items():
                seen.setdefault(package, set()).add(version)
    return {package: " and ".join(sorted(versions)) for package, versions in sorted(seen.items())}


def _cores(runs):
    """How many cores the runs had each; several, where they differ."""
    seen = {job["cores"] for of_seeds in runs.values() for job in of_seeds.values()}
    return " or ".join(str(number) for number in sorted(seen - {None}))


def text(told):
    """The tables as text for a terminal.

    Args:
        told: What `result` returned.
    """
    parts = [_heading(told), *(Grid(**grid).text() for grid in _told(told))]
    if told["missing"]:
        shown = "; ".join(told["missing"][:6])
        more = f" and {len(told['missing']) - 6} more" if len(told["missing"]) > 6 else ""
        parts.append(f"not finished: {shown}{more}")
    return "\n\n".join(parts)


def _told(told):
    """The grids of which something is finished."""
    return [
        grid
        for grid in told["grids"]
        if any(row.get("seeds", 1) or row.get("by_seed") for row in grid["rows"])
    ]


def _heading(told):
    lines = [
        f"{told['title']} (re-implementation): {told['finished']} of {told['wanted']} runs are "
        f"finished, {clock_text(told['seconds'])} of computing"
    ]
    if told["quick"]:
        lines.append(
            "QUICK FORM: one seed, few rounds, fewer rows. It shows that everything works and what "
            "bytes there are; its errors are those of models that have hardly learnt."
        )
    lines.append(told["legend"])
    return "\n".join(lines)


def rounds(table, folder):
    """Every round of every finished simulation.

    Returns:
        List of dicts: run, seed, round, error (percent; None where the round was not evaluated),
        megabytes (down and up through one client, up to that round), downlink_bytes and
        uplink_bytes (of that round), and accuracies by their names in the run's own rounds.
    """
    return [
        {
            "run": name,
            "seed": seed,
            "round": row["round"],
            "error": row["error"] and round(row["error"], 3),
            "megabytes": round(row["megabytes"], 3),
            "downlink_bytes": row["downlink_bytes"],
            "uplink_bytes": row["uplink_bytes"],
            **{key: share for key, share in row["accuracies"].items() if not math.isnan(share)},
        }
        for name in table.runs
        for seed in table.seeds
        for row in folder.rounds(name, seed)
    ]


def write(told, table, folder):
    """Writes NAME.json, NAME-rounds.csv (where there are rounds) and pictures into the folder.

    Args:
        told: What `result` returned.
        table: `plan.Table`.
        folder: `Folder`.

    Returns:
        List of the files' names.
    """
    from tff_sims.tables import pictures  # It imports TensorFlow, which no job should wait for.

    rows = rounds(table, folder)
    names = [f"{table.files}.json"]
    text = json.dumps(told, indent=1) + "\n"
    (folder.path / names[0]).write_text(text, encoding="utf-8")
    if rows:
        names.append(f"{table.files}-rounds.csv")
        with open(folder.path / names[1], "w", newline="", encoding="utf-8") as file:
            fields = dict.fromkeys(key for row in rows for key in row)
            writer = csv.DictWriter(file, list(fields), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return [*names, *pictures.draw(table, told, rows, folder.path)]


def publish(table, folder, names, docs):
    """Copies files into a folder of the documentation and fills its page NAME.md.

    Args:
        table: `plan.Table`.
        folder: `Folder` in which `write` has written.
        names: Names of the files, as `write` returned them.
        docs: pathlib.Path of a folder that holds the page.
    """
    for name in names:
        (docs / name).write_bytes((folder.path / name).read_bytes())
    page = docs / f"{table.files}.md"
    told = json.loads((docs / f"{table.files}.json").read_text(encoding="utf-8"))
    page.write_text(filled(page.read_text(encoding="utf-8"), told), encoding="utf-8")


def filled(page, told):
    """A page with what stands in the JSON between its markers.

    `<!-- begin NAME -->` and `<!-- end NAME -->` enclose the grid of that name; `source` is what it
    was made with. Other text stays as it is.

    Args:
        page: Text of the page.
        told: What `result` returned, or was read from its JSON.
    """
    blocks = {grid["name"]: Grid(**grid).markdown() for grid in _told(told)}
    blocks["source"] = _source(told)

    def block(match):
        return (
            match[1] + blocks.get(match[2], "Not run in this form of the table.") + "\n" + match[3]
        )

    return _MARKED.sub(block, page)


def _source(told):
    versions = ", ".join(f"{package} {version}" for package, version in told["versions"].items())
    machine = told["machine"]
    lines = [
        f"`{told['command']}` — {told['title']}; "
        f"{told['finished']} of {told['wanted']} runs, {clock_text(told['seconds'])} of computing; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['cores_a_run']} for each run; "
        f"{versions}."
    ]
    if told["quick"]:
        lines.append("**A quick run: one seed and few rounds; its errors say nothing yet.**")
    if told["missing"]:
        lines.append(f"Not finished: {'; '.join(told['missing'])}.")
    return "\n\n".join(lines)
