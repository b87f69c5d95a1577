"""Checkpoints come back bit for bit; what a kill left half-written does no harm."""

import math
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError
from tff_sims.checkpoints import Checkpoints, Progress, latest_round
from tff_sims.results import Round

State = tff.learning.templates.LearningAlgorithmState


def progress(rounds):
    """A state with what states of TFF hold: structures, empty ones, ints, floats of any bits."""
    rng = np.random.default_rng(rounds)
    weights = tff.learning.models.ModelWeights(
        trainable=[rng.normal(size=(3, 4)).astype(np.float32), np.float32([np.inf, -0.0, 1e-42])],
        non_trainable=[np.int64(rounds)],
    )
    state = State(weights, np.int32(rounds), (), ((), ()), {"rate": np.float32(0.1)})
    return Progress(state, [row(number) for number in range(1, rounds + 1)])


def row(number, accuracy=0.1):
    return Round(
        seed=0, round=number, accuracy=accuracy + 0.2 / number, master_accuracy=math.nan,
        train_loss=1 / 3, clients=10, failed=1, stragglers=2, downlink_bytes=1.5, uplink_bytes=2.5,
        parameter_bytes=3.5, seconds=0.25, warm=1, metrics={"wer": 1 / number},
    )  # fmt: skip


def same(left, right):
    pairs = [(*w.trainable, *w.non_trainable) for w in (left.state[0], right.state[0])]
    weights = all(a.tobytes() == np.asarray(b).tobytes() for a, b in zip(*pairs))
    return weights and repr(left.rows) == repr(right.rows) and left.state[1] == right.state[1]


def test_the_latest_comes_back_and_few_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0)
    start = progress(0)
    assert checkpoints.load(start) is start
    for rounds in range(1, 6):
        checkpoints.save(progress(rounds))
    assert same(progress(5), Checkpoints(tmp_path, 0).load(start))
    assert len(list(tmp_path.iterdir())) == 2 and latest_round(tmp_path) == 5
    assert Checkpoints(tmp_path, 0).load(start).state._fields == State._fields


def damage_half_written(latest):
    shutil.copytree(latest, latest.with_name("round_6_temp1234"))


def damage_truncated(latest):
    data = latest / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:10])


def damage_half_removed(latest):
    (latest / "saved_model.pb").unlink()


@pytest.mark.parametrize(
    "damage, left",
    [(damage_half_written, 5), (damage_truncated, 4), (damage_half_removed, 4)],
)
def test_damage_costs_a_round_at_most(damage, left, tmp_path):
    checkpoints = Checkpoints(tmp_path, 0)
    for rounds in (4, 5):
        checkpoints.save(progress(rounds))
    damage(tmp_path / "round_5")
    again = Checkpoints(tmp_path, 0)
    assert same(progress(left), again.load(progress(0)))
    again.save(progress(left + 1))  # The damaged one is not in the way.
    assert same(progress(left + 1), Checkpoints(tmp_path, 0).load(progress(0)))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_young_checkpoint_is_enough(tmp_path):
    checkpoints = Checkpoints(tmp_path, seconds=1e6)
    checkpoints.save(progress(1))
    assert latest_round(tmp_path) == 0
    checkpoints.save(progress(2), force=True)
    checkpoints.save(progress(2), force=True)
    assert latest_round(tmp_path) == 2


FULL = "No space left on device"
TENSORFLOWS = "{{function_node __wrapped__SaveV2}} /tmp/run/part.tempstate66; " + FULL


@pytest.mark.parametrize(
    "failure",
    [OSError(28, FULL), tf.errors.ResourceExhaustedError(None, None, TENSORFLOWS + " [Op:SaveV2]")],
    ids=["OSError", "OpError"],
)
def test_a_full_disk_is_one_line(failure, tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise failure

    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(progress(1))
    monkeypatch.setattr("tensorflow.saved_model.save", full)
    with pytest.raises(InputError, match="No space left") as error:
        checkpoints.save(progress(2))
    assert error.value.argument == "out" and "\n" not in str(error.value)
    assert error.value.got.endswith(FULL) and "node" not in error.value.got
    monkeypatch.undo()
    assert same(progress(1), Checkpoints(tmp_path, 0).load(progress(0)))
