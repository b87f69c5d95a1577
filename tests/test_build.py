"""BUILD tells the truth about the sources, and the imports keep the order of the house.

The checks are first tried on a small sample with one fault planted at a time, then on this tree.
"""

import ast
import pathlib
import textwrap

import pytest

from tools import build_file, imports

ROOT = pathlib.Path(__file__).resolve().parent.parent
TFF = "tensorflow_federated"
RULES = ("py_library", "py_binary", "py_test")


def read_build(text):
    """Returns {target name: attributes} of a BUILD file; "rule" holds the name of its rule."""
    targets = {}
    for statement in ast.parse(text).body:
        call = statement.value
        if call.func.id not in RULES:
            assert call.func.id in ("package", "licenses"), call.func.id
            continue
        attributes = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        assert attributes["name"] not in targets, f"two targets named {attributes['name']}"
        defaults = {"rule": call.func.id, "srcs": [], "deps": []}
        targets[attributes.pop("name")] = {**defaults, **attributes}
    return targets


def find_faults(root):
    """Returns one line for each disagreement between BUILD, the sources and the house."""
    targets = read_build((root / "BUILD").read_text())
    scans = {path: imports.scan(root, path) for path in imports.sources(root)}
    faults = []

    owners = {path: [] for path in scans}
    for name, target in targets.items():
        for path in target["srcs"]:
            owners.setdefault(path, []).append(name)
        for path in target["srcs"] + target.get("data", []):
            if not (root / path).is_file():
                faults.append(f"{name}: no such file: {path}")
    for path in scans:
        if len(owners[path]) != 1:
            faults.append(f"{path}: in {len(owners[path])} targets {owners[path]}, expected one")

    for name, target in targets.items():
        wanted = set()
        for path in set(target["srcs"]) & scans.keys():
            wanted |= {f":{owner}" for file in scans[path].files for owner in owners[file][:1]}
            wanted |= {f"@pypi//{package}" for package in scans[path].external}
        if target["rule"] == "py_test" and "tests/conftest.py" in scans:
            wanted |= {f":{owner}" for owner in owners["tests/conftest.py"]}
        wanted -= {f":{name}"}
        faults += [f"{name}: dep missing: {dep}" for dep in sorted(wanted - set(target["deps"]))]
        faults += [f"{name}: dep unused: {dep}" for dep in sorted(set(target["deps"]) - wanted)]
    faults += find_cycle(targets)

    for path, scan in scans.items():
        faults += [f"{path}: imports missing module {module}" for module in sorted(scan.missing)]
        if imports.room(path) not in imports.HOUSE:
            faults.append(f"{path}: no place for {imports.room(path)} in tools.imports.HOUSE")
            continue
        faults += find_upward_imports(path, scan)
        if TFF in scan.external and not may_import_tff(path, scan):
            faults.append(f"{path}: imports {TFF}")
    return faults


def find_upward_imports(path, scan):
    place = imports.HOUSE.index(imports.room(path))
    return [
        f"{path}: imports {file}, which stands below it in the house"
        for file in sorted(scan.files)
        if imports.room(file) in imports.HOUSE and imports.HOUSE.index(imports.room(file)) > place
    ]


def may_import_tff(path, scan):
    """Only learning and tff_sims may, and the tests and benchmarks of these two."""
    federated = ("omc.learning", "tff_sims")
    if imports.room(path) in ("tests", "benchmarks"):
        return any(imports.room(file) in federated for file in scan.files)
    return imports.room(path) in federated


def find_cycle(targets):
    """Returns a line for each target from which one comes back to it: Bazel refuses those."""
    reach = {name: {dep[1:] for dep in target["deps"]} for name, target in targets.items()}
    for _ in reach:
        reach = {
            name: direct.union(*(reach.get(dep, set()) for dep in direct))
            for name, direct in reach.items()
        }
    return [f"{name}: depends on itself" for name in sorted(reach) if name in reach[name]]


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(textwrap.dedent(text))


