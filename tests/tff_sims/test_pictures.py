"""The task of a user's own pictures: clients' data, model, metric, a simulation, refusals."""

import importlib

import numpy as np
import pytest
from PIL import Image

from omc.errors import InputError
from tff_sims import own_pictures, simulation
from tff_sims.settings import Settings, check
from tff_sims.tasks import TASKS

pictures = TASKS["pictures"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noise of three colors: 30 pictures of 8x8 a class, of which 6 are held out."""
    root, rng = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    for channel, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for number in range(30):
            picture = rng.integers(100, size=(8, 8, 3), dtype=np.uint8)
            picture[..., 2 - channel] += 150
            Image.fromarray(picture).save(root / name / f"{number}.png")
    return str(root)


def test_clients_share_out_the_training_pictures(folder):
    made = own_pictures.load(folder)
    everything = sorted(picture.tobytes() for picture in made.train[0])
    for split in pictures.splits:
        task = pictures(seed=1, split=split, alpha=0.1, domain=folder)
        parts = [task.examples(client) for client in range(task.num_clients)]
        assert task.num_clients == 10 and task.classes == ("blue", "green", "red")
        assert sorted(p.tobytes() for images, _ in parts for p in images) == everything
        images, labels = task.training_data()
        assert (np.argmax(images.mean((1, 2)), axis=1) == 2 - labels).all()
        sizes = [len(labels) for _, labels in parts]
        assert min(sizes) >= 2 and sizes[task.largest_client] == max(sizes)
        again = pictures(seed=1, split=split, alpha=0.1, domain=folder)
        np.testing.assert_array_equal(again.examples(3)[0], task.examples(3)[0])


def test_dirichlet_clients_are_less_alike(folder):
    kinds = [
        np.mean([len(set(task.examples(client)[1])) for client in range(10)])
        for task in (pictures(split=split, alpha=0.1, domain=folder) for split in pictures.splits)
    ]
    assert pictures(domain=folder).examples(0)[1].tolist() == (
        pictures(split="dirichlet", domain=folder).examples(0)[1].tolist()
    )
    assert kinds[0] < kinds[1]


def test_few_pictures_make_few_clients(folder):
    assert pictures(domain=folder, clients=36).num_clients == 36
    with pytest.raises(InputError, match="`clients`.*at most 36"):
        pictures(domain=folder, clients=37)


def test_batches_are_normalized(folder):
    task = pictures(domain=folder)
    images, labels = task.examples(2)
    assert images.dtype == np.uint8
    batches = list(task.client_dataset(2).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)
    expected = (images.astype(np.float32) - 127.5) / 64
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), expected)


def test_evaluation_is_of_all_held_out_pictures(folder, monkeypatch):
    module = importlib.import_module("tff_sims.tasks.pictures")  # Its package has the function.
    monkeypatch.setattr(module, "_TEST_BATCH", 7)
    task = pictures(domain=folder)
    assert len(task.test[1]) == 18

    class Oracle:
        def predict_on_batch(self, x):
            return np.asarray(x).mean((1, 2))[:, ::-1]  # The strongest channel is the class.

    class Blue:
        def predict_on_batch(self, x):
            return np.tile([1.0, 0.0, 0.0], [len(x), 1])

    assert task.evaluate(Oracle()) == {"accuracy": 1.0}
    assert task.evaluate(Blue()) == {"accuracy": 6 / 18}


def test_the_model_is_resnet8_with_either_norm(folder):
    task = pictures(seed=3, domain=folder)
    model, central = task.build_model(), task.build(norm="batch")
    assert model.name == central.name == "resnet8"
    assert model.input_shape == (None, 8, 8, 3) and model.output_shape == (None, 3)
    kinds = [{type(layer).__name__ for layer in m.layers} for m in (model, central)]
    assert "GroupNormalization" in kinds[0] and "BatchNormalization" in kinds[1]
    for weight, its_like in zip(model.get_weights(), task.build_model().get_weights()):
        np.testing.assert_array_equal(weight, its_like)


def test_a_simulation_runs_on_pictures(folder, tmp_path):
    settings = Settings(
        task="pictures", domain=folder, clients=3, clients_per_round=2, rounds=2, split="iid",
        client_memory=False,
    )  # fmt: skip
    assert check(settings, str(tmp_path)) is None
    summary = simulation.simulate(settings, str(tmp_path))
    assert summary["task"] == "pictures" and 0 <= summary["accuracy"] <= 1
    dense = summary["dense_parameter_bytes"]
    assert dense > 300_000 > dense / 2 > summary["downlink_bytes_per_client_round"]


def test_a_run_knows_its_pictures(folder):
    known = Settings(task="pictures", domain=folder).digests()["data"]
    assert known == own_pictures.digest(folder)


def test_refusals_name_the_flag(folder, tmp_path):
    for arguments, line in (
        (dict(domain=folder, split="x"), "--split: expected one of dirichlet, iid"),
        (dict(), "--domain: expected a folder or zip"),
        (dict(domain=str(tmp_path / "absent")), "--domain: expected a folder or zip"),
        (dict(domain=str(tmp_path)), "--domain: expected two or more class folders"),
        (dict(domain=folder, clients=1000), "--clients: expected at most 36"),
        (dict(domain=folder, clients_per_round=11), "--clients_per_round: expected at most 10"),
    ):
        found = check(Settings(task="pictures", **arguments), str(tmp_path / "out"))
        assert found.startswith(line)
    with pytest.raises(InputError, match="`split`"):
        pictures(domain=folder, split="speaker")
