"""The table of nested models: what is run, and figures as an independent calculation has them."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest

from tff_sims.tables import __main__ as program
from tff_sims.tables import clock, figures, nested, report, runner
from tff_sims.tables.folder import Folder
from tff_sims.tables.plan import Claim, Reading, Run

HERE = pathlib.Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "results"
STUB = (sys.executable, "-S", str(HERE / "stub.py"))
SMALL = nested.Scale(2, 1, (0, 1))
QUICK = nested.Scale(1, 1, (0,), 100)
DEDICATED = "dedicated, one model a width"


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        for task, subject in nested.TASKS.items():
            full = dataclasses.replace(SMALL, more_epochs=subject.full.more_epochs and 3)
            small = dataclasses.replace(subject, full=full, quick=QUICK)
            patch.setitem(nested.TASKS, task, small)
        patch.setattr(runner, "_POLL", 0.01)
        yield


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("tff_sims.tables.pictures.draw", lambda *_: [])


def make(out, *flags):
    return program.main(["nested", f"--out={out}", *flags], python=STUB)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small):
    """A finished table on pictures."""
    out = tmp_path_factory.mktemp("nested")
    assert make(out, "--domain=/some/where") == 0
    return out


def told(out, task="pictures"):
    return json.loads((out / f"nested-{task}.json").read_text())


def grid(out, name):
    (found,) = (grid for grid in told(out)["grids"] if grid["name"] == name)
    return {row.get("label", row.get("what", row.get("part"))): row for row in found["rows"]}


def accuracies(out, run, width, key="accuracies"):
    """In percent, by seed, read here without the program's help."""
    summaries = [json.loads((out / run / f"seed-{n}" / "summary.json").read_text()) for n in (0, 1)]
    return 100 * np.array([summary[key][str(width)] for summary in summaries])


# What is run.


def test_every_run_once_and_never_again(whole, no_pictures):
    def trained():
        return {path: path.read_text() for path in whole.rglob("trained")}

    before, jobs = trained(), nested.build("pictures", domain="x").jobs()
    assert len(before) == sum(run.rounds > 0 for run, _ in jobs)
    assert sum(len(text.split()) for text in before.values()) == sum(run.rounds for run, _ in jobs)
    assert make(whole, "--domain=/elsewhere") == 0  # The data may move.
    assert trained() == before


def test_every_row_starts_from_the_fp32_weights_of_its_seed(whole):
    for run, seed in nested.build("pictures", domain="x").jobs():
        record = json.loads((whole / run.name / f"seed-{seed}" / "job.json").read_text())
        inits = [a for a in record["arguments"] if a.startswith("--init=")]
        assert inits == ([] if run.name == "FP32" else [f"--init={whole / 'FP32'}/seed-{seed}"])
        assert "--domain=/some/where" in record["arguments"]


def test_flags_are_those_of_the_program():
    """The stub takes any flag; the real program takes these."""
    from tff_sims import central_settings as settings

    for task in nested.TASKS:
        for quick in (False, True):
            for run, seed in nested.build(task, quick, None).jobs():
                flags = {**run.flags, "bits": str(run.flags.get("bits", "8")), "seed": seed}
                given = settings.CentralSettings(**flags)
                for find in ("_wrong_name", "_wrong_widths", "_wrong_number"):
                    assert getattr(settings, find)(given) is None, run.name


def test_each_ablation_differs_from_joint_training_in_its_part_alone():
    runs = nested.build("keywords").runs
    joint = runs["joint"].flags
    for name, flag in (
        ("no-alrs", "alrs"),
        ("no-distillation", "distillation"),
        ("one-batchnorm", "batchnorm"),
        ("shift", "rounding"),
    ):
        flags, free = runs[name].flags, ("extra_bits", "read_by_shift")
        differing = {k for k in {*joint, *flags} if joint.get(k) != flags.get(k)}
        assert differing - set(free) == {flag}
        assert joint["epochs"] == flags["epochs"]
    for key in ("epochs", "learning_rate"):
        assert joint[key] == runs["w4"].flags[key] == runs["FP32-longer"].flags[key]


def test_rows_of_more_epochs_are_run_with_one_seed(whole, no_pictures):
    table = nested.build("pictures", domain="x")
    assert {s for run, s in table.jobs("longer") if run.name == "joint-longer"} == {0}
    for name in ("joint-longer", "w2-longer", "FP32-longer-longer"):
        given, usual = table.runs[name].flags, table.runs[name.removesuffix("-longer")].flags
        differing = {key for key in {*given, *usual} if given.get(key) != usual.get(key)}
        assert differing - {"extra_bits", "read_by_shift"} == {"epochs"} and given["epochs"] == 3
    row = grid(whole, "targets")["longer, joint: accuracy lost at 2 bits against " + DEDICATED]
    assert row["seeds"] == "1 of 1" and row["wanted"] == "at most 1 points"


