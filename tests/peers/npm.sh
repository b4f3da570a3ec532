#!/usr/bin/env bash
# Installs what NAME/package-lock.json lists, by hash, below the target directory unless it is there,
# and prints the folder that has its node_modules. Safe to run twice at once.
#
#   tests/peers/npm.sh NAME
set -euo pipefail

name=${1:?usage: npm.sh NAME}
source "$(dirname "${BASH_SOURCE[0]}")/folder.sh" "$name"
lock=$here/$name/package-lock.json
command -v node >/dev/null || { echo "npm.sh: node is not installed" >&2; exit 1; }

# The last thing that is written: a folder without it is unfinished or out of date.
if ! cmp -s "$lock" "$folder/package-lock.json"; then
    rm -rf "$folder"
    mkdir "$folder"
    python3 "$here/npm.py" "$lock" "$folder" >&2
    cp "$lock" "$folder/package-lock.json"
fi
echo "$folder"
