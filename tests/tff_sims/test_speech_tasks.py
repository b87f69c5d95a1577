"""The tasks of speech: data as described, one federated round with both methods."""

import functools

import numpy as np
import pytest

import models
import omc
from omc.errors import InputError
from omc.learning import build_fp32_fed_avg, build_weighted_fed_avg, local_runtime, traffic
from tff_sims.speech import utterances
from tff_sims.speech.utterances import Specification
from tff_sims.tasks import TASKS

SMALL = {"width": 16, "heads": 2, "depth": 1, "kernel": 5, "channels": 4}


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    few = functools.partial(Specification, speakers=4, utterances=10, test_speakers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMC_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(utterances, "Specification", few)
        patch.setitem(models.CONFORMERS, "tiny", SMALL)
        yield


def test_speech_batches_are_whole_utterances():
    task = TASKS["speech"](seed=1)
    assert task.num_clients == 4
    features, transcripts = task.utterances(2)
    batches = list(task.client_dataset(2).as_numpy_iterator())
    assert [len(x) for x, _ in batches] == [8, 2]
    assert batches[0][1][:, 0].max() <= batches[1][1][:, 0].min()  # Of like length.
    found = []
    for x, targets in batches:
        assert x.shape[1] == 4 * targets[:, 0].max()
        for row, (frames, *labels) in zip(x, targets):
            length = int(np.flatnonzero(row.any(axis=1))[-1]) + 1
            assert frames == -(-length // 4)
            found.append((" ".join(task.vocabulary[n] for n in labels if n >= 0), length))
    assert sorted(found) == sorted(zip(transcripts, map(len, features)))
    again = list(task.client_dataset(2).as_numpy_iterator())
    for (x, targets), (same, likewise) in zip(batches, again):
        np.testing.assert_array_equal(x, same)
        np.testing.assert_array_equal(targets, likewise)
    sizes = [sum(map(len, task.utterances(client)[0])) for client in range(4)]
    assert sizes[task.largest_client] == max(sizes)


def test_evaluation_reads_what_the_model_says():
    task = TASKS["speech"]()

    class Oracle:
        """Says each utterance's transcript, known by its features."""

        def __init__(self, wrong=()):
            self.answers = {x.tobytes(): t for x, t in zip(*task.test)}
            self.wrong = wrong

        def predict_on_batch(self, x):
            blank = len(task.vocabulary)
            paths = np.full([len(x), x.shape[1] // 4], blank)
            for row, path in zip(x, paths):
                length = int(np.flatnonzero(row.any(axis=1))[-1]) + 1
                words = self.answers[row[:length].tobytes()].split()
                path[: 2 * len(words) : 2] = [task.vocabulary.index(word) for word in words]
            return np.eye(blank + 1)[paths]

    assert task.evaluate(Oracle()) == {"accuracy": 1.0, "wer": 0.0}
    silent = task.evaluate(type("Silent", (), {"predict_on_batch": lambda _, x: blanks(x)})())
    assert silent == {"accuracy": 0.0, "wer": 1.0}


def blanks(x):
    return np.eye(33)[np.full([len(x), x.shape[1] // 4], 32)]


@pytest.mark.parametrize("name", ["speech", "keywords"])
def test_tasks_refuse_what_they_do_not_have(name):
    for arguments in ({"split": "x"}, {"domain": "x"}, {"clients": 5}):
        with pytest.raises(InputError, match=f"`{list(arguments)[0]}`"):
            TASKS[name](**arguments)


def test_keywords_are_split_by_word_as_well():
    task = TASKS["keywords"](split="dirichlet", alpha=0.1)
    sizes = [len(task.examples(client)[1]) for client in range(4)]
    assert sum(sizes) == 40 and sizes[task.largest_client] == max(sizes)
    assert task.test[0].shape == (50, 80, 40) and task.test[1].max() < 20
    kinds = np.mean([len(set(task.examples(client)[1])) for client in range(4)])
    iid = TASKS["keywords"](split="iid")
    assert kinds < np.mean([len(set(iid.examples(client)[1])) for client in range(4)])


@pytest.mark.parametrize("name", ["speech", "keywords"])
@pytest.mark.parametrize("method", ["fp32", "omc"])
def test_one_federated_round(name, method):
    task = TASKS[name]()
    optimizers = task.client_optimizer(task.learning_rate), task.server_optimizer()
    with local_runtime():
        if method == "fp32":
            process = build_fp32_fed_avg(task.model_fn, *optimizers)
        else:
            policy = omc.Policy("S1E3M7", fraction=0.9)
            process = build_weighted_fed_avg(task.model_fn, policy, *optimizers)
        state = process.initialize()
        before = process.get_model_weights(state).trainable
        state, metrics = process.next(state, [task.client_dataset(0), task.client_dataset(1)])
        weights = process.get_model_weights(state)
    assert 0 < metrics["client_work"]["train"]["loss"] < 1000
    assert any(np.any(new != old) for new, old in zip(weights.trainable, before))
    model = task.build_model()
    weights.assign_weights_to(model)
    assert np.isfinite(task.evaluate(model)["accuracy"])
    counted = traffic(metrics)
    dense = sum(weight.nbytes for weight in model.get_weights())
    assert (
        counted["downlink_bytes"] < dense if method == "omc" else counted["downlink_bytes"] >= dense
    )
