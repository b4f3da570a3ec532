#!/usr/bin/env bash
# Fetches oras 1.2.0 of Debian 13, which runs on Debian 12 too, and prints the program's path.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$("$here/debs.sh" "$here/oras.debs")
echo "$root/usr/bin/oras"
