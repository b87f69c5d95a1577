"""A user's own recordings: folders of wavs and ClientData give the corpus that they should."""

import collections
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from scipy.io import wavfile

from omc.errors import InputError
from tff_sims.speech import ctc, own_data
from tff_sims.speech.features import log_mel, resample
from tff_sims.speech.synthesis import RATE, Voice, synthesize
from tff_sims.tasks.recordings import recordings

SAID = {"amy": ("go left", "Stop  now\n"), "bob": ("stop",), "eve": ("go",)}


@pytest.fixture
def folder(tmp_path):
    for speaker, said in SAID.items():
        for number, text in enumerate(said):
            place = tmp_path / speaker / f"day{number}"
            place.mkdir(parents=True)
            wavfile.write(place / "a.wav", RATE, synthesize(text, Voice()))
            (place / "a.txt").write_text(text)
    return tmp_path


def test_a_folder_becomes_a_corpus(folder):
    corpus = own_data.from_folder(folder)
    assert corpus.transcripts == ["go left", "stop now", "stop", "go"]
    assert corpus.speakers.tolist() == [0, 0, 1, 2]
    assert corpus.test.tolist() == [False, False, False, True]
    expected = log_mel(resample(synthesize("stop", Voice()) / 32768.0, RATE))
    np.testing.assert_allclose(corpus.features[2], expected, atol=1e-5)
    assert own_data.vocabulary(corpus) == ("go", "left", "now", "stop")
    assert own_data.from_folder(folder, ["amy"]).test.tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", ["float", "stereo", "bytes", "wide"])
