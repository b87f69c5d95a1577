"""Every row of the table in docs/errors.md: bad input -> typed error that names the argument."""

import contextlib
import os
import pathlib
import re
import resource
import socket

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc import artifacts, errors
from omc.learning import remote_runtime
from omc.learning.runtime import current_runtime
from omc.learning.worker_processes import running_workers, workers
from tests.error_cases import (  # noqa: F401 - they register cases
    aggregators,
    allocation,
    birth,
    coding,
    drop_in,
    fedmpq,
    fleet,
    hasb,
    keras,
    links,
    measurement,
    nested,
    pictures,
    progressive,
    recordings,
    widths,
)
from tests.error_cases import workers as worker_cases  # noqa: F401
from tests.error_cases.registry import CASES, case

L = tf.keras.layers
TABLE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "errors.md"
ROW = re.compile(r"^\| (?P<name>[^|`]+?) \| [^|]+ \| `(?P<error>\w+)` \| `(?P<argument>\w+)` \|$")
ROWS = {
    match["name"]: (match["error"], match["argument"])
    for match in map(ROW.match, TABLE.read_text(encoding="utf-8").splitlines())
    if match
}


def plain(width=6):
    return tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(width), L.Dense(2)])


def wrapped(fmt="INT8"):
    return omc.wrap(plain(), fmt)


def trained():
    model = plain()
    model.compile("adam", "mse")
    model.fit(tf.ones([2, 4]), tf.ones([2, 2]), verbose=0)
    return model


def saved(folder):
    path = folder / "model.omc"
    omc.save(wrapped(), path)
    return path


def altered(folder, change):
    path = saved(folder)
    path.write_bytes(change(path.read_bytes()))
    return path


