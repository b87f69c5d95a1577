"""Mistakes with the task `pictures`."""

import shutil

from PIL import Image

from tests.error_cases.registry import case
from tff_sims import own_pictures
from tff_sims.tasks.pictures import pictures


def pictures_folder(folder, count=2):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(folder / name / f"{number}.png")
    return folder


@case("pictures that are not there")
def pictures_that_are_not_there(folder):
    folder = folder / "given"
    own_pictures.load(folder / "absent")


@case("pictures without classes")
def pictures_without_classes(folder):
    folder = folder / "given"
    folder.mkdir()
    own_pictures.load(folder)


@case("pictures of one class")
def pictures_of_one_class(folder):
    folder = folder / "given"
    shutil.rmtree(pictures_folder(folder) / "dog")
    own_pictures.load(folder)


@case("class without pictures")
def class_without_pictures(folder):
    folder = folder / "given"
    (pictures_folder(folder) / "eel").mkdir()
    own_pictures.load(folder)


@case("class of one picture without test pictures")
def class_of_one_picture(folder):
    folder = folder / "given"
    own_pictures.load(pictures_folder(folder, 1))


@case("pictures in a folder within a class")
def pictures_within_a_class(folder):
    folder = folder / "given"
    pictures_folder(folder / "train")
    own_pictures.load(pictures_folder(folder / "valid").parent)


@case("test classes that are not the training classes")
def other_test_classes(folder):
    folder = folder / "given"
    pictures_folder(folder / "train")
    (pictures_folder(folder / "test") / "dog").rename(folder / "test" / "eel")
    own_pictures.load(folder)


@case("picture that cannot be decoded")
def picture_that_cannot_be_decoded(folder):
    folder = folder / "given"
    (pictures_folder(folder) / "dog" / "1.png").write_bytes(b"x")
    own_pictures.load(folder)


@case("damaged zip of pictures")
def damaged_zip(folder):
    folder = folder / "given"
    folder.mkdir()
    (folder / "mine.zip").write_bytes(b"PK")
    own_pictures.load(folder / "mine.zip")


@case("more clients than the pictures allow")
def too_many_clients(folder):
    folder = folder / "given"
    pictures(domain=pictures_folder(folder), clients=2)
