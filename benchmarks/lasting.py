"""Long simulations: memory over 500 rounds, and ten kills at random moments.

python -m benchmarks.lasting --out=docs/results/lasting.json     # about 25 minutes on two cores

Both run `python -m tff_sims.simulate` on digits. A kill ends the whole process group with SIGKILL;
the same command then goes on. What comes out is compared with a run that nobody interrupted.
"""

import argparse
import csv
import itertools
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil

from benchmarks import harness

METHODS = ("fp32", "omc")
_ROUNDS, _QUICK_ROUNDS = 500, 30
_KILLS, _QUICK_KILLS = 10, 2
# What a clock or an allocator says is no result of the training.
_TIMES = ("seconds", "warm")
_NOT_COMPARED = (
    "rounds_per_minute", "peak_memory_bytes", "process_peak_bytes", "client_memory", "command",
)  # fmt: skip


def run(quick=False):
    """Memory of the process tree over the rounds, then kills and the results after them.

    Args:
        quick: Few rounds and kills.

    Returns:
        List of `harness.Table`.
    """
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    kills = _QUICK_KILLS if quick else _KILLS
    memory = harness.Table(
        "memory",
        f"digits, {rounds} rounds: resident MB of Python and TFF's worker, means of a tenth of "
        "the rounds",
        [
            ("method", "method", ""),
            ("part", "process", ""),
            ("early_mb", "second tenth", ".1f"),
            ("middle_mb", "middle", ".1f"),
            ("late_mb", "last tenth", ".1f"),
            ("growth", "last / second", ".4f"),
        ],
    )
    resumed = harness.Table(
        "kills",
        "digits, 40 rounds: killed with SIGKILL at random moments and run on, against one run",
        [
            ("method", "method", ""),
            ("kills", "kills", "d"),
            ("at_rounds", "rounds done when killed", ""),
            ("rows", "rounds.csv equal", ""),
            ("weights", "weights equal", ""),
            ("summary", "metrics equal", ""),
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            memory.rows += _memory_rows(method, rounds, pathlib.Path(folder))
            resumed.rows.append(_kill_row(method, kills, pathlib.Path(folder)))
    return [memory, resumed]


class Simulation:
    """`python -m tff_sims.simulate` in a process group of its own.

    Attributes:
        process: subprocess.Popen.
    """

    def __init__(self, *flags):
        """Starts it.

        Args:
            *flags: Flags of `tff_sims.simulate`.
        """
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tff_sims.simulate", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=harness.ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            start_new_session=True,
        )

    def rounds(self):
        """Yields the number of rounds done, as they are."""
        for line in self.process.stdout:
            found = re.match(r"\[(\d+)/", line)
            if found:
                yield int(found[1])

    def kill(self):
        """Ends every process of the group with SIGKILL."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stdout.close()
        self.process.wait()


def _memory_rows(method, rounds, folder):
    out = folder / f"memory-{method}"
    simulation = Simulation(f"--method={method}", f"--rounds={rounds}", f"--out={out}")
    samples = []
    for done in simulation.rounds():
        samples.append(_resident(simulation.process.pid))
        if done % 50 == 0:
            harness.progress(f"{method}: {done} of {rounds} rounds")
    if simulation.process.wait() or len(samples) != rounds:
        raise RuntimeError(f"{method}: the simulation ended after {len(samples)} rounds")
    samples = np.asarray(samples) / 1e6
    tenth = rounds // 10
    rows = []
    columns = {"Python": samples[:, 0], "worker": samples[:, 1], "both": samples.sum(axis=1)}
    for part, column in columns.items():
        early, late = column[tenth : 2 * tenth].mean(), column[-tenth:].mean()
        middle = column[rounds // 2 - tenth // 2 :][:tenth].mean()
        rows.append(
            {
                "method": method,
                "part": part,
                "early_mb": float(early),
                "middle_mb": float(middle),
                "late_mb": float(late),
                "growth": float(late / early),
            }
        )
    return rows


def _resident(pid):
    """(bytes of the process, bytes of its workers), resident."""
    process = psutil.Process(pid)
    children = process.children(recursive=True)
    workers = [child for child in children if child.name() == "worker_binary"]
    return process.memory_info().rss, sum(worker.memory_info().rss for worker in workers)


def _kill_row(method, kills, folder):
    flags = (
        f"--method={method}", "--rounds=40", "--repeats=2", "--clients_per_round=5",
        "--dropout=0.1", "--stragglers=0.2", "--checkpoint_seconds=0.5",
    )  # fmt: skip
    whole, broken = folder / f"whole-{method}", folder / f"broken-{method}"
    Simulation(*flags, f"--out={whole}").process.communicate()
    draw, killed_at = random.Random(0), []
    for _ in range(kills):
        harness.progress(f"{method}: kill {len(killed_at) + 1} of {kills}")
        simulation = Simulation(*flags, f"--out={broken}")
        # Every third one dies while it starts; the others some rounds later, in mid-round.
        more = draw.randrange(1, 8) if len(killed_at) % 3 else 0
        done = killed_at[-1] if killed_at else 0
        if more:
            done = list(itertools.islice(simulation.rounds(), more))[-1]
            time.sleep(draw.uniform(0, 0.6))
        else:
            time.sleep(draw.uniform(0, 12))
        simulation.kill()
        killed_at.append(done)
    Simulation(*flags, f"--out={broken}").process.communicate()
    return {
        "method": method,
        "kills": kills,
        "at_rounds": ", ".join(map(str, killed_at)),
        **{key: "yes" if same else "no" for key, same in compare(whole, broken).items()},
    }


def compare(left, right):
    """Whether two runs have the same results, times and measured memory left out.

    Args:
        left, right: Folders of finished runs.

    Returns:
        Dict of bools: rows, weights (bit for bit), summary.
    """
    return {
        "rows": _rows(left) == _rows(right),
        "weights": _weights(left) == _weights(right),
        "summary": _summary(left) == _summary(right),
    }


def _rows(folder):
    with open(folder / "rounds.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]


def _weights(folder):
    result = {}
    for path in sorted(folder.glob("weights-*.npz")):
        with np.load(path) as archive:
            result[path.name] = {name: archive[name].tobytes() for name in archive.files}
    return result


def _summary(folder):
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    return {key: value for key, value in summary.items() if key not in _NOT_COMPARED}


def main():
    """Prints the tables and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/lasting.json", help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="few rounds and kills: 3 minutes")
    arguments = parser.parse_args()
    tables = run(arguments.quick)
    for table in tables:
        table.show()
    harness.write(pathlib.Path(arguments.out), "lasting", arguments.quick, tables)


if __name__ == "__main__":
    main()
