"""Stages with BatchNorm statistics of their own."""

import numpy as np
import pytest
import tensorflow as tf

import omc
import omc.progressive
from omc.errors import ArtifactError, InputError, ModelError
from omc.keras.host import MAJOR
from omc.progressive import Receiver, parts
from omc.progressive.__main__ import main
from tests.progressive.chains import changed, nested, network, stored, values

DDOF = {2: 1, 3: 0}[MAJOR]  # The fused kernel, which Keras 2 uses, divides by n - 1.
STAGES = ["INT3", "INT4", "INT8", "FP32"]


def inputs(count=48, seed=3):
    return np.random.default_rng(seed).normal(size=(count, 6, 5, 2)).astype(np.float32)


def norm(model):
    return model.layers[2]


def statistics(model):
    return norm(model).moving_mean.numpy(), norm(model).moving_variance.numpy()


def of_outputs(model, x):
    """Mean and variance of the convolution's outputs, in float64."""
    conv = model.layers[1]
    kernel, bias = np.asarray(conv.kernel.numpy(), float), conv.bias.numpy().astype(float)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(float), (3, 3), axis=(1, 2))
    outputs = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0)
    outputs = outputs.reshape(-1, outputs.shape[-1])
    return outputs.mean(axis=0), outputs.var(axis=0, ddof=DDOF)


@pytest.mark.parametrize("wrapped", [False, True])
def test_stages_of_few_bits_have_the_statistics_of_what_they_hold(wrapped):
    model, x = network(), inputs()
    stages = STAGES[: 3 if wrapped else 4]
    if wrapped:
        omc.wrap(model, "INT8")
    before, kept = stored(model), statistics(model)
    chain = omc.progressive.split(model, stages, calibration=x)
    assert stored(model) == before
    receiver = Receiver(network(5))
    for part, name in zip(chain, stages):
        receiver.apply(omc.progressive.Part.from_bytes(bytes(part)))
        wanted = of_outputs(receiver.model, x) if name in ("INT3", "INT4") else kept
        for found, value in zip(statistics(receiver.model), wanted):
            np.testing.assert_allclose(found, value, rtol=2e-4, atol=1e-6)
    assert values(receiver.model) == values(model)
    assert receiver.digest == omc.progressive.split(model, stages)[-1].digest


def test_statistics_are_not_sent_twice():
    chain = omc.progressive.split(network(), STAGES, calibration=inputs())
    raw = [[e.name for e in part.entries if e.codec is None] for part in chain]
    assert len(raw[1]) == len(raw[2]) == 2 and not raw[3]  # INT8 brings the target's already.
    assert len(raw[0]) == 7


def test_a_policy_as_a_stage_has_statistics_too():
    model, x = network(), inputs()
    policy = omc.Policy("INT8", overrides={"conv/kernel": "INT3", "hidden/kernel": "INT4"})
    receiver = Receiver(network(5))
    chain = omc.progressive.split(model, [policy, "FP32"], calibration=x)
    receiver.apply(chain[0])
    for found, value in zip(statistics(receiver.model), of_outputs(receiver.model, x)):
        np.testing.assert_allclose(found, value, rtol=2e-4, atol=1e-6)
    receiver.apply(chain[1])
    assert values(receiver.model) == values(model)


def test_an_older_program_refuses_the_base_already():
    """Not only the delta, when it holds half of the chain."""
    for part in omc.progressive.split(network(), STAGES, calibration=inputs()):
        assert part.calibrated and int.from_bytes(bytes(part)[4:8], "little") == 4
    for part in omc.progressive.split(network(), STAGES):
        assert not part.calibrated and int.from_bytes(bytes(part)[4:8], "little") == 1


def test_a_restart_and_an_update_know_the_statistics(tmp_path):
    x = inputs()
    chain = omc.progressive.split(network(), STAGES, calibration=x)
    receiver = Receiver(network(5), directory=tmp_path)
    for part in chain[:2]:
        receiver.apply(part)
    again = Receiver(network(6), directory=tmp_path)
    assert again.stage == "INT4" and stored(again.model) == stored(receiver.model)
    newer = omc.progressive.split(changed(), STAGES, known=chain[:2], calibration=x)
    for part in newer:
        again.apply(part)
    assert values(again.model) == values(changed())
    same = omc.progressive.split(network(), STAGES, known=chain, calibration=x)
    assert [len(part.entries) for part in same] == [0, 0, 0, 0]


