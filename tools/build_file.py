"""Writes BUILD from the sources: one target per room of the house, per script and per test.

Run as `make build-file`. The result depends on the sources alone, so an unchanged tree gives an
unchanged file.
"""

import ast
import dataclasses
import pathlib

from tools import imports

_HEADER = """\
# Written by `make build-file`; tests/test_build.py checks it against the sources.

package(default_visibility = ["//visibility:public"])

licenses(["notice"])  # Apache 2.0
"""
_NATIVE = (".cc", ".cpp", ".h")
SUPPORT = "tests_support"


@dataclasses.dataclass
class Target:
    """One rule of BUILD."""

    kind: str
    name: str
    srcs: list[str] = dataclasses.field(default_factory=list)
    data: list[str] = dataclasses.field(default_factory=list)
    deps: set[str] = dataclasses.field(default_factory=set)

    def render(self) -> str:
        """Returns the rule as text, formatted as buildifier would."""
        lines = [f"{self.kind}(", f'    name = "{self.name}",']
        if self.name == SUPPORT:
            lines.append("    testonly = True,")
        for attribute, values in (("srcs", self.srcs), ("data", self.data), ("deps", self.deps)):
            quoted = [f'"{value}"' for value in sorted(values)]
            if len(quoted) == 1:
                lines.append(f"    {attribute} = [{quoted[0]}],")
            elif quoted:
                lines += [f"    {attribute} = ["]
                lines += [f"        {value}," for value in quoted]
                lines += ["    ],"]
        return "\n".join([*lines, ")\n"])


def build(root: pathlib.Path) -> str:
    """Returns the text of BUILD for the tree at `root`."""
    return "\n".join([_HEADER, *(target.render() for target in _targets(root))])


def _targets(root: pathlib.Path) -> list[Target]:
    scans = {path: imports.scan(root, path) for path in imports.sources(root)}
    scripts = _scripts(root, scans)
    targets, owner = {}, {}
    for path in scans:
        kind, name = _rule(path, scripts)
        targets.setdefault(name, Target(kind, name)).srcs.append(path)
        owner[path] = name
    for path in _native_sources(root):
        name = imports.room(path).replace(".", "_")
        targets.setdefault(name, Target("py_library", name)).data.append(path)
    for target in targets.values():
        for path in target.srcs:
            target.deps |= {f":{owner[file]}" for file in scans[path].files}
            target.deps |= {f"@pypi//{name}" for name in scans[path].external}
        if target.kind == "py_test" and SUPPORT in targets:
            target.deps.add(f":{SUPPORT}")  # Nobody imports conftest.py; pytest loads it.
        target.deps.discard(f":{target.name}")
    return sorted(targets.values(), key=_place)


def _rule(path: str, scripts: set[str]) -> tuple[str, str]:
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    if parts[0] == "tests":
        if parts[-1].startswith("test_"):
            return "py_test", "_".join(parts)
        return "py_library", SUPPORT
    if path in scripts:
        return "py_binary", "_".join(part.strip("_") for part in parts)
    return "py_library", imports.room(path).replace(".", "_")


def _scripts(root: pathlib.Path, scans: dict[str, imports.Imports]) -> set[str]:
    """Returns the files that run as programs and that no library file of their room imports."""
    scripts = {path for path in scans if _has_main(root / path)}
    while True:
        # Such a file has to join the library, or two targets would depend on each other.
        imported = {
            file
            for path in scans.keys() - scripts
            for file in scans[path].files & scripts
            if imports.room(file) == imports.room(path)
        }
        if not imported:
            return scripts
        scripts -= imported


def _has_main(path: pathlib.Path) -> bool:
    if path.name == "__main__.py":
        return True
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


def _native_sources(root: pathlib.Path) -> list[str]:
    return [
        path.relative_to(root).as_posix()
        for package in imports.PACKAGES
        for path in (root / package).rglob("*")
        if path.suffix in _NATIVE
    ]


def _place(target: Target) -> tuple[int, str]:
    first = min(target.srcs + target.data)
    room = imports.room(first)
    known = room in imports.HOUSE
    return (imports.HOUSE.index(room) if known else len(imports.HOUSE), target.name)


def main() -> None:
    """Writes BUILD at the root of the repository."""
    root = pathlib.Path(__file__).resolve().parent.parent
    (root / "BUILD").write_text(build(root), encoding="utf-8")


if __name__ == "__main__":
    main()
