"""What a model learns between two parts, with trained="keep": it is still there after the next."""

import numpy as np
import pytest
import tensorflow as tf

import omc
import omc.progressive
from omc.errors import ArtifactError, InputError, ModelError
from omc.keras.saving import stored_order
from omc.progressive import upgrading
from tests.progressive.chains import batch, nested, network, stored

CHAIN = ["INT4", "INT8", "FP32"]


@pytest.fixture(scope="module")
def parts():
    return omc.progressive.split(network(), CHAIN)


@pytest.fixture(scope="module")
def exact(parts):
    """Dense values of every variable at every stage, of a model that is never trained."""
    device, found = omc.progressive.Receiver(network(seed=5)), []
    for part in parts:
        device.apply(part)
        found.append(dense(device))
    return found


def dense(device):
    return [np.array(v.numpy()) for v in stored_order(device.model)]


def receiver(parts, folder, count=1, seed=5, **options):
    device = omc.progressive.Receiver(network(seed=seed), folder, trained="keep", **options)
    for part in parts[:count]:
        device.apply(part)
    return device


def train(device, epochs=3):
    if getattr(device.model, "optimizer", None) is None:
        device.model.compile(tf.keras.optimizers.Adam(0.02), "mse")
    device.model.fit(batch(), np.full((4, 3), 2.0), epochs=epochs, verbose=0)


def packed(device):
    return [hasattr(v, "buffer") for v in stored_order(device.model)]


def test_what_was_learned_is_in_the_next_stage(parts, exact, tmp_path):
    device = receiver(parts, tmp_path)
    assert not device.trained
    for stage in (1, 2):
        train(device)
        assert device.trained
        before = dense(device)
        device.apply(parts[stage])
        assert device.stage == CHAIN[stage] and device.trained
        for i, is_packed in enumerate(packed(device)):
            got, was = dense(device)[i], before[i]
            if not is_packed:  # Biases, statistics: as they were trained.
                np.testing.assert_array_equal(got, was)
                continue
            wanted = exact[stage][i] + (was - exact[stage - 1][i])
            if stage == 2:
                still = was == exact[1][i]
                np.testing.assert_array_equal(got, np.where(still, exact[2][i], wanted))
            else:
                variable = stored_order(device.model)[i]
                scale = float(variable.codec.transform_of(variable.buffer)[0])
                assert np.abs(got - wanted).max() <= 0.51 * scale
            assert np.abs(got - exact[stage][i]).max() > 0


def test_an_optimizer_keeps_its_slots_and_goes_on(parts, tmp_path):
    device = receiver(parts, tmp_path)
    train(device, epochs=1)
    start = device.model.evaluate(batch(), np.full((4, 3), 2.0), verbose=0)
    train(device)
    for part in parts[1:]:
        slots = device.model.optimizer.variables
        ids, before = list(map(id, slots)), [np.array(slot.numpy()) for slot in slots]
        device.apply(part)
        assert list(map(id, device.model.optimizer.variables)) == ids
        for slot, value in zip(slots, before):
            np.testing.assert_array_equal(slot.numpy(), value)
        train(device, epochs=20)
        assert int(device.model.optimizer.iterations) == int(before[0]) + 20
        # Rounding keeps it from falling at every stage, once it is low.
        loss = device.model.evaluate(batch(), np.full((4, 3), 2.0), verbose=0)
        assert loss < 0.2 * start
        device.model.predict(batch(), verbose=0)


def test_what_was_not_trained_is_the_stage_bit_for_bit(parts, tmp_path):
    states = []
    still = omc.progressive.Receiver(network(seed=5))
    for part in parts:
        still.apply(part)
        states.append(stored(still.model))
    device = receiver(parts, tmp_path)
    for layer in device.model.layers[:-1]:
        layer.trainable = False
    train(device)
    head = [i for i, v in enumerate(stored_order(device.model)) if "head" in v.name]
    for stage in (1, 2):
        device.apply(parts[stage])
        different = [
            i for i, (a, b) in enumerate(zip(stored(device.model), states[stage])) if a != b
        ]
        assert different == head
    # And with nothing trained at all, "keep" is what "refuse" is.
    device = receiver(parts, tmp_path / "other", 3)
    assert stored(device.model) == states[2] and not device.trained


