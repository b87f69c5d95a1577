"""Rounds of a simulation: rounds a minute, and CPU time of worker and controller, beside FP32's.

Methods take their rounds in turn, on the same clients. The worker's CPU time is that of all its
processes, the controller's that of this one.
"""

import contextlib
import time

import numpy as np
import psutil

from benchmarks import harness
from omc.learning.worker_processes import running_workers, workers
from tff_sims.federation import build_process, runtime
from tff_sims.settings import Settings

_CODED = {
    "method": "omc",
    "format": "INT8",
    "fraction": 1.0,
    "downlink_bits": "4",
    "uplink": "dithered",
    "target_error": 0.2,
}
_METHODS = {  # The demonstration's, and its links without versions.
    "FP32": {"method": "fp32"},
    "OMC S1E3M7, 0.9": {"method": "omc", "format": "S1E3M7", "fraction": 0.9},
    "INT8, coded links": {**_CODED, "downlink": "coded"},
    "INT8, changes": {**_CODED, "downlink": "changes"},
}
_BASELINE, _OMC = "FP32", "OMC S1E3M7, 0.9"
_ONE_MACHINE = ("INT8, changes",)  # Not for several workers.
_TASKS = {"digits": 10, "keywords": 10, "speech": 4}  # Clients of a round.
_ROUNDS, _QUICK_ROUNDS = 15, 4
_LIMITS = {"digits": 0.9, "speech": 0.95}


def run(quick=False):
    """Rounds on one machine and on two workers of it.

    Args:
        quick: Digits alone, few rounds.

    Returns:
        List of `harness.Table`.
    """
    table = harness.Table(
        "rounds",
        "Rounds a minute, medians of rounds in turn; CPU milliseconds a round",
        [
            ("task", "task", ""),
            ("place", "workers", ""),
            ("method", "method", ""),
            ("per_minute", "rounds/min", ".0f"),
            ("to_fp32", "x FP32", ".3f"),
            ("worker_ms", "worker ms", ".0f"),
            ("worker_to_fp32", "x FP32", ".2f"),
            ("controller_ms", "controller ms", ".0f"),
            ("controller_to_fp32", "x FP32", ".2f"),
        ],
    )
    targets = harness.Table("targets", "Targets of a round's pace", harness.TARGET_COLUMNS)
    for task in ("digits",) if quick else _TASKS:
        for remote in (0, 2):
            place = f"{remote} on sockets" if remote else "local"
            harness.progress(f"{task}, {place}: rounds of {', '.join(_METHODS)}")
            number = _QUICK_ROUNDS if quick else _ROUNDS
            arguments = {"task": task, "remote": remote, "number": number}
            found = harness.fresh_process("rounds", "rounds", **arguments)
            base = found[_BASELINE]
            for method, row in found.items():
                shares = {f"{key}_to_fp32": row[f"{key}_ms"] / base[f"{key}_ms"] for key in _CPU}
                table.rows.append(
                    {
                        "task": task,
                        "place": place,
                        "method": method,
                        "per_minute": 60 / row["seconds"],
                        "to_fp32": base["seconds"] / row["seconds"],
                        **{f"{key}_ms": row[f"{key}_ms"] for key in _CPU},
                        **shares,
                    }
                )
            if task in _LIMITS and not remote:
                what = f"{task}: rounds a minute of {_OMC}, x FP32's"
                measured = base["seconds"] / found[_OMC]["seconds"]
                targets.rows.append(harness.target(what, measured, _LIMITS[task], at_most=False))
    return [table, targets]


_CPU = ("worker", "controller")


def rounds(task, remote, number):
    """Seconds and CPU time of rounds, in this process.

    Args:
        task: Key of `tff_sims.tasks.TASKS`.
        remote: Workers that a controller reaches through sockets; 0 for TFF's local one.
        number: Rounds of each method, after one that does not count.

    Returns:
        Dict of method -> dict of medians: seconds, worker_ms and controller_ms.
    """
    with contextlib.ExitStack() as stack:
        addresses = stack.enter_context(running_workers([None] * remote)) if remote else []
        stack.enter_context(runtime(addresses))
        methods = {m: f for m, f in _METHODS.items() if not (remote and m in _ONE_MACHINE)}
        runs = {method: _Run(task, flags, addresses) for method, flags in methods.items()}
        taken = {method: [] for method in runs}
        for count in range(number + 1):
            for method, run_of in runs.items():
                taken[method].append(run_of.step(count))
    return {
        method: dict(zip(("seconds", "worker_ms", "controller_ms"), np.median(rows[1:], axis=0)))
        for method, rows in taken.items()
    }


class _Run:
    """A simulation of one method."""

    def __init__(self, task, flags, addresses):
        clients = _TASKS[task]
        settings = Settings(task=task, clients_per_round=clients, client_memory=False, **flags)
        self._task, self._clients = settings.make_task(0), clients
        self._process = build_process(settings, 0, self._task, addresses)
        self._state = self._process.initialize()

    def step(self, number):
        """A round on its clients, the same for all methods: (seconds, CPU ms, CPU ms)."""
        draw = np.random.default_rng(number)
        chosen = draw.choice(self._task.num_clients, self._clients, replace=False)
        data = [self._task.client_dataset(int(client)) for client in chosen]
        before, own, start = _worker_seconds(), time.process_time(), time.perf_counter()
        output = self._process.next(self._state, data)
        seconds = time.perf_counter() - start
        self._state = output.state
        cpu = _worker_seconds() - before, time.process_time() - own
        return seconds, *(1000 * part for part in cpu)


def _worker_seconds():
    """CPU seconds of all workers so far."""
    total = 0.0
    for process in workers():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total
