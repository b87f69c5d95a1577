"""Splits a trained model into parts, delivers them to a device, and measures what each is worth.

  python -m tff_sims.deliver --task=keywords --init=runs/fp32 --out=runs/delivery

The model is what `tff_sims.central` has left in --init: weights of method fp32, or model.omc of
method nested, whose widths are then the stages. Every chain of stages is split (omc.progressive),
its parts are written, and applied to a plain model, which is measured on the test data after each.
A stage is a format, or what omc.allocate gives the weight matrices by measured losses: under 3.5
bits a weight on average, or, first of a chain, of "9%" of float32's bytes for the whole part. With
--calibration, stages of few bits have BatchNorm statistics of their own.
Beside it stand the model whole, plain bit planes, and other coders: those that --peers_python has
installed (zstandard, zipnn, nncodec), a Python of an environment of their own.

Into --out goes summary.json: chains (bytes of the parts that exist, accuracy after each, CPU
seconds of verifying and applying each in a process of its own), whole, planes and peers.
"""

import argparse
import functools
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import omc.learning  # noqa: E402, F401 (has TFF, which the tasks import, end in silence)
from omc import progressive  # noqa: E402
from omc.errors import InputError, OmcError  # noqa: E402
from omc.keras import saving  # noqa: E402
from omc.keras.variable import CompressedVariable  # noqa: E402
from tff_sims import (  # noqa: E402
    central_allocations,
    central_data,
    deliver_device,
    deliver_peers,
    deliver_planes,
)
from tff_sims.arguments import Parser, from_to  # noqa: E402
from tff_sims.central_settings import CentralSettings, as_line, check  # noqa: E402
from tff_sims.command_line import fail  # noqa: E402
from tff_sims.deliver_chains import CHAINS, NESTED_CHAINS, budget  # noqa: E402
from tff_sims.results import load_weights, versions, weights_file, write_whole  # noqa: E402

_RAW = "FP32"  # In whole: the float32 values as they are.
_WHOLE = ("INT8", "FP32")  # In one part, coded alike, beside the last stages of the chains.
_NESTED_FILE, _BETWEEN = "model.omc", "/"
_OPTIONS = ("repeats", "peers_python", "stages", "calibration")
_EQUAL = ("INT4", "INT8")  # Stages whose errors the lossy peers are given.
_ROOT = pathlib.Path(__file__).resolve().parent.parent


