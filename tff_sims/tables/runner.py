"""Runs a table's jobs one after the other, each in a process of its own.

A job that was killed, alone or with this program, goes on where it stopped when the same command is
given again: finished jobs are kept, and a simulation resumes from its own checkpoints.
"""

import ctypes
import dataclasses
import re
import resource
import signal
import statistics
import subprocess
import sys
import time

from tff_sims.tables.folder import Record

_POLL = 0.2  # Seconds between two looks at a running job.
_SHOW = 20.0  # Seconds between two lines about it.
_ROUNDS = re.compile(rb"^\[(\d+)/(\d+)\]", re.MULTILINE)  # How a simulation tells of its rounds.
_PR_SET_PDEATHSIG = 1  # Linux: the signal that a child gets when its parent dies.


@dataclasses.dataclass
class Outcome:
    """How the jobs of a table went.

    Attributes:
        failed: List of (run name, seed, why).
        left: List of (run name, seed) for which no time was left.
    """

    failed: list = dataclasses.field(default_factory=list)
    left: list = dataclasses.field(default_factory=list)


def run_jobs(jobs, folder, minutes=None, show=print, python=(sys.executable,)):
    """Runs those of a list of jobs that are not finished; a failure does not stop the others.

    Args:
        jobs: List of (`plan.Run`, seed).
        folder: `Folder`, locked.
        minutes: Minutes within which everything has to end: no job but the first begins that is
            expected to take longer. None for no end.
        show: Function that is given each line of progress.
        python: Command that gets a job's arguments, a sequence of str.

    Returns:
        `Outcome`.
    """
    outcome, clock, begun = Outcome(), _Clock(jobs, folder), False
    for number, (run, seed) in enumerate(jobs, 1):
        name = f"run {number} of {len(jobs)}, {run.name} with seed {seed}"
        if folder.finished(run.name, seed):
            continue
        late = minutes is not None and clock.seconds + (clock.estimate(run) or 0) > 60 * minutes
        # One begins in any case, so that the same command always gets a step further.
        if begun and (late or (run.start, seed) in outcome.left):
            if not outcome.left:
                show(f"{name}: left for another time, as are all that would end too late")
            outcome.left.append((run.name, seed))
            continue
        if run.start and not folder.finished(run.start, seed):
            problem = f"it starts from {run.start}, which is not finished"
        else:
            begun = True
            show(f"{name}: begins; {clock.left()} left")
            problem = _run(
                run, seed, folder, python, clock, lambda text, n=name: show(f"{n}: {text}")
            )
        if problem:
            outcome.failed.append((run.name, seed, problem))
            show(f"{name}: FAILED, {problem}")
    return outcome


def _run(run, seed, folder, python, clock, show):
    """Runs one job; returns None, or why it failed."""
    arguments = run.arguments(seed, folder.of)
    before = folder.record(run.name, seed) or Record(arguments)
    record = Record(arguments, before.seconds, before.cpu_seconds)
    folder.write(run.name, seed, record)
    log = folder.of(run.name, seed) / "log.txt"
    start, cpu = time.perf_counter(), _children_cpu()
    shown = start
    # Into a file: a pipe would be held open by TFF's worker, should that outlive its program.
    with open(log, "ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            [*python, *arguments], stdout=output, stderr=output, preexec_fn=_end_with_parent
        )
    try:
        while process.poll() is None:
            time.sleep(_POLL)
            if time.perf_counter() - shown > _SHOW:
                shown = time.perf_counter()
                record.seconds = before.seconds + shown - start  # Should we be killed, too.
                folder.write(run.name, seed, record)
                done, total = _rounds(log, begin)
                clock.running((run.name, seed), done, total, shown - start)
                what = f"round {done} of {total}" if total else _last_line(log, begin) or "starting"
                show(f"{what}; {clock.left()} left")
    except BaseException:  # Ctrl-C and the like: the job has to end before we do.
        process.terminate()
        process.wait()
        raise
    record.seconds = before.seconds + time.perf_counter() - start
    record.cpu_seconds = before.cpu_seconds + _children_cpu() - cpu
    record.status = process.returncode
    folder.write(run.name, seed, record)
    if process.returncode == 0 and folder.finished(run.name, seed):
        show(f"done in {clock_text(time.perf_counter() - start)}")
        return None
    said = _last_line(log, begin) or "no output"
    return f"exit status {process.returncode}: {said} (see {log})"


def _children_cpu():
    """CPU seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end_with_parent():
    # A table that is killed must not leave a job behind that the next one would run beside.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _rounds(log, begin):
    """(rounds done, rounds in all) that a job told of last; (0, 0) before its first."""
    found = _ROUNDS.findall(_tail(log, begin))
    return tuple(map(int, found[-1])) if found else (0, 0)


def _last_line(log, begin):
    """What a job said last, one line; lines that overwrite each other are lines, too."""
    lines = _tail(log, begin).decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _tail(log, begin):
    with open(log, "rb") as file:
        file.seek(begin)
        return file.read()


class _Clock:
    """Estimates how long jobs will take, from those that are finished and the one that runs."""

    def __init__(self, jobs, folder):
        self._jobs = jobs
        self._folder = folder
        self._start = time.perf_counter()
        self._job = None  # The running job, how its rounds were first seen, and what they tell.
        self._first = (0, 0.0)
        self._pace = self._rest = None

    @property
    def seconds(self):
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def running(self, job, done, total, seconds):
        """Takes note of how far the running job is.

        Args:
            job: Its (name, seed).
            done, total: Rounds; done may count rounds of an earlier attempt.
            seconds: Since it began.
        """
        if job != self._job:
            self._job, self._first, self._rest = job, (done, seconds), None
        elif done > self._first[0]:
            self._pace = (seconds - self._first[1]) / (done - self._first[0])
            self._rest = self._pace * (total - done)

    def estimate(self, run):
        """Seconds that a run takes, or None where nothing is known yet."""
        same, pace = [], []
        for other, seed in self._jobs:
            if self._folder.finished(other.name, seed):
                record = self._folder.record(other.name, seed)
                if record is not None and other.name == run.name:
                    same.append(record.seconds)
                elif record is not None and other.program == run.program:
                    pace.append(record.seconds / max(other.rounds, 1))
        if same:
            return statistics.fmean(same)
        if not pace and self._pace is not None:
            pace.append(self._pace)
        return statistics.fmean(pace) * max(run.rounds, 1) if pace else None

    def left(self):
        """Time that all unfinished jobs will take, as text."""
        seconds = 0.0
        for run, seed in self._jobs:
            if self._folder.finished(run.name, seed):
                continue
            running = (run.name, seed) == self._job and self._rest is not None
            expected = self._rest if running else self.estimate(run)
            if expected is None and run.rounds:
                return "an unknown time"
            seconds += expected or 0
        return f"about {clock_text(seconds)}"


def clock_text(seconds):
    """Seconds as text, h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
