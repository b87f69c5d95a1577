"""Tables: every run once, resumed after any end; figures as an independent calculation has them."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tff_sims.tables import __main__ as program
from tff_sims.tables import figures, omc, report, runner
from tff_sims.tables.folder import Folder

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs" / "results"
STUB = (sys.executable, "-S", str(HERE / "stub.py"))
SUBJECT = omc.TASKS["speech"]
SPLIT = SUBJECT.split
SMALL = omc.dataclasses.replace(
    SUBJECT, full=omc.Scale(3, 4, 2, 4, 1, (0, 1)), quick=omc.Scale(0, 1, 1, 4, 1, (0,))
)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Two seeds and few rounds, and no long waits for a stub that takes a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(omc.TASKS, "speech", SMALL)
        patch.setattr(runner, "_POLL", 0.01)
        yield


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("tff_sims.tables.pictures.draw", lambda *_: [])


def make(out, *flags):
    return program.main(["omc", f"--out={out}", *flags], python=STUB)


def trained(out):
    """Every round trained in a folder, (run and seed, round), as often as it was."""
    return sorted(
        (str(path.parent.relative_to(out)), int(line))
        for path in pathlib.Path(out).rglob("trained")
        for line in path.read_text().split()
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small):
    """A finished table."""
    out = tmp_path_factory.mktemp("table")
    assert make(out) == 0
    return out


def told(out):
    return json.loads((out / "omc.json").read_text())


def grid(out, name):
    (found,) = (grid for grid in told(out)["grids"] if grid["name"] == name)
    return {row.get("label", row.get("what", row.get("part"))): row for row in found["rows"]}


# What is run.


def test_every_run_once_and_never_again(whole, no_pictures, capsys):
    before, files = trained(whole), len(list(whole.rglob("job.json")))
    jobs = omc.build().jobs()
    assert len(set(before)) == len(before) == sum(run.rounds for run, _ in jobs)
    assert files == len(jobs) == len({(run.name, seed) for run, seed in jobs})
    assert make(whole) == 0
    assert trained(whole) == before
    assert f"{len(jobs)} of {len(jobs)} runs are finished" in capsys.readouterr().out


def test_flags_are_those_of_the_programs():
    """The stub takes any flag; the real programs take these."""
    from tff_sims import settings

    for task in omc.TASKS:
        for quick in (False, True):
            for run, seed in omc.build(task, quick).jobs():
                given = settings.Settings(**{"clients_per_round": 1, **run.flags, "seed": seed})
                for find in (settings._wrong_name, settings._wrong_number):  # No data is made.
                    assert find(given) is None, run.name


def test_runs_start_from_weights_of_their_own_seed(whole):
    for run, seed in omc.build().jobs():
        arguments = json.loads((whole / run.name / f"seed-{seed}" / "job.json").read_text())
        inits = [a for a in arguments["arguments"] if a.startswith("--init=")]
        wanted = [f"--init={whole / run.start / f'seed-{seed}'}"] if run.start else []
        assert inits == wanted and f"--seed={seed}" in arguments["arguments"]


def test_seeds_come_one_after_the_other_and_a_start_before_what_it_starts():
    jobs = [(run.name, seed) for run, seed in omc.build().jobs()]
    assert [seed for _, seed in jobs] == sorted(seed for _, seed in jobs)
    names = [name for name, _ in jobs]
    for run, _ in omc.build().jobs():
        if run.start:
            assert names.index(run.start) < names.index(run.name)


def test_one_section_runs_what_it_shows_and_what_that_needs(tmp_path, no_pictures):
    assert make(tmp_path, "--only=adaptation") == 0
    runs = {name.rpartition("/")[0] for name, _ in trained(tmp_path)}
    assert runs == {
        "warm-up",
        "iid/FP32",
        *(f"adaptation/{fmt}" for fmt in ("FP32", "S1E3M7", "S1E2M3")),
    }
    assert (tmp_path / "adaptation" / "before" / "seed-1" / "summary.json").exists()
    assert make(tmp_path, "--only=ablation") == 0  # Its rows of the other section, too.
    assert (tmp_path / SPLIT / "FP32" / "seed-0" / "summary.json").exists()
    assert not (tmp_path / "iid" / "S1E3M7").exists()


def test_a_killed_table_goes_on_where_it_was(tmp_path, no_pictures):
    """SIGKILL at three moments; the job ends with the table, and no round is trained twice."""
    code = (
        "import sys; from tff_sims.tables import __main__ as program, omc;"
        f"omc.TASKS['speech'] = omc.dataclasses.replace(omc.TASKS['speech'], full={SMALL.full!r});"
        f"program.main(['omc', '--only=iid', '--out={tmp_path}'], python={STUB!r})"
    ).replace("Scale(", "omc.Scale(")
    environment = {**os.environ, "STUB_SECONDS": "0.1", "PYTHONPATH": str(ROOT)}
    for rounds in (1, 4, 9):
        with open(tmp_path / "output", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", code], env=environment, stdout=output, stderr=output
            )
        wait_for(lambda n=rounds: len(trained(tmp_path)) >= n)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # What was left behind would train on meanwhile.
        after = trained(tmp_path)
        time.sleep(0.3)
        assert trained(tmp_path) == after
    assert make(tmp_path, "--only=iid") == 0
    rounds = trained(tmp_path)
    assert len(set(rounds)) == len(rounds) == 2 * (3 + 4 * 5)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_failure_is_told_and_stops_nothing_else(tmp_path, monkeypatch, no_pictures, capsys):
    monkeypatch.setenv("STUB_FAIL", "iid/FP32/seed-1")
    assert make(tmp_path, "--only=adaptation") == 1
    captured = capsys.readouterr()
    assert "iid/FP32, seed 1: exit status 1: ValueError: the reason" in captured.err
    assert "adaptation/FP32, seed 1: it starts from iid/FP32" in captured.err
    assert (tmp_path / "adaptation" / "FP32" / "seed-0" / "summary.json").exists()
    assert "adaptation/FP32, seed 1" in " ".join(told(tmp_path)["missing"])
    assert grid(tmp_path, "adaptation")["FP32"]["seeds"] == 1
    monkeypatch.delenv("STUB_FAIL")
    assert make(tmp_path, "--only=adaptation") == 0  # The same command mends it.
    assert grid(tmp_path, "adaptation")["FP32"]["seeds"] == 2


def test_no_run_begins_that_would_end_too_late(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.2")
    jobs, lines = omc.build().jobs("iid"), []
    folder = Folder(tmp_path)
    outcome = runner.run_jobs(jobs, folder, 0.03, lines.append, STUB)
    assert outcome.left and not outcome.failed
    assert len(outcome.left) == sum(not folder.finished(r.name, s) for r, s in jobs) < len(jobs)
    assert sum("left for another time" in line for line in lines) == 1
    left = len(outcome.left)
    outcome = runner.run_jobs(jobs, folder, 1e-9, lines.append, STUB)
    assert len(outcome.left) == left - 1  # The same command always gets a step further.
    assert not runner.run_jobs(jobs, folder, None, lines.append, STUB).left


@pytest.mark.parametrize("at_once", [1, 2])
def test_runs_side_by_side_have_cores_of_their_own(at_once, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.2")
    cores = sorted(os.sched_getaffinity(0))
    jobs, lines, folder = omc.build().jobs("iid"), [], Folder(tmp_path)
    outcome = runner.run_jobs(jobs, folder, None, lines.append, STUB, at_once)
    assert not outcome.failed and not outcome.left
    running, most = 0, 0
    for line in lines:
        running += ("begins" in line) - ("done in" in line)
        most = max(most, running)
    assert most == at_once and running == 0
    seen = [set(json.loads(path.read_text())) for path in tmp_path.rglob("cores")]
    assert len(seen) == len(jobs)
    assert set().union(*seen) == set(cores)
    if len(cores) >= at_once:
        assert len({tuple(sorted(share)) for share in seen}) == at_once
        assert sum(map(len, {tuple(sorted(share)) for share in seen})) == len(cores)
    assert {folder.record(run.name, seed).cores for run, seed in jobs} == {len(s) for s in seen}
    rounds = trained(tmp_path)
    assert len(rounds) == len(set(rounds)) == sum(run.rounds for run, _ in jobs)


def test_two_tables_never_share_a_folder(tmp_path, capsys):
    with Folder(tmp_path).locked():
        assert make(tmp_path) == 2
    assert "another process runs jobs" in capsys.readouterr().err
    assert not trained(tmp_path)


def test_runs_with_other_settings_are_not_taken_for_these(whole, capsys):
    assert make(whole, "--quick") == 2
    problem = capsys.readouterr().err
    assert problem.startswith("--out: expected") and "--rounds=4, not 1" in problem
    assert len(problem.strip().splitlines()) == 1


# What is refused.


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("p2u",),
        ("omc", "--only=nothing"),
        ("omc", "--task=mnist"),
        ("omc", "--task=digits", "--only=adaptation"),
        ("omc", "--docs=nowhere"),
        ("omc", "--rounds=3"),
        ("omc", "--at_once=0"),
        ("omc", "--out=/proc/none"),
        ("omc", "--report", "--out=/proc/none"),
        ("omc", "extra"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(flags, capsys):
    try:
        status = program.main(list(flags), python=("false",))
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert status == 2 and len(captured.err.strip().splitlines()) == 1
    assert not captured.out


def test_list_tells_what_is_finished_and_runs_nothing(tmp_path, capsys):
    assert make(tmp_path / "new", "--list") == 0
    assert "0 of" in capsys.readouterr().out and not (tmp_path / "new").exists()


def test_report_runs_nothing(tmp_path, capsys):
    assert make(tmp_path, "--report") == 1
    assert "nothing is finished" in capsys.readouterr().err
    assert not trained(tmp_path)


# What is told.


def errors_of(out, run, seeds=(0, 1)):
    """Errors in percent, read here without the program's help."""
    errors = []
    for seed in seeds:
        folder = out / run / f"seed-{seed}"
        if run in ("warm-up", "adaptation/before"):  # The weights from which others start.
            accuracies = [json.loads((folder / "summary.json").read_text())["accuracy"]]
        else:
            with open(folder / "rounds.csv", newline="") as file:
                accuracies = [float(line["accuracy"]) for line in csv.DictReader(file)]
            accuracies = accuracies[len(accuracies) // 2 :]
        errors.append(100 * (1 - np.nanmean(accuracies)))
    return np.array(errors)


def test_figures_are_those_of_an_independent_calculation(whole):
    rows = grid(whole, SPLIT)
    fp32 = errors_of(whole, f"{SPLIT}/FP32")
    assert rows["after warm-up"]["error"] == pytest.approx(errors_of(whole, "warm-up").mean())
    assert len(rows) == 6
    for label in ("FP32", "S1E4M14", "S1E5M10", "S1E3M7", "S1E2M3"):
        row, own = rows[label], errors_of(whole, f"{SPLIT}/{label}")
        assert row["error"] == pytest.approx(own.mean())
        assert row["error_std"] == pytest.approx(own.std(ddof=1))
        if label == "FP32":
            assert row["difference"] is None and row["parameter_bytes_ratio"] == 1
            continue
        assert row["difference"] == pytest.approx((own - fp32).mean())
        assert row["difference_std"] == pytest.approx((own - fp32).std(ddof=1))
        assert row["relative"] == pytest.approx(100 * (own - fp32).mean() / fp32.mean())
        bits = {"S1E4M14": 19, "S1E5M10": 16, "S1E3M7": 11, "S1E2M3": 6}[label]
        assert row["parameter_bytes"] == pytest.approx(1e6 * bits / 32)
        assert row["parameter_bytes_ratio"] == pytest.approx(bits / 32)
        assert row["uplink_bytes_per_client_round_ratio"] == pytest.approx(bits / 32, rel=1e-3)


def test_an_error_is_averaged_over_the_second_half(tmp_path):
    table, folder = omc.build(), Folder(tmp_path)
    name = "iid/FP32"
    assert (table.runs[name].rounds, table.runs[name].averaged) == (4, 0.5)
    for seed, accuracies in enumerate([[0.1, 0.2, 0.5, 0.7], [0.1, 0.2, "nan", 0.7]]):
        folder.of(name, seed).mkdir(parents=True)
        (folder.of(name, seed) / "summary.json").write_text('{"accuracy": 0.7}')
        lines = [f"{i},{accuracy},9,9" for i, accuracy in enumerate(accuracies, start=1)]
        header = "round,accuracy,downlink_bytes,uplink_bytes"
        (folder.of(name, seed) / "rounds.csv").write_text("\n".join([header, *lines]))
    found = figures.summaries(table, folder)[name]
    assert found[0]["error"] == pytest.approx(40.0)
    assert found[1]["error"] == pytest.approx(30.0)


def test_a_difference_is_taken_between_runs_of_the_same_seed():
    found = {
        "base": {0: {"error": 10.0}, 1: {"error": 20.0}, 2: {"error": 30.0}},
        "other": {1: {"error": 25.0}, 2: {"error": 30.0}},
    }
    assert figures.paired(found, "other", "base") == pytest.approx([5.0, 0.0])


def test_targets_are_judged_by_either_limit():
    def row(fp32, other):
        """Verdict on S1E3M7 with an error in percent over FP32 with another."""
        table = omc.build()
        errors = {f"{s}/FP32": fp32 for s in ("iid", SPLIT)}
        errors.update({f"{s}/S1E3M7": other for s in ("iid", SPLIT)})
        found = {name: {} for name in table.runs}
        for name, value in errors.items():
            found[name] = {0: {"error": value}}
        return figures.target_grid(table, found).rows[0]

    assert row(5.0, 5.29)["verdict"] == "met"  # 0.29 points, 5.8 %.
    assert row(5.0, 5.31)["verdict"] == "NOT met"
    assert row(20.0, 20.59)["verdict"] == "met"  # 0.59 points, 2.95 %.
    assert row(20.0, 20.61)["verdict"] == "NOT met"
    assert row(20.0, 3.0)["verdict"] == "met"
    assert row(5.0, 5.0)["seeds"] == "1 of 2"


def test_targets_and_effects_of_the_finished_table(whole):
    targets = grid(whole, "targets")
    own, fp32 = (errors_of(whole, f"iid/{name}").mean() for name in ("S1E3M7", "FP32"))
    (accuracy,) = (row for what, row in targets.items() if "iid" in what and "WER" in what)
    met = own - fp32 <= 0.3 or own - fp32 <= 0.03 * fp32
    assert accuracy["verdict"] == ("met" if met else "NOT met")
    (parameters,) = (row for what, row in targets.items() if "iid" in what and "parameter" in what)
    assert parameters["verdict"] == "met" and parameters["measured"] == f"{11 / 32:.3f}"
    for row in grid(whole, "effects").values():
        wanted = errors_of(whole, row["without"]) - errors_of(whole, row["with"])
        assert row["by_seed"] == pytest.approx(list(wanted))


@pytest.mark.parametrize(
    "differences, said",
    [
        ([1.0], "too few"),
        ([1.0, 1.1, 0.9], "worse without"),
        ([-1.0, -1.1, -0.9], "better without"),
        ([1.0, 1.1, -0.1], "does not show"),
        ([0.1, 3.0, 0.2], "does not show"),
        ([0.0, 0.0, 0.0], "does not show"),
    ],
)
def test_verdicts_on_effects(differences, said):
    assert said in figures.verdict(differences)


def test_rounds_are_kept_for_the_pictures(whole):
    with open(whole / "omc-rounds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["run"] == "iid/S1E3M7" and row["seed"] == "1"]
    with open(whole / "iid" / "S1E3M7" / "seed-1" / "rounds.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(row["round"]) for row in own] == [1, 2, 3, 4]
    for row, line in zip(own, lines):
        wanted = 100 - 100 * float(line["accuracy"])
        if np.isnan(wanted):
            assert row["error"] == ""
        else:
            assert float(row["error"]) == pytest.approx(wanted, abs=1e-3)
    total = sum(int(line["downlink_bytes"]) + int(line["uplink_bytes"]) for line in lines)
    assert float(own[-1]["megabytes"]) == pytest.approx(total / 1e6, abs=1e-3)
    for name in ("omc-rounds.png", "omc-bits.png"):
        assert (whole / name).stat().st_size > 5000


def test_the_json_names_no_folder_of_this_machine(whole):
    assert str(whole) not in (whole / "omc.json").read_text()
    assert "--out=OUT/iid/FP32/seed-0" in told(whole)["runs"]["iid/FP32"]["0"]["command"]


def test_a_page_is_filled_between_its_markers_only(whole, tmp_path, no_pictures):
    page = "before\n<!-- begin iid -->\nold\n<!-- end iid -->\nafter\n"
    (tmp_path / "omc.md").write_text(page)
    assert make(whole, "--report", f"--docs={tmp_path}") == 0
    filled = (tmp_path / "omc.md").read_text()
    assert filled.startswith("before\n") and "after\n" in filled and "old" not in filled
    row = grid(whole, "iid")["S1E3M7"]
    assert f"{row['error']:.2f} ± {row['error_std']:.2f}" in filled
    assert (tmp_path / "omc.json").read_bytes() == (whole / "omc.json").read_bytes()
    assert report.filled(filled, told(tmp_path)) == filled


def test_the_pages_show_the_committed_json():
    for path in DOCS.glob("*-rounds.csv"):
        name = path.name[: -len("-rounds.csv")]
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        told = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
        assert report.filled(page, told) == page, f"run tff_sims.tables {name} --report --docs"


def test_finished_simulations_are_taken_over_with_their_rounds(
    whole, tmp_path, no_pictures, capsys
):
    for name in ("omc.json", "omc-rounds.csv"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    known = json.loads((tmp_path / "omc.json").read_text())
    del known["runs"]["iid/S1E3M7"]["1"]
    (tmp_path / "omc.json").write_text(json.dumps(known))
    out = tmp_path / "out"
    assert make(out, f"--known={tmp_path / 'omc.json'}", "--only=iid") == 0
    # The missing run, and the start whose weights it needs.
    assert {name for name, _ in trained(out)} == {"iid/S1E3M7/seed-1", "warm-up/seed-1"}
    assert "iid/FP32 with seed 0: taken over" in capsys.readouterr().out
    assert grid(out, "iid") == grid(whole, "iid")
    for name, seed in (("iid/FP32", 0), ("iid/S1E3M7", 1)):
        theirs = Folder(whole).rounds(name, seed)
        for row, other in zip(Folder(out).rounds(name, seed), theirs, strict=True):
            shares = row.pop("accuracies"), other.pop("accuracies")
            assert row == other
            ours, other = ({k: v for k, v in s.items() if not np.isnan(v)} for s in shares)
            assert ours == other


def test_simulations_without_their_rounds_are_run_again(whole, tmp_path, no_pictures):
    (tmp_path / "omc.json").write_bytes((whole / "omc.json").read_bytes())
    rows = (whole / "omc-rounds.csv").read_text().splitlines()
    old = [",".join(row.split(",")[:5]) for row in rows]  # As written before they held bytes.
    for rounds in (None, old):
        if rounds:
            (tmp_path / "omc-rounds.csv").write_text("\n".join(rounds))
        out = tmp_path / f"out-{bool(rounds)}"
        assert make(out, f"--known={tmp_path / 'omc.json'}", "--only=iid") == 0
        assert ("iid/FP32/seed-0", 1) in trained(out)
