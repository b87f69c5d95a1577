"""Uplinks as functions of tensors: what the server reads of what a client sends."""

import numpy as np
import pytest
import tensorflow as tf

from omc.alternative_codecs import AlternativeCodec, raw_codec
from omc.codecs import Codec
from omc.errors import InputError, InputTypeError
from omc.formats import Format
from omc.keras import CompressedVariable
from omc.learning import uplinks
from omc.learning.uplinks import Dithered, LocalResult, Rotated, TrainableVariable, Update, Weights
from omc.policies import VariableSpec

RNG = np.random.default_rng(0)


class Held:
    """A client's variable that holds a value densely, with what an uplink asks of one."""

    def __init__(self, value):
        self._value = tf.constant(value)

    def read_value(self):
        return self._value

    decode = read_value


def results(*changes, codec=None):
    """Variables that started at 0 and moved by -change."""
    found = []
    for index, change in enumerate(changes):
        spec = VariableSpec(f"v{index}", change.shape, tf.float32, True)
        described = TrainableVariable(index, spec, codec)
        start = np.zeros_like(change)
        found.append(LocalResult(described, tf.constant(start), Held(-change)))
    return found


def crossed(uplink, given, seed=(3, 4)):
    """(what the server reads, the answer, bytes of its tensors)."""
    answer = uplink.encode(given, tf.constant(seed))
    variables = [result.described for result in given]
    for tensor, spec in zip(answer.tensors, uplink.specs(variables), strict=True):
        assert spec.is_compatible_with(tensor)
    read = [value.numpy() for value in uplink.decode(variables, answer.tensors)]
    return read, answer, sum(tensor.numpy().nbytes for tensor in answer.tensors)


def gaussian(*shape):
    return RNG.normal(0, 0.01, shape).astype(np.float32)


UPLINKS = [
    Dithered(),
    Dithered(10, 0.2),
    Rotated(1),
    Rotated(4),
    Update(),
]


@pytest.mark.parametrize("uplink", UPLINKS, ids=str)
def test_every_shape_comes_back_and_the_error_is_told(uplink):
    given = [gaussian(3), gaussian(), gaussian(70, 90), gaussian(1), gaussian(5, 4, 3, 2)]
    read, answer, _ = crossed(uplink, results(*given))
    error = sum(np.sum((r.astype(np.float64) - g) ** 2) for r, g in zip(read, given))
    energy = sum(np.sum(g.astype(np.float64) ** 2) for g in given)
    for value, want in zip(read, given):
        assert value.shape == want.shape and value.dtype == np.float32
    if isinstance(uplink, Update):  # In float32 nothing is rounded.
        assert error == answer.error == answer.energy == 0.0
    else:
        np.testing.assert_allclose(answer.error, error, rtol=1e-4)
        np.testing.assert_allclose(answer.energy, energy, rtol=1e-5)
        assert 0 < error / energy < 3


@pytest.mark.parametrize(
    "uplink", [Dithered(1, 0.5), Dithered(8, 1.0), Rotated(1), Rotated(2)], ids=str
)
def test_what_the_server_reads_is_unbiased(uplink):
    change = RNG.laplace(size=(40, 30)).astype(np.float32)
    draws, given = 400, results(change)

    @tf.function
    def read_with(seed):
        tensors = uplink.encode(given, seed).tensors
        return uplink.decode([given[0].described], tensors)[0]

    read = [read_with(tf.constant([seed, 1])).numpy() for seed in range(draws)]
    mean, spread = np.mean(read, axis=0), np.std(read, axis=0) / np.sqrt(draws)
    deviations = (mean - change) / spread
    # A normal distribution's, over 1,200 weights.
    assert abs(deviations.mean()) < 0.15 and 0.9 < deviations.std() < 1.1


@pytest.mark.parametrize("clients, target", [(1, 0.01), (10, 0.05), (100, 0.05)])
def test_dithered_error_is_uniform_within_a_step_and_as_asked(clients, target):
    changes = [gaussian(200, 300), 10 * gaussian(50, 60), gaussian(7)]
    read, answer, _ = crossed(Dithered(clients, target), results(*changes))
    step = float(answer.tensors[1])
    flat = np.concatenate([c.ravel() for c in changes]).astype(np.float64)
    np.testing.assert_allclose(step, np.sqrt(12 * clients * target * np.mean(flat**2)), rtol=1e-5)
    error = np.concatenate([r.ravel() for r in read]) - flat
    assert np.abs(error).max() <= step / 2 * (1 + 1e-5)
    np.testing.assert_allclose(np.mean(error**2), step**2 / 12, rtol=0.02)
    np.testing.assert_allclose(np.mean(error**2) / np.mean(flat**2), clients * target, rtol=0.02)
    assert abs(np.corrcoef(error, flat)[0, 1]) < 0.02


