"""A run that is killed and resumed gives what an uninterrupted one gives, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.lasting import compare
from tff_sims import simulation
from tff_sims.results import read_rows
from tff_sims.settings import Settings

SETTINGS = dict(
    rounds=6, clients_per_round=4, clients=200, dropout=0.3, stragglers=0.3, evaluate_every=2,
    stop_after=4, checkpoint_seconds=0.0, repeats=1,
)  # fmt: skip
MEMORY = {"peak_bytes": 1, "process_peak_bytes": 2}

# Kills itself in the middle of writing the checkpoint of a round; the argument -1 never comes.
PROGRAM = """
import json, os, signal, sys
import tensorflow as tf
from tff_sims import simulation
from tff_sims.settings import Settings

out, settings, deadly = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
simulation.measure_client = lambda *arguments: {"peak_bytes": 1, "process_peak_bytes": 2}
rename = tf.io.gfile.rename

def deadly_rename(source, target, overwrite=False):
    if str(target).endswith(f"round_{deadly}"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, overwrite)

tf.io.gfile.rename = deadly_rename
simulation.simulate(
    Settings(**settings), out,
    on_round=lambda row, done, total: print("round", row.round, flush=True),
    on_start=lambda text: print(text, flush=True),
)
"""


def start(out, settings, deadly=-1):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), json.dumps(settings), str(deadly)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        start_new_session=True,
    )


def workers_of(group):
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "worker_binary" and os.getpgid(process.pid) == group:
            found.append(process)
    return found


@pytest.mark.parametrize("method", ["omc"])
def test_killed_twice_and_still_the_same(method, tmp_path, monkeypatch):
    settings = dict(SETTINGS, method=method)
    monkeypatch.setattr(simulation, "measure_client", lambda *arguments: MEMORY)
    simulation.simulate(Settings(**settings), tmp_path / "whole")

    first = start(tmp_path / "broken", settings, deadly=2)  # Half a checkpoint is left.
    lines = first.communicate(timeout=120)[0].splitlines()
    assert first.returncode == -signal.SIGKILL and lines == ["round 1"]

    second = start(tmp_path / "broken", settings)
    for line in second.stdout:
        if line == "round 3\n":
            break
    time.sleep(0.05)
    os.killpg(second.pid, signal.SIGKILL)
    rest = second.communicate(timeout=60)[0].splitlines()
    assert second.returncode == -signal.SIGKILL and "round 6" not in rest
    deadline = time.monotonic() + 10
    while workers_of(first.pid) + workers_of(second.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers_of(first.pid) + workers_of(second.pid)

    told, rounds = [], []
    simulation.simulate(
        Settings(**settings),
        tmp_path / "broken",
        on_round=lambda row, done, total: rounds.append(row.round),
        on_start=told.append,
    )
    assert told[0].startswith("resuming ") and rounds[0] >= 4
    assert compare(tmp_path / "whole", tmp_path / "broken") == dict.fromkeys(
        ("rows", "weights", "summary"), True
    )
    rows = read_rows(tmp_path / "broken")
    assert [row.round for row in rows] == list(range(1, len(rows) + 1))
    assert [row.evaluated for row in rows][:4] == [False, True, False, True]
    assert not (tmp_path / "broken" / "checkpoints").exists()

    simulation.simulate(Settings(**settings), tmp_path / "broken", on_start=told.append)
    assert told[-1].startswith("finished already")
