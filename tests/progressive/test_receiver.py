"""Receiver: the exact stage, or a typed error and the model as it was."""

import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import omc
import omc.progressive
from omc.errors import ArtifactError, InputError, InputTypeError, ModelError
from omc.keras.saving import stored_order
from omc.progressive import Part, streams, upgrading
from tests.own_process import heap_peaks
from tests.progressive.chains import batch, network, stored, values

CHAIN = ["INT4", "INT8", "FP32"]


@pytest.fixture(scope="module")
def chains():
    """Two versions of a model, split, and what is stored at every stage of either."""
    found = []
    for seed in (0, 1):
        parts = omc.progressive.split(network(seed), CHAIN)
        receiver_, states = omc.progressive.Receiver(network(seed=5)), []
        for part in parts:
            receiver_.apply(part)
            states.append(stored(receiver_.model))
        found.append((parts, states))
    return found


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["apply", "apply", "apply", "damaged", "again", "lost"]),
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 10**6),
    ),
    min_size=4,
    max_size=16,
)


@given(steps=STEPS)
@settings(max_examples=10)
def test_any_order_of_arrivals(chains, tmp_path_factory, steps):
    """Parts of two chains in any order, damaged ones, and devices that start again."""
    folder = tmp_path_factory.mktemp("parts")
    device, held = omc.progressive.Receiver(network(seed=5), folder), None
    plain = stored(device.model)
    for way, chain, index, place in steps:
        part = chains[chain][0][index]
        if way == "again":
            device = omc.progressive.Receiver(network(seed=6), folder)
        elif way == "lost" and held is not None and held[1] > 0:  # The newest file is cut off.
            (path,) = folder.glob(f"{held[1]}-*.part")
            path.write_bytes(path.read_bytes()[: place % path.stat().st_size])
            device, held = omc.progressive.Receiver(network(seed=6), folder), (held[0], held[1] - 1)
        elif way == "damaged":
            data = bytearray(bytes(part))
            data[place % len(data)] ^= 1 + place % 255
            with pytest.raises(ArtifactError):
                device.apply(bytes(data))
        elif way == "apply":
            fits = (held is None and index == 0) or held == (chain, index - 1)
            if fits:
                device.apply(part)
                held = chain, index
            else:
                with pytest.raises(ArtifactError) as caught:
                    device.apply(part)
                assert caught.value.argument == "part"
        if held is None:
            assert device.stage is None and not list(folder.iterdir())
            if way == "apply":
                assert [kind for kind, _ in stored(device.model)] == [None] * len(plain)
        else:
            assert device.stage == CHAIN[held[1]]
            assert device.digest == chains[held[0]][0][held[1]].digest
            assert stored(device.model) == chains[held[0]][1][held[1]]


def applied(parts, count=1, model=None):
    device = omc.progressive.Receiver(model or network(seed=5))
    for part in parts[:count]:
        device.apply(part)
    return device


def refused(device, part, match, argument="part"):
    before = stored(device.model), device.stage, device.digest
    with pytest.raises(ArtifactError, match=match) as caught:
        device.apply(part)
    assert caught.value.argument == argument
    assert (stored(device.model), device.stage, device.digest) == before


def test_what_is_refused(chains):
    (parts, _), (others, _) = chains
    refused(applied(parts, 0), parts[1], "out of order")
    refused(applied(parts, 1), parts[2], "out of order")
    refused(applied(parts, 1), parts[0], "already applied")
    refused(applied(parts, 2), parts[0], "out of order")
    refused(applied(parts, 2), parts[1], "already applied")
    refused(applied(parts, 1), others[1], "of another chain")
    refused(applied(parts, 3), others[2], "the last stage")
    refused(applied(parts, 0, network(width=14)), parts[0], "build the model as the one")
    shorter = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(2)])
    refused(applied(parts, 0, shorter), parts[0], "fit the model's")
    longer = network()
    longer = tf.keras.Model(longer.input, tf.keras.layers.Dense(2)(longer.output))
    refused(applied(parts, 0, longer), parts[0], "of the model's")
    with pytest.raises(InputTypeError):
        applied(parts).apply(7)


def test_a_model_that_was_trained_takes_no_delta(chains):
    parts, states = chains[0]
    device = applied(parts, 1)
    device.model.compile("sgd", "mse")
    device.model.fit(batch(), np.zeros((4, 3)), verbose=0)
    refused(device, parts[1], "changed since")


def test_a_model_predicts_between_parts_and_trains_after_them(chains):
    parts, states = chains[0]
    device, x = applied(parts, 0), batch()
    model, expected = device.model, network(seed=0)
    model.compile("adam", "mse")
    for part, state in zip(parts, states):
        device.apply(part)
        first = model.predict(x, verbose=0)
        np.testing.assert_allclose(first, model(x), rtol=1e-5, atol=1e-6)
        assert stored(model) == state
    np.testing.assert_allclose(first, expected(x), rtol=1e-5, atol=1e-6)
    for each in (model, expected):
        tf.keras.utils.set_random_seed(3)
        each.compile(tf.keras.optimizers.SGD(0.1), "mse")
        each.fit(x, np.ones((4, 3)), batch_size=2, epochs=3, shuffle=False, verbose=0)
    for got, wanted in zip(stored_order(model), stored_order(expected)):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_an_upgraded_model_is_reported_saved_and_loaded(chains, tmp_path):
    parts, states = chains[0]
    for count in (1, 2, 3):
        model = applied(parts, count).model
        report = omc.memory_report(model)
        assert CHAIN[count - 1] in str(report)
        omc.save(model, tmp_path / "m.omc", coded=count == 2)
        again = omc.load(tmp_path / "m.omc", network(seed=6))
        if count < 3:
            assert stored(again) == states[count - 1]
        assert values(again) == values(model)  # FP32 in a plain model stays plain.
        assert stored(omc.load(tmp_path / "m.omc", model)) == states[count - 1]
    whole = omc.progressive.split(model, ["FP32"])
    assert len(whole) == 1 and values(applied(whole).model) == values(model)
    assert stored(applied(omc.progressive.split(model, CHAIN), 3).model) == states[2]


