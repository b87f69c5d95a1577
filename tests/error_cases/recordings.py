"""Mistakes with a user's own recordings."""

import numpy as np
import tensorflow as tf
from scipy.io import wavfile

from tests.error_cases.registry import case
from tff_sims.speech import own_data


def recordings_folder(folder, samples=None, rate=16000, text="go"):
    """Two speakers with a second of sound each; `samples`, `rate` and `text` are the second's."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    for speaker, own in (("amy", noise), ("bob", noise if samples is None else samples)):
        place = folder / "given" / speaker
        place.mkdir(parents=True)
        wavfile.write(place / "a.wav", rate if speaker == "bob" else 16000, own)
        (place / "a.txt").write_text(text if speaker == "bob" else "go")
    return folder / "given"


class OneClientBroken:
    """Client data in which a second client's audio is NaN."""

    client_ids = ["amy", "bob"]

    def create_tf_dataset_for_client(self, client):
        sound = np.full(16000, np.nan if client == "bob" else 0.1, np.float32)
        return tf.data.Dataset.from_tensors({"audio": sound, "transcript": "go"})


@case("recording with NaN or Inf")
def _(folder):
    samples = np.zeros(16000, np.float32)
    samples[5] = np.nan
    own_data.from_folder(recordings_folder(folder, samples))


@case("recording too short for its words")
def _(folder):
    own_data.from_folder(recordings_folder(folder, np.ones(1000, np.float32), text="go left stop"))


@case("recording that is cut off")
def _(folder):
    path = recordings_folder(folder) / "bob" / "a.wav"
    path.write_bytes(path.read_bytes()[:-1000])
    own_data.from_folder(folder / "given")


@case("recording without a transcript")
def _(folder):
    (recordings_folder(folder) / "bob" / "a.txt").unlink()
    own_data.digest(folder / "given")


@case("recording at a rate of 1")
def _(folder):
    own_data.from_folder(recordings_folder(folder, rate=1))


case("rate of client data of another type")(
    lambda _: own_data.from_client_data(OneClientBroken(), 16e3)
)
case("rate of client data out of range")(lambda _: own_data.from_client_data(OneClientBroken(), 0))
case("client data with NaN or Inf")(lambda _: own_data.from_client_data(OneClientBroken(), 16000))