SAMPLE = {
    "omc/__init__.py": "from omc.formats import Format\n",
    "omc/formats.py": "import numpy as np\n",
    "omc/packing.py": "import math\nimport tensorflow as tf\nfrom omc import formats\n",
    "omc/kernels/decode.cc": "",
    "omc/keras/__init__.py": "from omc.keras.wrap import wrap\n",
    "omc/keras/wrap.py": "from .. import packing\n",
    "omc/learning/__init__.py": f"import {TFF} as tff\nfrom omc import keras\n",
    "models/__init__.py": "",
    "models/mlp.py": "import tensorflow as tf\n",
    "tff_sims/__init__.py": "",
    "tff_sims/tasks.py": "import sklearn.datasets\nfrom models import mlp\n",
    "tff_sims/demo.py": """\
        from tff_sims import tasks
        if __name__ == "__main__":
            print(tasks)
        """,
    "tests/conftest.py": "import pytest\n",
    "tests/test_packing.py": "from omc import packing\n",
    "tests/learning/test_avg.py": f"import {TFF} as tff\nimport omc\nomc.learning.build()\n",
}
SAMPLE_BUILD = {
    "omc_formats": ("py_library", ["omc/formats.py"], ["@pypi//numpy"]),
    "omc_packing": ("py_library", ["omc/packing.py"], [":omc_formats", "@pypi//tensorflow"]),
    "omc_kernels": ("py_library", [], []),
    "omc_keras": ("py_library", ["omc/keras/__init__.py", "omc/keras/wrap.py"], [":omc_packing"]),
    "omc_learning": (
        "py_library",
        ["omc/learning/__init__.py"],
        [":omc_keras", f"@pypi//{TFF}"],
    ),
    "omc": ("py_library", ["omc/__init__.py"], [":omc_formats"]),
    "models": ("py_library", ["models/__init__.py", "models/mlp.py"], ["@pypi//tensorflow"]),
    "tff_sims": (
        "py_library",
        ["tff_sims/__init__.py", "tff_sims/tasks.py"],
        [":models", "@pypi//scikit_learn"],
    ),
    "tff_sims_demo": ("py_binary", ["tff_sims/demo.py"], [":tff_sims"]),
    "tests_learning_test_avg": (
        "py_test",
        ["tests/learning/test_avg.py"],
        [":omc", ":omc_learning", ":tests_support", f"@pypi//{TFF}"],
    ),
    "tests_support": ("py_library", ["tests/conftest.py"], ["@pypi//pytest"]),
    "tests_test_packing": (
        "py_test",
        ["tests/test_packing.py"],
        [":omc_packing", ":tests_support"],
    ),
}


@pytest.fixture
def sample(tmp_path):
    """The root of a small faultless tree, BUILD included."""
    write(tmp_path, SAMPLE)
    (tmp_path / "BUILD").write_text(build_file.build(tmp_path))
    return tmp_path


def test_generated_build_is_the_known_one(sample):
    built = read_build((sample / "BUILD").read_text())
    assert {
        name: (target["rule"], target["srcs"], target["deps"]) for name, target in built.items()
    } == SAMPLE_BUILD
    assert built["omc_kernels"]["data"] == ["omc/kernels/decode.cc"]
    assert list(built) == list(SAMPLE_BUILD)
    assert find_faults(sample) == []


def test_script_that_its_library_imports_joins_the_library(sample):
    write(sample, {"tff_sims/sweep.py": "from tff_sims import demo\n"})
    (sample / "BUILD").write_text(build_file.build(sample))
    assert "tff_sims_demo" not in read_build((sample / "BUILD").read_text())
    assert find_faults(sample) == []


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ('"omc/formats.py"', "", "omc/formats.py: in 0 targets [], expected one"),
        (
            '["omc/packing.py"]',
            '["omc/packing.py", "omc/formats.py"]',
            "omc/formats.py: in 2 targets ['omc_formats', 'omc_packing'], expected one",
        ),
        ('"omc/formats.py"', '"omc/format.py"', "omc_formats: no such file: omc/format.py"),
        ('"omc/kernels/decode.cc"', '"omc/x.cc"', "omc_kernels: no such file: omc/x.cc"),
        ('":omc_formats",', "", "omc_packing: dep missing: :omc_formats"),
        ('":models",', "", "tff_sims: dep missing: :models"),
        ('["@pypi//numpy"]', "[]", "omc_formats: dep missing: @pypi//numpy"),
        ('":omc_learning",', "", "tests_learning_test_avg: dep missing: :omc_learning"),
        ('[":tff_sims"]', '[":tff_sims", ":omc"]', "tff_sims_demo: dep unused: :omc"),
        ('":models"', '":models", "@pypi//rich"', "tff_sims: dep unused: @pypi//rich"),
        ('["@pypi//numpy"]', '["@pypi//numpy", ":omc"]', "omc: depends on itself"),
    ],
)
def test_fault_in_build_is_found(sample, old, new, fault):
    text = (sample / "BUILD").read_text()
    assert old in text
    (sample / "BUILD").write_text(text.replace(old, new, 1))
    assert fault in find_faults(sample)


