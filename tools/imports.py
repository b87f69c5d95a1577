"""What each source file imports, read from the source alone, and the order of the house.

Shared by tools/build_file.py, which writes BUILD, and tests/test_build.py, which checks it.
"""

import ast
import pathlib
import sys
from typing import NamedTuple, Optional

# A module imports only what stands before it. Everything under omc/ has its place here; the file
# omc/__init__.py is "omc", which gathers what users see.
HOUSE = (
    "omc.version",
    "omc.errors",
    "omc.checks",
    "omc.formats",
    "omc.packing",
    "omc.transforms",
    "omc.kernels",
    "omc.codecs",
    "omc.alternative_codecs",
    "omc.compressed",
    "omc.rows",
    "omc.nested",
    "omc.coding",
    "omc.policies",
    "omc.tensor_files",
    "omc.artifacts",
    "omc.keras",
    "omc.progressive",
    "omc.mixed_precision",
    "omc.learning",
    "omc.measurement",
    "omc",
    "models",
    "tff_sims",
    "benchmarks",
    "tools",
    "tests",
)
PACKAGES = ("omc", "models", "tff_sims", "benchmarks", "tools", "tests")

# Import names that differ from the name of the distribution they come with.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl_py",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "mpl_toolkits": "matplotlib",
    "sklearn": "scikit_learn",
    "tree": "dm_tree",
}


class Imports(NamedTuple):
    """What one file imports.

    Attributes:
        files: First-party files, as paths relative to the root.
        external: Distributions from outside, in the spelling of a label ("scikit_learn").
        missing: Modules named as first-party that no file provides.
    """

    files: frozenset[str]
    external: frozenset[str]
    missing: frozenset[str]


def sources(root: pathlib.Path, packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """Returns the Python files of `packages` under `root`, as sorted relative paths."""
    return sorted(
        path.relative_to(root).as_posix()
        for package in packages
        for path in (root / package).rglob("*.py")
    )


def room(path: str) -> str:
    """Returns the place in the house of a file: "omc/keras/saving.py" is "omc.keras"."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    if parts[0] == "omc" and parts[1] not in ("__init__", "__main__"):
        return f"omc.{parts[1]}"
    return parts[0]


def module_file(root: pathlib.Path, module: str) -> Optional[str]:
    """Returns the file that provides a first-party module, or None when there is none."""
    stem = module.replace(".", "/")
    for path in (f"{stem}/__init__.py", f"{stem}.py"):
        if (root / path).is_file():
            return path
    return None


def scan(root: pathlib.Path, path: str) -> Imports:
    """Returns what the file at `path` imports, anywhere in it: inside functions and `if`s too.

    Counted are `import` and `from` statements, `importlib.import_module` of a literal name, and
    uses such as `omc.learning.x` after `import omc` where omc.learning is a module.
    """
    tree = ast.parse((root / path).read_text(encoding="utf-8"), filename=path)
    package = list(pathlib.PurePosixPath(path).parts[:-1])
    files, external, missing = set(), set(), set()

    def add(module: str, name: str = "") -> None:
        # `from module import name`: name is a module of its own, or lives in the module's file.
        if not _is_first_party(module):
            if not _is_standard(module):
                external.add(_distribution(f"{module}.{name}" if name else module))
            return
        file = (name and module_file(root, f"{module}.{name}")) or module_file(root, module)
        if file is not None:
            files.add(file)
        elif name == "*" or not (root / module.replace(".", "/")).is_dir():
            missing.add(module)
        elif name:
            missing.add(f"{module}.{name}")

    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
                top = alias.name.split(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(package, node.level, node.module or "")
            for alias in node.names:
                add(module, alias.name)
        elif isinstance(node, ast.Call):
            for module in _literal_import(node, package):
                add(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, _, rest = _dotted(node).partition(".")
            module = f"{bound[head]}.{rest}" if head in bound else ""
            file = _is_first_party(module) and module_file(root, module)
            if file:
                files.add(file)
    return Imports(frozenset(files - {path}), frozenset(external), frozenset(missing))


def _is_first_party(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def _is_standard(module: str) -> bool:
    top = module.split(".")[0]
    if hasattr(sys, "stdlib_module_names"):
        return top in sys.stdlib_module_names
    # Python 3.9 has no such list; look where the module lies.
    import importlib.util
    import sysconfig

    if top in sys.builtin_module_names:
        return True
    spec = importlib.util.find_spec(top)
    origin = (spec.origin or "") if spec else ""
    inside = origin.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in origin
    return origin == "frozen" or inside


def _distribution(module: str) -> str:
    for name, distribution in _DISTRIBUTIONS.items():
        if module == name or module.startswith(f"{name}."):
            return distribution
    return module.split(".")[0]


def _absolute(package: list[str], level: int, module: str) -> str:
    if not level:
        return module
    base = package[: len(package) - level + 1]
    return ".".join([*base, *([module] if module else [])])


def _literal_import(node: ast.Call, package: list[str]) -> list[str]:
    name = _dotted(node.func).split(".")[-1]
    if name not in ("import_module", "__import__") or not node.args:
        return []
    argument = node.args[0]
    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
        return []
    dots = len(argument.value) - len(argument.value.lstrip("."))
    return [_absolute(package, dots, argument.value[dots:])]


def _dotted(node: ast.AST) -> str:
    """Returns "a.b.c" for such a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""
