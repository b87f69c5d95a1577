"""SIGKILL at every step of an application: a new receiver has the stage whose parts are whole."""

import os
import signal
import subprocess
import sys

import pytest

import omc.progressive
from tests.progressive.chains import network, stored

CHAIN = ["INT4", "INT8", "FP32"]

# Children are forked before TensorFlow has started a thread: importing it once is enough.
PROGRAM = """
import os, signal, sys
import omc.progressive
from omc.progressive import parts as parts_, receiver, upgrading
from tests.progressive.chains import network

source, target = sys.argv[1:3]

def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

def work(point, folder):
    parts = [os.path.join(source, f"{index}.part") for index in range(3)]
    device = omc.progressive.Receiver(network(seed=5), folder)
    if point == "base_written":
        receiver.Receiver._install = die
    device.apply(parts[0])
    if point == "writing":
        write, parts_.os.fsync = os.fsync, die
    if point == "named":
        parts_.sync_folder = die
    if point == "kept":
        upgrading.upgrade = die
    if point == "half":
        upgrade, done = upgrading.upgrade, []
        def half(*arguments):
            upgrade(*arguments)
            done.append(1)
            if len(done) == 2:
                die()
        upgrading.upgrade = half
    device.apply(parts[1])
    if point == "between":
        die()
    raise SystemExit("not killed")

for point in sys.argv[3:]:
    child = os.fork()
    if not child:
        work(point, os.path.join(target, point))
    print(point, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STAGES = {
    "base_written": 0,
    "writing": 0,
    "named": 1,
    "kept": 1,
    "half": 1,
    "between": 1,
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(parts, states, folder of folders) after a child was killed at each point."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    parts = omc.progressive.split(network(), CHAIN)
    device, states = omc.progressive.Receiver(network(seed=5)), []
    for index, part in enumerate(parts):
        part.save(source / f"{index}.part")
        device.apply(part)
        states.append(stored(device.model))
    command = [sys.executable, "-c", PROGRAM, source, target, *STAGES]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = [f"{point} {-signal.SIGKILL}" for point in STAGES]
    assert done.stdout.splitlines() == lines, done.stderr
    return parts, states, target


@pytest.mark.parametrize("point", STAGES)
def test_a_killed_device_goes_on_where_its_parts_end(killed, point):
    parts, states, target = killed
    device = omc.progressive.Receiver(network(seed=6), target / point)
    assert device.stage == CHAIN[STAGES[point]]
    assert stored(device.model) == states[STAGES[point]]
    names = [name for name in os.listdir(target / point) if not name.endswith(".part")]
    names = [name for name in names if name != "applied"]
    assert not names  # What was half written is gone.
    for part in parts[device.index + 1 :]:
        device.apply(part)
    assert stored(device.model) == states[-1]
    again = omc.progressive.Receiver(network(seed=7), target / point)
    assert again.stage == "FP32" and stored(again.model) == states[-1]
