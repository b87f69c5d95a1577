"""Seconds in which a device takes what arrived, in a process without TFF, as on a device.

  python -m tff_sims.deliver_device FOLDER

FOLDER holds architecture.json (Keras' `to_json`) and jobs.json: chains (name -> files of its parts,
in order), raw (file of the float32 values) and repeats. Printed is one line of JSON, a dict of
chains (name -> seconds of each part) and raw (seconds). TFF is not imported, because a base
collects garbage, which takes the longer the more modules there are.
"""

import json
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from omc import progressive  # noqa: E402


def measure(folder):
    """CPU seconds of verifying and applying each part, and of loading float32.

    CPU seconds over all threads, as a busy machine's clock tells of its other work; medians over
    the repeats, of which a first one warms up.

    Args:
        folder: pathlib.Path, as above.

    Returns:
        Dict, as above.
    """
    architecture = (folder / "architecture.json").read_text(encoding="utf-8")
    jobs = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))

    def build():
        return tf.keras.models.model_from_json(architecture)

    def repeated(job, *arguments):
        taken = [job(*arguments) for _ in range(1 + jobs["repeats"])][1:]
        return [statistics.median(column) for column in zip(*taken)]

    def applied(paths):
        receiver = progressive.Receiver(build())
        return [_seconds(receiver.apply, path) for path in paths]

    def loaded(path):
        return [_seconds(load, path, build())]

    chains = {name: repeated(applied, paths) for name, paths in jobs["chains"].items()}
    return {"chains": chains, "raw": repeated(loaded, jobs["raw"])[0]}


def save(path, model):
    """Writes a model's float32 values, one after the other.

    Args:
        path: pathlib.Path.
        model: A plain `tf.keras.Model`.
    """
    path.write_bytes(b"".join(v.numpy().astype("<f4").tobytes() for v in model.variables))


def load(path, model):
    """Sets a model to what `save` has written."""
    values, at = np.fromfile(path, "<f4"), 0
    for variable in model.variables:
        size = variable.shape.num_elements()
        variable.assign(values[at : at + size].reshape(variable.shape))
        at += size


def _seconds(function, *arguments):
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(measure(pathlib.Path(sys.argv[1]))))
