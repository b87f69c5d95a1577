"""The table of allocations: what is run, and figures as an independent calculation has them."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest

from omc.mixed_precision import STRATEGIES
from omc.mixed_precision.sensitivities import SENSITIVITIES
from tff_sims import central_settings
from tff_sims.tables import __main__ as program
from tff_sims.tables import allocation, report, runner

HERE = pathlib.Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "results"
STUB = (sys.executable, "-S", str(HERE / "stub.py"))
SMALL = allocation.Scale(2, 1, (0, 1), 0.1)


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        for task, subject in allocation.TASKS.items():
            patch.setitem(allocation.TASKS, task, dataclasses.replace(subject, full=SMALL))
        patch.setattr(runner, "_POLL", 0.01)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small):
    """A finished table on digits."""
    out = tmp_path_factory.mktemp("allocation")
    assert program.main(["allocation", f"--out={out}"], python=STUB) == 0
    return out


def grid(out, name):
    told = json.loads((out / "allocation-digits.json").read_text())
    (found,) = (grid for grid in told["grids"] if grid["name"] == name)
    return {row.get("label", row.get("what", row.get("part"))): row for row in found["rows"]}


def accuracies(out, run, budget):
    """In percent, by seed, read here without the program's help."""
    summaries = [json.loads((out / run / f"seed-{n}" / "summary.json").read_text()) for n in (0, 1)]
    return 100 * np.array([summary["accuracies"][budget] for summary in summaries])


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("task", allocation.TASKS)
def test_every_run_can_start(task, quick, tmp_path):
    table = allocation.build(task, quick)
    for run in table.runs.values():
        start = {"init": str(tmp_path)} if run.start else {}
        settings = central_settings.CentralSettings(**run.flags, **start)
        for name in ("_wrong_name", "_wrong_widths", "_wrong_budgets", "_wrong_number"):
            assert getattr(central_settings, name)(settings) is None, run.name
        assert run.flags["epochs"] == 0 or run.name == "FP32" or run.flags["learning_rate"]
    if not quick:
        ways = [run.flags for run in table.runs.values() if run.flags["method"] == "allocated"]
        assert {flags["strategy"] for flags in ways} == set(STRATEGIES)
        assert {flags["sensitivity"] for flags in ways} == set(SENSITIVITIES)


def test_figures_are_those_of_an_independent_calculation(whole):
    once, apart = grid(whole, "once"), grid(whole, "once_differences")
    for budget in ("2.25", "2.5", "3", "4"):
        exact = accuracies(whole, "exact-hessian_error", budget)
        uniform = accuracies(whole, "uniform", budget)
        text = f"{exact.mean():.2f} ± {exact.std(ddof=1):.2f}"
        assert once["exact, hessian_error"][f"w{budget}"] == text
        difference = apart["exact, hessian_error"][f"difference_{budget}"]
        assert difference == pytest.approx((exact - uniform).mean())
    trained = grid(whole, "trained")
    for bits, given in (("2.5", "2"), ("3", "3")):  # 2.5 bits throughout are 2.
        uniform = accuracies(whole, f"uniform-{given}-trained", given)
        assert trained["uniform"][f"accuracy_{bits}"] == pytest.approx(uniform.mean())
        exact = accuracies(whole, f"exact-hessian_error-{bits}-trained", bits)
        lost = grid(whole, "targets")[
            f"trained, exact, hessian_error: error less that of one width throughout, {bits} bits"
        ]
        assert lost["verdict"] == ("met" if (uniform - exact).mean() <= 0 else "NOT met")
        what = f"widths a layer (exact, hessian_error), trained, {bits} bits"
        effect = grid(whole, "effects")[what]
        assert effect["by_seed"] == pytest.approx(list(exact - uniform))


def test_columns_are_averages_of_bits_and_costs_are_left_out(whole):
    told = json.loads((whole / "allocation-digits.json").read_text())
    (found,) = (grid for grid in told["grids"] if grid["name"] == "once")
    headings = [heading for _, heading, _ in found["columns"]]
    budgets = ["4 bits %", "3.5 bits %", "3 bits %", "2.75 bits %"]
    assert headings[1:6] == ["FP32 %", *budgets] and "peak MB" not in headings
    assert (whole / "allocation-digits-bits.png").stat().st_size > 5000


@pytest.mark.parametrize("task", allocation.TASKS)
def test_the_pages_have_a_place_for_every_grid_and_show_the_committed_json(task):
    page = DOCS / f"allocation-{task}.md"
    committed = page.with_suffix(".json")
    if not page.exists():
        assert not committed.exists()
        return
    text, table = page.read_text(encoding="utf-8"), allocation.build(task)
    names = [part.name for part in table.sections]
    for name in ("source", "targets", "effects", *names, *(f"{n}_differences" for n in names)):
        assert f"<!-- begin {name} -->" in text
    if committed.exists():
        known = json.loads(committed.read_text(encoding="utf-8"))
        assert report.filled(text, known) == text, "run tff_sims.tables allocation --report --docs"
