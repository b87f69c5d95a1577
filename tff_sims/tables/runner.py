"""Runs a table's jobs, each in a process of its own and several side by side.

A job that was killed, alone or with this program, goes on where it stopped when the same command is
given again: finished jobs are kept, and a simulation resumes from its own checkpoints.
"""

import dataclasses
import functools
import os
import re
import subprocess
import sys
import time

from tff_sims.machine import end_with_parent
from tff_sims.tables.clock import Clock, clock_text
from tff_sims.tables.folder import Record

_POLL = 0.2  # Seconds between two looks at the running jobs.
_SHOW = 20.0  # Seconds between two lines about one.
_ROUNDS = re.compile(rb"^\[(\d+)/(\d+)\]", re.MULTILINE)  # How a simulation tells of its rounds.


@dataclasses.dataclass
class Outcome:
    """How the jobs of a table went.

    Attributes:
        failed: List of (run name, seed, why).
        left: List of (run name, seed) for which no time was left.
    """

    failed: list = dataclasses.field(default_factory=list)
    left: list = dataclasses.field(default_factory=list)


def run_jobs(jobs, folder, minutes=None, show=print, python=(sys.executable,), at_once=1):
    """Runs those of a list of jobs that are not finished; a failure does not stop the others.

    Args:
        jobs: List of (`plan.Run`, seed); one stands behind the one that it starts from.
        folder: `Folder`, locked.
        minutes: Minutes within which everything has to end: no job but the first begins that is
            expected to take longer. None for no end.
        show: Function that is given each line of progress.
        python: Command that gets a job's arguments, a sequence of str.
        at_once: Jobs that run at a time. Each has its own share of the cores, so that none slows
            another.

    Returns:
        `Outcome`.
    """
    return _Runner(jobs, folder, minutes, show, python, at_once).run()


class _Runner:
    """The state of `run_jobs`."""

    def __init__(self, jobs, folder, minutes, show, python, at_once):
        self._jobs = jobs
        self._folder = folder
        self._minutes = minutes
        self._show = show
        self._python = python
        self._clock = Clock(jobs, folder, at_once)
        self._outcome = Outcome()
        self._free = _shares(at_once)
        self._waiting = [job for job in jobs if not folder.finished(job[0].name, job[1])]
        self._running = []
        self._begun = False

    def run(self):
        """Runs everything; returns the `Outcome`."""
        try:
            while self._waiting or self._running:
                for job in list(self._waiting):
                    if self._take_up(*job):
                        self._waiting.remove(job)
                if self._running:
                    time.sleep(_POLL)
                    self._look()
        except BaseException:  # Ctrl-C and the like: the jobs have to end before we do.
            for job in self._running:
                job.process.terminate()
            for job in self._running:
                job.process.wait()
            raise
        return self._outcome

    def _take_up(self, run, seed):
        """Begins a job if its turn has come; returns whether it waits no longer."""
        if not self._free:
            return False
        name = self._name(run, seed)
        # One begins in any case, so that the same command always gets a step further.
        if self._begun and (self._late(run) or (run.start, seed) in self._outcome.left):
            if not self._outcome.left:
                self._show(f"{name}: left for another time, as are all that would end too late")
            self._outcome.left.append((run.name, seed))
            return True
        if run.start and not self._folder.finished(run.start, seed):
            if self._coming(run.start, seed):
                return False
            self._fail(run, seed, f"it starts from {run.start}, which is not finished")
            return True
        self._begun = True
        self._show(f"{name}: begins; {self._clock.left()} left")
        self._running.append(_Job(run, seed, self._folder, self._python, self._free.pop(0)))
        return True

    def _coming(self, name, seed):
        """Whether a job that another starts from runs, or waits itself."""
        jobs = self._waiting + [(job.run, job.seed) for job in self._running]
        return (name, seed) in [(run.name, number) for run, number in jobs]

    def _look(self):
        """Takes note of jobs that have ended, and tells of the others from time to time."""
        for job in list(self._running):
            name = self._name(job.run, job.seed)
            if not job.ended():
                if job.due():
                    done, total, said = job.told()
                    self._clock.running(job.run, job.seed, done, total, job.seconds)
                    self._show(f"{name}: {said}; {self._clock.left()} left")
                continue
            self._running.remove(job)
            self._free.append(job.cores)
            problem = job.problem()
            if problem:
                self._fail(job.run, job.seed, problem)
            else:
                self._show(f"{name}: done in {clock_text(job.seconds)}")

    def _late(self, run):
        if self._minutes is None:
            return False
        return self._clock.seconds + (self._clock.estimate(run) or 0) > 60 * self._minutes

    def _fail(self, run, seed, problem):
        self._outcome.failed.append((run.name, seed, problem))
        self._show(f"{self._name(run, seed)}: FAILED, {problem}")

    def _name(self, run, seed):
        number = self._jobs.index((run, seed)) + 1
        return f"run {number} of {len(self._jobs)}, {run.name} with seed {seed}"