@pytest.mark.parametrize(
    "path, text, fault",
    [
        (
            "omc/formats.py",
            "def f():\n    from omc.packing import pack\n",
            "omc/formats.py: imports omc/packing.py, which stands below it in the house",
        ),
        (
            "omc/keras/wrap.py",
            "from omc import Format\n",
            "omc/keras/wrap.py: imports omc/__init__.py, which stands below it in the house",
        ),
        (
            "omc/packing.py",
            "import tff_sims.tasks\n",
            "omc/packing.py: imports tff_sims/tasks.py, which stands below it in the house",
        ),
        ("omc/cache.py", "", "omc/cache.py: no place for omc.cache in tools.imports.HOUSE"),
        ("omc/packing.py", "import omc.no\n", "omc/packing.py: imports missing module omc.no"),
        ("omc/packing.py", f"import {TFF}\n", f"omc/packing.py: imports {TFF}"),
        ("omc/__init__.py", f"def f():\n    import {TFF}\n", f"omc/__init__.py: imports {TFF}"),
        ("models/mlp.py", f"from {TFF} import learning\n", f"models/mlp.py: imports {TFF}"),
        ("tests/test_packing.py", f"import {TFF}\n", f"tests/test_packing.py: imports {TFF}"),
    ],
)
def test_fault_in_imports_is_found(sample, path, text, fault):
    write(sample, {path: text})
    (sample / "BUILD").write_text(build_file.build(sample))
    assert fault in find_faults(sample)


@pytest.mark.parametrize(
    "path, text, files, external",
    [
        ("omc/new.py", "import os.path, json\nfrom __future__ import annotations\n", [], []),
        ("omc/new.py", "import omc.formats\n", ["omc/formats.py"], []),
        ("omc/new.py", "from omc import formats\n", ["omc/formats.py"], []),
        ("omc/new.py", "from omc import Format\n", ["omc/__init__.py"], []),
        ("omc/new.py", "from omc.keras import wrap\n", ["omc/keras/wrap.py"], []),
        ("omc/new.py", "from omc.keras import other\n", ["omc/keras/__init__.py"], []),
        ("omc/new.py", "from . import formats\n", ["omc/formats.py"], []),
        ("omc/new.py", "from .formats import Format\n", ["omc/formats.py"], []),
        ("omc/keras/new.py", "from ..packing import pack\n", ["omc/packing.py"], []),
        ("omc/keras/__init__.py", "from . import wrap\n", ["omc/keras/wrap.py"], []),
        ("omc/keras/new.py", "import keras\n", [], ["keras"]),
        ("omc/new.py", "class A:\n  def f(x):\n    import omc.packing\n", ["omc/packing.py"], []),
        ("omc/new.py", "try:\n  import rich.table\nexcept ImportError:\n  pass\n", [], ["rich"]),
        ("omc/new.py", "from absl import flags\n", [], ["absl_py"]),
        ("omc/new.py", "from google import protobuf\n", [], ["protobuf"]),
        ("omc/new.py", "from google.protobuf import text_format\n", [], ["protobuf"]),
        ("omc/new.py", "from sklearn import datasets as d\n", [], ["scikit_learn"]),
        (
            "omc/new.py",
            "import importlib\nimportlib.import_module('omc.learning')\n",
            ["omc/learning/__init__.py"],
            [],
        ),
        (
            "omc/new.py",
            "from importlib import import_module\nimport_module('.packing', __package__)\n",
            ["omc/packing.py"],
            [],
        ),
        ("omc/new.py", "import importlib\nimportlib.import_module(name)\n", [], []),
        (
            "tests/new.py",
            "import omc as o\no.keras.wrap.go()\n",
            ["omc/__init__.py", "omc/keras/__init__.py", "omc/keras/wrap.py"],
            [],
        ),
        ("tests/new.py", "omc = object()\nomc.keras\n", [], []),
    ],
)
def test_scan_knows_the_answer(sample, path, text, files, external):
    write(sample, {path: text})
    scan = imports.scan(sample, path)
    assert (sorted(scan.files), sorted(scan.external)) == (files, external)
    assert not scan.missing


def test_this_tree_has_no_faults():
    faults = find_faults(ROOT)
    assert not faults, "\n".join([*faults, "`make build-file` writes BUILD anew"])
