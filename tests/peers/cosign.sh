#!/usr/bin/env bash
# Fetches cosign from Debian and prints the program's path. Debian 12 has no such package, but the
# binaries of later suites run on it.
#
#   cosign.sh 2|3       2.5.0 as in Debian 13, 3.1.1 as in Debian 14
set -euo pipefail

case ${1:?usage: cosign.sh 2|3} in
2 | 3) ;;
*) echo "cosign.sh: no version $1" >&2; exit 1 ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$("$here/debs.sh" "$here/cosign-$1.debs")
echo "$root/usr/bin/cosign"