class _Job:
    """One job while it runs."""

    def __init__(self, run, seed, folder, python, cores):
        """Starts it.

        Args:
            run, seed: The job.
            folder: `Folder`.
            python: Command that gets the arguments.
            cores: Set of cores for it alone.
        """
        self.run = run
        self.seed = seed
        self.cores = cores
        self._folder = folder
        arguments = run.arguments(seed, folder.of)
        before = folder.record(run.name, seed) or Record(arguments)
        self._before = before
        self._record = Record(arguments, before.seconds, before.cpu_seconds, cores=len(cores))
        folder.write(run.name, seed, self._record)
        self._log = folder.of(run.name, seed) / "log.txt"
        self._start = self._shown = time.perf_counter()
        self.seconds = 0.0
        # Into a file: a pipe would be held open by TFF's worker, should that outlive its program.
        with open(self._log, "ab") as output:
            self._begin = output.tell()
            self.process = subprocess.Popen(
                [*python, *arguments],
                stdout=output,
                stderr=output,
                preexec_fn=functools.partial(_before_exec, cores),
            )

    def ended(self):
        """Whether it has ended; if so, its record is complete."""
        self.seconds = time.perf_counter() - self._start
        pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
        if not pid:
            return False
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._record.seconds = self._before.seconds + self.seconds
        self._record.cpu_seconds += used.ru_utime + used.ru_stime
        self._record.status = self.process.returncode
        self._folder.write(self.run.name, self.seed, self._record)
        return True

    def due(self):
        """Whether it is time to tell of it; keeps the time it took, for we could be killed, too."""
        if time.perf_counter() - self._shown <= _SHOW:
            return False
        self._shown = time.perf_counter()
        self._record.seconds = self._before.seconds + self.seconds
        self._folder.write(self.run.name, self.seed, self._record)
        return True

    def told(self):
        """(rounds done, rounds in all, what to say about it); 0 of 0 before its first round."""
        found = _ROUNDS.findall(self._said())
        done, total = map(int, found[-1]) if found else (0, 0)
        said = f"round {done} of {total}" if total else self._last_line() or "starting"
        return done, total, said

    def problem(self):
        """Why it failed, or None."""
        if self.process.returncode == 0 and self._folder.finished(self.run.name, self.seed):
            return None
        said = self._last_line() or "no output"
        return f"exit status {self.process.returncode}: {said} (see {self._log})"

    def _last_line(self):
        """What it said last, one line; lines that overwrite each other are lines, too."""
        lines = self._said().decode(errors="replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _said(self):
        with open(self._log, "rb") as file:
            file.seek(self._begin)
            return file.read()


def _shares(number):
    """That many sets of cores, without overlap where there are as many."""
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[index::number] or cores) for index in range(number)]


def _before_exec(cores):
    # A table that is killed must not leave a job behind that the next one would run beside.
    end_with_parent()
    os.sched_setaffinity(0, cores)
