"""A folder takes one run at a time, of one set of settings."""

import dataclasses

import pytest

from omc.errors import InputError
from tff_sims.run_folder import RunFolder
from tff_sims.settings import Settings


def test_other_settings_are_refused_by_name(tmp_path):
    folder, settings = RunFolder(tmp_path / "run"), Settings()
    with folder.claim(settings):
        pass
    with folder.claim(dataclasses.replace(settings, checkpoint_seconds=0.0, tensorboard=True)):
        pass  # These change no result.
    with pytest.raises(InputError) as error:
        with folder.claim(dataclasses.replace(settings, rounds=7, alpha=0.1)):
            pass
    text = str(error.value)
    assert "rounds was 60, is 7" in text and "alpha was 0.5, is 0.1" in text
    assert "--restart" in text and "format was" not in text and "\n" not in text


def test_another_version_is_other_settings(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    with folder.claim(Settings()):
        pass
    monkeypatch.setattr("omc.__version__", "9.9")
    with pytest.raises(InputError, match="version of omc was"):
        with folder.claim(Settings()):
            pass


def test_one_program_at_a_time(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first.claim(Settings()):
        with pytest.raises(InputError, match="no other simulation is at work"):
            with second.claim(Settings()):
                pass
    with second.claim(Settings()):
        pass


def test_results_of_unknown_settings_are_kept(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="new or holds a run"):
        with RunFolder(tmp_path).claim(Settings()):
            pass
    assert (tmp_path / "summary.json").exists()


def test_restart_removes_a_runs_files_and_no_others(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("summary.json", "rounds.csv", "weights-0.npz"):
        (tmp_path / name).write_text("{}")
    folder.checkpoints(0).mkdir(parents=True)
    (folder.checkpoints(0) / "round_12").mkdir()
    assert folder.rounds_done(Settings()) == 12
    with folder.claim(Settings(rounds=7), restart=True):
        assert folder.rounds_done(Settings()) == 0
        assert folder.summary() is None
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "settings.json"}