@contextlib.contextmanager
def no_room():
    """The operating system's own limit on the length of files: writes beyond it fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Formats, policies, tensors.
case("unknown format")(lambda _: omc.Policy("S1E9M7"))
case("format of another type")(lambda _: omc.Format.parse(8))
case("fraction out of range")(lambda _: omc.Policy("INT8", fraction=1.5))
case("fraction of another type")(lambda _: omc.Policy("INT8", fraction="half"))
case("seed of another type")(lambda _: omc.Policy("INT8", seed=0.5))
case("unknown rounding")(lambda _: omc.Policy("INT8", rounding="up"))
case("unknown transform of a policy")(lambda _: omc.Policy("INT8", transform="log"))
case("overrides of another type")(lambda _: omc.Policy("INT8", overrides=["*/kernel"]))
case("unknown format in overrides")(lambda _: omc.Policy("INT8", overrides={"*": "INT99"}))
case("NaN or Inf in an array")(lambda _: omc.compress([1.0, np.nan], "INT8"))
case("array that is not numeric")(lambda _: omc.compress(["one"], "INT8"))
case("ragged array")(lambda _: omc.compress([[1.0], [2.0, 3.0]], "INT8"))
case("unknown transform")(lambda _: omc.compress([1.0], "INT8", transform="log"))
case("decompressing something else")(lambda _: omc.decompress(np.ones(3)))


# Wrapping and training.
case("policy of another type")(lambda _: omc.wrap(plain(), 8))
case("not a Keras model")(lambda _: omc.wrap(L.Dense(2), "INT8"))
case("unbuilt model")(
    lambda _: omc.memory_report(omc.wrap(tf.keras.Sequential([L.Dense(2)]), "INT8"))
)
case("slots in a format of too little range")(lambda _: omc.Policy("S1E3M7", slots="S1E4M3"))


@case("saving an unbuilt model")
def _(folder):
    omc.save(omc.wrap(tf.keras.Sequential([L.Dense(2)]), "INT8"), folder / "unbuilt.omc")


@case("model under a tf.distribute strategy")
def _(_folder):
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = tf.keras.Sequential([tf.keras.Input((3,)), L.Dense(2)])
        omc.wrap(model, "INT8")


case("already wrapped model")(lambda _: omc.wrap(wrapped(), "INT8"))
case("model without variables")(
    lambda _: omc.wrap(tf.keras.Sequential([tf.keras.Input((4,)), L.Flatten()]), "INT8")
)
case("model whose wrapped part is all of it")(
    lambda _: omc.wrap(tf.keras.Sequential([tf.keras.Input((4,)), wrapped()]), "INT8")
)
case("model whose optimizer was used")(lambda _: omc.wrap(trained(), "INT8"))
case("report on something else")(lambda _: omc.memory_report(L.Dense(2)))


@case("unknown pattern in overrides")
def _(_):
    omc.wrap(plain(), omc.Policy("INT8", overrides={"encoder/*": "INT4"}))


@case("format on an integer variable")
def _(_):
    model = plain()
    model.layers[0].steps = tf.Variable(tf.zeros([2, 2], tf.int32), name="steps", trainable=False)
    omc.wrap(model, omc.Policy("INT8", overrides={"*steps": "INT4"}))


@case("NaN weights")
def _(_):
    model = plain()
    model.layers[0].kernel.assign(np.full((4, 6), np.nan))
    omc.wrap(model, "INT8")


@case("legacy optimizer")
def _(_):
    model = wrapped()
    model.compile(tf.keras.optimizers.legacy.SGD(), "mse")
    model.fit(tf.ones([2, 4]), tf.ones([2, 2]), verbose=0)


@case("wrapped variable read in a loop, gradient taken outside")
def _(_):
    model = omc.wrap(tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(4)]), "INT8")

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            _, y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, model(y)), [0, x])
        return tape.gradient(y, model.trainable_variables)

    gradient(tf.ones([2, 4]))


case("recomputing something else")(lambda _: omc.recompute(L.Dense(2), "*"))
case("recomputing in an unbuilt model")(
    lambda _: omc.recompute(tf.keras.Sequential([L.Dense(2)]), "*")
)
case("recomputing layers of another type")(lambda _: omc.recompute(plain(), 3))
case("recomputing a layer that is not there")(lambda _: omc.recompute(plain(), "stage_*"))


@case("recomputing a layer that draws random numbers")
def _(_):
    model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(2), L.Dropout(0.5)])
    omc.recompute(model, "dropout*")


@case("wrapped model as a SavedModel")
def _(folder):
    tf.saved_model.save(wrapped(), str(folder / "served"))


# Artifacts.
case("truncated artifact")(lambda f: omc.load(altered(f, lambda data: data[:-9]), plain()))
case("altered artifact")(lambda f: omc.load(altered(f, lambda data: data[:-1] + b"?"), plain()))
case("not an artifact")(lambda f: omc.load(altered(f, lambda data: b"PK" + data), plain()))
case("artifact of another architecture")(lambda f: omc.load(saved(f), plain(7)))
case("artifact of other formats")(lambda f: omc.load(saved(f), wrapped("INT4")))
case("loading a missing file")(lambda f: omc.load(f / "missing.omc", plain()))
case("loading into something else")(lambda f: omc.load(saved(f), L.Dense(2)))
case("arguments of load swapped")(lambda f: omc.load(plain(), saved(f)))
case("saving something else")(lambda f: omc.save([1.0], f / "m.omc"))
case("saving a plain model")(lambda f: omc.save(plain(), f / "m.omc"))
case("path of another type")(lambda f: omc.save(wrapped(), 3))
case("path in a missing folder")(lambda f: omc.save(wrapped(), f / "missing" / "m.omc"))
case("path that is a folder")(lambda f: omc.save(wrapped(), f))


@case("loading into an unbuilt model")
def _(folder):
    omc.load(saved(folder), tf.keras.Sequential([L.Dense(6)]))


@case("loading into a plain model whose optimizer was used")
def _(folder):
    omc.load(saved(folder), trained())


@case("artifact of a newer version")
def _(folder):
    newer = altered(folder, lambda data: data.replace(b'omc_artifact":"1"', b'omc_artifact":"2"'))
    omc.load(newer, plain())


@case("artifact of another kind")
def _(folder):
    artifacts.write(folder / "delta.omc", artifacts.Artifact("delta", ()))
    omc.load(folder / "delta.omc", plain())


@case("path without permission")
def _(folder):
    model, user = wrapped(), os.geteuid()
    folder.chmod(0o500)
    if user == 0:
        os.seteuid(65534)  # To root every folder is open.
    try:
        omc.save(model, folder / "m.omc")
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


@case("disk full while saving")
def _(folder):
    model = wrapped()
    with no_room():
        omc.save(model, folder / "m.omc")


# Export.
case("exporting a plain model")(lambda f: omc.export(plain(), f / "served"))
case("exporting into a full folder")(lambda f: omc.export(wrapped(), saved(f).parent))


@case("exporting a model of unknown inputs")
def _(folder):
    class Own(tf.keras.Model):
        def __init__(self):
            super().__init__()
            self.body = L.Dense(2)

        def call(self, x):
            return self.body(x)

    model = Own()
    model.build((None, 4))
    omc.export(omc.wrap(model, "INT8"), folder / "served")


@case("disk full while exporting")
def _(folder):
    model = wrapped()
    with no_room():
        omc.export(model, folder / "served")


# Federated learning.
case("model_fn that is no function")(lambda _: omc.learning.build_weighted_fed_avg(3, "INT8"))


@case("model_fn that returns something else")
def _(_):
    omc.learning.build_weighted_fed_avg(plain, "INT8")


@case("unknown uplink")
def _(_):
    omc.learning.build_weighted_fed_avg(plain, "INT8", uplink="pigeon")


@case("optimizer that is not TFF's")
def _(_):
    omc.learning.build_weighted_fed_avg(plain, "INT8", client_optimizer_fn="sgd")


case("workers of another type")(lambda _: enter(remote_runtime("localhost:8000")))
case("malformed address of a worker")(lambda _: enter(remote_runtime(["localhost"])))
case("a worker twice")(lambda _: enter(remote_runtime(["localhost:8000"] * 2)))
case("no workers")(lambda _: enter(remote_runtime([])))


def enter(context):
    with context:
        pass


@case("worker that does not answer")
def _(_):
    with socket.create_server(("localhost", 0)) as listener:
        port = listener.getsockname()[1]
    enter(remote_runtime([f"localhost:{port}"]))


@case("worker that dies")
def _(_):
    with running_workers() as addresses, remote_runtime(addresses) as runtime:
        workers()[0].kill()
        runtime.call(tff.tensorflow.computation(lambda: tf.constant(1)))


@case("worker on a port that is taken")
def _(_):
    with socket.create_server(("", 0)) as listener:
        enter(running_workers([listener.getsockname()[1]]))


@case("controlled process outside of a runtime")
def _(_):
    current_runtime()


def test_every_row_has_a_case_and_every_case_a_row():
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert len(lines) - 2 == len(ROWS), "a row that does not read as a row, or two of one name"
    assert sorted(ROWS) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_mistake_raises_what_the_table_says(tmp_path, name):
    error, argument = ROWS[name]
    with pytest.raises(omc.OmcError) as caught:
        CASES[name](tmp_path)
    assert type(caught.value) is getattr(errors, error)
    assert caught.value.argument == argument
    got = caught.value.got
    got = got if isinstance(got, str) else repr(got)
    message = str(caught.value)
    assert message.startswith(f"`{argument}`: expected {caught.value.expected}, but got {got}.")
    assert caught.value.expected and got
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"model.omc", "delta.omc", "given"} or name == "wrapped model as a SavedModel"
