"""SIGKILL at any moment, thousands of parts in any order and any state: a stage, or nothing."""

import hashlib
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import omc.progressive
from omc.errors import ArtifactError
from omc.progressive import Download, Part
from tests.progressive.chains import network, sealed, stored

CHAIN = ["INT4", "INT8", "FP32"]

# Children are forked before TensorFlow has started a thread: importing it once is enough. Each
# goes on where the one before was killed; the first, in a folder of its own, tells the time.
PROGRAM = """
import glob, hashlib, os, random, signal, sys, time
import omc.progressive
from tests.progressive.chains import network, stored

source, target, times, seed = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4])
parts = [os.path.join(source, f"{index}.part") for index in range(3)]

def work(folder, pipe):
    model = network(seed=5)
    os.write(pipe, b"!")
    device = omc.progressive.Receiver(model, folder)
    state = hashlib.sha256(repr(stored(model)).encode()).hexdigest()
    os.write(pipe, f"{device.index} {state} ?".encode())
    for part in map(omc.progressive.load, parts[device.index + 1 :]):
        download = omc.progressive.Download(folder)
        if download.part not in (None, part.sha256):
            raise SystemExit("begun with another part")
        for chunk in part.chunks(64, start=download.offset):
            download.feed(chunk)
        device.apply(download.finish())
    os.write(pipe, b"done")
    os._exit(0)

def child(folder, begins, delay):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        work(folder, write)
    os.close(write)
    said = b""
    while begins not in said:
        said += os.read(read, 1)
    begin = time.monotonic()
    if delay is None:
        os.waitpid(pid, 0)
        taken = time.monotonic() - begin
    else:
        time.sleep(delay)
        taken = None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while more := os.read(read, 1 << 16):
        said += more
    os.close(read)
    print(os.path.basename(folder), said.decode(), flush=True)
    return taken

taken = child(os.path.join(target, "whole"), b"?", None)
rng, folder = random.Random(seed), 0
for _ in range(times):
    path = os.path.join(target, f"killed{folder}")
    child(path, rng.choice([b"!", b"?", b"?"]), rng.uniform(0, taken))
    folder += len(glob.glob(path + "/*.part")) == 3
"""


@pytest.fixture(scope="module")
def found():
    """(parts, stored states before the base and after each part)."""
    parts = omc.progressive.split(network(), CHAIN)
    device = omc.progressive.Receiver(network(seed=5))
    states = [stored(device.model)]
    for part in parts:
        device.apply(part)
        states.append(stored(device.model))
    return parts, states


def test_killed_at_random_moments(found, tmp_path):
    parts, states = found
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    for index, part in enumerate(parts):
        part.save(source / f"{index}.part")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, source, target, "8", "3"],
        env={**os.environ, "PYTHONPATH": root},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    names = [hashlib.sha256(repr(state).encode()).hexdigest() for state in states]
    last, killed = {}, 0
    for line in done.stdout.splitlines():
        folder, said = line.split(" ", 1)
        killed += "done" not in said
        if said[1:].count(" ") < 2:
            continue
        index, state = said[1:].split()[:2]
        assert names[int(index) + 1] == state  # The exact stage,
        assert int(index) >= last.get(folder, -1)  # and none that was reached is lost.
        last[folder] = int(index)
    assert killed
    for folder in target.iterdir():
        device = omc.progressive.Receiver(network(seed=6), folder)
        assert stored(device.model) == (
            states[device.index + 1] if device.stage else stored(network(seed=6))
        )
        download = Download(folder)
        if download.part is not None:
            part = next(part for part in parts if part.sha256 == download.part)
            for chunk in part.chunks(start=download.offset):
                download.feed(chunk)
            part = download.finish()
            if part.index == device.index + 1:
                device.apply(part)
        for part in parts[device.index + 1 :]:
            device.apply(part)
        assert stored(device.model) == states[-1] and device.stage == "FP32"


def tiny(seed):
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(5)])


def test_thousands_of_parts_in_any_order_and_state():
    """Parts of two versions and their updates, whole, damaged, forged: one that fits, or none."""
    rng = random.Random(0)
    chains = [omc.progressive.split(tiny(seed), CHAIN) for seed in (0, 1)]
    applied = [part for chain in chains for part in chain]
    updates = [
        omc.progressive.split(tiny(to), CHAIN, known=chains[1 - to][:held])
        for to in (0, 1)
        for held in (1, 3)
    ]
    every = applied + [part for chain in updates for part in chain]
    whole = {part.sha256: bytes(part) for part in every}
    states, device, taken, refused = {}, None, 0, 0
    for _ in range(2000):
        if device is None or rng.random() < 0.01:
            device = omc.progressive.Receiver(tiny(7))
            fresh = stored(device.model)
        part = rng.choice(every)
        if rng.random() < 0.4:
            part = rng.choice([p for p in every if p.base_digest == device.digest] or [part])
        data = whole[part.sha256]
        way = rng.choice(["whole"] * 2 + ["flip", "cut", "forge"])
        place = rng.randrange(4, len(data) - 33)
        flipped = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        given = {"whole": data, "flip": flipped, "cut": data[:place], "forge": sealed(flipped)}[way]
        before = device.digest, stored(device.model)
        fits = part.base_digest == device.digest and part.kind in ("base", "update")
        fits = fits or (
            part.base_digest == device.digest
            and (part.index, part.stages) == (device.index + 1, device.stages)
        )
        try:
            device.apply(given)
        except ArtifactError:
            assert way != "whole" or not fits
            assert (device.digest, stored(device.model)) == before
            refused += 1
        else:
            # A forged name of a variable, say, is taken where all that it leads to is right.
            assert way == "whole" and fits or way == "forge"
            taken += 1
        if device.digest is None:
            assert stored(device.model) == fresh
        else:
            state = states.setdefault(device.digest, stored(device.model))
            assert stored(device.model) == state
    assert taken > 200 and refused > 1000
    for chain in chains:
        model = omc.progressive.Receiver(tiny(7))
        for part in chain:
            model.apply(Part.from_bytes(whole[part.sha256]))
            assert states[part.digest] == stored(model.model)
    kernels = [state[0][1] for state in states.values()]
    assert len(kernels) >= 6 and np.isfinite(device.model(np.ones((1, 3)))).all()
