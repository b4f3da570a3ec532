#!/usr/bin/env bash
# Fetches NVIDIA's Python verifier, by hash, unpacks the sample evidence in it below the target
# directory unless it is there, and prints the folder's path. None of its code is run.
# Safe to run twice at once.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/folder.sh" nvidia
samples=$folder
requirements=$here/nvidia.txt

# The last thing that is written: a folder without it is unfinished or out of date.
if ! cmp -s "$requirements" "$samples/requirements.txt"; then
    rm -rf "$samples"
    mkdir "$samples"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: --dest "$samples" --requirement "$requirements" >&2
    python3 -m zipfile -e "$samples"/*.whl "$samples"
    cp "$requirements" "$samples/requirements.txt"
fi
echo "$samples/verifier/samples"
