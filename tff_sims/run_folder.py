"""The folder of a run: one run at a time, one set of settings, new, to be resumed or finished."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib

from omc.errors import InputError
from tff_sims.checkpoints import latest_round
from tff_sims.results import remove_seeds, versions, write_whole

# Settings that change no result; weights to start from are told by what they are.
_FREE = ("checkpoint_seconds", "tensorboard", "init")
_OWN = ("settings.json", "summary.json", "rounds.csv", "accuracy.png", "weights-*.npz")
_OWN_FOLDERS = ("checkpoints", "tensorboard")
_HALF_WRITTEN = ("rounds.csv_temp*", ".*.json.part", ".rounds.csv.part", ".weights-*.npz.part")


class RunFolder:
    """One folder for the results of one simulation.

    Attributes:
        path: pathlib.Path.
    """

    def __init__(self, path):
        """Names the folder, which is made by `claim`."""
        self.path = pathlib.Path(path)

    @contextlib.contextmanager
    def claim(self, settings, restart=False):
        """Context in which no other program uses the folder.

        Args:
            settings: `Settings`; written down in a new folder, compared in a used one.
            restart: Remove what an earlier run left.

        Raises:
            InputError: Another program is at work in the folder, or it holds another run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Ends with the program.
            except OSError:
                expected = "a folder in which no other simulation is at work"
                raise InputError("out", expected, str(self.path)) from None
            if restart:
                self._clear()
            self._compare(settings)
            self._remove(_HALF_WRITTEN)  # By a program that was killed.
            yield
        finally:
            os.close(lock)

    def checkpoints(self, seed):
        """Folder of the checkpoints of one run."""
        return self.path / "checkpoints" / f"seed-{seed}"

    def rounds_done(self, settings):
        """Rounds that checkpoints hold, int."""
        return sum(latest_round(self.checkpoints(seed)) for seed in settings.seeds)

    def summary(self):
        """The summary of a finished run, or None."""
        path = self.path / "summary.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def drop_checkpoints(self):
        """Removes the checkpoints; a finished run needs none."""
        remove_seeds(self.path / "checkpoints")

    def _clear(self):
        # The settings go last: without them the folder would look like somebody else's.
        for name in _OWN_FOLDERS:
            remove_seeds(self.path / name)
        self._remove(reversed(_OWN))

    def _remove(self, patterns):
        for pattern in patterns:
            for path in self.path.glob(pattern):
                path.unlink()

    def _compare(self, settings):
        path = self.path / "settings.json"
        ours = {**dataclasses.asdict(settings), **settings.digests()}
        ours.update({f"version of {name}": text for name, text in versions().items()})
        if not path.exists():
            names = ("summary.json", "rounds.csv", *_OWN_FOLDERS)
            there = [name for name in names if (self.path / name).exists()]
            if there:
                expected = "a folder that is new or holds a run with its settings.json"
                got = f"{self.path}, in which there is {there[0]}"
                raise InputError("out", expected, got, "choose another folder.")
            write_whole(path, (json.dumps(ours, indent=2) + "\n").encode())
            return
        theirs = json.loads(path.read_text("utf-8"))
        differing = [
            f"{name} was {theirs.get(name)!r}, is {value!r}"
            for name, value in ours.items()
            if name not in _FREE and theirs.get(name) != value
        ]
        if differing:
            raise InputError(
                "out",
                "the settings of the run that is in the folder",
                "; ".join(differing),
                "choose another folder, or begin anew with --restart.",
            )
