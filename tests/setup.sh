#!/usr/bin/env bash
# Installs what a fresh Debian 12 or 13 lacks to build, run and test casemate. Says what it does,
# does nothing when nothing is missing, and asks sudo only then.
set -euo pipefail

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# What the product needs, then what only the tests and benchmarks need.
packages=(apt ca-certificates curl debian-archive-keyring gcc gpgv libc6-dev make openssh-client
          qemu-system-x86
          acpica-tools chromium cryptsetup-bin dpkg-dev erofs-utils faketime g++ gnupg iproute2 mmdebstrap nftables nodejs
          openssh-server ovmf
          python3 python3-cbor2 python3-jsonschema python3-prometheus-client python3-venv
          python3-yaml softhsm2)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
        missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
fi

if ! command -v cargo >/dev/null; then
    echo "setup: installing Rust" >&2
    if apt-cache show rustup >/dev/null 2>&1; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y rustup >&2
    else
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --profile minimal --default-toolchain none >&2
        # shellcheck disable=SC1091
        . "$HOME/.cargo/env"
    fi
fi
# rust-toolchain.toml names the toolchain; rustup fetches it on first use.
rustc --version >/dev/null 2>&1 || rustup toolchain install >&2
rustc --version >/dev/null
# Pages verify releases with a module for WebAssembly. Its test is skipped where this is not to be had.
target=wasm32-wasip1
if [ ! -d "$(rustc --print target-libdir --target $target)" ] && command -v rustup >/dev/null; then
    echo "setup: adding $target to Rust" >&2
    timeout 120 rustup target add $target >&2 ||
        echo "setup: $target cannot be had: the module for pages is neither compiled nor tested" >&2
fi
