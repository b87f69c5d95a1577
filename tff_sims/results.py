"""What a simulation leaves behind: rounds.csv, TensorBoard, weights, picture and summary.json."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import platform
import re
import shutil
import statistics

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc.errors import InputError
from omc.measurement.plots import accuracy_curves
from tff_sims.waiting import wait_for

_KEY = "step"


@dataclasses.dataclass(frozen=True)
class Round:
    """One line of rounds.csv.

    Attributes:
        seed: Seed of the run.
        round: Round number, from 1.
        accuracy: Held-out accuracy of the model that a client would hold (quantized); NaN in a
            round without evaluation.
        master_accuracy: The same of the server's float32 master.
        train_loss: Mean loss on the clients' batches; NaN where every client failed.
        clients: Clients drawn.
        failed: Clients of these that failed.
        stragglers: Clients of these that were cut off.
        downlink_bytes: Serialized bytes, mean over the drawn clients.
        uplink_bytes: Serialized bytes, mean over the clients that answered; 0 where none did.
        parameter_bytes: Bytes of a client's parameters, mean over the drawn clients.
        seconds: Time of the round, without evaluation.
        warm: 0 in the first round after a start, which includes tracing, otherwise 1.
        rejected: Answers that the server rejected, a dict from their fault; not in rounds.csv.
        metrics: Further held-out metrics of the task, and the accuracy at each width (see
            `width_column`) and, in the last round, `own_column`; dict; columns of their own.
        widths: Traffic of the clients of each width, as of `omc.learning.traffic`, a dict from
            width (str, for JSON); not in rounds.csv.
    """

    seed: int
    round: int
    accuracy: float
    master_accuracy: float
    train_loss: float
    clients: int
    failed: int
    stragglers: int
    downlink_bytes: float
    uplink_bytes: float
    parameter_bytes: float
    seconds: float
    warm: int
    rejected: dict = dataclasses.field(default_factory=dict)
    metrics: dict = dataclasses.field(default_factory=dict)
    widths: dict = dataclasses.field(default_factory=dict)

    @property
    def evaluated(self):
        """Whether there are held-out metrics."""
        return not math.isnan(self.accuracy)

    def flat(self):
        """The columns of rounds.csv, a dict."""
        columns = dataclasses.asdict(self)
        metrics = columns.pop("metrics")
        for name in ("rejected", "widths"):
            del columns[name]
        return {**columns, **metrics}


_FIXED = {f.name: f.type for f in dataclasses.fields(Round) if f.type is not dict}


def width_column(bits):
    """Name of the column with the accuracy of what clients of a width (int or str) download."""
    return f"accuracy_at_{bits}_bits"


def own_column(bits):
    """Name of the column with the mean accuracy of such clients' own models, after training."""
    return f"own_accuracy_at_{bits}_bits"


class Releases:
    """Rounds as they come, through TFF's release managers: rounds.csv and TensorBoard.

    The program state holds all rows up to its round. So whatever a killed program wrote, half wrote
    or had no time to write is replaced by these rows at the start.
    """

    def __init__(self, out, settings, rows):
        """Starts from the rows of the program states.

        Args:
            out: Folder.
            settings: `Settings`.
            rows: List of `Round`, of all runs so far.
        """
        self._settings = settings
        path = pathlib.Path(out) / "rounds.csv"
        _write_rows(path, [(self._step(row), row) for row in rows])
        self._csv = tff.program.CSVFileReleaseManager(path, key_fieldname=_KEY)
        self._boards = {}
        self._folder = pathlib.Path(out) / "tensorboard"
        remove_seeds(self._folder)
        for row in rows:
            self._to_board(row)

    def release(self, row):
        """Adds a round.

        Raises:
            InputError: The disk does not take it.
        """
        with writing("a round"):
            wait_for(self._csv.release(row.flat(), self._step(row)))
            self._to_board(row)

    def _step(self, row):
        return (row.seed - self._settings.seed) * self._settings.rounds + row.round

    def _to_board(self, row):
        if not self._settings.tensorboard:
            return
        if row.seed not in self._boards:
            folder = self._folder / f"seed-{row.seed}"
            self._boards = {row.seed: tff.program.TensorBoardReleaseManager(folder)}
        numbers = {k: v for k, v in row.flat().items() if k not in ("seed", "round")}
        numbers = {k: v for k, v in numbers.items() if not math.isnan(v)}
        wait_for(self._boards[row.seed].release(numbers, row.round))


