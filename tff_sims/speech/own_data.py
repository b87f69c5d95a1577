"""A user's own recordings as a corpus: a folder of wav files, or a TFF `ClientData`."""

import contextlib
import hashlib
import pathlib
import unicodedata

import numpy as np

from omc.errors import InputError, InputTypeError
from tff_sims.speech import wavs
from tff_sims.speech.corpus import Corpus
from tff_sims.speech.ctc import SUBSAMPLING, frames_needed
from tff_sims.speech.features import HIGHEST_RATE, LOWEST_RATE, log_mel, resample

_TIP = "docs/own_data.md shows the layout."


def from_folder(folder, test_speakers=None):
    """Reads FOLDER/SPEAKER/**/NAME.wav, each with its transcript in NAME.txt beside it.

    Args:
        folder: The folder. The folders directly in it are the speakers, and so the clients.
        test_speakers: Names of the speakers that are held out; None for the last fifth in
            alphabetical order, at least one.

    Returns:
        `corpus.Corpus`; speakers are numbered in alphabetical order. Transcripts are in lower case
        and Unicode's form NFC, with single blanks. Of several channels the mean is taken.

    Raises:
        InputError: No such folder, fewer than two speakers, a recording that cannot be read, has no
            transcript or no words, has NaN or Inf for samples, has a rate that no recorder has, or
            is too short for its words, or a test speaker that is none of the speakers.
    """
    folder = pathlib.Path(folder)
    spoken = {name: [_read(wav) for wav in found] for name, found in _recordings(folder).items()}
    if len(spoken) < 2:
        found = f"{len(spoken)} in {str(folder)!r}"
        raise InputError("folder", "two or more speakers' folders of wav files", found, _TIP)
    return _corpus(spoken, test_speakers)


