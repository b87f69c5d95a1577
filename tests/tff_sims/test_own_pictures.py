"""A user's own pictures: every layout gives the arrays that it should, every mistake its error."""

import io
import os
import pathlib
import shutil
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from omc.errors import InputError
from tff_sims import own_pictures

COLORS = {"blue": (0, 0, 250), "red": (250, 0, 0)}


def write(path, color=(0, 0, 250), size=(8, 6), mode="RGB", **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path, **how)


def make(root, count=6, classes=COLORS, suffix=".png"):
    """Class folders; picture i of a class has the class's color plus i in green."""
    for name in classes:
        for i in range(count):
            red, _, blue = COLORS.get(name, (9, 9, 9))
            write(root / name / f"{i}{suffix}", (red, i, blue))
    return root


def pack(root, path, top=""):
    """A zip of a folder's files, with `top` before their names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            opened.write(file, top + file.relative_to(root).as_posix())
    return path


def same(one, other):
    assert one.classes == other.classes
    for part, its_like in zip((*one.train, *one.test), (*other.train, *other.test)):
        assert part.dtype == its_like.dtype
        np.testing.assert_array_equal(part, its_like)


def refused(domain, expected, got=""):
    with pytest.raises(InputError) as caught:
        own_pictures.load(domain)
    error = caught.value
    assert error.argument == "domain" and "docs/own_pictures.md" in error.tip
    assert expected in error.expected and got in str(error.got)


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "mine")


@pytest.fixture
def divided(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        make(tmp_path / "mine" / part, count)
    return tmp_path / "mine"


def test_class_folders_become_arrays(folder):
    made = own_pictures.load(folder)
    assert made.classes == ("blue", "red")
    for (pictures, labels), count in ((made.train, 5), (made.test, 1)):
        assert pictures.shape == (2 * count, 6, 8, 3) and pictures.dtype == np.uint8
        assert labels.tolist() == [0] * count + [1] * count and labels.dtype == np.int32
        assert not pictures.flags.writeable
        for picture, label in zip(pictures, labels):
            red, _, blue = list(COLORS.values())[label]
            assert (picture[..., 0] == red).all() and (picture[..., 2] == blue).all()
    shown = [sorted(p[:, 0, 0, 1].tolist()) for p in (made.train[0], made.test[0])]
    assert sorted(shown[0] + shown[1]) == sorted([*range(6)] * 2)  # Every picture once.


def test_what_is_held_out_does_not_change(folder, tmp_path):
    before = own_pictures.load(folder)
    other = tmp_path / "elsewhere"
    for path in sorted(folder.rglob("*.png"), reverse=True):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / path.parent.name)
    same(own_pictures.load(other), before)
    # By `printf CLASS/NAME | sha256sum`: blue/1.png and red/5.png have the lowest.
    assert before.test[0][:, 0, 0, 1].tolist() == [1, 5]


def test_a_fifth_is_held_out_and_at_least_one(tmp_path):
    for count, held in ((2, 1), (5, 1), (9, 1), (10, 2)):
        made = own_pictures.load(make(tmp_path / str(count), count))
        assert len(made.test[1]) == 2 * held and len(made.train[1]) == 2 * (count - held)


def test_folders_may_be_divided(divided):
    made = own_pictures.load(divided)
    assert made.train[0][:, 0, 0, 1].tolist() == [0, 1, 2] * 2
    assert made.test[0][:, 0, 0, 1].tolist() == [0, 1] * 2
    (divided / "valid").mkdir()  # Of no use to us.
    same(own_pictures.load(divided), made)


@pytest.mark.parametrize("top", ["", "./", "holiday/", "a/b/"])
def test_zips_are_as_the_folders_in_them(folder, divided, tmp_path, top):
    whole = pack(divided, tmp_path / "whole.zip", top)
    same(own_pictures.load(whole), own_pictures.load(divided))
    zips = tmp_path / "zips"
    zips.mkdir()
    for part in ("train", "test"):
        pack(divided / part, zips / f"{part}.zip", top)
    same(own_pictures.load(str(zips)), own_pictures.load(divided))
    plain = make(tmp_path / "plain")
    same(own_pictures.load(pack(plain, tmp_path / "p.zip", top)), own_pictures.load(plain))
    # Each zip may also have the folder of its own name in it, and a folder another around it.
    for part in ("train", "test"):
        pack(divided / part, zips / f"{part}.zip", f"{part}/")
    same(own_pictures.load(zips), own_pictures.load(divided))
    outer = tmp_path / "outer"
    shutil.copytree(divided, outer / "inner")
    same(own_pictures.load(outer), own_pictures.load(divided))


def test_classes_may_be_called_train_and_test(tmp_path):
    root = make(tmp_path / "vehicles", classes=("test", "train"))
    assert own_pictures.load(root).classes == ("test", "train")


def test_what_is_no_picture_counts_for_nothing(folder, tmp_path):
    before, known = own_pictures.load(folder), own_pictures.digest(folder)
    for name in (".DS_Store", "red/.DS_Store", "red/._0.png", "red/notes.txt", "red/Thumbs.db"):
        (folder / name).write_bytes(b"x")
    for name in ("__MACOSX/red/0.png", ".git/red/0.png", "red/.thumbs/0.png", "stray.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    os.symlink(folder / "red" / "0.png", folder / "red" / "link.png")
    os.symlink(folder / "red", folder / "rouge")
    same(own_pictures.load(folder), before)
    (folder / "stray.png").unlink()
    assert own_pictures.digest(folder) == known
    (folder / "rouge").unlink()
    (folder / "red" / "link.png").unlink()
    zipped = pack(folder, tmp_path / "mine.zip")
    link = zipfile.ZipInfo("red/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zipped, "a") as opened:
        opened.writestr(link, "0.png")
    same(own_pictures.load(zipped), before)


def test_names_of_a_zip_lead_nowhere(folder, tmp_path):
    picture = (folder / "red" / "0.png").read_bytes()
    zipped = pack(folder, tmp_path / "mine.zip")
    names = ("../out.png", "red/../../out.png", "/out.png", "/red/out.png", "../red/out.png")
    with zipfile.ZipFile(zipped, "a") as opened:
        for name in names:
            opened.writestr(name, picture)
    before = sorted(tmp_path.parent.rglob("*"))
    same(own_pictures.load(zipped), own_pictures.load(folder))
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".Png", ".BMP", ".gif", ".webp"])
def test_all_kinds_of_file_are_read(tmp_path, suffix):
    how = {"quality": 95} if suffix in (".jpg", ".JPEG") else {}
    how = {"lossless": True} if suffix == ".webp" else how
    for name, color in COLORS.items():
        for i in range(2):
            write(tmp_path / name / f"{i}{suffix}", color, (8, 6), **how)
    made = own_pictures.load(tmp_path)
    for picture, color in zip(made.train[0], COLORS.values()):
        assert picture.shape == (6, 8, 3)
        assert np.abs(picture.astype(int) - color).max() <= 4


@pytest.mark.parametrize(
    "mode, color, expected",
    [
        ("L", (100, 100, 100), (100, 100, 100)),
        ("1", (255, 255, 255), (255, 255, 255)),
        ("P", (250, 0, 0), (250, 0, 0)),
        ("RGBA", (250, 0, 0), (250, 0, 0)),
        ("clear", (0, 0, 0), (255, 255, 255)),
        ("deep", (0, 0, 0), (200, 200, 200)),
        ("turned", (0, 0, 250), (0, 0, 250)),
    ],
)
def test_all_modes_become_rgb(folder, mode, color, expected):
    for path in folder.rglob("*.png"):
        path.unlink()
    for name in COLORS:
        for path in (folder / name / "0.png", folder / name / "1.png"):
            if mode == "clear":
                Image.new("RGBA", (8, 6), (*color, 0)).save(path)
            elif mode == "deep":
                Image.fromarray(np.full([6, 8], 200 * 256 + 7, np.uint16)).save(path)
            elif mode == "turned":
                exif = Image.Exif()
                exif[0x0112] = 6  # Orientation: lies on its side.
                write(path, color, (6, 8), exif=exif)
            else:
                with Image.new("RGB", (8, 6), color) as image:
                    image.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    made = own_pictures.load(folder)
    assert made.train[0].shape == (2, 6, 8, 3)
    assert (made.train[0] == expected).all()


def test_unlike_or_large_pictures_are_resized(folder):
    assert own_pictures.load(folder).train[0].shape[1:] == (6, 8, 3)
    write(folder / "red" / "other.png", (250, 0, 0), (9, 6))
    made = own_pictures.load(folder)
    assert made.train[0].shape[1:] == made.test[0].shape[1:] == (32, 32, 3)
    for pictures, labels in (made.train, made.test):
        for picture, label in zip(pictures, labels):
            assert (picture[..., 0] == 250 * label).all()


@pytest.mark.parametrize("side, kept", [(64, 64), (65, 32)])
def test_the_largest_size_that_is_kept(tmp_path, side, kept):
    for name in COLORS:
        for i in range(2):
            write(tmp_path / name / f"{i}.jpg", size=(16, side))
    shape = (64, 16, 3) if kept == 64 else (32, 32, 3)
    assert own_pictures.load(tmp_path).train[0].shape[1:] == shape


def test_large_photographs_keep_their_look(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    large = np.kron(small, np.ones([100, 150, 1], np.uint8))
    for name in COLORS:
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(large).save(tmp_path / name / f"{i}.jpg", quality=95)
    picture = own_pictures.load(tmp_path).train[0][0]
    blocks = picture.reshape([8, 4, 8, 4, 3])[:, 1:3, :, 1:3].mean((1, 3))
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.98


def test_the_digest_is_of_the_content(folder, divided, tmp_path):
    plain = make(tmp_path / "plain")
    known = own_pictures.digest(plain)
    assert own_pictures.digest(str(plain)) == known
    assert own_pictures.digest(make(tmp_path / "again")) == known
    for change in (
        lambda: write(plain / "red" / "0.png", (1, 2, 3)),
        lambda: (plain / "red" / "0.png").rename(plain / "red" / "9.png"),
        lambda: (plain / "red" / "9.png").unlink(),
    ):
        change()
        assert own_pictures.digest(plain) != known
        known = own_pictures.digest(plain)
    # Of zips it is that of their bytes, wherever they lie.
    zips = {name: tmp_path / name for name in ("a", "b")}
    for path in zips.values():
        path.mkdir()
        for part in ("train", "test"):
            pack(divided / part, path / f"{part}.zip")
    assert own_pictures.digest(zips["a"]) == own_pictures.digest(zips["b"])
    (zips["b"] / "train.zip").rename(tmp_path / "swap")
    (zips["b"] / "test.zip").rename(zips["b"] / "train.zip")
    (tmp_path / "swap").rename(zips["b"] / "test.zip")
    assert own_pictures.digest(zips["a"]) != own_pictures.digest(zips["b"])
    assert own_pictures.digest(pack(plain, tmp_path / "p.zip")) == own_pictures.digest(
        shutil.copy(tmp_path / "p.zip", tmp_path / "q.zip")
    )


def test_what_changed_is_read_again(folder):
    before = own_pictures.load(folder)
    assert own_pictures.load(folder) is before
    write(folder / "red" / "0.png", (250, 77, 0))
    after = own_pictures.load(folder)
    assert any((pictures == 77).any() for pictures, _ in (after.train, after.test))


def test_paths_are_refused(tmp_path):
    for domain in (None, ""):
        refused(domain, "a folder or zip")
    refused(tmp_path / "absent", "a folder or zip", "absent")
    with pytest.raises(InputError, match="`domain`.*absent"):
        own_pictures.digest(tmp_path / "absent")


def test_folders_without_classes_are_refused(tmp_path):
    refused(tmp_path, "two or more class folders", "none in")
    write(tmp_path / "0.png")
    write(tmp_path / "1.png")
    refused(tmp_path, "two or more class folders", "none in")
    write(tmp_path / "red" / "0.png")
    refused(tmp_path, "two or more class folders", "'red' in")
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    refused(empty, "two or more class folders", "none in")


def test_classes_without_pictures_are_refused(folder, tmp_path):
    (folder / "green").mkdir()
    refused(folder, "pictures (.bmp, .gif", "'green'")
    (folder / "green" / "0.tiff").write_bytes(b"x")
    refused(pack(folder, tmp_path / "mine.zip"), "in every class folder", "'green'")
    for i in range(20):
        (folder / f"green{i:02}").mkdir()
    refused(folder, "in every class folder", "'green03' and 16 more")


def test_a_class_of_one_picture_cannot_be_divided(folder):
    write(folder / "green" / "0.png")
    refused(folder, "two or more pictures of every class", "'green'")


def test_pictures_further_down_are_refused(folder, tmp_path):
    write(folder / "red" / "dark" / "0.png")
    refused(folder, "directly in the folder of its class", "dark/0.png")
    for part in ("train", "valid"):
        make(tmp_path / "parts" / part)
    refused(tmp_path / "parts", "directly in the folder of its class", "train/blue/0.png")


def test_test_classes_are_those_of_training(divided):
    make(divided / "test", 1, ["green"])
    refused(divided, "the same classes", "'green'")
    shutil.rmtree(divided / "test")
    make(divided / "test", 1, ["red"])
    refused(divided, "two or more class folders", "test")


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "disguised"])
@pytest.mark.parametrize("zipped", [False, True])
def test_broken_pictures_are_named(folder, tmp_path, kind, zipped):
    path = folder / "red" / "4.png"
    if kind == "disguised":  # A format that we do not read, under a suffix that we do.
        Image.new("RGB", (8, 6)).save(path, format="TIFF")
    else:
        noise = np.random.default_rng(0).integers(256, size=(6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        whole = path.read_bytes()
        path.write_bytes({"text": b"a picture", "empty": b"", "cut": whole[:-80]}[kind])
    domain = pack(folder, tmp_path / "mine.zip") if zipped else folder
    refused(domain, "can be decoded", "red/4.png")


def test_damaged_zips_are_refused(folder, tmp_path):
    zipped = pack(folder, tmp_path / "mine.zip")
    whole = zipped.read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], b"not a zip at all"):
        zipped.write_bytes(content)
        refused(zipped, "can be read", "mine.zip")
    zips = tmp_path / "zips"
    zips.mkdir()
    (zips / "train.zip").write_bytes(whole)
    (zips / "test.zip").write_bytes(whole[:99])
    refused(zips, "can be read", "test.zip")
    # A byte of a picture: the zip opens, the checksum does not fit.
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        info = opened.getinfo("red/4.png")
    at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    zipped.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    refused(zipped, "can be decoded", "red/4.png")


def test_what_unpacks_to_too_much_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(own_pictures, "_MOST_BYTES", 10_000)
    (folder / "red" / "4.png").write_bytes(bytes(10_001))
    refused(pack(folder, tmp_path / "mine.zip"), "can be decoded", "10001 bytes")


def test_normalized_pictures_keep_all_256_levels():
    levels = np.arange(256, dtype=np.uint8).reshape([1, 16, 16, 1])
    made = own_pictures.normalize(levels).numpy()
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made.ravel() * 64 + 127.5, np.arange(256))


def test_augmented_pictures_are_moved_and_mirrored():
    rng = np.random.default_rng(0)
    pictures = rng.integers(1, 256, size=(200, 8, 10, 3), dtype=np.uint8)
    before = pictures.copy()
    made = own_pictures.augment(pictures, np.random.default_rng(5), padding=2)
    np.testing.assert_array_equal(made, own_pictures.augment(pictures, np.random.default_rng(5), 2))
    np.testing.assert_array_equal(pictures, before)
    assert made.shape == pictures.shape and made.dtype == np.uint8
    padded = np.pad(pictures, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for index, picture in enumerate(made):
        ways = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (1, -1)
            if (padded[index, top : top + 8, left : left + 10][:, ::flip] == picture).all()
        ]
        assert len(ways) == 1
        seen.add(ways[0])
    assert len(seen) > 45  # Of 50.
    kept = own_pictures.augment(pictures, rng, padding=0)
    for picture, moved in zip(pictures, kept):
        assert (moved == picture).all() or (moved == picture[:, ::-1]).all()


def test_the_page_names_what_is_read():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "own_pictures.md").read_text()
    for suffix in own_pictures.SUFFIXES:
        assert suffix in page