@pytest.mark.parametrize("train", [False, True])
def test_what_was_trained_keeps_its_statistics(tmp_path, train):
    chain = omc.progressive.split(network(), STAGES, calibration=inputs())
    receiver = Receiver(network(5), directory=tmp_path, trained="keep")
    receiver.apply(chain[0])
    receiver.model.layers[-1].bias.assign_add([1.0, 0.0, 0.0])
    if train:
        norm(receiver.model).moving_mean.assign(norm(receiver.model).moving_mean + 1)
    before = statistics(receiver.model)
    receiver.apply(chain[1])
    target = Receiver(network(5))
    target.apply(chain[0])
    target.apply(chain[1])
    mean, variance = statistics(receiver.model)
    np.testing.assert_array_equal(mean, before[0] if train else statistics(target.model)[0])
    np.testing.assert_array_equal(variance, statistics(target.model)[1])


def test_a_delta_with_raw_variables_is_refused_where_the_chain_has_none():
    model = network()
    receiver = Receiver(network(5))
    plain = omc.progressive.split(model, ["INT4", "FP32"])
    receiver.apply(plain[0])
    entry = next(e for e in plain[0].entries if e.codec is None)
    value = np.zeros(entry.shape, "float32")
    foreign = parts.assemble(
        "delta",
        1,
        plain[1].stages,
        plain[0].digest,
        plain[1].digest,
        {},
        [entry],
        [("float32", value.tobytes(), False)],
        [],
    )
    before = stored(receiver.model)
    with pytest.raises(ArtifactError, match="raw variable in a delta"):
        receiver.apply(foreign)
    assert stored(receiver.model) == before


def test_an_update_has_statistics_of_its_own_where_the_receiver_holds_the_last_stages():
    """As after a fine-tuning with frozen BatchNorm: only weights are new."""
    x, newer = inputs(), network()
    newer.layers[1].kernel.assign_add(np.full(newer.layers[1].kernel.shape, 0.1, "float32"))
    old = omc.progressive.split(network(), STAGES, calibration=x)
    update = omc.progressive.split(newer, STAGES, known=old, calibration=x)
    receiver = Receiver(network(5))
    for part in [*old, *update[:2]]:
        receiver.apply(part)
    for found, value in zip(statistics(receiver.model), of_outputs(receiver.model, x)):
        np.testing.assert_allclose(found, value, rtol=2e-4, atol=1e-6)
    for part in update[2:]:
        receiver.apply(part)
    assert values(receiver.model) == values(newer)


class Halves(tf.keras.layers.Layer):
    """Halves a weight in every training call, and counts them in a scalar."""

    def build(self, shape):
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)
        self.kernel = self.add_weight(name="kernel", shape=(int(shape[-1]), 5))

    def call(self, inputs, training=None):
        if training:
            self.calls.assign_add(1.0)
            self.kernel.assign(self.kernel / 2)
        return inputs @ self.kernel


@pytest.mark.parametrize("calibrated", [False, True])
def test_layers_that_change_in_training_and_scalars_arrive_as_they_were(calibrated):
    def build():
        tf.keras.utils.set_random_seed(3)
        layers = [Halves(), tf.keras.layers.BatchNormalization(), tf.keras.layers.Dense(3)]
        model = tf.keras.Sequential(
            [tf.keras.layers.Normalization(mean=1.0, variance=4.0), *layers]
        )
        model.build((None, 4))
        return model

    model, x = build(), np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    before = values(model)
    given = {"calibration": x} if calibrated else {}
    receiver = Receiver(build())
    for part in omc.progressive.split(model, ["INT4", "FP32"], **given):
        receiver.apply(part)
    assert values(model) == before == values(receiver.model)


def test_mistakes():
    frozen = network()
    norm(frozen).trainable = False
    with pytest.raises(ModelError, match="frozen"):
        omc.progressive.split(frozen, STAGES, calibration=inputs())
    with pytest.raises(InputError, match="statistics of their own"):
        omc.progressive.split(nested(), ["INT4", "INT8"], calibration=inputs())
    for wrong in (inputs()[..., :1], np.zeros((4, 6, 5, 2), "float32")):
        model = network()
        before = stored(model)
        with pytest.raises(InputError, match="calibration"):
            omc.progressive.split(model, STAGES, calibration=wrong)
        assert stored(model) == before


def test_the_command_takes_a_file_of_inputs(tmp_path, capsys):
    network().save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", inputs())
    arguments = ["split", str(tmp_path / "m.keras"), "INT4,FP32", "--out", str(tmp_path / "parts")]
    main([*arguments, "--calibration", str(tmp_path / "x.npy")])
    folder = tmp_path / "parts"
    assert all(omc.progressive.load(p).calibrated for p in folder.glob("*.part"))
    assert list(folder.glob("*.part"))
    np.savez(tmp_path / "several.npz", a=inputs(), b=inputs())
    for wrong in ("none.npy", "m.keras", "several.npz"):
        with pytest.raises(SystemExit):
            main([*arguments, "--calibration", str(tmp_path / wrong)])
        assert "expected an .npy file" in capsys.readouterr().err
