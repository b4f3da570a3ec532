#!/usr/bin/env bash
# Fetches docker-registry from this machine's Debian, unpacks it below the target directory unless it
# is there, and prints the program's path. It is not installed: the package would start a registry
# that everybody may write to. apt verifies what it fetches. Safe to run twice at once.
set -euo pipefail

if command -v docker-registry; then
    exit
fi
source "$(dirname "${BASH_SOURCE[0]}")/folder.sh" docker-registry

# The last thing that is made: a folder without it is unfinished.
if [ ! -e "$folder/done" ]; then
    rm -rf "$folder"
    mkdir -p "$folder/deb"
    # As root, apt fetches as another user, who must be able to write here.
    (cd "$folder/deb" && apt-get download -q -o APT::Sandbox::User=root docker-registry >&2)
    dpkg-deb -x "$folder"/deb/*.deb "$folder/root"
    rm -r "$folder/deb"
    touch "$folder/done"
fi
echo "$folder/root/usr/bin/docker-registry"
