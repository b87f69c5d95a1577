"""A trained model in parts: what the program measures, and what the table makes of it."""

import json
import math
import pathlib
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import omc
from tff_sims import central_data, deliver, deliver_peers, deliver_planes
from tff_sims.central_settings import CentralSettings
from tff_sims.results import save_weights
from tff_sims.tables import __main__ as program
from tff_sims.tables import deliveries, nested, progressive, report
from tff_sims.tables.folder import Folder, Record

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "results"
SEED = 3


def accuracy(task, model):
    features, labels = task.test
    return float(np.mean(np.argmax(model(features), axis=1) == labels))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with weights of digits, the task and the model."""
    folder = tmp_path_factory.mktemp("fp32")
    task = CentralSettings(task="digits", seed=SEED).make_task()
    model = central_data.SUBJECTS["digits"].build(task)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(variable + rng.normal(0, 0.05, variable.shape))
    save_weights(folder, SEED, model)
    return folder, task, model


def run(init, out, *flags):
    deliver.main(["--task=digits", f"--seed={SEED}", f"--init={init}", f"--out={out}", *flags])
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def delivered(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("delivery")
    return run(trained[0], out, "--stages=INT4,INT8,FP32/S1E3M3,S1E3M7", "--repeats=1")


def test_the_last_stage_is_the_trained_model_and_lower_ones_what_wrap_stores(trained, delivered):
    _, task, model = trained
    chain = delivered["chains"]["INT4,INT8,FP32"]
    assert delivered["accuracy"] == chain["accuracies"][2] == accuracy(task, model)
    for name, place in (("INT8", 1), ("S1E3M7", -1)):
        wrapped = central_data.SUBJECTS["digits"].build(task)
        wrapped.set_weights(model.get_weights())
        omc.wrap(wrapped, omc.Policy(name))
        chains = delivered["chains"]
        (found,) = (c for n, c in chains.items() if name in n)
        assert found["accuracies"][place] == pytest.approx(accuracy(task, wrapped))
    assert chain["exact"] and not delivered["chains"]["S1E3M3,S1E3M7"]["exact"]


def test_stages_may_be_allocated_and_calibrated(trained, tmp_path):
    found = run(trained[0], tmp_path, "--stages=4.5,FP32/12%,FP32/INT8,FP32", "--calibration=64")
    base = found["chains"]["4.5,FP32"]["bytes"][0]
    share = found["chains"]["12%,FP32"]["bytes"][0] / found["whole"]["FP32"]["bytes"][0]
    assert 0 < share <= 0.12  # Headers and all.
    assert found["exact"] and found["calibration"] == 64
    assert 0 < base < found["chains"]["INT8,FP32"]["bytes"][0]
    chain = deliveries.DeliverySection(
        "calibrated", "", "run", ("4.5,FP32", "12%,FP32"), deliveries.Reading("run", "error")
    )
    labels = [label for label, _ in chain.shown]
    assert labels[1:] == ["4.5 bits allocated, FP32", "12 % allocated, FP32"]


def test_bytes_are_those_of_the_parts(trained, delivered):
    _, _, model = trained
    parts = omc.progressive.split(model, ["INT4", "INT8", "FP32"])
    chains, whole = delivered["chains"], delivered["whole"]
    names = 40  # Bytes by which a header may differ: Keras numbers its layers.
    wanted = [len(bytes(part)) for part in parts]
    assert chains["INT4,INT8,FP32"]["bytes"] == pytest.approx(wanted, abs=names)
    (one,) = omc.progressive.split(model, ["S1E3M7"])
    assert whole["S1E3M7, coded"]["bytes"] == pytest.approx([len(bytes(one))], abs=names)
    assert whole["FP32"]["bytes"] == [sum(w.nbytes for w in model.get_weights())]
    assert set(whole) == {"FP32", "FP32, coded", "INT8, coded", "S1E3M7, coded"}
    for figures in [*chains.values(), *whole.values()]:
        assert len(figures["seconds"]) == len(figures["bytes"])
        assert all(seconds > 0 for seconds in figures["seconds"])


def test_planes_take_16_bits_and_end_at_the_whole_accuracy(trained, delivered):
    _, _, model = trained
    matrices = sum(w.size for w in model.get_weights() if w.ndim > 1)
    raw, planes = sum(w.nbytes for w in model.get_weights()), delivered["planes"]
    ranges = 8 * sum(w.ndim > 1 for w in model.get_weights())
    assert sum(planes["bytes"]) == 2 * matrices + (raw - 4 * matrices) + ranges
    assert planes["accuracies"][-1] == pytest.approx(delivered["accuracy"], abs=0.01)
    assert delivered["peers"]["zlib -9"] < raw


def test_a_nested_model_arrives_at_its_widths(trained, tmp_path):
    _, task, model = trained
    own = central_data.SUBJECTS["digits"].build(task)
    own.set_weights(model.get_weights())
    omc.nest(own, bits=(8, 4), calibration=task.test[0][:64])
    omc.save(own, tmp_path / "model.omc")
    found = run(tmp_path, tmp_path / "out", "--stages=INT4,INT8", "--repeats=1")
    chain = found["chains"]["INT4,INT8"]
    for width, measured in zip((4, 8), chain["accuracies"]):
        omc.nested.switch(own, width)
        assert measured == pytest.approx(accuracy(task, own))
    assert found["method"] == "nested" and not found["planes"] and not found["peers"]
    assert set(found["whole"]) == {"FP32", "INT8, coded"}


@pytest.mark.parametrize(
    "flags",
    [
        ("--task=mnist", "--init={folder}"),
        ("--task=digits",),
        ("--task=digits", "--init=nowhere"),
        ("--task=digits", "--init={folder}", "--domain=noisy"),
        ("--task=digits", "--init={folder}", "--bogus=1"),
        ("--task=digits", "--init={folder}", "--repeats=0"),
        ("--task=digits", "--init={folder}", "--stages=INT8,INT4"),
        ("--task=digits", "--init={folder}", "--stages=INT4,,FP32"),
        ("--task=keywords", "--init={folder}"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(flags, trained, tmp_path, capsys):
    given = [flag.format(folder=trained[0]) for flag in flags]
    with pytest.raises(SystemExit) as ended:
        deliver.main([*given, f"--seed={SEED}", f"--out={tmp_path / 'new'}"])
    assert ended.value.code == 2
    problem = capsys.readouterr().err.strip().splitlines()
    # Where no test made that task's data before, it is made here, and tells so.
    assert len([line for line in problem if not line.startswith("making speech")]) == 1
    assert not (tmp_path / "new" / "summary.json").exists()


@pytest.mark.parametrize("python", ["nowhere/python", "false"])
def test_a_python_without_coders_is_named(python, trained, tmp_path, capsys):
    flags = ["--task=digits", f"--seed={SEED}", f"--init={trained[0]}", f"--out={tmp_path}"]
    with pytest.raises(SystemExit):
        deliver.main([*flags, "--stages=FP32", "--repeats=1", f"--peers_python={python}"])
    problem = capsys.readouterr().err.strip().splitlines()
    assert len(problem) == 1 and problem[0].startswith("--peers_python: expected a Python")


# Bit planes and other coders.


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=3, max_side=7),
        elements=st.floats(-1e3, 1e3, width=32),
    )
)
def test_k_bits_are_within_half_a_step(values):
    found, low, high = deliver_planes.codes(values)
    planes = [deliver_planes.plane(found, step) for step in range(deliver_planes.STEPS)]
    assert all(len(data) == math.ceil(values.size / 4) for data in planes)
    for count in range(1, deliver_planes.STEPS + 1):
        back = deliver_planes.restored(planes[:count], values.shape, low, high)
        half = ((high - low) or 0.0) / 2 ** (2 * count + 1)
        assert np.all(
            np.abs(back - values) <= half * (1 + 1e-6) + 1e-6 * max(1, abs(low), abs(high))
        )


class _Coder:
    """Stands in for nncodec.nn: rounds to steps of 2^(qp / 4), 100 bytes fewer for each qp."""

    @staticmethod
    def encode(arrays, options):
        _Coder.scale = 1 + 2.0 ** (options["qp"] / 4)
        _Coder.arrays = arrays
        return bytes(10_000 - 100 * options["qp"])

    @staticmethod
    def decode(stream, options):
        del stream, options
        return {name: array * _Coder.scale for name, array in _Coder.arrays.items()}


def test_bytes_at_an_error_lie_between_the_streams_around_it():
    arrays = {"q0": np.arange(1, 13, dtype=np.float64).reshape(3, 4), "r1": np.ones(3)}
    for qp in (-20.0, -20.5, -33.25):  # The error of a scale 1 + s is s^2.
        nbytes = deliver_peers._nncodec(_Coder, arrays, 2.0 ** (qp / 2), True)
        assert nbytes == pytest.approx(10_000 - 100 * qp, abs=1)
    assert deliver_peers._nncodec(_Coder, arrays, 1e-30, True) is None


def test_matrices_come_with_their_outputs_first():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert deliver_peers._rows_first(kernel).shape == (5, 4, 2, 3)
    assert deliver_peers._rows_first(kernel)[4, 3, 1, 2] == kernel[1, 2, 3, 4]


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(deliver_peers.importlib.util, "find_spec", lambda name: None)
    found = deliver_peers.measure({"q0": np.zeros((9, 9), np.float32)}, {"INT4": 0.01})
    assert list(found) == ["zlib -9"]


def test_a_lossless_coder_has_to_give_back_what_it_got():
    wrong = types.SimpleNamespace(compress=bytes, decompress=lambda data: data[1:])
    module = types.SimpleNamespace(ZipNN=lambda **_: wrong)
    with pytest.raises(ValueError, match="zipnn"):
        deliver_peers._zipnn(module, b"12345678")


# The table.


def summary(seed, chains, **more):
    """A made-up summary of the program, different for each seed."""
    rng = np.random.default_rng(seed)

    def figures(count):
        return {
            "bytes": [int(n) for n in rng.integers(20_000, 40_000, count)],
            "accuracies": [float(a) for a in rng.uniform(0.8, 0.9, count)],
            "seconds": [float(s) for s in rng.uniform(0.01, 0.05, count)],
        }

    whole = {"FP32": 1, "INT8, coded": 1, "FP32, coded": 1, "S1E3M7, coded": 1}
    found = {
        "chains": {chain: figures(chain.count(",") + 1) for chain in chains},
        "whole": {name: figures(count) for name, count in whole.items()},
        "planes": figures(8),
        "peers": {"zlib -9": 390_000, "nncodec": None},
        "accuracy": 0.9,
        "versions": {"omc": "0"},
        **more,
    }
    found["whole"]["FP32"]["bytes"] = [400_000]
    return found


@pytest.fixture
def finished(tmp_path):
    """A folder of a finished table of keywords with made-up figures."""
    table, folder = progressive.build("keywords"), Folder(tmp_path / "runs")
    for job, seed in table.jobs():
        chains = {
            "nested-delivery": progressive.NESTED_CHAINS,
            "calibrated-delivery": progressive.CALIBRATED_CHAINS,
        }.get(job.name, progressive.CHAINS)
        told = {"accuracy": 0.9 + seed / 1000, "versions": {}}
        if job.program == "tff_sims.deliver":
            told = summary(seed, chains)
        folder.write(job.name, seed, Record(job.arguments(seed, folder.of), 1.0))
        (folder.of(job.name, seed) / "summary.json").write_text(json.dumps(told))
    return folder.path


def grids(path):
    told = json.loads((path / "progressive-keywords.json").read_text())
    return {
        grid["name"]: {row.get("label", row.get("what")): row for row in grid["rows"]}
        for grid in told["grids"]
    }


def test_figures_are_those_of_an_independent_calculation(finished, tmp_path):
    (tmp_path / "progressive-keywords.md").write_text("<!-- begin bases -->\n<!-- end bases -->\n")
    flags = ["progressive", f"--out={finished}", "--report", f"--docs={tmp_path}"]
    assert program.main(flags) == 0
    found, seeds = grids(finished), (0, 1, 2)
    of = [summary(seed, progressive.CHAINS) for seed in seeds]
    chains = [told["chains"]["INT4,INT8,FP32"] for told in of]
    row = found["bases"]["INT4, INT8, FP32"]
    wanted = 100 * np.array([chain["accuracies"][0] for chain in chains])
    assert row["accuracy"] == pytest.approx(wanted.mean())
    below = 90 - wanted  # What the run that delivers found of the whole model.
    assert row["below_text"] == f"{below.mean():+.2f} ± {below.std(ddof=1):.2f}"
    base = np.array([chain["bytes"][0] for chain in chains])
    assert row["base_share"] == pytest.approx(100 * base.mean() / 400_000)
    more = [sum(c["bytes"]) / t["whole"]["FP32, coded"]["bytes"][0] - 1 for c, t in zip(chains, of)]
    assert row["parts_more"] == pytest.approx(100 * np.mean(more))
    # 100 Mbit/s: the window of 14,600 bytes grows faster than an acknowledgement takes.
    rate = 100e6 / 8
    share = []
    for chain, told in zip(chains, of):
        waits = [0.02 - 14_600 * 2**i / rate for i in range(9)]
        until = []
        for nbytes, taken in (
            (chain["bytes"][0], chain["seconds"][0]),
            (400_000, told["whole"]["FP32"]["seconds"][0]),
        ):
            wait = 0.0
            for i, seconds in enumerate(waits):
                if nbytes > 14_600 * (2 ** (i + 1) - 1) and seconds > 0:
                    wait += seconds
            until.append(3 * 0.02 + nbytes / rate + wait + taken)
        share.append(100 * until[0] / until[1])
    assert found["bases_times"]["INT4, INT8, FP32"]["first_100_share"] == pytest.approx(
        np.mean(share)
    )
    assert found["bases_beside"]["zlib -9"]["share"] == pytest.approx(97.5)
    assert "nncodec" not in found["bases_beside"]
    claim = found["targets"]["bases, INT4,INT8,FP32: bytes of the base, of FP32's"]
    assert claim["wanted"] == "at most 9 %" and claim["seeds"] == "3 of 3"
    assert claim["verdict"] == ("met" if base.mean() <= 36_000 else "NOT met")
    assert (tmp_path / "progressive-keywords-bytes.png").stat().st_size > 5000
    text = (tmp_path / "progressive-keywords.json").read_text()
    assert str(tmp_path) not in text and "--peers_python=PEERS_PYTHON" in text
    assert row["below_text"] in (tmp_path / "progressive-keywords.md").read_text()


def test_runs_that_train_are_those_of_the_nested_table():
    for task in progressive.TASKS:
        ours, theirs = (module.build(task, domain="x") for module in (progressive, nested))
        trained = {name: run for name, run in ours.runs.items() if "delivery" not in name}
        assert trained == {name: theirs.runs[name] for name in trained}
        assert ours.seeds == theirs.seeds
        jobs = {run.name for run, _ in ours.jobs()}
        assert jobs == set(ours.runs)


def test_flags_are_those_of_the_program():
    for quick in (False, True):
        for job, seed in progressive.build("keywords", quick, peers_python="x").jobs():
            if job.program == "tff_sims.deliver":
                arguments = job.arguments(seed, Folder("out").of)[2:]
                assert deliver._parsed(arguments).task == "keywords"


def test_a_summary_of_another_program_has_nothing_derived():
    assert deliveries.derived({"accuracy": 0.5, "chains": 3}) == {}


def test_other_tables_take_no_peers(tmp_path, capsys):
    flags = ["nested", "--task=keywords", f"--out={tmp_path}", "--peers_python=x"]
    assert program.main(flags, python=(sys.executable,)) == 2
    assert capsys.readouterr().err.startswith("--peers_python: expected none")


@pytest.mark.parametrize("task", progressive.TASKS)
def test_the_pages_have_a_place_for_every_grid_and_show_the_committed_json(task):
    page = (DOCS / f"progressive-{task}.md").read_text(encoding="utf-8")
    names = ["source", "targets"]
    for section in progressive.build(task).sections:
        names += [section.name, f"{section.name}_times"]
        names += [f"{section.name}_beside"] if section.beside else []
    for name in names:
        assert f"<!-- begin {name} -->" in page
    committed = DOCS / f"progressive-{task}.json"
    if committed.exists():
        known = json.loads(committed.read_text(encoding="utf-8"))
        assert report.filled(page, known) == page, "run tff_sims.tables progressive --report --docs"