class _Delivery:
    """A trained model and the accuracies of the states that it was seen in.

    Attributes:
        model: The trained model, plain or nested.
        nested: Whether it is nested.
        errors: Dict of a stage -> sum (w' - w)^2 / sum w^2 over the quantized variables.
        quantized: Places of these in `saving.stored_order`.
    """

    def __init__(self, settings, calibration=0):
        self._settings, self._calibration = settings.complete(), calibration
        self._task = settings.make_task()
        self._subject = central_data.SUBJECTS[settings.task]
        self._known = {}
        self.model, self.errors, self.quantized = self.plain(), {}, []
        self.nested = not weights_file(settings.init, settings.seed).exists()
        if self.nested:
            omc.load(pathlib.Path(settings.init) / _NESTED_FILE, self.model)
        else:
            load_weights(settings.init, settings.seed, self.model)

    @functools.cached_property
    def _data(self):
        given = self._settings
        return central_data.load(self._task, given.evaluate, given.train_examples, given.seed)

    @functools.cached_property
    def _sample(self):
        """Inputs to calibrate with, or None."""
        count = self._calibration
        return self._data.sample(count, self._settings.seed) if count else None

    @functools.cached_property
    def _allocator(self):
        return central_allocations.allocator(self.model, self._settings, self._data)

    def _parts(self, names):
        """The parts of a chain."""
        limit = budget(names[0])
        dense = sum(variable.numpy().nbytes for variable in self.model.variables)
        most = int(limit[0] / 100 * dense) if limit and limit[1] else None
        coded = most
        while True:
            stages = [self._stage(name, coded) for name in names]
            parts = progressive.split(self.model, stages, calibration=self._sample)
            if most is None or parts[0].nbytes <= most:
                return parts
            coded -= parts[0].nbytes - most  # Headers, which are outside of an allocation's budget.

    def _stage(self, name, coded):
        """A stage as `progressive.split` takes it."""
        limit = budget(name)
        if limit is None:
            return name
        number, percent = limit
        wanted = {"wire_bytes": coded} if percent else {"bits": number}
        return self._allocator.allocate(**wanted, sensitivity="loss")

    def plain(self):
        """A fresh, plain model."""
        return self._subject.build(self._task)

    def accuracy(self, model, state=None):
        """Accuracy on the test data; measured once for a state that is named."""
        if state is None or state not in self._known:
            self._known[state] = self._task.evaluate(model)["accuracy"]
        return self._known[state]

    def delivered(self, stages, folder):
        """Splits into a chain, writes the parts and applies them to a plain model.

        Args:
            stages: Names of formats, or bits a weight.
            folder: pathlib.Path of a folder that is there.

        Returns:
            (paths of the parts, dict of bytes, accuracies and exact: whether the last stage is the
            trained model to the bit).
        """
        paths = []
        for part in self._parts(stages):
            paths.append(folder / f"{'-'.join(stages)}-{len(paths)}.part")
            part.save(paths[-1])
        receiver, accuracies = progressive.Receiver(self.plain()), []
        for path in paths:
            receiver.apply(path)
            accuracies.append(self.accuracy(receiver.model, receiver.digest))
            if not self.nested and receiver.stage in _EQUAL:
                self._note_error(receiver)
        return paths, {
            "bytes": [path.stat().st_size for path in paths],
            "accuracies": accuracies,
            "exact": self._is_exact(receiver.model),
        }

    def _note_error(self, receiver):
        wrong = right = 0.0
        places = []
        pairs = zip(saving.stored_order(self.model), saving.stored_order(receiver.model))
        for place, (ours, theirs) in enumerate(pairs):
            if isinstance(theirs, CompressedVariable):
                exact = ours.numpy().astype(np.float64)
                wrong += float(((theirs.read_value().numpy() - exact) ** 2).sum())
                right += float((exact**2).sum())
                places.append(place)
        self.errors.setdefault(receiver.stage, wrong / right)
        self.quantized = places

    def _is_exact(self, model):
        pairs = zip(saving.stored_order(self.model), saving.stored_order(model))
        return all(_bits(ours) == _bits(theirs) for ours, theirs in pairs)

    def planes(self):
        """Bytes and accuracy of each step of plain bit planes; the rest goes along in the first."""
        model = self.plain()
        variables, ours = saving.stored_order(model), saving.stored_order(self.model)
        coded, total = {}, [0] * deliver_planes.STEPS
        for place, variable in enumerate(ours):
            value = variable.numpy()
            if place in self.quantized:
                found, low, high = deliver_planes.codes(value)
                steps = range(deliver_planes.STEPS)
                coded[place] = [deliver_planes.plane(found, step) for step in steps], low, high
                total[0] += 8  # The range, two float32.
                for step, data in enumerate(coded[place][0]):
                    total[step] += len(data)
            else:
                variables[place].assign(value)
                total[0] += value.nbytes
        accuracies = []
        for step in range(deliver_planes.STEPS):
            for place, (planes, low, high) in coded.items():
                shape = variables[place].shape
                value = deliver_planes.restored(planes[: step + 1], shape, low, high)
                variables[place].assign(value)
            accuracies.append(self.accuracy(model))
        return {"bytes": total, "accuracies": accuracies}

    def arrays(self):
        """The float32 values by name, for `deliver_peers`."""
        return {
            f"{'q' if place in self.quantized else 'r'}{place:05d}": variable.numpy()
            for place, variable in enumerate(saving.stored_order(self.model))
        }


def _bits(variable):
    return variable.read_value().numpy().tobytes()


