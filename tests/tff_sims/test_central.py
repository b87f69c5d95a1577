"""Central training: results, resuming, what is trained and measured, and one-line refusals."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import omc
from omc.errors import InputError
from omc.keras.nesting import checked_nesting
from tff_sims import central_allocations, central_data, central_training
from tff_sims.central_settings import CentralSettings, check, parsed
from tff_sims.results import load_weights
from tff_sims.tasks.base import Classification

TINY = CentralSettings(task="digits", epochs=3, train_examples=256, calibration=100)
NESTED = dataclasses.replace(TINY, method="nested", bits="8,2", extra_bits="5", read_by_shift=True)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    """Folder and summary of a finished FP32 run."""
    out = tmp_path_factory.mktemp("fp32")
    return out, central_training.train(TINY, out, "the command")


@pytest.fixture(scope="module")
def nested(tmp_path_factory, fp32):
    out = tmp_path_factory.mktemp("nested")
    return out, central_training.train(dataclasses.replace(NESTED, init=str(fp32[0])), out)


def test_fp32_weights_are_those_that_were_measured(fp32):
    out, summary = fp32
    task = TINY.make_task()
    model = task.build_model()
    load_weights(out, 0, model)
    assert task.evaluate(model)["accuracy"] == summary["accuracy"] > 0.5
    assert summary["accuracies"] == {"32": summary["accuracy"]}
    assert summary["parameter_bytes"] == summary["dense_parameter_bytes"]
    assert (summary["steps"], summary["examples"]) == (3 * 256 // 32, 256)
    assert summary["command"] == "the command" and summary["versions"]["omc"]
    assert json.loads((out / "summary.json").read_text()) == summary


def test_every_width_is_measured_of_one_stored_model(nested, fp32):
    out, summary = nested
    assert list(summary["accuracies"]) == ["8", "2", "5"]
    assert summary["accuracy"] == summary["accuracies"]["8"]
    task = NESTED.make_task()
    model = omc.load(out / "model.omc", task.build_model())
    for width, accuracy in summary["accuracies"].items():
        omc.nested.switch(model, int(width))
        assert task.evaluate(model)["accuracy"] == pytest.approx(accuracy, abs=0.01)
    assert summary["parameter_bytes"] == omc.memory_report(model).stored_bytes
    assert summary["artifact_bytes"] == (out / "model.omc").stat().st_size
    assert summary["parameter_bytes"] < 0.27 * fp32[1]["parameter_bytes"]
    assert set(summary["shift_accuracies"]) == set(summary["accuracies"])
    assert not (out / "checkpoints").exists()


def test_bytes_at_a_width_are_those_of_a_model_of_that_width(nested):
    """Against a plain model wrapped in that format, all but the layers that stay at 8 bits."""
    bytes_ = nested[1]["bytes_at_width"]
    plain = NESTED.make_task().build_model()
    kernels = [w.name.split(":")[0] for w in plain.weights if len(w.shape) == 2]
    overrides = {kernels[0]: "INT8", kernels[-1]: "INT8"}
    wrapped = omc.wrap(plain, omc.Policy("INT2", overrides=overrides))
    tables = 3 * 8  # A scale and an offset of the activations of three layers.
    assert bytes_["2"] == omc.memory_report(wrapped).stored_bytes + tables
    assert bytes_["2"] < bytes_["5"] < bytes_["8"]


def test_a_run_goes_on_after_its_last_epoch_with_the_same_result(tmp_path, fp32, nested):
    class Killed(Exception):
        pass

    def kill(done, total, log):
        if done == 2:
            raise Killed

    told, epochs = [], []
    for settings, whole in ((TINY, fp32[1]), (NESTED, nested[1])):
        if settings.nested:
            settings = dataclasses.replace(settings, init=str(fp32[0]))
        out = tmp_path / settings.method
        with pytest.raises(Killed):
            central_training.train(settings, out, on_epoch=kill)
        summary = central_training.train(
            settings, out, on_epoch=lambda done, *_: epochs.append(done), on_start=told.append
        )
        assert summary["accuracies"] == whole["accuracies"]
        assert [log["loss"] for log in summary["log"]] == [log["loss"] for log in whole["log"]]
        assert central_training.train(settings, out, on_start=told.append) == summary
    assert epochs == [3, 3]
    assert ["2 done" in line for line in told] == [True, False, True, False]
    assert "finished already" in told[1]


def test_a_folder_of_other_settings_is_refused(fp32):
    with pytest.raises(InputError, match="momentum was 0.9, is 0.5"):
        central_training.train(dataclasses.replace(TINY, momentum=0.5), fp32[0])


def test_a_batch_of_more_than_there_is_is_refused(tmp_path):
    with pytest.raises(InputError, match="at most 256, the training examples"):
        central_training.train(dataclasses.replace(TINY, batch_size=300), tmp_path)


def test_the_rate_reaches_zero_with_the_last_step_of_the_last_width(tmp_path, monkeypatch):
    seen = []
    finish = central_training._Run.finish

    def look(run):
        optimizer = run.model.optimizer
        seen.append((int(optimizer.iterations), float(optimizer.learning_rate)))
        return finish(run)

    monkeypatch.setattr(central_training._Run, "finish", look)
    settings = dataclasses.replace(NESTED, epochs=1, bits="8,4,2", extra_bits="")
    central_training.train(settings, tmp_path)
    steps = 3 * 256 // 32
    last = 0.01 / 2 * (1 + np.cos(np.pi * (steps - 1) / steps))
    assert seen == [(steps, pytest.approx(last, rel=1e-4))]


def test_widths_are_drawn_and_allocations_are_measured(tmp_path, fp32):
    """--switching=hasb --budgets: three steps a batch, and every sensitivity at every budget."""
    settings = dataclasses.replace(
        NESTED, epochs=2, bits="8,4,2", extra_bits="", read_by_shift=False, init=str(fp32[0])
    )
    settings = dataclasses.replace(settings, switching="hasb", budgets="3,4.5")
    assert settings.passes == 3 and settings.limits == [3.0, 4.5]
    summary = central_training.train(settings, tmp_path)
    assert list(summary["accuracies"]) == ["8", "4", "2"]
    rows = summary["allocations"]
    wanted = [(b, s) for b in (3.0, 4.5) for s in central_allocations.SENSITIVITIES]
    assert [(row["budget"], row["sensitivity"]) for row in rows] == wanted
    model = omc.load(tmp_path / "model.omc", NESTED.make_task().build_model())
    counts = [v.codec.count for v in checked_nesting(model).variables]
    for row in rows:
        widths = list(row["widths"].values())
        average = np.dot(widths, counts) / sum(counts)
        assert row["bits"] == pytest.approx(average) and average <= row["budget"]
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["accuracy_calibrated"] <= 1
        bytes_ = summary["bytes_at_width"]
        assert bytes_["2"] <= row["nbytes"] < bytes_["8"]
    omc.nested.switch(model, {"*": 4})
    assert central_allocations.stored_at(model) == summary["bytes_at_width"]["4"]
    assert len(checked_nesting(model).options.switching.traces) == len(counts)


def test_runs_without_allocations_have_settings_and_results_as_before(fp32, nested):
    for _, summary in (fp32, nested):
        assert summary["switching"] is None and summary["budgets"] is None
        assert "allocations" not in summary
    assert TINY.passes == 1 and NESTED.passes == 2 and not NESTED.limits


def allocated(fp32, **changes):
    return dataclasses.replace(TINY, method="allocated", init=str(fp32[0]), **changes)


def test_allocated_widths_are_stored_and_measured_without_training(tmp_path, fp32):
    """At each budget the accuracy, widths and bytes of a model wrapped so here."""
    settings = allocated(fp32, epochs=0, budgets="8,2.5", strategy="greedy", sensitivity="error")
    summary = central_training.train(settings, tmp_path)
    assert list(summary["accuracies"]) == ["8", "2.5"] and summary["steps"] == 0
    assert summary["accuracy"] == pytest.approx(fp32[1]["accuracy"], abs=0.01)
    task = settings.make_task()
    for row in summary["allocations"]:
        model = task.build_model()
        load_weights(fp32[0], 0, model)
        policy = omc.allocate(
            model,
            bits=row["budget"],
            strategy="greedy",
            sensitivity="error",
            policy=omc.Policy("INT8", seed=0),
        )
        assert list(policy.widths.values()) == list(row["formats"].values())
        assert row["bits"] == policy.budgets[0].used <= row["budget"]
        omc.wrap(model, policy)
        assert row["nbytes"] == omc.memory_report(model).stored_bytes
        assert task.evaluate(model)["accuracy"] == row["accuracy"]
        assert summary["bytes_at_width"][f"{row['budget']:g}"] == row["nbytes"]
    assert len(set(summary["allocations"][1]["formats"].values())) > 1


def test_an_allocated_model_is_trained_in_its_codes_and_goes_on(tmp_path, fp32):
    class Killed(Exception):
        pass

    def kill(done, total, log):
        raise Killed

    settings, told = allocated(fp32, budgets="2.5", epochs=2), []
    whole = central_training.train(settings, tmp_path / "whole", on_start=told.append)
    assert "allocated at 2.5 bits: 2 epochs" in told[0]
    (row,) = whole["allocations"]
    model = omc.load(tmp_path / "whole" / "model.omc", settings.make_task().build_model())
    assert omc.memory_report(model).stored_bytes == row["nbytes"] == whole["parameter_bytes"]
    assert row["nbytes"] < 0.1 * whole["dense_parameter_bytes"]
    once = central_training.train(dataclasses.replace(settings, epochs=0), tmp_path / "once")
    assert whole["accuracy"] > once["accuracy"] + 0.1  # 2.5 bits untrained are far from FP32.
    with pytest.raises(Killed):
        central_training.train(settings, tmp_path / "killed", on_epoch=kill)
    again = central_training.train(settings, tmp_path / "killed")
    assert again["accuracies"] == whole["accuracies"]
    assert [log["loss"] for log in again["log"]] == [log["loss"] for log in whole["log"]]


def test_without_epochs_it_is_a_calibration(tmp_path, fp32):
    settings = dataclasses.replace(NESTED, epochs=0, init=str(fp32[0]), bits="8,6")
    summary = central_training.train(settings, tmp_path)
    assert summary["accuracy"] == pytest.approx(fp32[1]["accuracy"], abs=0.03)
    assert summary["steps"] == 0 and summary["seconds_per_step"] is None


# Data.


def counting_task(clients=20, each=5):
    """Client c has the features c * each ..."""

    def examples(client):
        first = client * each
        return np.arange(first, first + each, dtype=np.float32)[:, None], np.full(each, client)

    test = np.full([2, 1], -1.0, np.float32), np.zeros(2)
    return Classification("digits", clients, examples, test, None, 1, 1, 0.1)


def test_validation_data_is_of_clients_that_nobody_trains_on():
    task = counting_task()
    data = central_data.load(task, "validation")
    assert sorted(data.train[0][:, 0]) == list(range(90))
    assert sorted(data.task.test[0][:, 0]) == list(range(90, 100))
    data = central_data.load(task, "test")
    assert sorted(data.train[0][:, 0]) == list(range(100)) and data.task is task


def test_an_epoch_has_every_example_once_in_an_order_of_its_own():
    data = central_data.load(counting_task(), "test")
    epochs = [
        np.concatenate([np.asarray(x)[:, 0] for x, _ in data.epoch(number, 0, 10, True)])
        for number in (0, 1, 0)
    ]
    for seen in epochs:
        assert sorted(seen) == list(range(100))
    assert list(epochs[0]) == list(epochs[2]) != list(epochs[1])
    assert list(epochs[0]) != list(range(100))


def test_fewer_examples_are_drawn_by_the_seed():
    parts = [central_data.load(counting_task(), "test", 30, seed).train[0] for seed in (0, 0, 1)]
    assert len(set(parts[0][:, 0])) == 30
    assert np.array_equal(parts[0], parts[1]) and not np.array_equal(parts[0], parts[2])
    with pytest.raises(InputError, match="at most 100"):
        central_data.load(counting_task(), "test", 101)


def test_augmentation_is_of_batches_and_can_be_left_out():
    def lift(features, rng):
        return features + 1000 * rng.integers(1, 3)

    data = central_data.load(counting_task(), "test")
    data = dataclasses.replace(data, subject=dataclasses.replace(data.subject, augment=lift))
    for augment, low in ((True, 1000), (False, 0)):
        seen = np.concatenate([np.asarray(x)[:, 0] for x, _ in data.epoch(0, 0, 10, augment)])
        assert (seen >= low).all() and sorted(seen % 1000) == list(range(100))
    assert data.sample(100, 0).max() < 100  # Calibration sees examples as they are.


# What is refused.


@pytest.mark.parametrize(
    "text, widths",
    [("8,6,4", (8, 6, 4)), ("2", (2,)), (" 3, 5", (5, 3)), ("", ()), ("9", None), ("4,4", None)],
)
def test_widths_are_parsed(text, widths):
    assert parsed(text) == widths


@pytest.mark.parametrize(
    "changes, flag",
    [
        ({"task": "speech"}, "task"),
        ({"domain": "noisy"}, "domain"),
        ({"method": "omc"}, "method"),
        ({"bits": ""}, "bits"),
        ({"bits": "8,x"}, "bits"),
        ({"extra_bits": "8"}, "extra_bits"),
        ({"activations": "9"}, "activations"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"distillation": 1.5}, "distillation"),
        ({"schedule": "step"}, "schedule"),
        ({"evaluate": "train"}, "evaluate"),
        ({"init": "nowhere"}, "init"),
        ({"switching": "hasp", "method": "nested"}, "switching"),
        ({"switching": "hasb"}, "switching"),
        ({"switching": "hasb", "method": "nested", "bits": "8"}, "bits"),
        ({"budgets": "3"}, "budgets"),
        ({"budgets": "3,x", "method": "nested"}, "budgets"),
        ({"budgets": "9", "method": "nested"}, "budgets"),
        ({"budgets": "", "method": "nested"}, "budgets"),
        ({"method": "allocated"}, "budgets"),
        ({"method": "allocated", "budgets": "3,4"}, "budgets"),  # Of which only one can be trained.
        ({"method": "allocated", "budgets": "1.5"}, "budgets"),
        ({"method": "allocated", "budgets": "3"}, "init"),
        ({"method": "allocated", "budgets": "3", "strategy": "best"}, "strategy"),
        ({"method": "allocated", "budgets": "3", "sensitivity": "hasb"}, "sensitivity"),
        ({"strategy": "exact"}, "strategy"),
        ({"sensitivity": "error", "method": "nested"}, "sensitivity"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(changes, flag, tmp_path):
    problem = check(dataclasses.replace(TINY, **changes), tmp_path)
    assert problem.startswith(f"--{flag}: expected ") and len(problem.splitlines()) == 1


def test_weights_that_have_seen_the_validation_part_are_refused(fp32, tmp_path):
    settings = dataclasses.replace(TINY, init=str(fp32[0]), evaluate="validation")
    assert "has not learnt what is held out" in check(settings, tmp_path)
    assert check(dataclasses.replace(settings, evaluate="test"), tmp_path) is None


def central(*flags):
    return subprocess.run(
        [sys.executable, "-m", "tff_sims.central", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def test_the_command_line(tmp_path):
    flags = ("--task=digits", "--epochs=2", "--train_examples=64", "--noaugment")
    done = central(*flags, f"--out={tmp_path}")
    assert done.returncode == 0 and not done.stderr
    assert "[2/2] loss" in done.stdout and "test accuracy" in done.stdout
    done = central(*flags, "--bits=9", f"--out={tmp_path}")
    assert done.returncode == 2 and done.stderr.startswith("--bits: expected")
    assert len(done.stderr.strip().splitlines()) == 1
