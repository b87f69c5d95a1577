"""Makes a paper's table: runs everything it needs, keeps what is finished, and shows it.

  python -m tff_sims.tables omc                    # all of it: hours; stop and go on at any time
  python -m tff_sims.tables omc --at_once=1        # one run after the other, each on all cores
  python -m tff_sims.tables omc --quick            # ten minutes, for a look at the whole
  python -m tff_sims.tables omc --only=iid         # one section
  python -m tff_sims.tables omc --list             # what is run, and what is finished
  python -m tff_sims.tables omc --report           # shows what is finished, runs nothing
  python -m tff_sims.tables omc --report --docs=docs/results    # writes the page, too
  python -m tff_sims.tables nested --task=keywords              # another table
  python -m tff_sims.tables nested --task=pictures --domain=DATA
  python -m tff_sims.tables traffic --task=digits               # bytes both ways, part by part
  python -m tff_sims.tables progressive --task=keywords         # a model in parts, few bits first
  python -m tff_sims.tables fedmpq --task=keywords              # clients of unequal budgets
  python -m tff_sims.tables allocation --task=digits            # a width for each layer
  python -m tff_sims.tables nested --known=docs/results/nested-keywords.json --task=keywords

Each run has its own folder in --out, and its own share of the cores. The same command goes on where
it stopped, killed or not; what is finished is never run again. Exit status: 0, or 1 where a run
failed.
"""

import argparse
import importlib
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before the pictures import TensorFlow.

from tff_sims.arguments import Parser, from_to  # noqa: E402
from tff_sims.tables import report  # noqa: E402
from tff_sims.tables.folder import Folder, FolderError  # noqa: E402
from tff_sims.tables.runner import run_jobs  # noqa: E402

_MOST_AT_ONCE = 4
# Each a module of this package with TASKS and build(task, quick) -> plan.Table. Where WITH_DOMAIN
# has tasks whose data the user has to name, build(task, quick, domain); where WITH_PEERS is true,
# build(..., peers_python=...).
TABLES = ("omc", "nested", "traffic", "progressive", "fedmpq", "allocation")


def main(arguments=None, python=(sys.executable,)):
    """Runs the command line.

    Args:
        arguments: List of str; None for those of the command line.
        python: Command that runs a job's arguments, a sequence of str.

    Returns:
        The exit status.
    """
    arguments = _parse(arguments)
    module = importlib.import_module(f"tff_sims.tables.{arguments.table}")
    task = arguments.task or next(iter(module.TASKS))
    if task not in module.TASKS:
        return _refuse(f"--task: expected one of {', '.join(module.TASKS)}, but got {task!r}.")
    wanted, given = task in getattr(module, "WITH_DOMAIN", ()), arguments.domain
    if (given and not wanted) or (wanted and not (given or arguments.list or arguments.report)):
        expected = "the folder or zip of its data" if wanted else "none"
        return _refuse(f"--domain: expected {expected} with task {task}, but got {given!r}.")
    peers = {"peers_python": arguments.peers_python} if hasattr(module, "WITH_PEERS") else {}
    if arguments.peers_python and not peers:
        return _refuse(
            f"--peers_python: expected none with table {arguments.table}, but got "
            f"{arguments.peers_python!r}."
        )
    table = module.build(task, arguments.quick, *([given] if wanted else []), **peers)
    sections = [section.name for section in table.sections]
    if arguments.only not in (None, *sections):
        return _refuse(
            f"--only: expected one of {', '.join(sections)}, but got {arguments.only!r}."
        )
    page = arguments.docs and arguments.docs / f"{table.files}.md"
    if page and not page.is_file():
        return _refuse(
            f"--docs: expected a folder with the page {page.name}, but got {page.parent}."
        )
    folder = Folder(arguments.out or _default_folder(table, module, task))
    try:
        if arguments.known:
            for name, seed in folder.take_over(arguments.known, table):
                print(f"{name} with seed {seed}: taken over from {arguments.known}")
        folder.check(table)
        if arguments.list:
            _list(table, arguments.only, folder)
            return 0
        with folder.locked():
            return _make(table, arguments, folder, python)
    except FolderError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def _parse(arguments):
    parser = Parser(
        prog="python -m tff_sims.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("table", choices=TABLES, help="whose table")
    parser.add_argument("--task", help="task to learn; the table's own by default")
    parser.add_argument("--domain", help="folder or zip of the data, for task pictures")
    parser.add_argument(
        "--peers_python", help="a Python that has other coders, for table progressive"
    )
    parser.add_argument("--quick", action="store_true", help="short form: ends in 10 minutes")
    parser.add_argument("--only", help="name of the only section to run (see --list)")
    parser.add_argument(
        "--at_once",
        type=from_to(1),
        default=min(len(os.sched_getaffinity(0)), _MOST_AT_ONCE),
        help="runs at a time, each on cores of its own and in about 2 GB of memory; as many as "
        f"there are cores by default, at most {_MOST_AT_ONCE}",
    )
    parser.add_argument("--out", help="folder of the runs; one in runs/tables by default")
    parser.add_argument(
        "--known", help="JSON of this table, made before: what is finished in it is not run again"
    )
    parser.add_argument("--list", action="store_true", help="list the runs, run nothing")
    parser.add_argument("--report", action="store_true", help="show what is there, run nothing")
    parser.add_argument("--docs", type=pathlib.Path, help="folder whose page TABLE.md to fill in")
    return parser.parse_args(arguments)


def _default_folder(table, module, task):
    """runs/tables/TABLE, with what differs from the usual in its name."""
    unusual = [task] if task != next(iter(module.TASKS)) else []
    return "runs/tables/" + "-".join([table.name, *unusual, *(["quick"] if table.quick else [])])


def _refuse(message):
    print(message, file=sys.stderr)
    return 2


def _list(table, only, folder):
    """Prints every run, by section, and which of its seeds are finished."""
    for section in table.sections:
        if only not in (None, section.name):
            continue
        print(f"\n{section.name}: {section.title}")
        for label, names in section.shown:
            for name in names:
                done = [str(seed) for seed in table.seeds if folder.finished(name, seed)]
                state = f"seeds {', '.join(done)} finished" if done else "nothing finished"
                print(f"  {label:32}  {name:32}  {state}")
    jobs = table.jobs(only)
    done = [job for job in jobs if folder.finished(job[0].name, job[1])]
    print(f"\n{len(done)} of {len(jobs)} runs finished in {folder.path}")


def _make(table, arguments, folder, python):
    """Runs and shows; returns the exit status."""
    failed, left = [], []
    if not arguments.report:
        jobs = table.jobs(arguments.only)
        done = sum(folder.finished(run.name, seed) for run, seed in jobs)
        print(f"{table.title}: {len(jobs)} runs, {done} of them finished, in {folder.path}")
        outcome = run_jobs(jobs, folder, table.minutes, _show, python, arguments.at_once)
        failed, left = outcome.failed, outcome.left
    told = report.result(table, folder)
    if not told["finished"]:
        print(f"nothing is finished in {folder.path}", file=sys.stderr)
        return 1
    names = report.write(told, table, folder)
    print(f"\n{report.text(told)}\n\n{folder.path}: {', '.join(names)}")
    if arguments.docs:
        report.publish(table, folder, names, arguments.docs)
        print(f"{arguments.docs / table.files}.md is filled in")
    if left:
        minutes = f"{table.minutes:g} minutes"
        print(f"{len(left)} runs were left out to end within {minutes}; the same command goes on.")
    for name, seed, why in failed:
        print(f"{name}, seed {seed}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _show(line):
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
