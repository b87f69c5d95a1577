"""rounds.csv has every round once, whatever a killed program left of it; weights come back."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from models import mlp
from omc.errors import InputError, OmcError
from tff_sims import simulation
from tff_sims.results import (
    Releases,
    Round,
    curves,
    load_weights,
    read_rows,
    save_weights,
    write_summary,
)
from tff_sims.settings import Settings

MEMORY = {"peak_bytes": 1, "process_peak_bytes": 2}


def row(number, accuracy=0.5, seed=0, **changes):
    plain = Round(
        seed=seed,
        round=number,
        accuracy=accuracy,
        master_accuracy=accuracy,
        train_loss=1 / 3,
        clients=10,
        failed=0,
        stragglers=0,
        downlink_bytes=1e6,
        uplink_bytes=5e5,
        parameter_bytes=3.5,
        seconds=2.0,
        warm=1,
        metrics={"wer": 1 - accuracy},
    )
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("left", ["", "step,seed", "step,seed\n1,0\n2,0\n3", None])
def test_rows_are_neither_lost_nor_doubled(left, tmp_path):
    settings, done = Settings(repeats=2, rounds=3), [row(1), row(2), row(3)]
    if left is not None:
        (tmp_path / "rounds.csv").write_text(left)
    releases = Releases(tmp_path, settings, done)
    assert read_rows(tmp_path) == done
    new = [row(1, seed=1), row(2, seed=1, accuracy=0.25)]
    for one in new:
        releases.release(one)
    assert read_rows(tmp_path) == done + new
    releases = Releases(tmp_path, settings, done + new[:1])  # As after a kill.
    releases.release(new[1])
    assert read_rows(tmp_path) == done + new
    assert (tmp_path / "rounds.csv").read_text().count("step") == 1


def test_a_round_without_evaluation_has_no_metrics(tmp_path):
    releases = Releases(tmp_path, Settings(), [])
    rows = [row(1, math.nan, metrics={}), row(2)]
    for one in rows:
        releases.release(one)
    assert repr(read_rows(tmp_path)) == repr(rows)
    assert curves(rows) == [[(2, 0.5, 3.0)]]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "{{node}} x; No space left on device"),
    ],
)
def test_a_full_disk_is_one_line_whatever_is_written(error, tmp_path, monkeypatch):
    releases = Releases(tmp_path, Settings(), [])

    def full(*_, **__):
        raise error

    monkeypatch.setattr(releases._csv, "release", full)
    monkeypatch.setattr("tff_sims.results.write_whole", full)
    for write in (
        lambda: releases.release(row(1)),
        lambda: Releases(tmp_path, Settings(), [row(1)]),
        lambda: save_weights(tmp_path, 0, mlp()),
    ):
        with pytest.raises(InputError, match="No space left on device") as caught:
            write()
        assert caught.value.argument == "out" and "node" not in str(caught.value)


def test_tensorboard_gets_every_round_of_every_seed(tmp_path):
    settings = Settings(repeats=2, tensorboard=True)
    releases = Releases(tmp_path, settings, [row(1), row(2, math.nan, metrics={})])
    releases.release(row(1, 0.75, seed=1))
    found = {}
    for path in (tmp_path / "tensorboard").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                found[path.parent.name, value.tag, event.step] = number
    assert found["seed-0", "accuracy", 1] == 0.5 and found["seed-1", "accuracy", 1] == 0.75
    assert found["seed-0", "uplink_bytes", 2] == 5e5
    assert ("seed-0", "accuracy", 2) not in found


def test_a_summary_is_about_evaluated_rounds_warm_rounds_and_answers(tmp_path):
    rows = [
        row(1, 0.4, seconds=90.0, warm=0),
        row(2, math.nan, failed=10, uplink_bytes=0.0, metrics={}),
        row(3, 0.6),
        row(1, 0.8, seed=1, failed=2),
    ]
    settings = Settings(repeats=2, rounds=9)
    summary = write_summary(tmp_path, settings, rows, MEMORY, 99, "the command")
    assert summary["accuracy_by_seed"] == [0.6, 0.8] and summary["accuracy"] == 0.7
    assert summary["wer_by_seed"] == pytest.approx([0.4, 0.2])
    assert {"wer", "wer_std", "accuracy_std"} <= set(summary)
    assert summary["rounds_per_minute"] == 30
    assert summary["uplink_bytes_per_client_round"] == 500_000
    assert summary["failed_share"] == 0.3 and summary["rounds_without_answer"] == 1
    assert summary["rounds_by_seed"] == [3, 1]


def test_a_run_stops_at_its_target_or_when_it_is_no_better():
    def stops(accuracies, **changes):
        rows = [row(number, accuracy) for number, accuracy in enumerate(accuracies, 1)]
        return simulation.stops_early(rows, Settings(**changes))

    assert not stops([0.1, 0.9, 0.2])
    assert not stops([]) and not stops([], target=0.1, stop_after=1)
    assert stops([0.1, 0.9], target=0.9) and not stops([0.1, 0.8], target=0.9)
    assert stops([0.1, 0.9, 0.9, 0.8], stop_after=2)
    assert not stops([0.1, 0.9, 0.8], stop_after=2)
    assert not stops([0.1, 0.9, 0.8, math.nan, math.nan], stop_after=2)


def test_weights_start_another_run(tmp_path):
    source, target = mlp(seed=1), mlp(seed=2)
    save_weights(tmp_path, 3, source)
    load_weights(tmp_path, 3, target)
    for ours, theirs in zip(source.get_weights(), target.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="weights-7.npz"):
        load_weights(tmp_path, 7, target)  # Its held-out data may be what seed 3 trained on.
    with pytest.raises(InputError, match="init"):
        load_weights(tmp_path, 3, mlp(width=8))
    with pytest.raises(InputError, match="12 variables|10 variables"):
        load_weights(tmp_path, 3, mlp(depth=5))


def test_results_go_without_a_measurement_that_fails(monkeypatch):
    def killed(*_):
        raise OmcError("client process", "a measurement", "no output")

    monkeypatch.setattr(simulation, "measure_client", killed)
    task = Settings().make_task(0)
    assert simulation._client_memory(Settings(), task) is None
