"""Native ops in TFF's unmodified worker: the pure path's bits, and what happens without them."""

import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from absl import logging

from omc import kernels
from omc.codecs import Codec
from omc.errors import WorkerError
from omc.formats import Format
from omc.kernels import build, worker
from omc.kernels.worker import build as worker_build
from omc.learning import (
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    forms,
    local_runtime,
    remote_runtime,
    worker_ops,
)
from omc.learning.links import Link
from omc.learning.runtime import workers_have_ops
from omc.learning.worker_processes import running_workers
from omc.policies import Policy

SGD = tff.learning.optimizers.build_sgdm
FORMATS = ("S1E3M7", "S1E2M3", "INT4", "INT8", "S0E3M4")


@pytest.fixture(scope="module", autouse=True)
def _built():
    try:
        build.build()
        worker.environment()
    except (RuntimeError, worker.Unavailable) as why:
        pytest.skip(f"no native ops in TFF's worker on this machine: {why}")


@pytest.fixture(scope="module")
def workers():
    """Addresses of three workers, the last of which was started without the ops."""
    with running_workers((None, None)) as able, switched_off(), running_workers() as unable:
        os.environ.pop(worker.SWITCH)
        yield [*able, *unable]


@contextlib.contextmanager
def switched_off():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(worker.SWITCH, "0")
        yield


@pytest.fixture
def lines(monkeypatch):
    """Lines that a user sees."""
    found = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: found.append(text % words))
    return found


@pytest.fixture
def programs(monkeypatch):
    """For every program that goes to a worker, whether it calls native ops."""
    found = []
    real = Link.create_value

    def create_value(self, request):
        if request.value.WhichOneof("value") == "computation":
            found.append(worker_ops._OUR_OP.search(request.SerializeToString()) is not None)
        return real(self, request)

    monkeypatch.setattr(Link, "create_value", create_value)
    return found


def client(index):
    rng = np.random.default_rng(index)
    size = 3 + 4 * index
    data = rng.normal(size=(size, 12)).astype(np.float32), rng.integers(0, 4, size, np.int32)
    return tf.data.Dataset.from_tensor_slices(data).batch(5)


def model_fn():
    layers, initializer = tf.keras.layers, tf.keras.initializers.HeUniform
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential(
            [
                tf.keras.Input((12,)),
                layers.Dense(33, "relu", use_bias=False, kernel_initializer=initializer(1)),
                layers.Dense(4, use_bias=False, kernel_initializer=initializer(2)),
            ]
        ),
        input_spec=client(0).element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )


def arguments(fmt, uplink):
    policy = Policy(fmt, fraction=0.5, seed=3)
    return dict(model_fn=model_fn, policy=policy, client_optimizer_fn=SGD(0.1), uplink=uplink)


def results(process, rounds=2):
    """Bytes of all weights and metrics, but for the lengths of messages."""
    state, found = process.initialize(), []
    for _ in range(rounds):
        state, metrics = process.next(state, [client(index) for index in (0, 2)])
        found.append({key: part for key, part in metrics.items() if key != "link"})
    found.append(process.get_model_weights(state))
    return [np.asarray(value).tobytes() for value in tf.nest.flatten(found)]


