#!/usr/bin/env bash
# Builds the fuzz targets of every crate with coverage on the stable toolchain (no sanitizer: the
# parsers have no unsafe code) and runs each for a bounded number of inputs, seeds first. Prints a
# line for each; stops with what made a target fail.
#
#   tests/fuzz.sh RUNS [TARGET...]     a target is a file of <crate>/fuzz/targets
#
# FUZZ_CORPUS keeps what was found interesting, FUZZ_SECONDS ends each target early.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

runs=${1:?usage: tests/fuzz.sh RUNS [TARGET...]}
shift
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
host=$(rustc -vV | sed -n 's/^host: //p')
built=$target/fuzz/$host/release
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

[ $# -gt 0 ] || set -- $(ls */fuzz/targets | sed -n 's/\.rs$//p')

# Seeds are made by a test, from what tests make anyway.
CARGO_TARGET_DIR=$target cargo test --quiet --locked -p casemate-measurements --test seeds >&2

# One package in each compression.
mkdir -p "$scratch/package/DEBIAN" "$target/tmp/fuzz/seeds/deb"
printf 'Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a\n' \
    >"$scratch/package/DEBIAN/control"
echo data >"$scratch/package/file"
for compression in none gzip xz zstd; do
    dpkg-deb --root-owner-group -Z$compression -b "$scratch/package" \
        "$target/tmp/fuzz/seeds/deb/$compression" >/dev/null
done

flags=(--cfg fuzzing -Cpasses=sancov-module)
for option in level=3 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
for crate in $(for name; do ls -d */fuzz/targets/"$name".rs | cut -d/ -f1; done | sort -u); do
    # Not --locked: a crate that gains a dependency must not break its targets.
    # With a target named, build scripts and macros are compiled without the flags.
    RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=$target/fuzz cargo build --quiet --release \
        --target "$host" --manifest-path "$crate/fuzz/Cargo.toml" >&2
done

run() {
    local name=$1 corpus=${FUZZ_CORPUS:-$scratch/corpus}/$1
    local seeds=("$target/tmp/fuzz/seeds/$name" */fuzz/seeds/"$name")
    mkdir -p "$corpus" "$target/fuzz/crashes"
    if ! "$built/$name" "$corpus" $(ls -d "${seeds[@]}" 2>/dev/null) -runs="$runs" -max_total_time="${FUZZ_SECONDS:-0}" \
        -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$target/fuzz/crashes/$name-" >"$scratch/$name" 2>&1; then
        tail -40 "$scratch/$name" >&2
        echo "fuzz: $name failed; run it again with $built/$name FILE" >&2
        return 1
    fi
    awk -v name="$name" '/^#/ {for (i = 2; i < NF; i++) if ($i == "cov:") cov = $(i + 1)}
        /number_of_executed_units/ {runs = $2} /new_units_added/ {new = $2}
        /peak_rss_mb/ {rss = $2; printf "%-12s %10d inputs  coverage %5d  new %5d  peak %4d MiB\n",
        name, runs, cov, new, rss}' "$scratch/$name"
}
export -f run
export runs target built scratch
export CASEMATE_FUZZ_SCENE=$target/tmp/fuzz/scene
printf '%s\n' "$@" | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I{} bash -euc 'run {}'
