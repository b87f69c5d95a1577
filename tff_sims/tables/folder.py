"""A table's folder: what is finished in it, and what was begun.

    OUT/<run>/seed-<n>/    what the run's program wrote, its output (log.txt) and job.json

A job is one run with one seed. It is finished when its folder has a summary.json, and then is never
run again.
"""

import contextlib
import csv
import dataclasses
import fcntl
import json
import math
import os
import pathlib
import shlex
from typing import Optional

from tff_sims.tables import plan

_DERIVED = ("run", "error", "megabytes")  # Of a table's rounds: what a run's own have not.


class FolderError(Exception):
    """A table's folder cannot be used; the message is one line for the user."""


@dataclasses.dataclass
class Record:
    """job.json of one job.

    Attributes:
        arguments: Arguments of Python that run it, a list of str.
        seconds: Time that all attempts took so far.
        cpu_seconds: CPU time of all attempts that were not killed, over all cores: what tells of
            the work on a machine that has other work, too.
        status: Exit status of the last attempt; None where it has not ended by itself.
        cores: Cores that the last attempt had.
    """

    arguments: list
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    status: Optional[int] = None
    cores: Optional[int] = None


class Folder:
    """What is kept of a table's runs.

    Attributes:
        path: pathlib.Path of the folder.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def of(self, name, seed):
        """Folder of a run's seed, a pathlib.Path."""
        return self.path / name / f"seed-{seed}"

    def summary(self, name, seed):
        """What a finished job's program wrote, a dict; None where it is not finished."""
        path = self.of(name, seed) / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def rounds(self, name, seed):
        """Rounds of a finished simulation.

        Returns:
            List of dicts: round, error (percent; None where the round was not evaluated),
            downlink_bytes and uplink_bytes (of a client in that round), megabytes (both, up to that
            round) and accuracies (dict of the columns that are shares of right answers -> float).
            Empty for a program that has no rounds.
        """
        path = self.of(name, seed) / "rounds.csv"
        if not (self.finished(name, seed) and path.exists()):
            return []
        rows, total = [], 0.0
        with open(path, newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                traffic = {key: float(line[key]) for key in ("downlink_bytes", "uplink_bytes")}
                total += sum(traffic.values()) / 1e6
                error = 100 * (1 - float(line["accuracy"] or "nan"))
                error = None if math.isnan(error) else error
                shares = {
                    key: float(text) for key, text in line.items() if "accuracy" in key and text
                }
                row = {"round": int(line["round"]), "error": error, "megabytes": total}
                rows.append({**row, **traffic, "accuracies": shares})
        return rows

    def finished(self, name, seed):
        """Whether a job is through."""
        return (self.of(name, seed) / "summary.json").exists()

    def record(self, name, seed):
        """`Record` of a job; None where it was never begun."""
        path = self.of(name, seed) / "job.json"
        return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def write(self, name, seed, record):
        """Keeps a job's record; a kill while writing leaves the old one."""
        path = self.of(name, seed) / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(dataclasses.asdict(record), indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, path)

    def take_over(self, path, table):
        """Takes over the finished runs of a table that was made before, on any machine.

        Not those of simulations whose rounds are not beside the file, and none that an unfinished
        run starts from: its weights are not there.

        Args:
            path: The table's JSON, as it is committed beside its page; the rounds are in
                NAME-rounds.csv in the same folder.
            table: `plan.Table`.

        Returns:
            Names of what was taken over, a list of (run name, seed).

        Raises:
            FolderError: No JSON of this table, or with other flags.
        """
        try:
            told = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            known = {
                (run, int(seed)): job
                for run, of in told["runs"].items()
                for seed, job in of.items()
            }
            if told["table"] != table.name:
                raise ValueError(f"it is of table {told['table']}")
            rounds = _known_rounds(pathlib.Path(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(
                f"--known: expected the JSON of a table {table.name}, but got {str(path)!r} "
                f"({error})."
            ) from error
        jobs = [(run, seed) for run, seed in table.jobs() if not self.finished(run.name, seed)]
        wanted = [(r, s) for r, s in jobs if (r.name, s) in known]
        wanted = [(r, s) for r, s in wanted if r.program != plan.SIMULATE or (r.name, s) in rounds]
        left = [job for job in jobs if job not in wanted]
        starts = {(run.start, seed) for run, seed in left}
        taken = [(run, seed) for run, seed in wanted if (run.name, seed) not in starts]
        for run, seed in taken:
            arguments = _arguments(known[run.name, seed])
            self._compare(run, seed, arguments, "--known: expected runs")
        for run, seed in taken:
            self._keep(run.name, seed, known[run.name, seed], rounds.get((run.name, seed)))
        return [(run.name, seed) for run, seed in taken]

    def _keep(self, name, seed, job, rounds):
        """Writes down a job that was finished elsewhere; `rounds` are None where it has none."""
        times = job["seconds"], job["cpu_seconds"]
        self.write(name, seed, Record(_arguments(job), *times, status=0, cores=job["cores"]))
        if rounds:
            path = self.of(name, seed) / "rounds.csv"
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rounds[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rounds)
        path = self.of(name, seed) / "summary.json"
        path.write_text(json.dumps(job["summary"], indent=1) + "\n", encoding="utf-8")

    def check(self, table):
        """Sees to it that the folder holds runs of this table, with its settings of today.

        Raises:
            FolderError: A job was run with other flags.
        """
        for run, seed in table.jobs():
            record = self.record(run.name, seed)
            if record is not None:
                self._compare(run, seed, record.arguments, "--out: expected runs")

    def _compare(self, run, seed, arguments, expected):
        """Raises the error of arguments that a job was not run with."""
        old, new = _flags(arguments), _flags(run.arguments(seed, self.of))
        for flag in [*new, *old]:
            if flag not in run.places and old.get(flag) != new.get(flag):
                raise FolderError(
                    f"{expected} of this table, but {self.of(run.name, seed)} was run with "
                    f"--{flag}={old.get(flag)}, not {new.get(flag)}; name another."
                )

    @contextlib.contextmanager
    def locked(self):
        """Context in which no other process runs jobs here; the folder is made if absent.

        Raises:
            FolderError: It cannot be written, or another process is at it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / "lock", "w", encoding="utf-8")
        except OSError as error:
            raise FolderError(
                f"--out: expected a folder that can be written, but got {str(self.path)!r} "
                f"({error.strerror})."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FolderError(
                    f"--out: expected a folder that no one works in, but another process runs jobs "
                    f"in {str(self.path)!r}."
                ) from error
            yield


def _known_rounds(path):
    """Rounds of simulations beside a table's JSON, (run name, seed) -> list of lines of text.

    Files without bytes by round, as they once were, count as none.
    """
    path = path.with_name(f"{path.stem}-rounds.csv")
    if not path.exists():
        return {}
    found = {}
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if "uplink_bytes" in line:
                kept = {key: text for key, text in line.items() if key not in _DERIVED}
                found.setdefault((line["run"], int(line["seed"])), []).append(kept)
    return found


def _arguments(job):
    """Arguments of Python, of a job as a table's JSON has it; a list of str."""
    return shlex.split(job["command"])[1:]


def _flags(arguments):
    """Dict of the flags that decide a result; the folders of a table may move."""
    pairs = (argument[2:].partition("=") for argument in arguments if argument.startswith("--"))
    return {flag: value for flag, _, value in pairs if flag not in ("out", "init")}
