"""The simulation program: rounds of federated training, measured and written to a folder."""

import csv
import dataclasses
import json
import pathlib
import platform
import statistics
import time
from typing import Optional

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc.learning import build_fp32_fed_avg, build_weighted_fed_avg, local_runtime, traffic
from omc.measurement.plots import accuracy_curves
from omc.policies import VariableSpec
from tff_sims.client_process import measure_client
from tff_sims.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a simulation; the flags of `tff_sims.simulate`.

    Attributes:
        task: Key of `tff_sims.tasks.TASKS`.
        method: "fp32" (TFF's own federated averaging) or "omc".
        format: Format of quantized variables; "FP32" for method fp32.
        fraction: Share of the eligible variables that is quantized.
        rounding: "nearest" or "stochastic", during the clients' training.
        uplink: "weights" or "update".
        rounds: Rounds of one run.
        clients_per_round: Clients drawn in a round.
        alpha: Dirichlet concentration of the split.
        learning_rate: Rate of the clients' SGD; None for the task's.
        seed: Seed of the first run.
        repeats: Runs, with seeds seed, seed + 1, ...
    """

    task: str = "digits"
    method: str = "omc"
    format: str = "S1E3M7"
    fraction: float = 0.9
    rounding: str = "stochastic"
    uplink: str = "weights"
    rounds: int = 60
    clients_per_round: int = 10
    alpha: float = 0.5
    learning_rate: Optional[float] = None
    seed: int = 0
    repeats: int = 1

    @property
    def seeds(self):
        """Seeds of the runs."""
        return list(range(self.seed, self.seed + self.repeats))

    def policy(self, seed):
        """The `omc.Policy` of one run; FP32 for method fp32."""
        return omc.Policy(**self.policy_arguments(seed))

    def policy_arguments(self, seed):
        """Arguments of `policy`, as plain values."""
        if self.method == "fp32":
            return {"format": "FP32", "seed": seed}
        return {
            "format": self.format,
            "fraction": self.fraction,
            "rounding": self.rounding,
            "seed": seed,
        }


@dataclasses.dataclass(frozen=True)
class Round:
    """One line of rounds.csv.

    Attributes:
        seed: Seed of the run.
        round: Round number, from 1.
        accuracy: Held-out accuracy of the model that a client would hold (quantized).
        master_accuracy: The same of the server's float32 master.
        train_loss: Mean loss on the clients' batches.
        downlink_bytes, uplink_bytes: Serialized bytes, mean over the round's clients.
        parameter_bytes: Bytes of a client's parameters, mean over the round's clients.
        seconds: Time of the round.
    """

    seed: int
    round: int
    accuracy: float
    master_accuracy: float
    train_loss: float
    downlink_bytes: float
    uplink_bytes: float
    parameter_bytes: float
    seconds: float


def simulate(settings, out, command="", on_round=lambda row, done, total: None):
    """Runs a simulation and writes summary.json, rounds.csv and accuracy.png.

    Args:
        settings: `Settings`, already checked.
        out: Folder to write into; made if absent.
        command: Command line, for the summary.
        on_round: Called after each round with (Round, rounds done, rounds in all).

    Returns:
        The summary, a dict.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rows, total = [], settings.rounds * settings.repeats

    def record(row):
        rows.append(row)
        on_round(row, len(rows), total)

    with local_runtime():
        for seed in settings.seeds:
            _run(settings, seed, record)
    memory = _client_memory(settings)
    summary = _summary(settings, rows, memory, command)
    _write(out, rows, summary)
    return summary


def _run(settings, seed, record):
    """One run: builds the process, trains, evaluates after every round."""
    task = TASKS[settings.task](seed, alpha=settings.alpha)
    process = _build_process(settings, seed, task)
    state = process.initialize()
    model = task.build_model()
    draw = np.random.default_rng([seed, 1])
    for number in range(1, settings.rounds + 1):
        chosen = draw.choice(task.num_clients, settings.clients_per_round, replace=False)
        data = [task.client_dataset(client) for client in chosen]
        start = time.perf_counter()
        state, metrics = process.next(state, data)
        seconds = time.perf_counter() - start
        weights = process.get_model_weights(state)
        counted = traffic(metrics)
        weights.assign_weights_to(model)
        master_accuracy = task.evaluate(model)["accuracy"]
        record(
            Round(
                seed=seed,
                round=number,
                accuracy=_held_accuracy(task, model, settings.policy(seed), number),
                master_accuracy=master_accuracy,
                train_loss=float(metrics["client_work"]["train"]["loss"]),
                downlink_bytes=counted["downlink_bytes"],
                uplink_bytes=counted["uplink_bytes"],
                parameter_bytes=counted["parameter_bytes"],
                seconds=seconds,
            )
        )


def _build_process(settings, seed, task):
    rate = settings.learning_rate or task.learning_rate
    optimizers = task.client_optimizer(rate), task.server_optimizer()
    if settings.method == "fp32":
        return build_fp32_fed_avg(task.model_fn, *optimizers)
    return build_weighted_fed_avg(
        task.model_fn, settings.policy(seed), *optimizers, uplink=settings.uplink
    )


def _held_accuracy(task, model, policy, round_number):
    """Accuracy of what a client holds after the next download; leaves `model` so quantized."""
    plan = policy.plan([VariableSpec.of(v) for v in model.variables], round_number, client=0)
    if all(planned.codec is None for planned in plan):
        return task.evaluate(model)["accuracy"]
    for variable, planned in zip(model.variables, plan):
        if planned.codec is not None:
            variable.assign(planned.codec.decode(planned.codec.encode(variable.read_value())))
    return task.evaluate(model)["accuracy"]


def _client_memory(settings):
    """Peak memory of one client alone; the client with the most examples."""
    task = TASKS[settings.task](settings.seed, alpha=settings.alpha)
    return measure_client(
        settings.task,
        settings.policy_arguments(settings.seed),
        task.largest_client,
        settings.seed,
        settings.learning_rate or task.learning_rate,
        settings.uplink,
    )


def _summary(settings, rows, memory, command):
    last = {row.seed: row for row in rows if row.round == settings.rounds}
    accuracies = [last[seed].accuracy for seed in settings.seeds]
    dense = sum(v.numpy().nbytes for v in TASKS[settings.task](0).build_model().variables)
    # The first round of a run traces and warms up.
    steady = [row.seconds for row in rows if row.round > 1] or [row.seconds for row in rows]

    def mean(field):
        return statistics.fmean(getattr(row, field) for row in rows)

    return {
        **dataclasses.asdict(settings),
        "format": "FP32" if settings.method == "fp32" else settings.format,
        "seeds": settings.seeds,
        "accuracy": statistics.fmean(accuracies),
        "accuracy_by_seed": accuracies,
        "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "master_accuracy": statistics.fmean(last[s].master_accuracy for s in settings.seeds),
        "parameter_bytes": round(mean("parameter_bytes")),
        "dense_parameter_bytes": dense,
        "peak_memory_bytes": memory["peak_bytes"],
        "process_peak_bytes": memory["process_peak_bytes"],
        "client_memory": memory,
        "downlink_bytes_per_client_round": round(mean("downlink_bytes")),
        "uplink_bytes_per_client_round": round(mean("uplink_bytes")),
        "rounds_per_minute": 60 / statistics.fmean(steady),
        "versions": {
            "omc": omc.__version__,
            "tensorflow": tf.__version__,
            "tensorflow_federated": tff.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "command": command,
    }


def _write(out, rows, summary):
    with open(out / "rounds.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Round)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)
    accuracy_curves({_label(summary): curves(rows)}, out / "accuracy.png")
    # Last, so that a folder with a summary is a finished run.
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _label(summary):
    method, fmt = summary["method"], summary["format"]
    return "FP32 FedAvg" if method == "fp32" else f"{method} {fmt}, {summary['fraction']:g}"


def curves(rows):
    """Curves for the picture: one a seed, of (round, accuracy, megabytes through a client)."""
    result = {}
    for row in rows:
        curve = result.setdefault(row.seed, [])
        before = curve[-1][2] if curve else 0.0
        traffic_mb = (row.downlink_bytes + row.uplink_bytes) / 1e6
        curve.append((row.round, row.accuracy, before + traffic_mb))
    return list(result.values())


def read_rows(folder):
    """Rows of a finished run's rounds.csv, as `Round`s."""
    with open(pathlib.Path(folder) / "rounds.csv", newline="", encoding="utf-8") as file:
        types = {field.name: field.type for field in dataclasses.fields(Round)}
        return [
            Round(**{key: types[key](value) for key, value in line.items()})
            for line in csv.DictReader(file)
        ]
