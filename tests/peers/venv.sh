#!/usr/bin/env bash
# Installs what NAME.txt lists, by hash, into a virtual environment below the target directory
# unless it is there, and prints the environment's path: its programs are in bin/. Safe to run twice
# at once.
#
#   tests/peers/venv.sh NAME
set -euo pipefail

name=${1:?usage: venv.sh NAME}
source "$(dirname "${BASH_SOURCE[0]}")/folder.sh" "$name"
venv=$folder
requirements=$here/$name.txt

# The last thing that is written: an environment without it is unfinished or out of date.
if ! cmp -s "$requirements" "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: --requirement "$requirements" >&2
    cp "$requirements" "$venv/requirements.txt"
fi
echo "$venv"
