#!/bin/sh
# Makes .venv: the pinned packages of requirements/lock.txt, and this repository as an editable install.
#
# Each of the two stages leaves a stamp in .venv that holds what it was made from. A stage whose stamp
# matches is skipped, so re-runs are instant; one that was interrupted left no stamp and is redone.
set -eu
cd "$(dirname "$0")/.."

# Settings of the user's that would put packages elsewhere, or leave TensorFlow without byte code.
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PIP_TARGET PIP_PREFIX PIP_ROOT PIP_NO_COMPILE
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

python=.venv/bin/python
packages_stamp=.venv/stamp-packages
omc_stamp=.venv/stamp-omc

# The path is part of it: scripts in a virtual environment carry their absolute path.
packages_wanted() { pwd && cat requirements/pip.txt requirements/lock.txt; }
# The editable install maps the top-level packages that exist when it is made.
omc_wanted() { echo */__init__.py && cat setup.py omc/version.py; }
matches() { [ -f "$1" ] && "$2" | cmp -s - "$1"; }
describe() { "$1" -c 'import platform, sys; print(platform.python_version(), sys.base_prefix)'; }

packages_fit() {
    matches "$packages_stamp" packages_wanted || return 1
    # The interpreter beneath may be gone, or be another than the one asked for now.
    made_with=$(describe "$python" 2>/dev/null) || return 1
    [ -z "${PYTHON:-}" ] || [ "$made_with" = "$(describe "$base")" ]
}

base=
[ -z "${PYTHON:-}" ] || base=$(sh tools/find_python.sh)

if ! packages_fit; then
    base=${base:-$(sh tools/find_python.sh)}
    echo "setup 1/3: .venv from $base ($("$base" -c 'import platform; print(platform.python_version())'))"
    rm -rf .venv
    "$base" -m venv .venv
    $python -m pip install -qq --require-hashes --no-deps --only-binary :all: -r requirements/pip.txt
    echo "setup 2/3: the pinned packages, TensorFlow among them (a minute or more)"
    $python -m pip install -qq --require-hashes --no-deps --only-binary :all: \
        -r requirements/lock.txt
    packages_wanted >$packages_stamp
fi
if ! matches "$omc_stamp" omc_wanted; then
    echo "setup 3/3: OMC itself, editable"
    rm -f $omc_stamp
    $python -m pip install -qq --no-deps --no-build-isolation -e .
    omc_wanted >$omc_stamp
fi
# Instant where they are built already; OMC works without them, so their failure is not the set-up's.
TF_CPP_MIN_LOG_LEVEL=3 $python -m omc.kernels.build 2>&1 || true
