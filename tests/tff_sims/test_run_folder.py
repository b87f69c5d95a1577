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


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
@pytest.mark.parametrize("restart", [False, True])
def test_folders_of_somebody_else_are_kept(name, restart, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    with pytest.raises(InputError, match=f"new or holds a run.*{name}"):
        with RunFolder(tmp_path).claim(Settings(), restart=restart):
            pass
    assert (tmp_path / name / "mine").exists()
    assert not (tmp_path / "settings.json").exists()


def test_a_restart_that_is_killed_leaves_no_checkpoint_to_other_settings(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    with folder.claim(Settings()):
        (folder.checkpoints(0) / "round_12").mkdir(parents=True)

    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_remove", kill)
        with pytest.raises(Killed):
            with folder.claim(Settings(rounds=7), restart=True):
                pass
    assert folder.rounds_done(Settings()) == 0
    with pytest.raises(InputError, match="rounds was 60, is 7"):
        with folder.claim(Settings(rounds=7)):
            pass


def test_what_a_killed_program_half_wrote_is_removed(tmp_path):
    names = ("rounds.csv_temp1234", ".summary.json.part", ".weights-3.npz.part", ".rounds.csv.part")
    with RunFolder(tmp_path).claim(Settings()):
        for name in (*names, "notes.part"):
            (tmp_path / name).write_text("half")
    with RunFolder(tmp_path).claim(Settings()):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"notes.part", "settings.json"}


def test_weights_to_start_from_are_known_by_what_they_are(tmp_path):
    for place, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "weights-0.npz").write_bytes(weights)
    folder = RunFolder(tmp_path / "run")
    with folder.claim(Settings(init=str(tmp_path / "a"))):
        pass
    with folder.claim(Settings(init=str(tmp_path / "b"))):
        pass  # The folder was moved, say.
    for other in (Settings(init=str(tmp_path / "c")), Settings()):
        with pytest.raises(InputError, match="weights of init"):
            with folder.claim(other):
                pass


def test_recordings_that_changed_are_other_settings(tmp_path):
    recordings = tmp_path / "recordings" / "amy"
    recordings.mkdir(parents=True)
    for name in ("a.wav", "a.txt"):
        (recordings / name).write_bytes(b"go")
    settings = Settings(task="recordings", domain=str(tmp_path / "recordings"))
    folder = RunFolder(tmp_path / "run")
    for _ in range(2):
        with folder.claim(settings):
            pass
    (recordings / "a.txt").write_bytes(b"stop")
    with pytest.raises(InputError, match="data was"):
        with folder.claim(settings):
            pass


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
