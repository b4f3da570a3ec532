#!/usr/bin/env bash
# Fetches oras 1.2.0 from Debian, by hash, unpacks it below the target directory unless it is there,
# and prints the program's path. Debian 12 has no such package, but the binary of Debian 13 runs on
# it. Nothing is installed. Safe to run twice at once.
set -euo pipefail

file=oras_1.2.0-1+b9_amd64.deb
hash=5f138419f0e4bc128ee4717b06190dc5770cf120ab7e3a991e5b3e9158f3189e
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=${CARGO_TARGET_DIR:-$here/../../target}/peers
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
folder=$peers/oras

exec 9>"$folder.lock"
flock 9
# The last thing that is written: a folder without it is unfinished or out of date.
if [ "$(cat "$folder/sha256" 2>/dev/null || true)" != "$hash" ]; then
    rm -rf "$folder"
    mkdir "$folder"
    # Where this machine's packages come from; the pool is the same for every suite.
    for site in $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u); do
        curl --silent --fail --location --max-time 300 --output "$folder/deb" \
            "${site%/}/pool/main/o/oras/${file//+/%2B}" || continue
        echo "$hash  $folder/deb" | sha256sum --check --status && break
        rm -f "$folder/deb"
    done
    if [ ! -e "$folder/deb" ]; then
        echo "oras.sh: no archive that apt is set up with has $file ($hash)" >&2
        exit 1
    fi
    dpkg-deb -x "$folder/deb" "$folder/root"
    rm "$folder/deb"
    echo "$hash" >"$folder/sha256"
fi
echo "$folder/root/usr/bin/oras"
