"""FedMPQ's table: its runs are simulations that can start, its figures means over clients."""

import dataclasses
import json
import math

import pytest

from tff_sims.settings import Settings, check
from tff_sims.tables import budgets, fedmpq, figures
from tff_sims.tables.folder import Folder
from tff_sims.tables.plan import Reading

SUMMARY = {
    "accuracy": 0.9,
    "master_accuracy": 0.8,
    "accuracy_by_width": {"2": 0.5, "8": 0.9, "4": 0.1},
    "own_accuracy_by_width": {"2": 0.25, "8": 0.75, "4": None},
    "average_bits_by_width": {"2": 2.0, "8": 7.0, "4": None},
    "clients_by_width": {"2": 30, "8": 10, "4": 0},
    "uplink_bytes_per_client_round": 2000,
    "downlink_bytes_per_client_round": 4000,
}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("task", ["digits", "keywords"])
def test_every_run_can_start(task, quick, tmp_path):
    table = fedmpq.build(task, quick)
    assert len({run.name for run, _ in table.jobs()}) == len(table.runs) == (3 if quick else 20)
    for run in table.runs.values():
        assert check(Settings(**run.flags), str(tmp_path)) is None, run.name


def test_budgets_of_ten_clients_are_theirs_and_fpq8_has_the_most():
    settings = Settings(**fedmpq.build("digits").runs["fedmpq-iid"].flags)
    widths = settings.make_widths(settings.make_task(0))
    assert sorted(widths.assigned.values()) == [2, 2, 4, 4, 4, 6, 6, 6, 8, 8]
    aqfl = Settings(**fedmpq.build("digits").runs["aqfl-iid"].flags)
    plain = dict(strategy="fixed", lasso=0, threshold=None, scales="largest", weighting="examples")
    assert aqfl.make_widths(aqfl.make_task(0)) == dataclasses.replace(widths, **plain)
    settings = Settings(**fedmpq.build("digits").runs["fpq8-iid"].flags)
    assert settings.make_widths(settings.make_task(0)).budgets == (8,)


def test_budgets_repeat_where_more_clients_are_drawn_from():
    runs = fedmpq.build("pictures", domain="here").runs
    assert runs["fp32-iid"].places == {"domain": "here"} and len(runs) == 16
    for name, bits in (("fedmpq-iid", [2, 2, 4, 4, 4, 6, 6, 6, 8, 8]), ("fpq8-iid", [8] * 10)):
        flags = {**runs[name].flags, "domain": None, "task": "digits"}
        assert flags["clients"] == 40 and flags["clients_per_round"] == 10
        settings = Settings(**flags)
        widths = settings.make_widths(settings.make_task(0))
        assert list(widths.assigned.values()) == bits * 4


def test_means_are_over_clients_and_leave_out_budgets_that_nobody_has():
    found = budgets.derived(SUMMARY)
    assert math.isclose(found[budgets.MASTER], 20.0)
    assert math.isclose(found[budgets.DOWNLOADED], 100 - (30 * 50 + 10 * 90) / 40)
    assert math.isclose(found[budgets.OWN], 100 - (30 * 25 + 10 * 75) / 40)
    assert math.isclose(found["average_bits"], (30 * 2 + 10 * 7) / 40)
    plain = {"accuracy": 0.9, "master_accuracy": 0.8}
    assert set(budgets.derived(plain)) == {budgets.MASTER, budgets.DOWNLOADED}
    assert budgets.derived({"accuracy": 0.9}) == {}
    unknown = {**SUMMARY, "own_accuracy_by_width": {"2": None, "8": 0.75, "4": None}}
    assert budgets.OWN not in budgets.derived(unknown)


def test_errors_are_means_over_the_evaluations_of_the_second_half(tmp_path):
    """Read from rounds.csv; the summary's accuracies are those of the last round alone."""
    table, folder = fedmpq.build("digits"), Folder(tmp_path)
    run = table.runs["fedmpq-alpha_01"]
    assert run.flags["evaluate_every"] == 5 and run.rounds == 40
    path = folder.of(run.name, 0)
    path.mkdir(parents=True)
    header = "round,accuracy,master_accuracy,downlink_bytes,uplink_bytes,own_accuracy_at_2_bits,"
    lines = [header + "own_accuracy_at_8_bits"]
    for number in range(1, 41):
        shares = (number / 100, 0.5 + number / 100, 0.1 + number / 100)
        own = ",".join(map(str, shares[1:])) if number == 40 else ","  # As simulate has it.
        plain = ",".join(map(str, shares[:2])) if number % 5 == 0 else "nan,nan"
        lines.append(f"{number},{plain},1,1,{own}")
    (path / "rounds.csv").write_text("\n".join(lines) + "\n")
    (path / "summary.json").write_text(json.dumps(SUMMARY))
    found = figures.summaries(table, folder)[run.name][0]
    number = (25 + 30 + 35 + 40) / 4
    assert math.isclose(found["error"], 100 - number)
    assert math.isclose(found[budgets.MASTER], 50 - number)
    own = (30 * (0.5 + 40 / 100) + 10 * (0.1 + 40 / 100)) / 40
    assert math.isclose(found[budgets.OWN], 100 * (1 - own))
    assert found["average_bits"] == 3.25 and budgets.DOWNLOADED not in found


def test_rows_and_targets_are_of_all_seeds():
    table = fedmpq.build("digits")
    found = {name: {} for name in table.runs}
    for name in found:
        for seed, more in zip(table.seeds, (0.0, 0.01, 0.02)):
            better = 0.06 if name.startswith("fedmpq") else 0.0
            own = {"2": 0.3 + better + more, "8": 0.3 + better + more, "4": None}
            summary = {**SUMMARY, "own_accuracy_by_width": own, "error": 10.0}
            found[name][seed] = {**summary, **budgets.derived(summary)}
    (grid,) = figures.section_grids(table.sections[-1], table, found)
    rows = {row["label"]: row for row in grid.rows}
    assert rows["FedMPQ, ours"]["own_error_text"] == "37.00 ± 1.00" and rows["AQFL"]["seeds"] == 3
    assert rows["FedMPQ, ours"]["uplink_bytes_per_client_round_kb"] == 2.0
    assert "average_bits" in [key for key, _, _ in grid.columns]
    targets = figures.target_grid(table, found).rows
    assert [row["verdict"] for row in targets] == ["met", "met"]
    assert Reading("fedmpq-alpha_01", budgets.OWN) == table.targets[0].terms[0][1]
