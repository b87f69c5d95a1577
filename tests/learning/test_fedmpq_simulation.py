"""`tff_sims.simulate --budgets`: flags, and a run whose clients' own models are evaluated."""

import dataclasses

import pytest

from omc.learning import FedMPQ, client_id
from tff_sims.settings import Settings, check
from tff_sims.simulation import simulate

SETTINGS = Settings(
    format="INT8",
    fraction=1.0,
    uplink="update",
    clients=4,
    clients_per_round=4,
    budgets="2,4,4,8",
    reduction_threshold=0.1,
    rounds=2,
    client_memory=False,
)


def test_as_many_budgets_as_clients_are_theirs_in_order():
    task = SETTINGS.make_task(0)
    widths = SETTINGS.make_widths(task)
    ids = [client_id(task.client_dataset(client)) for client in range(4)]
    assert widths.budgets == (2, 4, 8) and widths.shares == (1, 2, 1)
    assert widths.assigned == dict(zip(ids, (2, 4, 4, 8)))
    assert SETTINGS.client_widths.assigned == {}
    assert (widths.lasso, widths.threshold) == (FedMPQ.lasso, 0.1)
    plain = dataclasses.replace(SETTINGS, allocation="fixed", lasso=0.0, reduction_threshold=0.0)
    widths = plain.make_widths(task)
    assert (widths.strategy, widths.lasso, widths.threshold) == ("fixed", 0.0, None)


@pytest.mark.parametrize(
    "flag, changes",
    [
        ("budgets", dict(budgets="2,4.5")),
        ("budgets", dict(budgets="1,4")),
        ("budgets", dict(widths="8,4")),
        ("budgets", dict(method="fp32", uplink="weights")),
        ("budgets", dict(format="INT4")),
        ("fraction", dict(fraction=0.9)),
        ("rounding", dict(rounding="nearest", lasso=0.005)),
        ("uplink", dict(uplink="weights")),
        ("allocation", dict(allocation="best")),
        ("allocation", dict(budgets=None, reduction_threshold=None, allocation="fixed")),
        ("reduction_threshold", dict(budgets=None)),
        ("reduction_threshold", dict(reduction_threshold=1.0)),
        ("lasso", dict(lasso=-1.0)),
        ("scales", dict(scales="widest")),
        ("budget_weighting", dict(budget_weighting="uniform")),
    ],
)
def test_a_wrong_setting_is_one_line(flag, changes, tmp_path):
    assert check(SETTINGS, str(tmp_path)) is None
    line = check(dataclasses.replace(SETTINGS, **changes), str(tmp_path))
    assert line.startswith(f"--{flag}: expected ") and "\n" not in line


def test_a_run_says_what_each_budget_holds(tmp_path):
    summary = simulate(SETTINGS, tmp_path)
    for budget in ("2", "4", "8"):
        assert 0 <= summary["own_accuracy_by_width"][budget] <= 1
        assert 0 <= summary["accuracy_by_width"][budget] <= 1
        assert summary["average_bits_by_width"][budget] <= int(budget)
    assert summary["clients_by_width"] == {"2": 2, "4": 4, "8": 2}
    bytes_up = summary["uplink_bytes_by_width"]
    assert bytes_up["2"] < bytes_up["4"] < bytes_up["8"]