def test_a_device_that_starts_again_loads_what_it_saved(parts, tmp_path):
    device = receiver(parts, tmp_path / "parts")
    train(device)
    omc.save(device.model, tmp_path / "m.omc")
    again = receiver([], tmp_path / "parts", seed=6)
    assert again.stage == "INT4" and not again.trained
    omc.load(tmp_path / "m.omc", again.model)
    assert again.trained and stored(again.model) == stored(device.model)
    for each in (device, again):
        each.apply(parts[1])
    assert stored(again.model) == stored(device.model)
    # Killed after the delta was kept, and before the model was saved with it.
    third = receiver([], tmp_path / "parts", seed=7, stage="INT4")
    omc.load(tmp_path / "m.omc", third.model)
    third.apply(next((tmp_path / "parts").glob("1-*.part")))
    assert third.stage == "INT8" and stored(third.model) == stored(device.model)
    with pytest.raises(InputError, match="'INT8'") as caught:
        receiver([], tmp_path / "parts", stage="INT2")
    assert caught.value.argument == "stage"


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_merge_is_completed_by_the_same_part(parts, tmp_path, monkeypatch, after):
    one, other = receiver(parts, tmp_path / "one"), receiver(parts, tmp_path / "other")
    train(one)
    omc.save(one.model, tmp_path / "m.omc")
    omc.load(tmp_path / "m.omc", other.model)
    one.apply(parts[1])
    merge, calls = upgrading.merge, []

    def interrupted(*arguments):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return merge(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "merge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.apply(parts[1])
    assert np.isfinite(other.model(batch())).all()
    other.apply(parts[1])
    assert stored(other.model) == stored(one.model) and other.digest == one.digest


def unchanged(device, part, error, argument, match=""):
    before = stored(device.model), device.stage, device.digest
    with pytest.raises(error, match=match) as caught:
        device.apply(part)
    assert caught.value.argument == argument
    assert (stored(device.model), device.stage, device.digest) == before


def test_what_cannot_be_kept(parts, tmp_path):
    with pytest.raises(InputError) as caught:
        omc.progressive.Receiver(network(), trained="keep")
    assert caught.value.argument == "directory"
    with pytest.raises(InputError, match="'keep'"):
        omc.progressive.Receiver(network(), tmp_path, trained="forget")
    device = receiver(parts, tmp_path)
    train(device)
    newer = omc.progressive.split(network(seed=1), CHAIN, known=parts[:1])
    unchanged(device, newer[0], ArtifactError, "part", "takes no update")
    unchanged(device, parts[2], ArtifactError, "part", "out of order")
    forged = omc.progressive.split(network(seed=2), CHAIN)[1]
    unchanged(device, forged, ArtifactError, "part", "of another chain")
    whole = parts[0].sha256
    with open(next(tmp_path.glob("0-*.part")), "r+b") as file:  # Under the mapped part.
        file.seek(-200, 2)
        data = file.read(8)
        file.seek(-200, 2)
        file.write(bytes(byte ^ 255 for byte in data))
    unchanged(device, parts[1], ArtifactError, "directory", "altered meanwhile")
    assert parts[0].sha256 == whole
    parts[0].save(next(tmp_path.glob("0-*.part")))


def test_what_diverged_is_not_kept(parts, tmp_path):
    device = receiver(parts, tmp_path)
    variable = next(v for v in stored_order(device.model) if hasattr(v, "buffer"))
    codes = variable.buffer.numpy()
    codes[-8:-4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    variable.buffer.assign(codes)
    unchanged(device, parts[1], ModelError, "model", "NaN or Inf")


def test_training_after_an_update(tmp_path, parts):
    newer = network()
    newer.layers[-1].kernel.assign(newer.layers[-1].kernel * 1.5)
    device = receiver(parts, tmp_path)
    update = omc.progressive.split(newer, CHAIN, known=parts[:1])
    device.apply(update[0])
    still = receiver([], tmp_path, seed=6)
    assert still.digest == update[0].digest
    learned = dense(device)
    train(device)
    learned = [now - was for now, was in zip(dense(device), learned)]
    device.apply(update[1]), device.apply(update[2])
    still.apply(update[1]), still.apply(update[2])
    assert not still.trained
    for got, stage, delta in zip(dense(device), dense(still), learned):
        size = max(np.abs(stage).max(), np.abs(delta).max())
        np.testing.assert_allclose(got, stage + delta, atol=0.02 * size)


def test_a_nested_model_keeps_what_it_learned(tmp_path):
    model = nested()
    parts = omc.progressive.split(model, ["INT4", "INT8"])
    device, still = receiver(parts, tmp_path), receiver(parts, tmp_path / "still")
    device.model.compile(tf.keras.optimizers.SGD(0.05), "mse")
    was = [np.array(v.numpy()) for v in stored_order(device.model)]
    device.model.fit(batch(), np.full((4, 3), 2.0), epochs=3, verbose=0)
    now = [np.array(v.numpy()) for v in stored_order(device.model)]
    device.apply(parts[1]), still.apply(parts[1])
    for i, v in enumerate(stored_order(device.model)):
        if hasattr(v, "buffer"):
            wanted = stored_order(still.model)[i].numpy() + (now[i] - was[i])
            scale = float(v.codec.transform_of(v.buffer)[0])
            assert np.abs(v.numpy() - wanted).max() <= 0.51 * scale
    omc.nested.switch(device.model, 4)
    assert np.isfinite(device.model(batch())).all()
