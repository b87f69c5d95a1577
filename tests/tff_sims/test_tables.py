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
from tff_sims.tables import report, results, runner
from tff_sims.tables import omc as omc_table
from tff_sims.tables.folder import Folder
from tff_sims.tables.plan import Run

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs" / "results"
STUB = (sys.executable, str(HERE / "stub.py"))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few rounds, so that a whole table of stubs takes seconds, and no waiting between two looks."""
    scale = omc_table.Scale(2, 3, 1, 4, (0, 1))
    small = omc_table.TASKS["speech"]
    monkeypatch.setitem(
        omc_table.TASKS,
        "speech",
        omc_table.Subject(small.metric, small.split, small.domains, scale, small.quick),
    )
    monkeypatch.setattr(runner, "_POLL", 0.02)


def make(out, *flags):
    return program.main(["omc", f"--out={out}", *flags], python=STUB)


def trained(out):
    """Every round that was ever trained in a folder: list of (run and seed, round)."""
    return sorted(
        (str(path.parent.relative_to(out)), int(line))
        for path in pathlib.Path(out).rglob("trained")
        for line in path.read_text().split()
    )


def summary(out, run, seed):
    return json.loads((out / run / f"seed-{seed}" / "summary.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished table."""
    out = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        short.__wrapped__(patch) if hasattr(short, "__wrapped__") else None
        assert make(out, "--task=digits", "--quick") == 0
    return out
