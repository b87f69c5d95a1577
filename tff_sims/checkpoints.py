"""Checkpoints of one run, through TFF's program state manager."""

import dataclasses
import gc
import json
import pathlib
import shutil
import time
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff
from absl import logging

from tff_sims.results import Round, writing
from tff_sims.waiting import wait_for

_PREFIX = "round_"
_KEPT = 2


class Progress(NamedTuple):
    """The program state of one run: with it, the rest of the run is determined.

    What else is random comes from (seed, round).

    Attributes:
        state: State of the learning process.
        rows: List of `Round`, one a round done.
    """

    state: tff.learning.templates.LearningAlgorithmState
    rows: list


class Checkpoints:
    """Progress of one run in a folder of its own, one version a round.

    A version appears whole, by a rename, and the version before stays: a kill at any moment leaves
    one that can be read. At most two versions are kept.
    """

    def __init__(self, folder, seconds):
        """Removes what a killed program left half-written.

        Args:
            folder: Folder of this run's checkpoints; made if absent.
            seconds: Least time from one checkpoint to the next, float.
        """
        self._folder = pathlib.Path(folder)
        self._seconds = seconds
        self._saved_at = time.monotonic()
        self._manager = tff.program.FileProgramStateManager(
            self._folder, prefix=_PREFIX, keep_total=_KEPT, keep_first=False
        )
        for part in self._folder.glob(f"{_PREFIX}*_temp*"):
            shutil.rmtree(part, ignore_errors=True)

    def load(self, start):
        """The latest progress that can be read, or `start`.

        Args:
            start: `Progress` of a run that has not begun; its structure is the checkpoints'.
        """
        for version in reversed(wait_for(self._manager.get_versions()) or []):
            try:
                return self._load(version, start)
            except Exception as error:  # Whatever is wrong with it, an older one does.
                path = self._folder / f"{_PREFIX}{version}"
                logging.warning("cannot read checkpoint %s, taking an older one: %s", path, error)
                shutil.rmtree(path, ignore_errors=True)
        return start

    def _load(self, version, start):
        leaves = tf.nest.flatten(start.state)
        structure = {"leaves": leaves, "rows": ""}
        saved = wait_for(self._manager.load(version, structure))
        rows = [Round(**row) for row in json.loads(bytes(saved["rows"]))]
        return Progress(tf.nest.pack_sequence_as(start.state, saved["leaves"]), rows)

    def save(self, progress, force=False):
        """Writes a checkpoint, unless the last one is young.

        Args:
            progress: `Progress` after a round.
            force: Write it in any case, bool.

        Raises:
            InputError: The disk does not take it.
        """
        if not force and time.monotonic() - self._saved_at < self._seconds:
            return
        version = len(progress.rows)
        if version in (wait_for(self._manager.get_versions()) or []):
            return  # The run was at its end already.
        rows = json.dumps([dataclasses.asdict(row) for row in progress.rows])
        value = {"leaves": tf.nest.flatten(progress.state), "rows": rows.encode()}
        with writing("a checkpoint"):
            wait_for(self._manager.save(value, version))
        # TensorFlow leaves a third of a MB in cycles, which Python alone would collect far later.
        gc.collect()
        self._saved_at = time.monotonic()


def latest_round(folder):
    """Number of the round that a run's latest checkpoint is of, 0 without one.

    Args:
        folder: As in `Checkpoints`.
    """
    names = [path.name[len(_PREFIX) :] for path in pathlib.Path(folder).glob(f"{_PREFIX}*")]
    return max((int(name) for name in names if name.isdigit()), default=0)
