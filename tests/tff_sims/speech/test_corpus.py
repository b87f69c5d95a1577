"""The corpus: the same everywhere, speakers kept apart, a damaged cache made again."""

import dataclasses
import subprocess

import numpy as np
import pytest

from omc.errors import ArtifactError, InputError
from tff_sims.speech import cache, features, production, splits, text
from tff_sims.speech.corpus import load
from tff_sims.speech.utterances import KINDS, Specification, utterance

TINY = Specification(speakers=5, utterances=3, test_speakers=2, test_utterances=2, seed=7)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMC_CACHE", str(tmp_path_factory.mktemp("cache")))
        calls = []
        load(TINY, progress=lambda done, total: calls.append((done, total)))
        assert calls == [(n, 7) for n in range(1, 8)]
        patch.setattr(production, "make", None)
        yield load(TINY)  # From the cache: nothing is made.


def test_worker_processes_make_what_this_process_makes(made):
    assert len(made.features) == len(made.transcripts) == 5 * 3 + 2 * 2
    for speaker, number, index in ((0, 0, 0), (4, 2, 14), (6, 1, 18)):
        transcript, samples = utterance(TINY, speaker, number)
        expected = features.log_mel(samples).astype(np.float16)
        assert made.transcripts[index] == transcript and made.speakers[index] == speaker
        np.testing.assert_array_equal(made.features[index], expected.astype(np.float32))


def test_speakers_and_words_follow_the_seed(made):
    other = dataclasses.replace(TINY, seed=8)
    assert utterance(other, 0, 0)[0] != made.transcripts[0] or not np.array_equal(
        utterance(other, 0, 0)[1], utterance(TINY, 0, 0)[1]
    )
    more = dataclasses.replace(TINY, speakers=50)
    np.testing.assert_array_equal(utterance(more, 50, 0)[1], utterance(TINY, 5, 0)[1])
    assert more.key != TINY.key


def test_domains_differ_in_the_room_alone(made):
    noisy = dataclasses.replace(TINY, domain="noisy")
    (said, quiet), (same, loud) = utterance(TINY, 1, 1), utterance(noisy, 1, 1)
    assert said == same and len(quiet) == len(loud) and not np.allclose(quiet, loud)


@pytest.mark.parametrize("damage", ["truncate", "alter", "lose the sum", "garble the sum"])
def test_a_damaged_cache_is_made_again(damage, monkeypatch, tmp_path):
    monkeypatch.setenv("OMC_CACHE", str(tmp_path / "new" / "folder"))
    calls = []

    def make():
        calls.append(1)
        return {"numbers": np.arange(1000), "words": np.array(["yes", "no"])}

    cache.arrays("some", make)
    path = cache.folder() / "some.npz"
    sums = path.with_name(path.name + ".sha256")
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "alter":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "lose the sum":
        sums.unlink()
    else:
        sums.write_bytes(b"\xff\n")
    for _ in range(2):
        found = cache.arrays("some", make)
        np.testing.assert_array_equal(found["numbers"], np.arange(1000))
        assert found["words"].tolist() == ["yes", "no"]
    assert len(calls) == 2 and path.read_bytes() == content
    assert (
        subprocess.run(["sha256sum", "-c", sums.name], cwd=path.parent, check=False).returncode == 0
    )
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"some.npz", "some.npz.sha256", "some.lock"}


def test_a_cache_that_cannot_be_written_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OMC_CACHE", str(tmp_path / "file"))
    with pytest.raises(ArtifactError, match="cache.*OMC_CACHE"):
        cache.arrays("some", dict)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("OMC_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "mine"
    monkeypatch.delenv("OMC_CACHE")
    assert cache.folder() == tmp_path / "xdg" / "omc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "omc"


def test_splits_share_out_training_utterances(made):
    by_speaker = splits.split(made, "speaker", None, seed=0)
    assert [set(made.speakers[part]) for part in by_speaker] == [{0}, {1}, {2}, {3}, {4}]
    iid = splits.split(made, "iid", 3, seed=0)
    assert [len(part) for part in iid] == [5, 5, 5]
    for parts in (by_speaker, iid):
        every = np.concatenate(parts)
        assert len(set(every)) == len(every) == 15 and not made.test[every].any()
    assert not np.array_equal(iid[0], splits.split(made, "iid", 3, seed=1)[0])


@pytest.mark.parametrize("how, clients, named", [("word", 3, "split"), ("iid", 6, "clients")])
def test_splits_refuse(made, how, clients, named):
    with pytest.raises(InputError, match=f"`{named}`"):
        splits.split(made, how, clients, seed=0)


@pytest.mark.parametrize("change", [{"kind": "songs"}, {"domain": "space"}, {"speakers": 0}])
def test_specifications_refuse(change):
    with pytest.raises(InputError, match=f"`{list(change)[0]}`"):
        Specification(**change)


def test_the_grammar_speaks_the_whole_vocabulary():
    rng = np.random.default_rng(0)
    sentences = [text.sentence(rng).split() for _ in range(2000)]
    assert {word for words in sentences for word in words} == set(text.VOCABULARY)
    assert {len(words) for words in sentences} == set(range(2, text.MAX_WORDS + 1))
    assert set(text.KEYWORDS) <= set(text.VOCABULARY) and len(set(text.KEYWORDS)) == 20
    assert text.labels("b a b", ("a", "b")) == [1, 0, 1]
    with pytest.raises(InputError, match="transcript.*'hello'"):
        text.labels("go hello")


def test_one_version_of_each_corpus_has_one_name():
    kinds = [Specification(kind=kind, domain=d) for kind in KINDS for d in ("quiet", "noisy")]
    assert len({specification.key for specification in kinds}) == 4
