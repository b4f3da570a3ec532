#!/usr/bin/env bash
# Fetches cosign from Debian, by hash, unpacks it below the target directory unless it is there, and
# prints the program's path. Debian 12 has no such package, but the binaries of later suites run on
# it. Nothing is installed. Safe to run twice at once.
#
#   cosign.sh 2|3       2.5.0 as in Debian 13, 3.1.1 as in Debian 14
set -euo pipefail

case ${1:?usage: cosign.sh 2|3} in
2) file=cosign_2.5.0-2+b5_amd64.deb
   hash=3b6eadd27f3c4c00bfa7eab5c2397a6a15a763630c7a1d40d06ff60d24799eef ;;
3) file=cosign_3.1.1-2_amd64.deb
   hash=d8622ebffce1d69197288fc030ff06a4c247af5507107f85c5a878870b686b23 ;;
*) echo "cosign.sh: no version $1" >&2; exit 1 ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=${CARGO_TARGET_DIR:-$here/../../target}/peers
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
folder=$peers/cosign-$1

exec 9>"$folder.lock"
flock 9
# The last thing that is written: a folder without it is unfinished or out of date.
if [ "$(cat "$folder/sha256" 2>/dev/null || true)" != "$hash" ]; then
    rm -rf "$folder"
    mkdir "$folder"
    # Where this machine's packages come from; the pool is the same for every suite.
    sites=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u)
    for site in $sites; do
        curl --silent --fail --location --max-time 300 --output "$folder/deb" \
            "${site%/}/pool/main/c/cosign/${file//+/%2B}" || continue
        echo "$hash  $folder/deb" | sha256sum --check --status && break
        rm -f "$folder/deb"
    done
    if [ ! -e "$folder/deb" ]; then
        echo "cosign.sh: no archive that apt is set up with has $file ($hash)" >&2
        exit 1
    fi
    dpkg-deb -x "$folder/deb" "$folder/root"
    rm "$folder/deb"
    echo "$hash" >"$folder/sha256"
fi
echo "$folder/root/usr/bin/cosign"