def from_client_data(client_data, rate, test_speakers=None):
    """Reads a `tff.simulation.datasets.ClientData`: every client is a speaker.

    Args:
        client_data: Its examples are mappings with "audio" (float [samples] from -1 to 1, or int16)
            and "transcript" (string).
        rate: Samples a second of the audio.
        test_speakers: Ids of clients that are held out; None as in `from_folder`.

    Returns:
        `corpus.Corpus`, as `from_folder`.

    Raises:
        InputError: An example lacks audio or a transcript, fewer than two clients, or as
            `from_folder`.
        InputTypeError: `rate` is no integer.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)):
        raise InputTypeError("rate", "an int, samples a second", type(rate).__name__)
    _check_rate("rate", int(rate), int(rate))
    spoken = {}
    for client in sorted(client_data.client_ids):
        examples = client_data.create_tf_dataset_for_client(client).as_numpy_iterator()
        spoken[client] = [_example(example, client, rate) for example in examples]
    spoken = {client: utterances for client, utterances in spoken.items() if utterances}
    if len(spoken) < 2:
        raise InputError("client_data", "two or more clients with examples", len(spoken), _TIP)
    return _corpus(spoken, test_speakers)


def digest(folder):
    """SHA-256 of a folder's recordings and transcripts, with their names: tells whether it changed.

    Args:
        folder: As in `from_folder`.

    Raises:
        InputError: A recording without a transcript, or a file that cannot be read.
    """
    found = hashlib.sha256()
    for recorded in _recordings(pathlib.Path(folder)).values():
        for path in (path for wav in recorded for path in (wav, wav.with_suffix(".txt"))):
            with _named(path):
                data = _whole(path)
            found.update(f"{path.relative_to(folder)} {len(data)} ".encode() + data)
    return found.hexdigest()


def vocabulary(corpus):
    """All words of a corpus, in alphabetical order.

    Args:
        corpus: `corpus.Corpus`.

    Returns:
        Tuple of str.
    """
    return tuple(sorted({word for text in corpus.transcripts for word in text.split()}))


def _recordings(folder):
    """Speaker -> wav files, both in alphabetical order; only speakers that have some."""
    found = {
        speaker.name: sorted(p for p in speaker.rglob("*") if p.suffix.lower() == ".wav")
        for speaker in sorted(folder.glob("*"))
        if speaker.is_dir()
    }
    return {name: some for name, some in found.items() if some}


@contextlib.contextmanager
def _named(path):
    """An error of reading names the file."""
    try:
        yield
    except (OSError, ValueError) as error:
        expected = "recordings that can be read, each with a transcript"
        raise InputError("folder", expected, f"{str(path)!r} ({error})", _TIP) from error


def _whole(path):
    if path.exists() and not path.is_file():  # A pipe would never end.
        raise ValueError("no file")
    return path.read_bytes()


def _read(wav):
    with _named(wav):
        rate, samples = wavs.read(wav)
        transcript = _whole(wav.with_suffix(".txt")).decode("utf-8-sig")
    _check_rate("folder", rate, f"{rate} at {str(wav)!r}")
    return _utterance(samples, transcript, rate, "folder", str(wav))


def _check_rate(argument, rate, got):
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        expected = f"{LOWEST_RATE} to {HIGHEST_RATE} samples a second"
        raise InputError(argument, expected, got)


def _example(example, client, rate):
    if not isinstance(example, dict) or not {"audio", "transcript"} <= set(example):
        found = sorted(example) if isinstance(example, dict) else type(example).__name__
        expected = 'examples with "audio" and "transcript"'
        raise InputError("client_data", expected, f"{found} of client {client!r}", _TIP)
    samples, transcript = np.asarray(example["audio"]), example["transcript"]
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        expected, found = "audio of shape [samples], float or int", f"{samples.dtype}"
        found = f"{found} {samples.shape} of client {client!r}"
        raise InputError("client_data", expected, found, _TIP)
    if samples.dtype.kind in "iu":
        samples = samples / 2.0 ** (8 * samples.itemsize - 1) - (samples.dtype.kind == "u")
    try:
        transcript = transcript.decode("utf-8")
    except (AttributeError, UnicodeDecodeError) as error:
        found = f"{transcript!r} of client {client!r}"
        raise InputError("client_data", "transcripts in UTF-8", found, _TIP) from error
    return _utterance(samples, transcript, rate, "client_data", client)


def _utterance(samples, transcript, rate, argument, where):
    """Features and the transcript of one recording, which an error calls `where`."""
    # Equal words have to be equal strings, whichever editor wrote their accents.
    transcript = " ".join(unicodedata.normalize("NFC", transcript.lower()).split())
    if not transcript or not samples.size:
        raise InputError("transcript", "words and sound", f"{transcript!r} at {where!r}", _TIP)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    with np.errstate(all="ignore"):  # What is not finite, or becomes so, is refused below.
        features = log_mel(resample(samples.astype(np.float64), rate))
    if not np.isfinite(features).all():
        found = f"NaN, Inf or too large a number at {where!r}"
        raise InputError(argument, "finite samples, from -1 to 1", found, _TIP)
    needed = SUBSAMPLING * (frames_needed(transcript.split()) - 1) + 1
    if len(features) < needed:
        expected = f"at least {needed} frames of 10 ms for {transcript!r}"
        tip = "give the words that are heard in it, or the whole recording."
        raise InputError(argument, expected, f"{len(features)} at {where!r}", tip)
    return features, transcript


def _corpus(spoken, test_speakers):
    names = list(spoken)
    if test_speakers is None:
        test_speakers = names[-max(1, len(names) // 5) :]
    unknown = sorted(set(test_speakers) - set(names))
    if unknown or not 0 < len(set(test_speakers)) < len(names):
        expected = f"some, not all, of {', '.join(names)}"
        raise InputError("test_speakers", expected, unknown or list(test_speakers))
    speakers = np.repeat(np.arange(len(names)), [len(spoken[name]) for name in names])
    utterances = [utterance for name in names for utterance in spoken[name]]
    return Corpus(
        features=[features for features, _ in utterances],
        transcripts=[transcript for _, transcript in utterances],
        speakers=speakers,
        test=np.isin(speakers, [names.index(name) for name in test_speakers]),
    )
