"""The command line: results, and one-line refusals with nothing started."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from omc.learning import downlinks
from tff_sims import demo
from tff_sims.settings import Settings, check
from tff_sims.tasks.base import dirichlet_split
from tff_sims.tasks.digits import digits

KEYS = {
    "task", "method", "format", "rounds", "accuracy", "parameter_bytes", "dense_parameter_bytes",
    "peak_memory_bytes", "downlink_bytes_per_client_round", "uplink_bytes_per_client_round",
    "rounds_per_minute", "seed", "versions",
}  # fmt: skip


def simulate(*flags):
    return subprocess.run(
        [sys.executable, "-m", "tff_sims.simulate", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    common = ("--rounds=2", "--clients_per_round=3", "--seed=4")
    for method in ("fp32", "omc"):
        done = simulate(*common, f"--method={method}", f"--out={out / method}")
        assert done.returncode == 0, done.stderr
        assert "[2/2]" in done.stdout and "left" in done.stdout
    return {m: json.loads((out / m / "summary.json").read_text()) for m in ("fp32", "omc")}, out


def test_results_are_complete_and_smaller(runs):
    summaries, out = runs
    for method, summary in summaries.items():
        assert KEYS <= set(summary)
        assert summary["method"] == method and summary["seed"] == 4 and summary["rounds"] == 2
        assert 0 <= summary["accuracy"] <= 1
        assert (out / method / "accuracy.png").stat().st_size > 1000
        with open(out / method / "rounds.csv", newline="") as file:
            assert [line["round"] for line in csv.DictReader(file)] == ["1", "2"]
    fp32, omc = summaries["fp32"], summaries["omc"]
    assert fp32["parameter_bytes"] == fp32["dense_parameter_bytes"] == omc["dense_parameter_bytes"]
    for key in (
        "parameter_bytes",
        "downlink_bytes_per_client_round",
        "uplink_bytes_per_client_round",
        "peak_memory_bytes",
    ):
        assert omc[key] < 0.8 * fp32[key]


def test_a_finished_run_is_left_alone_and_another_is_refused(runs):
    out = runs[1] / "fp32"
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    flags = ("--rounds=2", "--clients_per_round=3", "--seed=4", "--method=fp32", f"--out={out}")
    done = simulate(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("finished already") and "[1/2]" not in done.stdout
    done = simulate(*flags, "--alpha=0.1")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "alpha was 0.5, is 0.1" in done.stderr
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.is_file()}


def test_the_table_sets_both_side_by_side(runs):
    coded = {**runs[0]["omc"], "format": "INT8", "uplink": "dithered"}
    text = demo.table([runs[0]["fp32"], runs[0]["omc"], coded])
    assert "FP32 FedAvg" in text and "OMC S1E3M7" in text and "INT8, coded links" in text
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize(
    "flag, changes",
    [
        ("--task", dict(task="mnist")),
        ("--method", dict(method="fedprox")),
        ("--format", dict(format="S1E9M9")),
        ("--fraction", dict(fraction=1.5)),
        ("--fraction", dict(fraction=float("nan"))),
        ("--rounds", dict(rounds=0)),
        ("--repeats", dict(repeats=0)),
        ("--clients_per_round", dict(clients_per_round=0)),
        ("--clients_per_round", dict(clients_per_round=61)),
        ("--alpha", dict(alpha=0.0)),
        ("--learning_rate", dict(learning_rate=-1.0)),
        ("--rounding", dict(rounding="down")),
        ("--uplink", dict(uplink="both")),
        ("--aggregator", dict(aggregator="compression")),
        ("--aggregator", dict(method="fp32", aggregator="median")),
        ("--downlink_bits", dict(format="INT8", downlink="coded", downlink_bits="4,few")),
        ("--downlink_bits", dict(format="INT8", downlink_bits="4,8")),
        ("--downlink", dict(format="INT8", downlink="coded", downlink_bits="4,9")),
        ("--widths", dict(format="INT8", widths="8,many")),
        ("--uplink", dict(format="INT8", widths="8,4", uplink="weights")),
        ("--widths", dict(format="INT8", widths="8,4,4")),
        ("--widths", dict(format="INT4", widths="8,4")),
        ("--widths", dict(method="fp32", widths="8,4")),
        ("--budgets", dict(format="INT8", fraction=1.0, uplink="update", budgets="2,9")),
        ("--budgets", dict(format="INT8", fraction=1.0, uplink="update", budgets="2,few")),
        ("--format", dict(fraction=1.0, uplink="update", budgets="2,4")),
        ("--transform", dict(transform="log")),
        ("--split", dict(split="alphabetical")),
        ("--domain", dict(domain="noisy")),
        ("--dropout", dict(dropout=1.0)),
        ("--stragglers", dict(stragglers=-0.1)),
        ("--target", dict(target=95.0)),
        ("--stop_after", dict(stop_after=0)),
        ("--evaluate_every", dict(evaluate_every=0)),
        ("--checkpoint_seconds", dict(checkpoint_seconds=-1.0)),
        ("--seed", dict(seed=-1)),
        ("--clients", dict(clients=0)),
        ("--init", dict(init="no/such/folder")),
    ],
)
def test_a_wrong_setting_is_one_line(flag, changes, tmp_path):
    problem = check(Settings(**changes), str(tmp_path / "new"))
    assert problem.startswith(f"{flag}: expected ") and "but got" in problem
    assert "\n" not in problem
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert check(Settings(), str(tmp_path / "file" / "runs")).startswith("--out: expected")
    assert check(Settings(), None).startswith("--out: expected")
    assert check(Settings(), str(tmp_path / "fine")) is None


@pytest.mark.parametrize("flags", [("--rounds=0",), ("--rounds=many",), ("--bogus=1",), ("extra",)])
def test_the_program_ends_with_status_2_and_one_line(flags, tmp_path):
    done = simulate(*flags, f"--out={tmp_path / 'new'}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_help_explains_itself():
    done = simulate("--help")
    assert done.returncode in (0, 1)  # absl ends --help with 1
    for word in ("--task", "--format", "--fraction", "summary.json", "python -m tff_sims.simulate"):
        assert word in done.stdout


def test_digits_is_split_without_overlap_and_by_seed():
    task, again, other = digits(3), digits(3), digits(4)
    assert task.num_clients == 60
    sizes = [len(task.examples(client)[1]) for client in range(60)]
    assert sum(sizes) + len(task.test[1]) == 1797 and min(sizes) >= 2
    assert sizes[task.largest_client] == max(sizes)
    np.testing.assert_array_equal(task.examples(7)[0], again.examples(7)[0])
    assert not np.array_equal(task.test[1], other.test[1])


def test_dirichlet_split_is_a_partition_and_less_even_for_small_alpha():
    labels = np.repeat(np.arange(10), 100)

    def kinds(alpha):
        parts = dirichlet_split(labels, 40, alpha, np.random.default_rng(0))
        assert sorted(np.concatenate(parts)) == list(range(1000))
        assert min(map(len, parts)) >= 2
        return np.mean([len(np.unique(labels[part])) for part in parts])

    assert kinds(0.1) < kinds(1.0) < kinds(100.0)


def test_classes_of_bandwidth_get_their_own_bits():
    def downlink(bits, name="coded", **given):
        return Settings(downlink=name, downlink_bits=bits, format="INT8", **given).make_downlink()

    assert downlink("4") == downlinks.Coded(4) and downlink(None) == downlinks.Coded()
    assert downlink("4,4") == downlinks.Coded(4) == downlink(4)  # As in summaries of older runs.
    both = downlink("4,8,4,4", "changes", window=3, fraction=1.0)
    each = downlinks.Changes(bits=4, window=3), downlinks.Changes(bits=8, window=3)
    assert both == downlinks.ByBandwidth(each, shares=(3, 1))


def test_a_fleet_of_two_bandwidths_downloads_less_than_the_faster_alone(tmp_path):
    flags = ("--rounds=2", "--clients_per_round=6", "--format=INT8", "--fraction=1")
    bytes_of = {}
    for bits in ("4", "4,8", "8"):
        out = tmp_path / bits.replace(",", "-")
        links = ("--downlink=coded", f"--downlink_bits={bits}", "--uplink=update")
        done = simulate(*flags, *links, "--noclient_memory", f"--out={out}")
        assert done.returncode == 0, done.stderr
        summary = json.loads((out / "summary.json").read_text())
        bytes_of[bits] = summary["downlink_bytes_per_client_round"]
    assert bytes_of["4"] < bytes_of["4,8"] < bytes_of["8"]


def test_each_width_has_its_accuracy_and_its_bytes(tmp_path):
    flags = ("--rounds=2", "--clients_per_round=6", "--format=INT8", "--fraction=1")
    done = simulate(
        *flags, "--widths=8,4,2", "--uplink=update", "--noclient_memory", f"--out={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    accuracy, sent = summary["accuracy_by_width"], summary["uplink_bytes_by_width"]
    assert list(accuracy) == ["8", "4", "2"] and accuracy["8"] == summary["accuracy"]
    assert sum(summary["clients_by_width"].values()) == 12
    assert sent["8"] > sent["4"] > sent["2"] > summary["parameter_bytes_by_width"]["2"]
    with open(tmp_path / "rounds.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["accuracy_at_2_bits"]) == accuracy["2"]