def test_the_short_form_is_a_part_of_the_whole():
    whole, quick = (nested.build("keywords", quick).runs for quick in (False, True))
    assert set(quick) < set(whole)
    assert all(run.flags["train_examples"] == 100 for run in quick.values())


def test_the_data_has_to_be_named_where_the_task_has_none(tmp_path, capsys):
    assert make(tmp_path) == 2
    assert make(tmp_path, "--task=keywords", "--domain=x") == 2
    problems = capsys.readouterr().err.strip().splitlines()
    assert len(problems) == 2 and all(line.startswith("--domain: expected") for line in problems)
    assert make(tmp_path, "--list") == 0  # For which no data is needed.


def test_time_is_estimated_by_the_widths_of_a_run(tmp_path):
    table, folder = nested.build("keywords"), Folder(tmp_path)
    jobs = table.jobs()
    watch = clock.Clock(jobs, folder, 1)
    joint, one = table.runs["joint"], table.runs["w4"]
    watch.running(one, 0, 0, 1, 10.0)
    watch.running(one, 0, 1, 1, 17.0)
    assert watch.estimate(one) == pytest.approx(7.0)
    assert watch.estimate(joint) == pytest.approx(35.0)


# What is told.


def test_figures_are_those_of_an_independent_calculation(whole):
    rows, apart = grid(whole, "same"), grid(whole, "same_differences")
    assert list(rows)[:4] == ["FP32, the start", "FP32", DEDICATED, "joint"]
    for width in (8, 6, 4, 3, 2):
        alone, joint = accuracies(whole, f"w{width}", width), accuracies(whole, "joint", width)
        for label, values in ((DEDICATED, alone), ("joint", joint)):
            assert rows[label][f"accuracy_{width}"] == pytest.approx(values.mean())
            assert rows[label][f"accuracy_{width}_std"] == pytest.approx(values.std(ddof=1))
            assert f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" == rows[label][f"w{width}"]
        assert apart["joint"][f"difference_{width}"] == pytest.approx((joint - alone).mean())
    for label, run in (("FP32, the start", "FP32"), ("FP32", "FP32-longer")):
        assert rows[label]["accuracy_32"] == pytest.approx(accuracies(whole, run, 32).mean())
    assert "FP32" not in apart and DEDICATED not in apart
    assert rows[DEDICATED]["parameter_bytes"] == 5 * rows["joint"]["parameter_bytes"]
    assert rows["joint"]["parameter_bytes_ratio"] == pytest.approx(0.25)
    assert rows["joint"]["w7"].endswith("*") and not rows["joint"]["w6"].endswith("*")
    assert rows["calibrated after training"]["cpu_seconds_per_step"] is None
    assert rows["joint"]["seeds"] == 2


def test_a_dedicated_row_with_activations_at_8_shares_the_run_at_8_bits(whole):
    rows = grid(whole, "eight")[DEDICATED]
    assert rows["runs"] == ["w8", "w6-a8", "w4-a8", "w3-a8", "w2-a8"]
    assert rows["accuracy_2"] == pytest.approx(accuracies(whole, "w2-a8", 2).mean())


def test_the_bare_shift_is_read_from_the_same_trained_model(whole):
    row = grid(whole, "parts")["bare shift, untrained"]
    read = accuracies(whole, "joint", 4, "shift_accuracies")
    assert row["accuracy_4"] == pytest.approx(read.mean()) and row["runs"] == ["joint"]
    effects = grid(whole, "effects")
    effect = effects["the second rounding, after training, w4"]
    assert effect["by_seed"] == pytest.approx(list(accuracies(whole, "joint", 4) - read))
    without = accuracies(whole, "no-alrs", 2)
    wanted = accuracies(whole, "joint", 2) - without
    assert effects["ALRS, w2"]["by_seed"] == pytest.approx(list(wanted))


def test_targets_of_the_finished_table(whole):
    targets = grid(whole, "targets")
    lost = accuracies(whole, "w2", 2) - accuracies(whole, "joint", 2)
    row = targets[f"same, joint: accuracy lost at 2 bits against {DEDICATED}"]
    assert row["wanted"] == "at most 1 points" and row["seeds"] == "2 of 2"
    assert row["verdict"] == ("met" if lost.mean() <= 1.0 else "NOT met")
    assert row["measured"].startswith(f"{lost.mean():+.2f} ± {lost.std(ddof=1):.2f}")
    label = "joint, trained at 8, 6, 4, 2 only"
    few = {width: accuracies(whole, "joint-few", width) for width in (4, 3, 2)}
    below = (few[4] + few[2]) / 2 - few[3]
    row = targets[f"same, {label}: untrained 3 bits below the line between"]
    assert row["verdict"] == ("met" if below.mean() <= 1.5 else "NOT met")
    assert row["measured"].startswith(f"{below.mean():+.2f}")
    fp32 = accuracies(whole, "FP32-longer", 32) - accuracies(whole, "joint-a8", 6)
    row = targets["eight, joint: accuracy lost at 6 bits against FP32"]
    assert row["verdict"] == ("met" if fp32.mean() <= 0.5 else "NOT met")