def test_functions_that_hold_the_old_codes_fail_rather_than_compute_with_them(chains):
    device = applied(chains[0][0], 1)
    traced = tf.function(lambda x: device.model(x))
    traced(batch())
    device.apply(chains[0][0][1])
    with pytest.raises(tf.errors.InvalidArgumentError):
        traced(batch())


@pytest.mark.parametrize("after", [0, 1])
def test_an_interrupted_upgrade_is_completed_by_the_same_part(chains, monkeypatch, after):
    parts, states = chains[0]
    device, upgrade, calls = applied(parts, 1), upgrading.upgrade, []

    def interrupted(*arguments):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return upgrade(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "upgrade", interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.apply(parts[1])
    assert np.isfinite(device.model(batch())).all()  # Every variable is whole.
    refused(device, parts[2], "interrupted")
    device.apply(parts[1])
    assert stored(device.model) == states[1]
    device.apply(parts[2])
    assert stored(device.model) == states[2]


def test_segments_do_not_show(chains, monkeypatch):
    monkeypatch.setattr(streams, "SEGMENT", 3)
    model = network()
    device = applied(omc.progressive.split(model, CHAIN), 3)
    assert values(device.model) == values(model)


def test_what_a_folder_holds_beside_parts(chains, tmp_path):
    parts, states = chains[0]
    folder = tmp_path / "new" / "parts"
    device = omc.progressive.Receiver(network(seed=5), folder)
    device.apply(parts[0])
    (folder / ".omc-1234.tmp").write_bytes(b"half a part")
    (folder / "notes.txt").write_text("mine")
    (folder / "0-0000.part").write_bytes(b"no part")
    other = omc.progressive.split(network(width=14), CHAIN)
    for index, part in enumerate(other):
        part.save(folder / f"{index}-other.part")
    parts[2].save(folder / "2-early.part")  # Nothing leads to it yet.
    again = omc.progressive.Receiver(network(seed=6), folder)
    assert again.stage == "INT4" and stored(again.model) == states[0]
    assert not (folder / ".omc-1234.tmp").exists() and (folder / "notes.txt").exists()
    parts[1].save(folder / "1-copied.part")
    again = omc.progressive.Receiver(network(seed=6), folder)
    assert again.stage == "FP32" and stored(again.model) == states[2]


def test_a_part_that_cannot_be_kept_is_not_applied(chains, tmp_path, monkeypatch):
    device = omc.progressive.Receiver(network(seed=5), tmp_path)
    device.apply(chains[0][0][0])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(device, chains[0][0][1], "No space left", "directory")
    assert len(list(tmp_path.glob("*.part"))) == 1
    device.apply(chains[0][0][1])


def test_receivers_that_cannot_be(tmp_path):
    with pytest.raises(InputTypeError):
        omc.progressive.Receiver("model")
    with pytest.raises(InputTypeError):
        omc.progressive.Receiver(network(), directory=7)
    with pytest.raises(ModelError):
        omc.progressive.Receiver(omc.wrap(network(), "INT8"))
    with pytest.raises(ModelError):
        omc.progressive.Receiver(tf.keras.Sequential([tf.keras.layers.Dense(3)]))
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        omc.progressive.Receiver(network(), directory=tmp_path / "file")


def test_mixed_precision_layers(tmp_path):
    def build():
        layers = tf.keras.layers
        with_policy = [layers.Dense(5, dtype="mixed_float16"), layers.Dense(2, dtype="float32")]
        return tf.keras.Sequential([tf.keras.Input((4,)), *with_policy])

    model = build()
    device = applied(omc.progressive.split(model, CHAIN), 3, build())
    x = np.ones((3, 4), np.float32)
    np.testing.assert_allclose(device.model(x), model(x), rtol=1e-3)
    assert isinstance(omc.progressive.split(device.model, CHAIN)[2], Part)


UPGRADE = """
import sys
import tensorflow as tf
import omc.progressive
from omc.measurement import heap_peak

def build():
    dense = [tf.keras.layers.Dense(1024, use_bias=False) for _ in range(6)]
    return tf.keras.Sequential([tf.keras.Input((1024,)), *dense])

device = omc.progressive.Receiver(build())
for index, part in enumerate(omc.progressive.split(build(), ["INT8", "FP32"])):
    part.save(f"{sys.argv[1]}/{index}.part")
del part
device.apply(f"{sys.argv[1]}/0.part")
with heap_peak() as upgrade:
    device.apply(f"{sys.argv[1]}/1.part")
kernels = [layer.kernel for layer in device.model.layers]
assert [kernel.nbytes for kernel in kernels] == 6 * [2**22]
with heap_peak() as reading:
    kernels[0].buffer.read_value_no_copy()
print(upgrade.bytes, reading.bytes)
"""


def test_an_upgrade_takes_one_variable_beside_the_model(tmp_path):
    """Six matrices of 4 MiB dense, from INT8 to FP32."""
    upgrade, reading = heap_peaks(UPGRADE, tmp_path)
    # Every kernel at FP32, one more that is made of the part's file, which is mapped; temporaries.
    # What they were at INT8 was there before.
    mapped = os.path.getsize(tmp_path / "1.part")
    assert upgrade - mapped <= (6 * 4 + 4 + 1) * 2**20
    assert reading < 2**20  # Reads do not copy.
