#!/bin/sh
# Resolves requirements/*.in into hashed locks; arguments are uv's.
set -eu
cd "$(dirname "$0")/.."
uv=$(sh tools/uv.sh)

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