@pytest.mark.parametrize("uplink", ["weights", "update"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_they_give_the_pure_path_s_bits_with_one_worker_and_with_two(
    workers, programs, lines, fmt, uplink
):
    with switched_off(), remote_runtime(workers[:1]):
        expected = results(build_controlled_fed_avg(**arguments(fmt, uplink)))
    assert not any(programs) and len(lines) == 1
    with remote_runtime(workers[:1]):
        process = build_controlled_fed_avg(**arguments(fmt, uplink))
        assert results(process) == expected
    assert any(programs[-2:])  # After the probe, the clients' work.
    with remote_runtime(workers[:2]):
        assert results(process) == expected
    assert len(lines) == 1


def test_so_does_a_composed_process_which_is_right_wherever_it_was_built(workers, programs, lines):
    process = forms.LearningProcess(lambda: build_weighted_fed_avg(**arguments("INT4", "update")))
    assert not worker_ops.used_in(process.next) and not workers_have_ops()
    with remote_runtime(workers[:1]):
        assert workers_have_ops() and worker_ops.used_in(process.next)
        ours = results(process)
        with kernels.pure():
            assert not workers_have_ops() and not worker_ops.used_in(process.next)
    assert any(programs[1:])
    programs.clear()
    with remote_runtime(workers[2:]):
        assert results(process) == ours
    assert not any(programs[1:]) and len(lines) == 1


def test_a_process_traced_with_them_is_a_clear_error_where_they_are_missing(workers, lines):
    codec = Codec(Format.parse("INT8"), (3, 5))

    def trace():
        buffer = tff.types.TensorType(np.uint8, [codec.nbytes])
        return tff.tensorflow.computation(codec.decode, buffer)

    buffer = codec.encode(tf.ones((3, 5)))
    with remote_runtime(workers[:1]):
        traced = trace()
        np.testing.assert_array_equal(traced(buffer.numpy()), codec.decode(buffer))
    with remote_runtime(workers[1:]), pytest.raises(WorkerError, match="without them.*Tip: build"):
        traced(buffer.numpy())
    with remote_runtime(workers[2:]) as runtime:
        at_clients = tff.FederatedType(traced.type_signature.parameter, tff.CLIENTS)

        @tff.federated_computation(at_clients, at_clients)
        def of_clients(first, _):
            return tff.federated_map(traced, first)

        native = tff.backends.native.desugar_and_transform_to_native(of_clients)
        with pytest.raises(WorkerError, match="without them.*Tip: build"):
            list(runtime.map(native, [(buffer.numpy(), buffer.numpy())]))
        np.testing.assert_array_equal(trace()(buffer.numpy()), codec.decode(buffer))


def compute(fmt="INT4"):
    """Bytes of codec and transform, traced and computed in the runtime that is there."""
    codec = Codec(Format.parse(fmt), (7, 9))
    values = np.sin(np.arange(63, dtype=np.float32)).reshape((7, 9))

    @tff.tensorflow.computation
    def moved():
        return codec.decode(codec.add(codec.encode(values), 0.1 * values))

    return moved().tobytes()


@pytest.fixture(scope="module")
def expected(workers):
    with remote_runtime(workers[:1]) as runtime:
        assert runtime.native_ops
        return compute()


def check_pure(runtime, programs, expected):
    assert not runtime.native_ops and not workers_have_ops()
    assert compute() == expected
    assert programs and not any(programs)


def test_one_worker_with_and_one_without(workers, programs, lines, expected):
    with remote_runtime(workers[1:]) as runtime:
        programs.clear()  # The probe, for which they were asked.
        check_pure(runtime, programs, expected)
        process = build_controlled_fed_avg(**arguments("INT4", "weights"))
        together = results(process)
        assert not any(programs)
    with remote_runtime(workers[:1]):
        assert results(build_controlled_fed_avg(**arguments("INT4", "weights"))) == together
    (line,) = lines
    assert f"{workers[2]} it was started without them" in line and workers[1] not in line


def test_switched_off(programs, lines, expected):
    with switched_off(), local_runtime() as runtime:
        check_pure(runtime, programs, expected)
    (line,) = lines
    assert line.endswith("OMC_WORKER_OPS=0")


def test_another_worker_s_build_id(monkeypatch, programs, lines, expected):
    monkeypatch.setattr(worker, "BUILD_ID", "0123abcd")
    with local_runtime() as runtime:
        check_pure(runtime, programs, expected)
    (line,) = lines
    assert "build id ebc6e8a53811" in line and "0123abcd" in line


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The libraries' files, copied, and looked for in their new place."""
    files = [*worker.paths(), worker.digests()]
    preload, library, _ = [pathlib.Path(shutil.copy(file, tmp_path)) for file in files]
    monkeypatch.setattr(worker, "paths", lambda: (preload, library))
    return preload, library


@pytest.mark.parametrize("damage", ["cut off", "one bit", "digests", "missing"])
def test_a_damaged_library_never_gets_to_a_worker(copies, damage):
    library = copies[1]
    content = library.read_bytes()
    if damage == "cut off":
        library.write_bytes(content[:100_000])
    elif damage == "one bit":
        library.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "digests":
        worker.digests().write_text("")
    else:
        library.unlink()
    with pytest.raises(worker.Unavailable, match="not built" if damage == "missing" else "damaged"):
        worker.environment()


def test_a_damaged_library(copies, programs, lines, expected):
    copies[1].write_bytes(copies[1].read_bytes()[:100_000])
    with local_runtime() as runtime:
        check_pure(runtime, programs, expected)
    (line,) = lines
    assert f"{copies[1].name} is damaged" in line


def test_a_library_that_does_not_load_leaves_the_worker_running(copies, lines, capfd):
    preload, library = copies
    library.write_bytes(b"no library")
    worker.digests().write_bytes(worker.sha256sums(preload, library))
    with local_runtime() as runtime:
        assert not runtime.native_ops
    (line,) = lines
    assert "it was started without them" in line
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("OMC:")]
    assert len(said) == 1 and library.name in said[0]


def test_a_worker_of_other_bits_is_found_out(workers, monkeypatch, lines):
    computation, right = worker_ops._probe()
    wrong = right.copy()
    wrong[-1] ^= 1
    monkeypatch.setattr(worker_ops, "_probe", lambda: (computation, wrong))
    with remote_runtime(workers[:1]) as runtime:
        assert not runtime.native_ops
    assert len(lines) == 1 and "other bits" in lines[0]


def test_another_program_stays_as_it_is_and_its_children_get_nothing():
    environment = {**os.environ, **worker.environment()}
    others = "libdl.so.2"
    environment[worker._PRELOAD] += f":{others}"
    command = "import os; print(os.environ.get('LD_PRELOAD'), os.environ.get('OMC_WORKER_LIBRARY'))"
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"{others} None\n" and done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "build id ebc6e8a53811" in line


def test_the_user_s_own_preloads_stay(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "libdl.so.2")
    assert worker.environment()["LD_PRELOAD"].endswith(".so:libdl.so.2")


def test_the_library_refuses_this_very_program():
    ops = ctypes.CDLL(str(worker.paths()[1])).omc_worker_ops
    ops.restype = ctypes.c_char_p
    assert b"made for the worker of build id " + worker.BUILD_ID.encode() in ops()


def test_build_ids_are_those_that_binutils_reads():
    for path in (worker.binary(), worker.paths()[1], sys.executable):
        notes = subprocess.run(["readelf", "-n", path], capture_output=True, text=True).stdout
        words = notes.split()
        known = words[words.index("Build") + 2] if "Build" in words else None
        assert worker.build_id(path) == known
    assert worker.build_id(__file__) is None


def test_a_file_that_cannot_be_read_is_a_reason_too(copies, monkeypatch):
    def forbidden():
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(worker, "binary", forbidden)
    with pytest.raises(worker.Unavailable, match="Permission denied"):
        worker.environment()


def test_without_binutils_or_with_other_headers_the_build_says_so(copies, monkeypatch, tmp_path):
    worker.digests().unlink()
    with monkeypatch.context() as patch:
        patch.setattr(worker_build.shutil, "which", lambda tool: None)
        with pytest.raises(worker.Unavailable, match="no nm: install binutils"):
            worker_build.build(None)
    (tmp_path / "absl" / "base").mkdir(parents=True)
    (tmp_path / "absl" / "base" / "options.h").write_text("#define LATER\n")
    monkeypatch.setattr(tf.sysconfig, "get_include", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match="absl/base/options.h of this TensorFlow is not"):
        worker_build._overlay(str(tmp_path))


def test_a_symbol_that_the_worker_lacks_fails_the_build():
    with pytest.raises(RuntimeError, match="lacks omc_no_such_symbol"):
        worker_build._symbols(["omc_no_such_symbol"])