@pytest.mark.parametrize(
    "step, bits, tolerance",
    # Computed, for a normal distribution of variance 1: bits given the dither.
    [(8.0, 0.33, 0.02), (2.0, 1.26, 0.02), (1.0, 2.11, 0.02), (0.5, 3.06, 0.02)],
)
def test_dithered_bits_are_those_of_a_coder_that_knows_the_dither(step, bits, tolerance):
    change = RNG.normal(size=(400, 500)).astype(np.float32)
    _, answer, nbytes = crossed(Dithered(1, step**2 / 12), results(change))
    np.testing.assert_allclose(float(answer.tensors[1]), step, rtol=0.01)
    np.testing.assert_allclose(8 * nbytes / change.size, bits, rtol=tolerance)


@pytest.mark.parametrize("bits, error", [(1, 0.571), (2, 0.134), (3, 0.0359), (4, 0.0096)])
def test_rotated_error_is_edens_at_its_fixed_rate(bits, error):
    change = RNG.laplace(size=(256, 400)).astype(np.float32)
    read, _, nbytes = crossed(Rotated(bits), results(change))
    np.testing.assert_allclose(
        np.sum((read[0] - change) ** 2) / np.sum(change**2), error, rtol=0.04
    )
    assert nbytes == 8 + 4 * 100 + change.size * bits / 8


def test_small_variables_share_a_stream_and_large_ones_have_their_own():
    shapes = [(10, 10), (400, 400), (5,), (7, 7), (300, 500)]
    given = results(*(gaussian(*shape) for shape in shapes))
    streams = Dithered().specs([r.described for r in given])[2:]
    assert len(streams) == 4  # (10, 10); (400, 400); (5,) and (7, 7); (300, 500)
    read, _, _ = crossed(Dithered(1, 1e-4), given)
    for value, result in zip(read, given):
        np.testing.assert_allclose(value, result.change(), atol=2e-4)


@pytest.mark.parametrize("uplink", UPLINKS, ids=str)
def test_nothing_that_changed_is_read_as_nothing(uplink):
    read, answer, _ = crossed(uplink, results(np.zeros((20, 30), np.float32)))
    np.testing.assert_array_equal(read[0], 0.0)
    assert answer.error == 0.0


@pytest.mark.parametrize("uplink", [Dithered(), Rotated(2)], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_client_that_diverged_sends_what_can_be_read(uplink, bad):
    change = gaussian(20, 30)
    change[3, 4] = bad
    read, _, _ = crossed(uplink, results(change))
    assert read[0].shape == change.shape


def test_another_seed_is_another_dither_and_the_same_seed_the_same_bytes():
    change = gaussian(30, 40)
    for uplink in (Dithered(1, 0.5), Rotated(1)):
        first, again, other = (
            crossed(uplink, results(change), s) for s in ((1, 2), (1, 2), (1, 3))
        )
        for a, b in zip(first[1].tensors, again[1].tensors):
            np.testing.assert_array_equal(a, b)
        assert np.any(first[0][0] != other[0][0])


def test_update_and_weights_are_in_the_variables_own_codec():
    values = gaussian(20, 30)
    codec = Codec(Format.parse("INT8"), (20, 30))
    both = AlternativeCodec((codec, raw_codec((20, 30))))
    for described, buffer in ((codec, codec.encode(values)), (both, codec.encode(values))):
        spec = VariableSpec("v", (20, 30), tf.float32, True)
        variable = TrainableVariable(0, spec, described)
        ended = CompressedVariable(described, codec.encode(tf.zeros([20, 30])), "v")
        result = LocalResult(variable, buffer, ended)
        read, answer, nbytes = crossed(Update(), [result])
        assert nbytes == codec.nbytes
        np.testing.assert_allclose(read[0], values, atol=2 * np.abs(values).max() / 127)
        assert 0 < answer.error < 1e-3 * answer.energy
        np.testing.assert_array_equal(
            Weights().decode([variable], [buffer])[0], described.decode(buffer)
        )


@pytest.mark.parametrize(
    "error, argument, make",
    [
        (InputError, "uplink", lambda: uplinks.resolve("both")),
        (InputTypeError, "uplink", lambda: uplinks.resolve(3)),
        (InputTypeError, "uplink", lambda: uplinks.resolve(Dithered)),
        (InputTypeError, "clients", lambda: Dithered(clients=2.5)),
        (InputTypeError, "clients", lambda: Dithered(clients=True)),
        (InputError, "clients", lambda: Dithered(clients=0)),
        (InputTypeError, "target_error", lambda: Dithered(target_error="small")),
        (InputError, "target_error", lambda: Dithered(target_error=0.0)),
        (InputError, "target_error", lambda: Dithered(target_error=float("nan"))),
        (InputTypeError, "bits", lambda: Rotated(bits=1.0)),
        (InputError, "bits", lambda: Rotated(bits=5)),
    ],
)
def test_errors_name_the_argument(error, argument, make):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "argument, given",
    [
        ("target_error", dict(target_error=1e-16)),  # Its codes of large changes would saturate.
        ("target_error", dict(target_error=1e30)),
        ("clients", dict(clients=10**30)),
        ("clients", dict(clients=0)),
    ],
)
def test_steps_that_codes_or_float32_do_not_hold_are_refused(argument, given):
    with pytest.raises(InputError) as caught:
        uplinks.Dithered(**given)
    assert caught.value.argument == argument
