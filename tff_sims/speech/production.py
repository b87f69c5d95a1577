"""Makes a corpus in several processes.

eSpeak NG is one library with one state, so threads cannot share it; and processes forked from one
that runs TensorFlow are not safe. So each worker is a fresh Python (this file as a program), which
makes every n-th speaker.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from omc.errors import OmcError
from tff_sims.machine import end_with_parent
from tff_sims.speech import features
from tff_sims.speech.utterances import Specification, utterance


def make(specification, progress):
    """Makes a corpus's arrays.

    Args:
        specification: `utterances.Specification`.
        progress: Called with (speakers done, speakers in all).

    Returns:
        Dict: frames, float16 [all frames, bands]; lengths, int32 [utterances]; transcripts,
        str [utterances].

    Raises:
        OmcError: A worker failed; its last line is in the message.
    """
    total, done = len(specification.sizes), []
    workers = min(len(os.sched_getaffinity(0)), total)
    with tempfile.TemporaryDirectory() as folder:

        def run(worker):
            job = [dataclasses.asdict(specification), worker, workers, folder]
            with open(pathlib.Path(folder) / f"{worker}.log", "w+", encoding="utf-8") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tff_sims.speech.production", json.dumps(job)],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"},
                )
                with process:
                    for speaker in process.stdout:
                        done.append(int(speaker))
                        progress(len(done), total)
                if process.returncode:
                    log.seek(0)
                    last = (log.read().strip().splitlines() or ["no output"])[-1]
                    raise OmcError("speech worker", "speakers", last)

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, range(workers)))
        parts = [dict(np.load(_file(folder, speaker))) for speaker in range(total)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def report(done, total):
    """Writes progress to stderr: one line that is written over."""
    end = "\n" if done == total else ""
    print(f"\rmaking speech: speaker {done} of {total}", end=end, file=sys.stderr, flush=True)


def _file(folder, speaker):
    return pathlib.Path(folder) / f"{speaker}.npz"


def _make_speaker(specification, speaker):
    made = [utterance(specification, speaker, n) for n in range(specification.sizes[speaker])]
    frames = [features.log_mel(samples) for _, samples in made]
    return {
        "frames": np.concatenate(frames).astype(np.float16),
        "lengths": np.array([len(part) for part in frames], np.int32),
        "transcripts": np.array([transcript for transcript, _ in made]),
    }


def main():
    """Makes the speakers of one worker, as the JSON of its argument tells."""
    end_with_parent()
    arguments, worker, workers, folder = json.loads(sys.argv[1])
    specification = Specification(**arguments)
    for speaker in range(worker, len(specification.sizes), workers):
        np.savez(_file(folder, speaker), **_make_speaker(specification, speaker))
        print(speaker, flush=True)


if __name__ == "__main__":
    main()