def _write_rows(path, rows):
    metrics = dict.fromkeys(name for _, row in rows for name in row.metrics)
    with io.StringIO(newline="") as text, writing("rounds.csv"):
        writer = csv.DictWriter(text, [_KEY, *_FIXED, *metrics])
        writer.writeheader()
        writer.writerows({_KEY: step, **row.flat()} for step, row in rows)
        write_whole(path, text.getvalue().encode())


@contextlib.contextmanager
def writing(what):
    """Context whose failures to write are the user's to mend: a full disk, most of all.

    Args:
        what: What is written, in words.

    Raises:
        InputError: In place of OSError and TensorFlow's errors.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        # TensorFlow: "{{node}} temporary file; what went wrong [Op:name]".
        first = re.sub(r" \[Op:\w+\]", "", first.rpartition("; ")[2])
        tip = "the same command goes on from the last checkpoint."
        raise InputError("out", f"a disk that takes {what}", first, tip) from error


def remove_seeds(folder):
    """Removes a folder's seed-N folders, and itself when nothing else is in it.

    Args:
        folder: pathlib.Path; may be absent.
    """
    for path in folder.glob("seed-*"):
        shutil.rmtree(path)
    with contextlib.suppress(OSError):
        folder.rmdir()


def write_whole(path, data):
    """Writes a file whole or not at all, whenever the program is killed.

    Args:
        path: pathlib.Path.
        data: bytes.
    """
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def read_rows(folder):
    """Rows of a run's rounds.csv, as `Round`s."""
    with open(pathlib.Path(folder) / "rounds.csv", newline="", encoding="utf-8") as file:
        rows = []
        for line in csv.DictReader(file):
            fixed = {name: type_(line[name]) for name, type_ in _FIXED.items()}
            metrics = {
                name: float(value)
                for name, value in line.items()
                if name not in _FIXED and name != _KEY and value
            }
            rows.append(Round(**fixed, metrics=metrics))
        return rows


def curves(rows):
    """Curves for the picture: one a seed, of (round, accuracy, megabytes through a client)."""
    result, megabytes = {}, {}
    for row in rows:
        megabytes[row.seed] = (
            megabytes.get(row.seed, 0.0) + (row.downlink_bytes + row.uplink_bytes) / 1e6
        )
        if row.evaluated:
            point = (row.round, row.accuracy, megabytes[row.seed])
            result.setdefault(row.seed, []).append(point)
    return list(result.values())


def save_weights(out, seed, model):
    """Writes the float32 master of a finished run to weights-SEED.npz.

    Args:
        out: Folder.
        seed: Seed of the run.
        model: Keras model that holds the weights: trainable ones first, then the others.
    """
    # By position: Keras numbers its names anew in every process, differently.
    arrays = {f"v{i:05d}": v.numpy() for i, v in enumerate(_variables(model))}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with writing("the weights"):
        write_whole(weights_file(out, seed), buffer.getvalue())


def weights_file(folder, seed):
    """pathlib.Path of a run's final weights."""
    return pathlib.Path(folder) / f"weights-{seed}.npz"


def load_weights(folder, seed, model):
    """Sets a Keras model to the final float32 master of an earlier run.

    Args:
        folder: Folder of the earlier run.
        seed: Seed of the earlier run, and of this one. With another seed, what is held out here may
            have been trained on there.
        model: Keras model of the same shapes.

    Raises:
        InputError: No such run, or a model of other shapes.
    """
    if not weights_file(folder, seed).exists():
        expected = f"the folder of a finished run of seed {seed}"
        raise InputError("init", expected, f"{folder}, without weights-{seed}.npz")
    with np.load(weights_file(folder, seed)) as archive:
        arrays = [archive[name] for name in sorted(archive.files)]
    variables = _variables(model)
    shapes, wanted = [a.shape for a in arrays], [tuple(v.shape) for v in variables]
    if shapes != wanted:
        differing = next((s for s, w in zip(shapes, wanted) if s != w), len(shapes))
        raise InputError(
            "init",
            f"weights of this task's model ({len(wanted)} variables)",
            f"those of another in {folder} ({len(shapes)} variables; the first that differs has "
            f"shape {differing})"
            if len(shapes) == len(wanted)
            else f"{len(shapes)} variables in {folder}",
        )
    for variable, array in zip(variables, arrays):
        variable.assign(array)


def _variables(model):
    return [*model.trainable_variables, *model.non_trainable_variables]


