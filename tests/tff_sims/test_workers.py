"""Two workers, as a user starts them: the same results as alone, also after one of them died."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from omc.learning import worker_processes
from tff_sims import workers

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
FLAGS = ("--rounds=4", "--clients_per_round=4", "--seed=4", "--checkpoint_seconds=1000")


def start(module, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def free_ports():
    """The first of two free ports in a row."""
    for port in range(20000 + os.getpid() % 10000, 60000, 2):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for number in (port, port + 1):
                stack.enter_context(socket.create_server(("", number)))
            return port
    raise AssertionError("no free ports")


@contextlib.contextmanager
def helper(port, count):
    """The program that starts workers; gives their processes, in the order of their ports."""
    process = start("tff_sims.workers", f"--count={count}", f"--port={port}")
    addresses = ",".join(f"localhost:{number}" for number in range(port, port + count))
    try:
        for line in process.stdout:
            if f"--workers={addresses} " in line:
                break
        else:
            raise AssertionError(process.stderr.read())
        children = psutil.Process(process.pid).children()
        found = [child for child in children if child.name() == "worker_binary"]
        yield process, sorted(found, key=lambda child: child.cmdline())
    finally:
        process.terminate()
        finish(process)


def rows(folder):
    with open(folder / "rounds.csv", newline="", encoding="utf-8") as file:
        return [
            {key: value for key, value in row.items() if key not in ("seconds", "warm")}
            for row in csv.DictReader(file)
        ]


def test_two_workers_and_the_death_of_one(tmp_path):
    code, _, errors = finish(start("tff_sims.simulate", *FLAGS, f"--out={tmp_path / 'alone'}"))
    assert code == 0, errors

    port = free_ports()
    command = (
        *("tff_sims.simulate", *FLAGS, f"--out={tmp_path / 'together'}"),
        f"--workers=localhost:{port},localhost:{port + 1}",
    )
    with helper(port, 1):
        with helper(port + 1, 1) as (program, (worker,)):  # As if on a machine of its own.
            simulation = start(*command)
            for line in simulation.stdout:
                if line.startswith("[2/4]"):
                    break
            worker.kill()
            code, output, errors = finish(simulation)
            assert code == 1
            assert len(errors.strip().splitlines()) == 1
            assert errors.startswith(f"--workers: expected worker localhost:{port + 1} to stay")
            assert not (tmp_path / "together" / "summary.json").exists()
            done = max([2] + [int(line[1]) for line in output.splitlines() if line[:1] == "["])
            finish(program)

        with helper(port + 1, 1):
            code, output, errors = finish(start(*command))
            assert code == 0, errors
    # No round that was done is done again, though no checkpoint was due.
    assert f"{done} of at most 4 rounds are done" in output

    assert rows(tmp_path / "alone") == rows(tmp_path / "together")
    alone, together = (np.load(tmp_path / n / "weights-4.npz") for n in ("alone", "together"))
    assert alone.files == together.files
    for name in alone.files:
        np.testing.assert_array_equal(alone[name], together[name])
    summaries = [
        json.loads((tmp_path / n / "summary.json").read_text()) for n in ("alone", "together")
    ]
    for key in ("accuracy", "downlink_bytes_per_client_round", "uplink_bytes_per_client_round"):
        assert summaries[0][key] == summaries[1][key]


def test_an_address_that_will_not_do_is_one_line(tmp_path):
    code, _, errors = finish(
        start("tff_sims.simulate", "--workers=localhost:1", f"--out={tmp_path}")
    )
    assert code == 2
    assert len(errors.strip().splitlines()) == 1
    assert errors.startswith("--workers: expected") and "localhost:1" in errors
    assert not list(tmp_path.iterdir())


def test_a_dead_worker_is_named_and_the_others_are_ended():
    port = free_ports()
    with helper(port, 2) as (program, children):
        children[1].kill()
        code, _, errors = finish(program)
        assert code == 1
        assert errors == f"worker localhost:{port + 1} died; the others were ended.\n"
        assert not children[0].is_running()


def test_workers_end_with_the_program_that_started_them():
    with helper(free_ports(), 2) as (program, children):
        assert len(children) == 2
        program.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(worker.is_running() for worker in children) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(worker.is_running() for worker in children)


def test_a_port_whose_connections_have_just_ended_is_free():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port)) as client:
            connection, _ = server.accept()
            connection.close()  # First, so that the server's end stays in TIME_WAIT.
            client.recv(1)
    assert worker_processes._free([port]) == [port]


def run_main(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["workers", *flags])
    with pytest.raises(SystemExit) as ended:
        workers.main()
    return ended.value.code, capsys.readouterr()


@pytest.mark.parametrize(
    "flags", [("--count=0",), ("--port=many",), ("--port=65535", "--count=2"), ("extra",)]
)
def test_wrong_flags_are_one_line(flags, monkeypatch, capsys):
    code, written = run_main(monkeypatch, capsys, *flags)
    assert code == 2 and len(written.err.strip().splitlines()) == 1


def test_a_port_that_is_taken(monkeypatch, capsys):
    with socket.create_server(("", 0)) as listener:
        port = f"--port={listener.getsockname()[1]}"
        code, written = run_main(monkeypatch, capsys, port, "--count=1")
    assert code == 2 and written.err.startswith("--port: expected a free port")


def test_help(monkeypatch, capsys):
    code, written = run_main(monkeypatch, capsys, "--help")
    assert code == 0
    for word in ("--count", "--port", "--host", "encryption"):
        assert word in written.out
