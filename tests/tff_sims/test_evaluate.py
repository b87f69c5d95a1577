"""Evaluating a finished run's weights without training."""

import json

import numpy as np
import pytest

from tff_sims import evaluate
from tff_sims.results import save_weights
from tff_sims.tasks import TASKS


@pytest.fixture
def run(tmp_path):
    """A folder with weights, and the accuracy that they have."""
    task = TASKS["digits"](seed=3)
    model = task.build_model()
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    save_weights(tmp_path, 3, model)
    features, labels = task.test
    return tmp_path, float(np.mean(np.argmax(model(features), axis=1) == labels))


def test_it_measures_those_weights(run, tmp_path):
    folder, accuracy = run
    flags = ["--task=digits", "--seed=3", f"--init={folder}", f"--out={tmp_path / 'out'}"]
    evaluate.main(flags)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["accuracy"] == pytest.approx(accuracy)
    assert summary["seed"] == 3 and summary["versions"]["tensorflow"].startswith("2.14")


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--task=mnist", "--init=."),
        ("--task=digits", "--init=nowhere"),
        ("--task=digits", "--domain=noisy", "--init={folder}"),
        ("--task=digits", "--init={folder}", "--bogus=1"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(flags, run, tmp_path, capsys):
    given = [flag.format(folder=run[0]) for flag in flags]
    with pytest.raises(SystemExit) as ended:
        evaluate.main([*given, f"--out={tmp_path / 'new'}"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()