def write_summary(out, settings, rows, memory, dense_bytes, command, privacy=None):
    """Draws accuracy.png and writes summary.json.

    Args:
        out: Folder.
        settings: `Settings`.
        rows: List of `Round`, of all runs.
        memory: Dict of `tff_sims.client_process.measure_client`; None where it was not measured.
        dense_bytes: Bytes of the model's variables in float32.
        command: Command line, or "".
        privacy: Dict of `tff_sims.aggregation.privacy`, or None.

    Returns:
        The summary, a dict.
    """
    summary = _summary(settings, rows, memory, dense_bytes, command)
    if privacy is not None:
        summary["privacy"] = privacy
    picture = pathlib.Path(out) / "accuracy.png"
    with writing("the results"):
        accuracy_curves({_label(summary): curves(rows)}, picture)
        # Last, so that a folder with a summary is a finished run.
        text = json.dumps(summary, indent=2) + "\n"
        write_whole(pathlib.Path(out) / "summary.json", text.encode())
    return summary


def _summary(settings, rows, memory, dense_bytes, command):
    last = {row.seed: row for row in rows if row.evaluated}
    last = [last[seed] for seed in settings.seeds]
    ends = {row.seed: row.round for row in rows}
    steady = [row.seconds for row in rows if row.warm] or [row.seconds for row in rows]
    answered = [row for row in rows if row.failed < row.clients] or rows

    def mean(field, among=rows):
        return statistics.fmean(getattr(row, field) for row in among)

    def by_seed(name, values):
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return {
            name: statistics.fmean(values), f"{name}_by_seed": values, f"{name}_std": spread,
        }  # fmt: skip

    summary = {
        **dataclasses.asdict(settings),
        "format": "FP32" if settings.method == "fp32" else settings.format,
        "seeds": settings.seeds,
        "rounds_by_seed": [ends[seed] for seed in settings.seeds],
        **by_seed("accuracy", [row.accuracy for row in last]),
        "master_accuracy": mean("master_accuracy", last),
    }
    for name in last[0].metrics:
        summary.update(by_seed(name, [row.metrics[name] for row in last]))
    if rows[0].widths:
        summary.update(_by_width(rows, summary))
    return {
        **summary,
        "failed_share": sum(row.failed for row in rows) / sum(row.clients for row in rows),
        "straggler_share": sum(row.stragglers for row in rows) / sum(row.clients for row in rows),
        "rejected": _rejected(rows),
        "rounds_without_answer": sum(row.failed == row.clients for row in rows),
        "parameter_bytes": round(mean("parameter_bytes")),
        "dense_parameter_bytes": dense_bytes,
        "peak_memory_bytes": memory and memory["peak_bytes"],
        "process_peak_bytes": memory and memory["process_peak_bytes"],
        "client_memory": memory,
        "downlink_bytes_per_client_round": round(mean("downlink_bytes")),
        "uplink_bytes_per_client_round": round(mean("uplink_bytes", answered)),
        "rounds_per_minute": 60 / statistics.fmean(steady),
        "versions": versions(),
        "command": command,
    }


def _rejected(rows):
    """Answers that were rejected in all rounds, a dict from their fault."""
    return {fault: sum(row.rejected[fault] for row in rows) for fault in rows[0].rejected}


def _by_width(rows, summary):
    """Accuracy and bytes of each width; a width that no client had in any round has None."""
    found = {"accuracy_by_width": {}, "own_accuracy_by_width": {}, "clients_by_width": {}}
    for bits in rows[0].widths:
        found["accuracy_by_width"][bits] = summary[width_column(bits)]
        found["own_accuracy_by_width"][bits] = summary.get(own_column(bits))
        own = [row.widths[bits] for row in rows]
        found["clients_by_width"][bits] = sum(one["clients"] for one in own)
        for key, number in (
            ("parameter_bytes", "clients"),
            ("downlink_bytes", "clients"),
            ("uplink_bytes", "answers"),
            ("average_bits", "clients"),
        ):
            if key not in own[0]:
                continue
            total = sum(one[number] for one in own)
            mean = sum(one[key] * one[number] for one in own) / total if total else None
            if mean is not None:
                mean = round(mean, 6 if key == "average_bits" else None)
            found.setdefault(f"{key}_by_width", {})[bits] = mean
    return found


def versions():
    """Versions that a result depends on, a dict."""
    return {
        "omc": omc.__version__,
        "tensorflow": tf.__version__,
        "tensorflow_federated": tff.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _label(summary):
    method, fmt = summary["method"], summary["format"]
    return "FP32 FedAvg" if method == "fp32" else f"{method} {fmt}, {summary['fraction']:g}"
