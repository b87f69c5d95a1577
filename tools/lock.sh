#!/bin/sh
# Resolves requirements/*.in into hashed locks: lock.sh UV_VERSION [more arguments for uv].
set -eu
cd "$(dirname "$0")/.."
uv_version=$1
shift

uv=.venv-lock/bin/uv
if [ "$($uv --version 2>/dev/null | cut -d ' ' -f 2)" != "$uv_version" ]; then
    python=$(sh tools/find_python.sh)
    rm -rf .venv-lock
    "$python" -m venv .venv-lock
    .venv-lock/bin/python -m pip install -qq --disable-pip-version-check "uv==$uv_version"
fi

# The header names the command to repeat, not this machine's paths.
compile() {
    $uv pip compile -q --universal --python-version 3.9 --only-binary :all: --generate-hashes \
        --custom-compile-command "make lock" "$@"
}
compile requirements/pip.in -o requirements/pip.txt "$@"
compile requirements/requirements.in --override requirements/overrides.txt \
    -o requirements/lock.txt "$@"
# Without pyproject.toml's settings, which are those of TensorFlow Federated.
$uv pip compile -q --no-config --universal --python-version 3.10 --only-binary :all: \
    --generate-hashes --custom-compile-command "make lock" \
    requirements/newest.in -o requirements/newest.txt "$@"
