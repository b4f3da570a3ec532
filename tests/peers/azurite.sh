#!/usr/bin/env bash
# Installs Azurite's blob server, a stand-in for Azure Blob Storage, by hash, below the target
# directory unless it is there, and prints the folder that has its node_modules. Safe to run twice
# at once. Of what Azurite asks for, the lock has what server.cjs loads: no database, no telemetry.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=${CARGO_TARGET_DIR:-$here/../../target}/peers
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
folder=$peers/azurite
lock=$here/azurite/package-lock.json
command -v node > /dev/null || { echo "azurite.sh: node is not installed" >&2; exit 1; }

exec 9>"$folder.lock"
flock 9
# The last thing that is written: a folder without it is unfinished or out of date.
if ! cmp -s "$lock" "$folder/package-lock.json"; then
    rm -rf "$folder"
    mkdir "$folder"
    python3 "$here/npm.py" "$lock" "$folder" >&2
    cp "$lock" "$folder/package-lock.json"
fi
echo "$folder"
