#!/usr/bin/env bash
# Compiles the program in go-sev-guest/ against Debian 13's go-sev-guest and Go, both fetched by
# hash, and prints its path. Nothing is installed. Debian's package lacks AMD's certificates that it
# embeds: they are taken from the vectors.
#
#   go-sev-guest.sh VECTORS
set -euo pipefail

vectors=$(realpath "${1:?usage: go-sev-guest.sh VECTORS}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$("$here/debs.sh" "$here/go-sev-guest.debs")
go=$root/usr/lib/go-1.24
cp "$vectors"/reports/go_sev_guest/ask_ark_*.pem \
    "$root/usr/share/gocode/src/github.com/google/go-sev-guest/verify/trust/"
# The package's links point to where it would be installed.
for link in $(find "$go" -maxdepth 1 -type l -lname '*share/go-1.24*'); do
    ln -sfn "$root/usr/share/go-1.24/$(basename "$link")" "$link"
done
env -i PATH="$go/bin:$PATH" HOME="$root" GOROOT="$go" GOPATH="$root/usr/share/gocode" \
    GO111MODULE=off GOFLAGS=-buildvcs=false GOCACHE="$root/cache" CGO_ENABLED=0 \
    "$go/bin/go" build -o "$root/verify" "$here/go-sev-guest/main.go" >&2
echo "$root/verify"