def test_a_claim_is_judged_on_the_mean_over_the_seeds_that_have_all_of_it():
    claim = Claim("what", ((1, Reading("a")), (-1, Reading("b"))), 0.5)
    runs = {name: Run(name, {}) for name in "ab"}
    table = dataclasses.replace(nested.build("keywords"), runs=runs, targets=(claim,))

    def row(a, b):
        runs = {"a": a, "b": b}
        found = {r: {s: {"error": e} for s, e in v.items()} for r, v in runs.items()}
        return figures.target_grid(table, found).rows[0]

    assert row({0: 10.4, 1: 20.5}, {0: 10.0, 1: 20.0})["verdict"] == "met"
    assert row({0: 10.4, 1: 20.7}, {0: 10.0, 1: 20.0})["verdict"] == "NOT met"
    assert row({0: 10.4, 1: 20.7}, {0: 10.0})["seeds"] == "1 of 2"
    assert row({}, {0: 10.0})["verdict"] == "not measured"


def test_the_json_names_no_folder_of_this_machine(whole):
    text = (whole / "nested-pictures.json").read_text()
    assert str(whole) not in text and "/some/where" not in text and "/elsewhere" not in text
    assert "--domain=DOMAIN" in told(whole)["runs"]["joint"]["0"]["command"]
    assert told(whole)["command"].endswith("nested --task=pictures --domain=DOMAIN")


def test_pictures_are_drawn_and_there_are_no_rounds(whole):
    names = {path.name for path in whole.iterdir() if path.is_file()}
    assert names == {"lock", *(f"nested-pictures{e}" for e in (".json", "-bits.png", "-bytes.png"))}
    assert all((whole / name).stat().st_size > 5000 for name in names if name.endswith("png"))


def test_a_page_is_filled(whole, tmp_path, no_pictures):
    page = "".join(
        f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in ("same", "same_differences")
    )
    (tmp_path / "nested-pictures.md").write_text(page)
    assert make(whole, "--report", f"--docs={tmp_path}") == 0
    filled = (tmp_path / "nested-pictures.md").read_text()
    assert grid(whole, "same")["joint"]["w3"] in filled and "nobody trained" in filled
    assert "Points of accuracy above dedicated" in filled


@pytest.mark.parametrize("task", nested.TASKS)
def test_the_pages_have_a_place_for_every_grid_and_show_the_committed_json(task):
    page = (DOCS / f"nested-{task}.md").read_text(encoding="utf-8")
    table = nested.build(task)
    names = [part.name for part in table.sections]
    for name in ("source", "targets", "effects", *names, *(f"{n}_differences" for n in names)):
        assert f"<!-- begin {name} -->" in page
    committed = DOCS / f"nested-{task}.json"
    if committed.exists():
        known = json.loads(committed.read_text(encoding="utf-8"))
        assert report.filled(page, known) == page, "run tff_sims.tables nested --report --docs"


# What was finished elsewhere.


def test_a_known_table_is_taken_over_and_only_the_rest_is_run(whole, tmp_path, no_pictures, capsys):
    known = told(whole)
    del known["runs"]["joint"]["1"]
    (tmp_path / "known.json").write_text(json.dumps(known))
    out = tmp_path / "out"
    assert make(out, "--domain=/some/where", f"--known={tmp_path / 'known.json'}") == 0
    # The missing run, and the start whose weights it needs; everything else was known.
    ran = {str(path.parent.relative_to(out)) for path in out.rglob("trained")}
    assert ran == {"joint/seed-1", "FP32/seed-1"}
    assert "FP32 with seed 0: taken over" in capsys.readouterr().out
    again, first = told(out), told(whole)
    assert again["finished"] == again["wanted"] and not again["missing"]
    for name, of_seeds in first["runs"].items():
        for seed, job in of_seeds.items():
            assert again["runs"][name][seed]["summary"] == job["summary"]
            assert again["runs"][name][seed]["command"] == job["command"]


@pytest.mark.parametrize("text", ["", "{}", '{"table": "omc", "runs": {}}', "[1]", None])
def test_what_is_no_json_of_the_table_is_one_line(text, tmp_path, capsys):
    path = tmp_path / "known.json"
    if text is not None:
        path.write_text(text)
    assert make(tmp_path / "out", "--domain=/x", f"--known={path}") == 2
    assert capsys.readouterr().err.startswith("--known: expected the JSON of a table nested")
    assert not list((tmp_path / "out").glob("*/"))


def test_runs_of_other_settings_are_not_taken_over(whole, tmp_path, capsys):
    known = told(whole)
    job = known["runs"]["w8"]["0"]
    job["command"] = job["command"].replace("--bits=8", "--bits=7")
    (tmp_path / "known.json").write_text(json.dumps(known))
    assert make(tmp_path / "out", "--domain=/x", f"--known={tmp_path / 'known.json'}") == 2
    assert "--bits=7, not 8" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/"))
