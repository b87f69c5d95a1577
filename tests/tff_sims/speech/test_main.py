"""The command line of the corpus."""

import pytest

from tff_sims.speech import __main__, own_data
from tff_sims.speech.utterances import Specification, utterance


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["speech", *arguments])
    __main__.main()


def test_what_it_writes_to_listen_to_is_a_folder_of_recordings(monkeypatch, tmp_path, capsys):
    run(monkeypatch, "--kind=keywords", "--seed=3", f"--listen={tmp_path}")
    assert str(tmp_path) in capsys.readouterr().out
    assert (tmp_path / "features.png").stat().st_size > 10_000
    corpus = own_data.from_folder(tmp_path)
    specification = Specification(kind="keywords", seed=3)
    assert corpus.transcripts == [utterance(specification, n, 0)[0] for n in range(6)]


def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys):
    for arguments in (["--speakers=0"], ["--domain=space"], ["--nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, *arguments)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].count("space") == (
            arguments == ["--domain=space"]
        )
