#!/bin/sh
# Prints the path of uv at the version pinned here; makes .venv-uv for it with any Python that has venv.
set -eu
cd "$(dirname "$0")/.."
version=0.13.8

uv=.venv-uv/bin/uv
if [ "$($uv --version 2>/dev/null | cut -d ' ' -f 2)" != "$version" ]; then
    for name in python3 python3.13 python3.12 python3.11 python3.10 python3.9 python; do
        rm -rf .venv-uv
        # Started, not just looked up: a version manager's shim exists for Pythons it cannot start.
        if "$name" -E -m venv .venv-uv >/dev/null 2>&1 &&
            .venv-uv/bin/python -m pip install -qq --disable-pip-version-check "uv==$version" >&2; then
            break
        fi
    done
fi
[ -x $uv ] && echo "$PWD/$uv"