def deliver(
    settings, stages=None, repeats=5, peers_python=None, calibration=0, show=lambda text: None
):
    """Measures the chains of a trained model, and what stands beside them.

    Args:
        settings: `CentralSettings`, already checked, with `init`.
        stages: List of chains, each the names of its formats with commas; None for `CHAINS` or
            `NESTED_CHAINS`.
        repeats: Times that seconds are taken.
        peers_python: Path of a Python that has other coders; None for our own.
        calibration: Training examples for BatchNorm statistics of each stage; 0 for none.
        show: Function that is given a line of text about each chain.

    Returns:
        Dict: accuracy (of the trained model; of a nested one at all its bits), method, exact, and
        chains, whole, planes and peers, as in the module's docstring.

    Raises:
        OmcError: No such run, stages that cannot be split, a Python that cannot be run.
    """
    source = _Delivery(settings, calibration)
    chains = list(stages or (NESTED_CHAINS if source.nested else CHAINS))
    last = (chain.rpartition(",")[2] for chain in chains)
    whole = list(dict.fromkeys([*(() if source.nested else _WHOLE), *last]))
    with tempfile.TemporaryDirectory() as name:
        folder, files, found = pathlib.Path(name), {}, {}
        plain = source.plain()
        (folder / "architecture.json").write_text(plain.to_json(), encoding="utf-8")
        deliver_device.save(folder / "raw", plain)  # How much it is, not what it says, is measured.
        for chain in dict.fromkeys([*chains, *whole]):
            paths, found[chain] = source.delivered(chain.split(","), folder)
            files[chain] = [str(path) for path in paths]
            shown = " + ".join(f"{nbytes:,}" for nbytes in found[chain]["bytes"])
            at_once = found[chain]["accuracies"][0]
            show(f"{chain}: {shown} bytes, accuracy at once {at_once:.3f}")
        jobs = {"chains": files, "raw": str(folder / "raw"), "repeats": repeats}
        (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
        command = [sys.executable, "-m", "tff_sims.deliver_device", str(folder)]
        taken = json.loads(_output(command))
        for chain, seconds in taken["chains"].items():
            found[chain]["seconds"] = seconds
        raw = {"bytes": [(folder / "raw").stat().st_size], "seconds": [taken["raw"]]}
        planes, peers = {}, {}
        if not source.nested:
            raw["accuracies"] = [source.accuracy(source.model)]
            planes = source.planes() if source.quantized else {}
            peers = _peers(source, folder, peers_python)
    accuracy = raw.get("accuracies") or [found[chains[0]]["accuracies"][-1]]
    return {
        "accuracy": accuracy[0],
        "method": "nested" if source.nested else "fp32",
        "exact": all(found[chain]["exact"] for chain in chains),
        "chains": {chain: found[chain] for chain in chains},
        "whole": {_RAW: raw, **{f"{name}, coded": found[name] for name in whole}},
        "planes": planes,
        "peers": peers,
        "errors_of": source.errors,
    }


def _peers(source, folder, python):
    arrays = source.arrays()
    if not python:
        return deliver_peers.measure(arrays, source.errors)
    np.savez(folder / "weights.npz", **arrays)
    (folder / "errors.json").write_text(json.dumps(source.errors), encoding="utf-8")
    script = str(pathlib.Path(deliver_peers.__file__).resolve())
    files = [str(folder / "weights.npz"), str(folder / "errors.json")]
    try:
        return json.loads(_output([python, "-I", script, *files]))
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        expected = "a Python with numpy, and coders that work"
        raise InputError("peers_python", expected, f"{python} ({error})") from error


def _output(command):
    """Last line that a program prints."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(f"exit status {done.returncode}: {lines[-1]}")
    return done.stdout.strip().splitlines()[-1]


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: List of str; None for those of the command line.
    """
    given = vars(_parsed(arguments))
    out, init = given.pop("out"), given.pop("init")
    options = {name: given.pop(name) for name in _OPTIONS}
    if options["stages"] is not None:
        options["stages"] = options["stages"].split(_BETWEEN)
    problem = check(CentralSettings(**given), out) or _wrong_init(init, given["seed"])
    problem = problem or _wrong_python(options["peers_python"])
    if problem:
        fail(problem)
    settings = CentralSettings(**given, init=init)
    tf.get_logger().setLevel("ERROR")  # Keras traces anew after each part, and warns of it.
    try:
        found = deliver(settings, show=lambda text: print(text, flush=True), **options)
    except OmcError as error:
        fail(as_line(error).replace("peers_python:", "--peers_python:"))
    command = shlex.join(["python", "-m", "tff_sims.deliver", *(arguments or sys.argv[1:])])
    summary = {
        **given,
        **found,
        "calibration": options["calibration"],
        "versions": versions(),
        "command": command,
    }
    text = json.dumps(summary, indent=2) + "\n"
    write_whole(pathlib.Path(out) / "summary.json", text.encode())
    print(f"accuracy {found['accuracy']:.3f} whole; results in {out}")


def _parsed(arguments):
    parser = Parser(
        prog="python -m tff_sims.deliver",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", default=CentralSettings.task, help="what the run has learnt")
    parser.add_argument("--domain", help="part of the task's world; of pictures the folder or zip")
    parser.add_argument(
        "--seed", type=from_to(0, 2**31 - 1), default=0, help="seed of the run and of the task"
    )
    parser.add_argument(
        "--init", required=True, help="folder of a finished run of tff_sims.central"
    )
    parser.add_argument(
        "--stages", help=f"chains with {_BETWEEN} between them, such as INT4,FP32/3.5,INT8/9%%,FP32"
    )
    parser.add_argument("--repeats", type=from_to(1), default=5, help="times to take seconds")
    parser.add_argument(
        "--calibration",
        type=from_to(0),
        default=0,
        help="training examples from which stages of few bits get BatchNorm statistics; 0 for none",
    )
    parser.add_argument("--peers_python", help="a Python with zstandard, zipnn or nncodec")
    parser.add_argument("--out", required=True, help="folder for summary.json")
    return parser.parse_args(arguments)


def _wrong_init(init, seed):
    """The line that refuses --init; None where a model is in it."""
    path = weights_file(init, seed)
    if path.exists() or (pathlib.Path(init) / _NESTED_FILE).exists():
        return None
    expected = f"the folder of a finished run, with {path.name} or {_NESTED_FILE}"
    return f"--init: expected {expected}, but got {init!r}."


def _wrong_python(python):
    """The line that refuses --peers_python; None where it runs, or none is given."""
    if not python:
        return None
    try:
        _output([python, "-I", "-c", "import numpy; print(numpy.__version__)"])
    except (OSError, RuntimeError, IndexError) as error:
        return f"--peers_python: expected a Python with numpy, but got {python!r} ({error})."
    return None


if __name__ == "__main__":
    main()
