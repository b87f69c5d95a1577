#!/bin/sh
# Makes .venv-newest: the core alone on the newest TensorFlow that was tried, with tf-keras.
#
# On the newest Python that is here, of 3.10 to 3.13; PYTHON names another. A stamp holds what it was
# made from, so that re-runs are instant.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE PIP_TARGET PIP_PREFIX PIP_ROOT PIP_NO_COMPILE
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

python=.venv-newest/bin/python
stamp=.venv-newest/stamp
fits='import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
wanted() { pwd && cat requirements/newest.txt setup.py; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
        return
    fi
    # Started, not just looked up: a version manager's shim exists for Pythons it cannot start.
    for name in python3.13 python3.12 python3.11 python3.10 python3; do
        for path in $(which -a "$name" 2>/dev/null); do
            if "$path" -E -c "$fits" 2>/dev/null; then
                echo "$path"
                return
            fi
        done
    done
    sh tools/install_python.sh 3.13 && return
    echo "The newest TensorFlow needs CPython 3.10 to 3.13; name one with PYTHON=/path." >&2
    exit 2
}

if ! { [ -f $stamp ] && wanted | cmp -s - $stamp && $python -c '' 2>/dev/null; }; then
    base=$(find_python)
    echo "setup: .venv-newest from $base, and the pinned packages (a minute or two)"
    rm -rf .venv-newest
    "$base" -m venv .venv-newest
    $python -m pip install -qq --require-hashes --no-deps --only-binary :all: \
        -r requirements/newest.txt
    $python -m pip install -qq --no-deps --no-build-isolation -e .
    wanted >$stamp
fi
TF_CPP_MIN_LOG_LEVEL=3 TF_USE_LEGACY_KERAS=1 $python -m omc.kernels.build 2>&1 || true
