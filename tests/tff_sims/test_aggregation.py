"""The aggregator that a simulation's flags ask for, rogue clients in it, and its privacy."""

import dataclasses
import json
import math

import numpy as np
import pytest

from omc.learning.aggregators import Mean, Median, PrivateMean, SecureMean, TrimmedMean
from tff_sims.aggregation import make_aggregator, privacy
from tff_sims.participation import draw_cohort
from tff_sims.settings import Settings, check
from tff_sims.simulation import simulate

PRIVATE = {"aggregator": "private", "clipping": "0.5", "noise_multiplier": 0.8}
PROMISED = {"aggregator": "private", "clipping": "0.5", "epsilon": 8.0}


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ({}, Mean()),
        ({"clipping": "adaptive", "zeroing": "3"}, Mean(clipping="adaptive", zeroing=3.0)),
        ({"aggregator": "trimmed_mean"}, TrimmedMean()),
        ({"aggregator": "trimmed_mean", "trimmed_share": 0.2}, TrimmedMean(0.2)),
        ({"aggregator": "median"}, Median()),
        (PRIVATE, PrivateMean(0.5, 0.8, 10, seed=7)),
        ({"aggregator": "secure"}, SecureMean(10)),
    ],
)
def test_flags_make_the_aggregator(flags, wanted):
    assert make_aggregator(Settings(**flags), 7) == wanted


@pytest.mark.parametrize(
    "flags, flag",
    [
        ({"aggregator": "mode"}, "aggregator"),
        ({"clipping": "much", "uplink": "update"}, "clipping"),
        ({"clipping": "0", "uplink": "update"}, "clipping"),
        ({"clipping": "nan", "uplink": "update"}, "clipping"),
        ({"aggregator": "median", "clipping": "1"}, "clipping"),
        ({"aggregator": "private", "noise_multiplier": 1.0}, "clipping"),
        ({**PRIVATE, "clipping": "adaptive"}, "clipping"),
        ({"aggregator": "private", "clipping": "1"}, "noise_multiplier"),
        ({**PRIVATE, "noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": 1.0}, "noise_multiplier"),
        ({"epsilon": 1.0}, "epsilon"),
        ({**PROMISED, "epsilon": 0.0}, "epsilon"),
        ({**PROMISED, "epsilon": math.nan}, "epsilon"),
        ({**PROMISED, "noise_multiplier": 1.0}, "epsilon"),
        ({"epsilon": 1.0, "method": "fp32"}, "epsilon"),
        ({"zeroing": "1", "aggregator": "median"}, "zeroing"),
        ({"trimmed_share": 0.1}, "trimmed_share"),
        ({"aggregator": "trimmed_mean", "trimmed_share": 0.5}, "trimmed_share"),
        ({"rogues": 1.0}, "rogues"),
        ({"rogues": 0.1, "method": "fp32"}, "rogues"),
        ({"aggregator": "median", "method": "fp32"}, "aggregator"),
        ({"noise_multiplier": 1.0, "method": "fp32"}, "noise_multiplier"),
        ({"trimmed_share": 0.1, "method": "fp32"}, "trimmed_share"),
        ({**PRIVATE, "uplink": "update", "clients": 1, "clients_per_round": 1}, "clients"),
        (
            {"aggregator": "secure", "uplink": "grid", "grid_bits": 24, "clients_per_round": 60},
            "clients_per_round",
        ),
        ({"uplink": "grid", "grid_bits": 1}, "grid_bits"),
        ({"uplink": "grid", "grid_bound": 0.0}, "grid_bound"),
        ({"aggregator": "secure", "uplink": "update"}, "uplink"),
        ({"aggregator": "private", "clipping": "1", "noise_multiplier": 1.0}, "aggregator"),
        ({"clipping": "1"}, "clipping"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(flags, flag, tmp_path):
    line = check(Settings(**flags), str(tmp_path / "out"))
    assert line is not None and line.startswith(f"--{flag}: expected "), line
    assert "\n" not in line


def test_cohorts_of_a_private_run_are_drawn_client_by_client():
    settings = Settings(clients_per_round=20, **PRIVATE)
    cohorts = [draw_cohort(400, settings, 0, number) for number in range(1, 1001)]
    sizes = np.array([len(cohort.clients) for cohort in cohorts])
    # Binomial(400, 0.05): mean 20, variance 19; four standard deviations of either.
    assert abs(sizes.mean() - 20) < 4 * math.sqrt(19 / 1000)
    assert abs(sizes.var() - 19) < 4 * 19 * math.sqrt(2 / 1000)
    drawn = np.bincount(np.concatenate([c.clients for c in cohorts]), minlength=400)
    assert abs(drawn.mean() - 50) < 0.6 and 60 < drawn.max() < 90
    assert all(len(set(c.clients)) == len(c.clients) for c in cohorts)


def test_where_nobody_is_drawn_one_stands_for_the_round_and_fails():
    settings = Settings(clients_per_round=1, **PRIVATE)
    cohorts = [draw_cohort(400, settings, 0, number) for number in range(1, 101)]
    alone = [cohort for cohort in cohorts if not cohort.answered]
    assert 20 < len(alone) < 55 and all(len(cohort.clients) == 1 for cohort in alone)


def test_privacy_is_that_of_the_aggregator():
    settings = Settings(clients_per_round=20, **PRIVATE)
    found = privacy(settings, 30, 400)
    assert found["delta"] == 400**-1.1 and found["sampling_probability"] == 0.05
    want = PrivateMean(0.5, 0.8, 20).epsilon(30, 400, 400**-1.1)
    assert found["epsilon"] == want > 0
    assert privacy(Settings(), 30, 400) is None
    for noise in (0.0, 1e-30, 0.049):
        almost = dataclasses.replace(settings, noise_multiplier=noise)
        assert privacy(almost, 30, 400)["epsilon"] is None


def test_a_promised_epsilon_is_kept_with_the_least_noise():
    settings = Settings(clients=400, clients_per_round=20, rounds=30, **PROMISED)
    found = privacy(settings, 30, 400)
    assert 7.8 < found["epsilon"] <= 8.0 and found["noise_multiplier"] > 0.05
    aggregator = make_aggregator(settings, 3)
    assert aggregator.noise_multiplier == found["noise_multiplier"] and aggregator.seed == 3


SMALL = Settings(
    clients=12, clients_per_round=6, rounds=2, format="INT8", uplink="update", client_memory=False
)


def test_rogues_are_in_the_summary_and_rounds_are_resumed_with_them(tmp_path):
    settings = dataclasses.replace(SMALL, rogues=0.5, aggregator="trimmed_mean")
    summary = simulate(settings, tmp_path / "out")
    assert 0 < sum(summary["rejected"].values()) < 12
    assert set(summary["rejected"]) >= {"round", "weight", "non_finite", "magnitude"}
    assert summary["accuracy"] > 0 and "privacy" not in summary
    on_disk = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert on_disk["rejected"] == summary["rejected"]
    clean = simulate(SMALL, tmp_path / "clean")
    assert not any(clean["rejected"].values())


def test_a_private_run_has_its_epsilon(tmp_path):
    settings = dataclasses.replace(SMALL, **PRIVATE)
    summary = simulate(settings, tmp_path / "out")
    want = PrivateMean(0.5, 0.8, 6).epsilon(2, 12, 12**-1.1)
    assert summary["privacy"]["epsilon"] == want
