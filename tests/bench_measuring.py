#!/usr/bin/env python3
"""Measures launch digests and verdicts against peers and against hashing and signatures alone.

usage: bench_measuring.py [--quick]

Runs the two benchmarks of measurements/benches and asks sev-snp-measure for the same digests; the
peers are sampled and what they would take for the whole matrix is extrapolated. Every figure is
processor time of one thread, the least of several runs, so that a busy machine disturbs little.
Prints the sections of docs/performance.md. `--quick` runs everything once and not optimised, to see
that it runs: its figures mean nothing, and a peer that cannot be installed is left out.
"""
import hashlib
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
VECTORS = pathlib.Path(os.environ.get("CASEMATE_VECTORS") or ROOT.parent / "shared/vectors")
CMDLINE = "console=ttyS0 root=/dev/vda1 ro"
QUICK = "--quick" in sys.argv[1:]
MODELS = ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"]
PEER = """
import json, sys, time
from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode
folder, cmdline, cells = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
times = []
for image, model, vcpus in cells:
    start = time.process_time()
    guest.calc_launch_digest(SevMode.SEV_SNP, vcpus, vcpu_types.CPU_SIGS[model],
        folder + "/firmware", folder + "/kernel", f"{folder}/initrd{image}", cmdline, 1)
    times.append(time.process_time() - start)
print(json.dumps(times))
"""


def output(*argv):
    return subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.PIPE,
                          cwd=ROOT).stdout.decode()


def benchmarks():
    """The two programs, compiled as the release is; to be quick, as the tests are."""
    how = ["build", "--workspace"] if QUICK else ["bench", "--no-run", "-p", "casemate-measurements"]
    lines = output("cargo", *how, "--locked", "--message-format", "json", "-q",
                   "--bench", "digests", "--bench", "verdicts")
    found = map(json.loads, lines.splitlines())
    return {m["target"]["name"]: m["executable"] for m in found if m.get("executable")}


def installed(peer, *arguments):
    """What the script of a peer prints, which installs it; nothing if it cannot and all is quick."""
    try:
        return output(ROOT / "tests/peers" / peer, *arguments).strip()
    except subprocess.CalledProcessError:
        if not QUICK:
            raise
        print(f"bench: skipped: {peer} cannot be installed here", file=sys.stderr)
        return None


def python_peer(folder):
    """Seconds of one digest and of the matrix, from the same cells that `sev` is asked for."""
    venv = installed("sev-snp-measure.sh")
    if venv is None:
        return float("nan"), float("nan")
    python = venv + "/bin/python"
    cells = [(image, MODELS[at % 4], vcpus) for image in range(4)
             for at, vcpus in enumerate([1, 48, 96, 144, 192])][:2 if QUICK else None]
    ask = [(0, MODELS[0], 4)] * 3 + cells
    times = json.loads(output(python, "-c", PEER, folder, CMDLINE, json.dumps(ask)))
    return min(times[:3]), sum(times[3:]) / len(cells) * 3072


def openssl(length, times):
    """Seconds of SHA-256 of a file, by OpenSSL under Python's hashlib."""
    data = bytes(length)
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        hashlib.sha256(data).digest()
        best = min(best, time.process_time() - start)
    return best


