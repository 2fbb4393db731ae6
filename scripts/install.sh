#!/bin/sh
# Make a virtual environment and install kdrun into it, editable, with the pinned versions.
# usage: scripts/install.sh PYTHON VENV WHAT
set -eu
python=$1 venv=$2 what=$3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "kdrun needs Python 3.11 or newer; $python is $("$python" --version). Choose one: make PYTHON=python3.12 …" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if command -v uv >/dev/null 2>&1; then
    uv pip install --quiet --compile-bytecode --python "$venv/bin/python" --constraint constraints.txt --editable "$what"
else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable "$what"
fi
