"""How long the jobs of a table will take, as far as one can know."""

import statistics
import time


class Clock:
    """Estimates times, from jobs that are finished and those that run."""

    def __init__(self, jobs, folder, at_once):
        """Starts to count.

        Args:
            jobs: List of (`plan.Run`, seed).
            folder: `Folder`.
            at_once: How many of them run at a time.
        """
        self._jobs = jobs
        self._folder = folder
        self._at_once = at_once
        self._start = time.perf_counter()
        self._first = {}  # Running job -> how its rounds were first seen.
        self._rest = {}  # Running job -> seconds that it still takes.
        self._pace = None  # Seconds by effort.

    @property
    def seconds(self):
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def running(self, run, seed, done, total, seconds):
        """Takes note of how far a running job is.

        Args:
            run, seed: The job.
            done, total: Rounds; done may count rounds of an earlier attempt.
            seconds: Since it began.
        """
        job = run.name, seed
        first_done, first_seconds = self._first.setdefault(job, (done, seconds))
        if done > first_done:
            round_seconds = (seconds - first_seconds) / (done - first_done)
            self._pace = round_seconds / run.weight
            self._rest[job] = round_seconds * (total - done)

    def estimate(self, run):
        """Seconds that a run takes, or None where nothing is known yet."""
        same, pace = [], []
        for other, seed in self._jobs:
            if self._folder.finished(other.name, seed):
                record = self._folder.record(other.name, seed)
                if record is not None and other.name == run.name:
                    same.append(record.seconds)
                elif record is not None and other.program == run.program:
                    pace.append(record.seconds / other.effort)
        if same:
            return statistics.fmean(same)
        if not pace and self._pace is not None:
            pace.append(self._pace)
        return statistics.fmean(pace) * run.effort if pace else None

    def left(self):
        """Time that all unfinished jobs will take, as text."""
        seconds = 0.0
        for run, seed in self._jobs:
            if self._folder.finished(run.name, seed):
                continue
            expected = self._rest.get((run.name, seed), self.estimate(run))
            if expected is None and run.rounds:
                return "an unknown time"
            seconds += expected or 0
        return f"about {clock_text(seconds / self._at_once)}"


def clock_text(seconds):
    """Seconds as text, h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