def milliseconds(seconds):
    return f"{seconds * 1e3:,.2f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def measuring(program):
    with tempfile.TemporaryDirectory(dir=TARGET) as folder:
        found = json.loads(output(program, folder))
        python_one, python_matrix = python_peer(folder)
    sha2, ring, length = found["hashing"]["sha2"], found["hashing"]["ring"], found["hashing"]["file_len"]
    files = found["file_bytes"] / length * sha2["sha256_file"]
    # SHA-256 of the firmware file is part of a law; its pages and the chain are SHA-384.
    firmware = found["firmware_len"] / length * sha2["sha256_file"]
    chain = found["pages"] * sha2["sha384_page"] + found["steps"] * sha2["sha384_112"]
    floor = files + firmware + chain
    print("## Measuring\n")
    table(["what", "casemate", "sev 8.0", "sev-snp-measure 0.0.13"], [
        ["one digest, 52 MB of kernel and initrd", milliseconds(found["one"]),
         milliseconds(found["sev_one"]), milliseconds(python_one)],
        [f"matrix of {found['cells']:,} digests, files included", milliseconds(found["matrix"]),
         milliseconds(found["sev_matrix"]) + " *", milliseconds(python_matrix) + " *"],
        ["the same, digests of the files known", milliseconds(found["matrix_known_files"]),
         "not possible", "not possible"],
        ["the same, law of the firmware known",
         milliseconds(found["matrix_known_files_and_firmware"]), "not possible", "not possible"],
        ["one digest, digests of the files known", milliseconds(found["one_known_files"]),
         "not possible", "not possible"],
    ])
    print(f"\\* extrapolated from {found['sev_cells']} cells: five vCPU counts of each image.\n")
    print(f"Floor of the matrix: {milliseconds(floor)}: {milliseconds(files)} SHA-256 of "
          f"{found['file_bytes'] / 1e6:.1f} MB of files, {milliseconds(firmware)} of the firmware, "
          f"{milliseconds(chain)} SHA-384 of {found['pages']} different pages and of "
          f"{found['steps']:,} steps of the chain. casemate takes "
          f"**{found['matrix'] / floor:.2f}x** of it; with the files' digests known "
          f"{found['matrix_known_files'] / (firmware + chain):.2f}x of what is left.\n")
    speed = lambda size, seconds: f"{size / seconds / 1e6:,.0f} MB/s"
    table(["one core", "SHA-256, 41 MB", "SHA-384, page", "SHA-384, step of the chain"],
          [[name, speed(length, by["sha256_file"]), speed(4096, by["sha384_page"]),
            f"{by['sha384_112'] * 1e9:.0f} ns"] for name, by in [("sha2", sha2), ("ring", ring)]]
          + [["OpenSSL", speed(length, openssl(length, 5)), "", ""]])
    peaks = {(kind, count): int(output(program, "rss", kind, count))
             for kind in ("whole", "stream") for count in (1, 512)}
    table(["peak memory in KiB", "64 x 4 x 1 digests", "64 x 4 x 512 digests"],
          [[kind, *(f"{peaks[kind, count]:,}" for count in (1, 512))]
           for kind in ("whole", "stream")])


def go_peer(files):
    """Seconds of go-sev-guest's check of a report with its certificates."""
    program = installed("go-sev-guest.sh", VECTORS)
    if program is None:
        return float("nan")
    return float(output(program, *files, 10))


def process(*argv):
    """Seconds of processor time of a whole process, the least of twenty."""
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = float("inf")
    for _ in range(1 if QUICK else 20):
        before = spent()
        subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.DEVNULL)
        best = min(best, spent() - before)
    return best


def real_report(found):
    """Verdicts on a real report of Milan, beside go-sev-guest and snpguest."""
    names = ["attestation_report.bin", "vcek.pem", "ask.pem", "ark.pem"]
    files = [VECTORS / f"reports/ms_tav/milan_{name}" for name in names]
    rate = lambda seconds: [f"{seconds * 1e6:,.0f}", f"{1 / seconds:,.0f}"]
    rows = [
        ["casemate: chain, revocation, TCB, chip, report", *rate(found["real"])],
        ["the same with the chain verified before", *rate(found["real_known_chain"])],
        ["go-sev-guest 0.13: chain and report", *rate(go_peer(files))],
    ]
    casemate, snpguest = ROOT / "target/release/casemate", TARGET / "peers/snpguest/bin/snpguest"
    if casemate.exists():
        seconds = process(casemate, "verify", "report", files[0], "--vek", files[1], "--ask",
                          files[2], "--offline")
        rows.append(["whole process: casemate verify report", *rate(seconds)])
    if snpguest.exists():
        with tempfile.TemporaryDirectory() as folder:
            for file in files[1:]:
                shutil.copy(file, pathlib.Path(folder) / file.name.replace("milan_", ""))
            seconds = process(snpguest, "verify", "attestation", folder, files[0])
        rows.append(["whole process: snpguest verify attestation (the report alone)", *rate(seconds)])
    table(["a real report of Milan", "microseconds", "per second and core"], rows)


def verdicts(program):
    found = json.loads(output(program))
    rate = lambda seconds: [f"{seconds * 1e6:,.0f}", f"{1 / seconds:,.0f}"]
    print("## Verdicts\n")
    table(["what", "microseconds", "per second and core"], [
        ["verdict on evidence, certificates in it", *rate(found["verdict"])],
        ["of it the chain: two RSA-4096 signatures, three certificates", *rate(found["chain"])],
        ["of it the report's signature", *rate(found["report_known_chain"])],
        ["`sev` 8.0, without OpenSSL: chain and report, nothing else", *rate(found["sev"])],
        ["ECDSA P-384 alone, p384", *rate(found["p384"])],
        ["ECDSA P-384 alone, ring", *rate(found["p384_ring"])],
    ])
    if found["real"]:
        real_report(found)


def main():
    if QUICK:
        os.environ["CASEMATE_BENCH_QUICK"] = "1"
    programs = benchmarks()
    measuring(programs["digests"])
    verdicts(programs["verdicts"])


if __name__ == "__main__":
    sys.exit(main())