def test_all_kinds_of_wav_are_read(folder, kind):
    samples = synthesize("stop", Voice())
    written = {
        "float": (samples / 32768.0).astype(np.float32),
        "stereo": np.stack([samples, samples], axis=1),
        "bytes": (samples // 256 + 128).astype(np.uint8),
        "wide": samples.astype(np.int32) * 65536,
    }[kind]
    before = own_data.from_folder(folder).features[2]
    wavfile.write(folder / "bob" / "day0" / "a.wav", RATE, written)
    after = own_data.from_folder(folder).features[2]
    assert np.corrcoef(after.ravel(), before.ravel())[0, 1] > (0.8 if kind == "bytes" else 0.9999)


def test_all_kinds_of_text_are_read(folder):
    before = own_data.from_folder(folder)
    day = folder / "amy" / "day0"
    (day / "a.txt").write_bytes("\ufeffGo caf\u00e9".encode())  # As Notepad writes it.
    (folder / "eve" / "day0" / "a.txt").write_bytes("cafe\u0301".encode())
    (day / "a.wav").rename(day / "a.WAV")
    after = own_data.from_folder(folder)
    assert after.transcripts == ["go caf\u00e9", "stop now", "stop", "caf\u00e9"]
    np.testing.assert_array_equal(after.features[0], before.features[0])


def test_what_is_no_speakers_recording_counts_for_nothing(folder):
    before, known = own_data.from_folder(folder), own_data.digest(folder)
    (folder / "stray.wav").write_bytes(b"RIFF")  # In no speaker's folder, without a transcript.
    (folder / "amy" / "notes.md").write_text("mine")
    assert own_data.from_folder(folder).transcripts == before.transcripts
    assert own_data.digest(folder) == known
    (folder / "amy" / "day0" / "a.txt").write_text("go right")
    assert own_data.digest(folder) != known


def test_folders_are_refused(folder, tmp_path):
    for break_it, message in (
        (lambda: (folder / "bob" / "day0" / "a.txt").write_text(" "), "words and sound"),
        (lambda: (folder / "bob" / "day0" / "a.txt").unlink(), "transcript.*bob"),
        (lambda: (folder / "bob" / "day0" / "a.wav").write_bytes(b"RIFF"), "can be read.*bob"),
    ):
        break_it()
        with pytest.raises(InputError, match=message):
            own_data.from_folder(folder)
    with pytest.raises(InputError, match="two or more"):
        own_data.from_folder(tmp_path / "absent")


def test_test_speakers_are_some_of_the_speakers(folder):
    for names in (["nobody"], ["amy", "bob", "eve"], []):
        with pytest.raises(InputError, match="some, not all"):
            own_data.from_folder(folder, names)


def test_client_data_becomes_the_same_corpus(folder):
    def examples(said):
        return collections.OrderedDict(
            audio=[synthesize(text, Voice()) for text in said],
            transcript=list(said),
        )

    data = {name: examples(said) for name, said in SAID.items() if name != "amy"}
    corpus = own_data.from_client_data(tff.simulation.datasets.TestClientData(data), RATE)
    expected = own_data.from_folder(folder).features
    assert corpus.transcripts == ["stop", "go"] and corpus.test.tolist() == [False, True]
    for found, own in zip(corpus.features, expected[2:]):
        np.testing.assert_allclose(found, own, atol=1e-5)


def test_clients_without_examples_are_no_speakers():
    samples = synthesize("go", Voice())
    examples = {name: {"audio": [samples], "transcript": ["go"]} for name in ("amy", "bob")}
    examples["zoe"] = {"audio": np.zeros([0, 5], np.int16), "transcript": np.zeros([0], object)}

    def dataset(client):
        return tf.data.Dataset.from_tensor_slices(examples[client])

    class Clients:
        client_ids = list(examples)
        create_tf_dataset_for_client = staticmethod(dataset)

    corpus = own_data.from_client_data(Clients(), RATE)
    assert corpus.speakers.tolist() == [0, 1] and corpus.test.tolist() == [False, True]


def test_client_data_without_transcripts_is_refused():
    data = {name: collections.OrderedDict(audio=np.zeros([1, 800])) for name in "ab"}
    with pytest.raises(InputError, match="transcript.*audio"):
        own_data.from_client_data(tff.simulation.datasets.TestClientData(data), RATE)


def test_recordings_are_a_task(folder):
    task = recordings(domain=str(folder))
    assert task.num_clients == 2 and task.vocabulary == ("go", "left", "now", "stop")
    (folder / "amy" / "day1" / "a.txt").write_text("stop")
    assert len(recordings(domain=str(folder)).vocabulary) == 32  # Now those of the task speech.
    with pytest.raises(InputError, match="domain"):
        recordings()


@pytest.mark.parametrize("frames, fits", [(4 * 3 + 1, True), (4 * 3, False)])
def test_a_recording_is_long_enough_for_its_words(folder, frames, fits):
    """ "go go stop" needs 4 frames of logits: one a word, and a blank between equal ones."""
    samples = np.random.default_rng(0).uniform(-1, 1, 400 + 160 * (frames - 1))
    wavfile.write(folder / "bob" / "day0" / "a.wav", 16000, samples.astype(np.float32))
    (folder / "bob" / "day0" / "a.txt").write_text("go go stop")
    if fits:
        features = own_data.from_folder(folder).features[2]
        x, targets = ctc.batch([features], [[0, 0, 1]], 3)
        logits = np.zeros([1, x.shape[1] // 4, 3], np.float32)
        assert 0 < float(ctc.CtcLoss()(targets, logits)) < np.inf  # 0 where words do not fit.
    else:
        with pytest.raises(InputError, match="13 frames.*bob"):
            own_data.from_folder(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite_are_refused(folder, value):
    samples = np.random.default_rng(0).uniform(-1, 1, 16000)
    samples[100] = value
    wavfile.write(folder / "bob" / "day0" / "a.wav", 16000, samples)
    with pytest.raises(InputError, match="finite.*bob"):
        own_data.from_folder(folder)


@pytest.mark.parametrize("rate", [0, 1, 3999, 192001, 2**32 - 1])
def test_rates_of_no_recorder_are_refused(folder, rate):
    path = folder / "bob" / "day0" / "a.wav"
    content = path.read_bytes()
    path.write_bytes(content[:24] + rate.to_bytes(4, "little") + content[28:])
    with pytest.raises(InputError, match="192000.*bob"):
        own_data.from_folder(folder)


@pytest.mark.parametrize("rate", [4000, 8000, 44100, 192000])
def test_other_rates_are_resampled(folder, rate):
    seconds = np.arange(rate) / rate
    wavfile.write(folder / "bob" / "day0" / "a.wav", rate, np.sin(2 * np.pi * 440 * seconds))
    features = own_data.from_folder(folder).features[2]
    assert len(features) == 1 + (16000 - 400) // 160


def test_a_pipe_is_refused(folder):
    text = folder / "bob" / "day0" / "a.txt"
    text.unlink()
    os.mkfifo(text)
    for read in (own_data.from_folder, own_data.digest):
        with pytest.raises(InputError, match="no file"):
            read(folder)


@pytest.mark.parametrize(
    "example, message",
    [
        ({"audio": np.zeros([2, 3, 4]), "transcript": "go"}, r"shape.*bob"),
        ({"audio": np.array(["a", "b"]), "transcript": "go"}, r"float or int.*bob"),
        ({"audio": np.zeros(9000), "transcript": b"\xff\xfe"}, r"UTF-8.*bob"),
        ({"audio": np.zeros(9000), "transcript": 3}, r"UTF-8.*bob"),
        ({"audio": np.full(9000, np.inf), "transcript": "go"}, r"finite.*bob"),
        ({"audio": np.zeros(0), "transcript": "go"}, r"words and sound.*bob"),
    ],
    ids=["3-D", "text", "no UTF-8", "number", "Inf", "empty"],
)
def test_examples_that_are_no_speech_are_refused(example, message):
    class Clients:
        client_ids = ["bob", "eve"]

        def create_tf_dataset_for_client(self, client):
            return tf.data.Dataset.from_tensors(example)

    with pytest.raises(InputError, match=message):
        own_data.from_client_data(Clients(), 16000)
