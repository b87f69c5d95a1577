"""python -m omc.progressive: split, show, apply."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import omc
import omc.progressive
from omc.keras.host import variables_of
from omc.progressive import __main__ as program
from tests.progressive.chains import batch, changed, network, stored, values

CHAIN = "INT4,INT8,FP32"


def builder():
    """What --architecture names."""
    return network(seed=8)


def no_model():
    return 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with model.keras, newer.keras, and parts/."""
    path = tmp_path_factory.mktemp("commands")
    network().save(path / "model.keras")
    changed().save(path / "newer.keras")
    program.main(["split", f"{path}/model.keras", CHAIN, f"--out={path}/parts"])
    return path


def parts_of(path):
    return sorted(str(each) for each in path.iterdir() if each.name.endswith(".part"))


def test_a_model_goes_there_and_back(folder, capsys, tmp_path):
    program.main(["show", f"{folder}/parts"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["part", "kind", "stage", "bytes"] and len(lines) == 4
    found = [omc.progressive.load(path) for path in parts_of(folder / "parts")]
    dense = sum(v.numpy().nbytes for v in variables_of(network()))
    sofar = 0
    for line, part in zip(lines[1:], found):
        sofar += part.nbytes
        cells = line.split()
        assert cells[:4] == [str(part.index), part.kind, part.stage, f"{part.nbytes:,}"]
        assert cells[4] == f"{100 * part.nbytes / dense:.1f}"
        assert cells[6] == f"{100 * sofar / dense:.1f}" and cells[9] == part.digest[:12]
    out = tmp_path / "m.keras"
    program.main(["apply", f"{folder}/parts", f"--out={out}"])
    assert "FP32, stage 3 of 3" in capsys.readouterr().out
    assert values(tf.keras.models.load_model(out)) == values(network())
    assert os.listdir(tmp_path) == ["m.keras"]
    # The folder is one that a Receiver can begin with.
    assert omc.progressive.Receiver(network(seed=5), folder / "parts").stage == "FP32"


def test_up_to_a_stage_and_packed(folder, tmp_path, capsys):
    out, receiver = tmp_path / "m.omc", omc.progressive.Receiver(network(seed=5))
    found = parts_of(folder / "parts")
    for path in found[:2]:
        receiver.apply(path)
    for arguments in (
        [f"{folder}/parts", "--stage=INT8"],
        found[:2],
        [*found[:2], f"--architecture={__name__}:builder"],
        [*found[:2], f"--architecture={folder}/model.keras"],
    ):
        program.main(["apply", *arguments, f"--out={out}"])
        assert stored(omc.load(out, network(seed=6))) == stored(receiver.model)
    # And an artifact is split as the model that it holds.
    split = ["split", str(out), "INT4,INT8", f"--out={tmp_path}/again"]
    program.main([*split, f"--architecture={folder}/parts/architecture.json"])
    again = omc.progressive.Receiver(network(seed=5), tmp_path / "again")
    assert stored(again.model) == stored(receiver.model)


def test_a_new_version_in_the_same_folder(folder, tmp_path, capsys):
    program.main(["split", f"{folder}/model.keras", CHAIN, f"--out={tmp_path}"])
    known = ["--known", str(tmp_path)]
    program.main(["split", f"{folder}/newer.keras", CHAIN, f"--out={tmp_path}", *known])
    capsys.readouterr()
    program.main(["show", str(tmp_path)])
    kinds = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert kinds == ["base", "delta", "delta", "update", "delta", "delta"]
    program.main(["apply", str(tmp_path), f"--out={tmp_path}/m.keras"])
    model = tf.keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(model(batch()), changed()(batch()), rtol=1e-5)
    assert values(model) == values(changed())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["show", "{0}/absent.part"], "`path`: expected a file that can be read"),
        (["show", "{0}/model.keras"], "`part`: expected a whole, unaltered part"),
        (["show", "{1}"], "`parts`: expected a part, or a folder of parts"),
        (["split", "{0}/absent.keras", "INT4", "--out={1}"], "`model`: expected"),
        (["split", "{0}/model.keras", "INT9", "--out={1}"], "`stages`: expected"),
        (["split", "{0}/model.keras", "", "--out={1}"], "`stages`: expected"),
        (["split", "m.omc", "INT4", "--out={1}"], "`architecture`: expected"),
        (["apply", "{0}/parts", "--out={1}/m.h5"], "`out`: expected"),
        (["apply", "{0}/parts", "--out={1}/no/m.omc"], "`out`: expected"),
        (["apply", "{0}/parts", "--out={1}/no/m.keras"], "`out`: expected"),
        (["apply", "{0}/parts", "--out={1}/m.omc", "--stage=INT2"], "`stage`: expected one of"),
        (
            ["apply", "{0}/parts", "--out={1}/m.omc", "--architecture=no.such:thing"],
            "`architecture`: expected",
        ),
        (
            ["apply", "{0}/parts", "--out={1}/m.omc", f"--architecture={__name__}:no_model"],
            "`architecture`: expected a built tf.keras.Model",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder, tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        program.main([each.format(folder, tmp_path) for each in arguments])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(words) and error.count("\n") == 1 and len(error) < 600
    assert not list(tmp_path.iterdir())


def test_parts_without_an_architecture(folder, tmp_path, capsys):
    path = parts_of(folder / "parts")[0]
    os.link(path, tmp_path / "0.part")
    with pytest.raises(SystemExit):
        program.main(["apply", str(tmp_path), f"--out={tmp_path}/m.omc"])
    assert "architecture.json beside the parts" in capsys.readouterr().err


def run(*arguments):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return subprocess.run(
        [sys.executable, "-m", "omc.progressive", *arguments],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_as_a_program(folder, tmp_path):
    done = run("show", f"{folder}/parts")
    assert done.returncode == 0 and "delta  INT8" in done.stdout
    done = run("show", f"{folder}/absent.part")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("`path`: expected a file")
    with pytest.raises(SystemExit) as caught:
        program.main(["apply", "--help"])
    assert caught.value.code == 0


def test_a_folder_of_another_chain_is_refused(folder, tmp_path, capsys):
    """Two chains of one length: whose hash comes first would have won."""
    out = f"--out={tmp_path}"
    program.main(["split", f"{folder}/model.keras", CHAIN, out])
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as caught:
        program.main(["split", f"{folder}/newer.keras", "INT4,FP32", out])
    error = capsys.readouterr().err
    assert caught.value.code == 1 and error.startswith("`out`: expected a folder without parts of")
    assert error.count("\n") == 1 and sorted(os.listdir(tmp_path)) == before
    program.main(["split", f"{folder}/model.keras", CHAIN, out])  # The same again changes nothing.
    assert sorted(os.listdir(tmp_path)) == before


def raises_zero_division():
    return 1 / 0


def exits():
    sys.exit(3)


@pytest.mark.parametrize("function", ["raises_zero_division", "exits", "absent"])
def test_whatever_ones_own_function_raises_is_one_line(folder, function, tmp_path, capsys):
    own = f"--architecture={__name__}:{function}"
    with pytest.raises(SystemExit) as caught:
        program.main(["apply", f"{folder}/parts", f"--out={tmp_path}/m.omc", own])
    error = capsys.readouterr().err
    assert caught.value.code == 1 and error.startswith("`architecture`: expected")
    assert error.count("\n") == 1


def test_a_damaged_keras_file_is_one_line(folder, tmp_path, capsys):
    data = bytearray((folder / "model.keras").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flip.keras").write_bytes(data[: len(data) // 2])
    with pytest.raises(SystemExit) as caught:
        program.main(["split", f"{tmp_path}/flip.keras", CHAIN, f"--out={tmp_path}/out"])
    assert caught.value.code == 1 and capsys.readouterr().err.startswith("`model`: expected")


@pytest.mark.parametrize(
    "arguments", [[], ["bogus"], ["show"], ["split", "m.keras"], ["show", "p", "--bogus=1"]]
)
def test_a_command_that_is_none_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        program.main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 1 and error.count("\n") == 1 and "--help" in error


def test_no_output_but_its_own_and_a_pipe_that_closes(folder):
    """TensorFlow's start-up log is none of ours; `show | head` reads no more than it wants."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "omc.progressive", "show"]
    done = subprocess.run(
        [*command, "absent.part"], capture_output=True, text=True, env=environment, check=False
    )
    lines = done.stderr.splitlines()
    # TensorFlow 2.21 logs two of its own before it looks at the variable.
    own = [line for line in lines if not line.startswith(("WARNING: All log messages", "I0000 "))]
    assert done.returncode == 1 and len(own) == 1 and not done.stdout
    line = " ".join([*command, f"'{folder}/parts'"])
    done = subprocess.run(
        ["sh", "-c", f"{line} | true"], capture_output=True, text=True, env=environment, check=False
    )
    assert "Traceback" not in done.stderr
