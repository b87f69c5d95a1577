#!/bin/sh
# Has uv install a CPython into .python and prints its path: install_python.sh 3.11. Fails, with uv's
# reason in one line on stderr, where it cannot: without a network, say.
set -u
cd "$(dirname "$0")/.."
version=$1
export UV_PYTHON_INSTALL_DIR="$PWD/.python" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-20}"

# Only what stands in .python: no other environment or project of the caller's is asked.
find() { "$uv" python find --no-config --no-project --managed-python "$version" 2>/dev/null; }

[ "$(uname -sm)" = "Linux x86_64" ] || exit 1
uv=$(sh tools/uv.sh 2>/dev/null) || uv=$(command -v uv) || exit 1
if ! find >/dev/null; then
    echo "setup: no fitting Python here, so uv installs CPython $version into .python" >&2
    if ! said=$("$uv" python install --no-config --no-bin "$version" 2>&1); then
        echo "setup: uv could not: $(printf '%s' "$said" | tail -n 1)" >&2
        exit 1
    fi
fi
find
