"""The set-up finds a fitting Python, or has uv install one, or says in one line how to go on."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

_TOOLS = pathlib.Path(__file__).parent.parent / "tools"
_COMMANDS = ("sh", "dirname", "uname", "head", "tail", "ln")
_UV = """#!{sh}
echo "$@" >>{log}
[ "$2" = install ] && {{ {install}; exit $?; }}
[ "$2" = find ] && [ -e "{installed}" ] && echo "{installed}"
"""

if sys.version_info[:2] > (3, 11):
    pytest.skip("needs a Python that TFF runs on", allow_module_level=True)


@pytest.fixture
def setting(tmp_path):
    """A copy of the tools, with a uv of ours, and a path without any Python."""
    shutil.copytree(_TOOLS, tmp_path / "tools")
    (tmp_path / "bin").mkdir()
    for name in _COMMANDS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def find(install, **environment):
        _script(
            tmp_path / "uv",
            _UV.format(
                sh=shutil.which("sh"),
                log=tmp_path / "log",
                install=install,
                installed=tmp_path / "installed",
            ),
        )
        _script(tmp_path / "tools" / "uv.sh", f'#!{shutil.which("sh")}\necho "{tmp_path}/uv"\n')
        return subprocess.run(
            [shutil.which("sh"), "tools/find_python.sh"],
            cwd=tmp_path,
            env={"PATH": str(tmp_path / "bin"), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return find


def test_a_python_that_is_here_is_taken_and_uv_not_asked(setting, tmp_path):
    _here(tmp_path, sys.executable)
    found = setting("exit 1")
    assert found.returncode == 0 and found.stdout.strip() == str(tmp_path / "bin" / "python3")
    assert not (tmp_path / "log").exists()


def test_without_one_uv_installs_it(setting, tmp_path):
    found = setting(f'ln -s "{sys.executable}" "{tmp_path}/installed"')
    assert found.returncode == 0 and found.stdout.strip() == str(tmp_path / "installed")
    assert "uv installs CPython 3.11 into .python" in found.stderr
    again = setting("exit 1")  # It is there now.
    assert again.stdout == found.stdout and again.stderr == ""


def test_where_uv_cannot_one_line_says_how(setting, tmp_path):
    found = setting('echo first; echo "no network"; exit 2')
    assert found.returncode == 2 and found.stdout == ""
    assert "setup: uv could not: no network" in found.stderr
    assert "no Python at all" in found.stderr and "PYTHON=/path/to/python" in found.stderr


def test_a_python_that_was_named_is_the_only_candidate(setting, tmp_path):
    found = setting("exit 1", PYTHON=str(tmp_path / "nowhere"))
    assert found.returncode == 2 and "does not start" in found.stderr
    assert not (tmp_path / "log").exists()


def test_what_uv_installed_is_probed_too(setting, tmp_path):
    _script(tmp_path / "other", f"#!{shutil.which('sh')}\necho CPython 3.14.0\nexit 1\n")
    found = setting(f'ln -s "{tmp_path}/other" "{tmp_path}/installed"')
    assert found.returncode == 2 and "is CPython 3.14.0" in found.stderr


def _here(folder, executable):
    _script(folder / "bin" / "python3", f'#!{shutil.which("sh")}\nexec "{executable}" "$@"\n')


def _script(path, text):
    path.write_text(text)
    os.chmod(path, 0o755)
