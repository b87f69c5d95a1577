#!/bin/sh
# Prints the path of a Python that can hold OMC's environment: one that is here, or one that uv can
# install into .python; else one line on stderr, and exit 2. $PYTHON, when set, is the only candidate.
set -u
tools=$(dirname "$0")
probe=$tools/probe_python.py
found=

# Tries one interpreter; prints it and ends the script when it fits.
try() {
    # Asked to run, not just looked up: a version manager's shim exists for Pythons it cannot start.
    verdict=$("$1" -E "$probe" 2>/dev/null)
    status=$?
    verdict=$(printf '%s' "$verdict" | head -n 1)
    if [ "$status" -eq 0 ] && [ "$verdict" = ok ]; then
        printf '%s\n' "$1"
        exit 0
    fi
    # What does not start is no finding, unless it was asked for by name.
    if [ "$status" -eq 1 ] && [ -n "$verdict" ]; then
        found="${found:+$found; }$1 is $verdict"
    elif [ -n "${PYTHON:-}" ]; then
        found="PYTHON=$PYTHON does not start"
    fi
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON"
else
    # Every match on the path, not the first only: a good one may stand behind a shim that fails.
    for name in python3.11 python3.10 python3.9 python3 python; do
        set -f
        IFS=:
        for dir in $PATH; do
            [ -f "${dir:-.}/$name" ] && [ -x "${dir:-.}/$name" ] && try "${dir:-.}/$name"
        done
        unset IFS
        set +f
    done
    installed=$(sh "$tools/install_python.sh" 3.11) && try "$installed"
fi

echo "OMC needs CPython 3.9, 3.10 or 3.11 (64-bit, with venv and ensurepip) on x86_64 Linux with" \
    "glibc 2.31 or later, as TensorFlow Federated 0.87 runs on nothing else." \
    "Found: ${found:-no Python at all ($(uname -sm))}." \
    "Install one, or name one with PYTHON=/path/to/python." >&2
exit 2
