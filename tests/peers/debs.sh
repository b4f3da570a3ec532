#!/usr/bin/env bash
# Fetches the Debian packages of LOCK by hash, unpacks them together below the target directory
# unless they are there, and prints the folder. Packages of later suites than the machine's are for
# peers that it lacks: nothing is installed. Safe to run twice at once.
#
#   debs.sh LOCK      a line for each package: SHA-256, then its path in an archive's pool
set -euo pipefail

lock=$(realpath "${1:?usage: debs.sh LOCK}")
source "$(dirname "${BASH_SOURCE[0]}")/folder.sh" "$(basename "$lock" .debs)"

# The last thing that is written: a folder without it is unfinished or out of date.
if ! cmp -s "$lock" "$folder/lock"; then
    rm -rf "$folder"
    mkdir "$folder"
    # Where this machine's packages come from; the pool is the same for every suite.
    sites=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u)
    while read -r hash path; do
        for site in $sites; do
            curl --silent --fail --location --max-time 300 --output "$folder/deb" \
                "${site%/}/${path//+/%2B}" || continue
            echo "$hash  $folder/deb" | sha256sum --check --status && break
            rm -f "$folder/deb"
        done
        if [ ! -e "$folder/deb" ]; then
            echo "debs.sh: no archive that apt is set up with has $path ($hash)" >&2
            exit 1
        fi
        dpkg-deb -x "$folder/deb" "$folder/root"
        rm "$folder/deb"
    done <"$lock"
    cp "$lock" "$folder/lock"
fi
echo "$folder/root"
