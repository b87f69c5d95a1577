"""Flags at their extremes: refused in one line that names the flag, never a traceback or no end."""

import math

import numpy as np
import pytest

from omc.errors import InputError
from tff_sims import central_settings, settings
from tff_sims.central_settings import CentralSettings
from tff_sims.settings import MOST, Settings
from tff_sims.speech.utterances import Specification
from tff_sims.tasks.base import dirichlet_split

COUNTS = ("rounds", "clients", "clients_per_round", "repeats", "evaluate_every", "stop_after")
CENTRAL_COUNTS = ("batch_size", "train_examples", "calibration")
RATES = ("alpha", "learning_rate", "target_error")
HUGE = (10**20, 2**63, 2**31)
ODD = (math.nan, math.inf, -math.inf, 0.0, -1.0, 5e-324, 1e-300, 1e300)

SIMULATE = [(flag, value) for flag in (*COUNTS, "window", "seed") for value in (*HUGE, -1)]
SIMULATE += [(flag, value) for flag in RATES for value in ODD]
SIMULATE += [("lasso", value) for value in ODD if value != 0]
SIMULATE += [("init", "x" * 5000), ("repeats", MOST)]
CENTRAL = [(flag, value) for flag in (*CENTRAL_COUNTS, "epochs", "seed") for value in (*HUGE, -1)]
CENTRAL += [("learning_rate", value) for value in ODD] + [("init", "x" * 5000)]


@pytest.mark.parametrize("flag, value", SIMULATE, ids=lambda value: str(value)[:20])
def test_a_simulation_refuses(flag, value, tmp_path):
    given = Settings(**{"seed": 2, flag: value})
    assert settings.check(given, str(tmp_path)).startswith(f"--{flag}: expected")


@pytest.mark.parametrize("flag, value", CENTRAL, ids=lambda value: str(value)[:20])
def test_a_central_training_refuses(flag, value, tmp_path):
    given = CentralSettings(**{"task": "digits", flag: value})
    assert central_settings.check(given, str(tmp_path)).startswith(f"--{flag}: expected")


@pytest.mark.parametrize("out", ["x" * 5000, "a\0b"], ids=["long", "NUL"])
def test_a_folder_that_no_name_can_be_is_refused(out):
    assert settings.unwritable(out).startswith("--out: expected")


@pytest.mark.parametrize("alpha", [1e-3, 1e6])
def test_splits_at_the_ends_of_alpha_are_whole(alpha):
    labels = np.arange(1437) % 10
    for seed in range(20):
        parts = dirichlet_split(labels, 60, alpha, np.random.default_rng(seed))
        assert sorted(np.concatenate(parts)) == list(range(1437))


@pytest.mark.parametrize("name", ["speakers", "utterances", "test_speakers", "seed"])
@pytest.mark.parametrize("value", [-1, 10**20])
def test_a_corpus_refuses(name, value):
    with pytest.raises(InputError, match=name):
        Specification(**{name: value})
